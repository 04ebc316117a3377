use super::*;

fn key(node: &str) -> SessionKey {
    SessionKey { node: NodeName(node.into()), session: "s".into() }
}

fn report(ranks: &[u32]) -> GroupReport {
    GroupReport {
        job: JobId("job".into()),
        incarnation: 0,
        state: GroupState::Running,
        ranks: ranks.to_vec(),
        world_size: 4,
        detail: String::new(),
        checkpoint: Some((120, 1_000)),
        checkpoint_took_us: Some(70),
        least_ranks: 0,
        opted_out: None,
    }
}

fn nodes(names: &[&str]) -> BTreeSet<NodeName> {
    names.iter().map(|name| NodeName((*name).into())).collect()
}

#[test]
fn only_a_job_that_is_supervised_whole_can_be_restarted() {
    let job = JobId("job".into());
    let mut groups = Groups::default();
    assert!(groups.supervised(&job, || nodes(&["a"])).unwrap_err().contains("nobody supervises this job"));
    let checkpoint = groups.report(&key("a"), StreamId(1), report(&[0, 1]), Timestamp(5_000));
    assert_eq!(checkpoint, Some(Checkpoint { iteration: 120, at: Timestamp(4_000), took_us: Some(70) }));
    assert!(groups.supervised(&job, || nodes(&["a", "b"])).unwrap_err().contains("on b"));
    assert!(groups.supervised(&job, || nodes(&["a"])).unwrap_err().contains("only 2 of 4"));
    groups.report(&key("b"), StreamId(2), report(&[1, 2, 3]), Timestamp(5_000));
    assert!(
        groups.supervised(&job, || nodes(&["a", "b"])).unwrap_err().contains("rank 1 is supervised twice")
    );
    groups.report(&key("b"), StreamId(2), report(&[2, 3]), Timestamp(5_000));
    assert_eq!(groups.supervised(&job, || nodes(&["a", "b"])), Ok(()));
    groups.forget(&key("b"));
    assert!(groups.supervised(&job, || nodes(&["a", "b"])).is_err());
}

#[test]
fn results_are_bounded_and_found_by_session() {
    let mut groups = Groups::default();
    let result = |id: usize| CommandResult { id: id.to_string(), ok: true, detail: String::new() };
    for id in 0..=MAX_RESULTS {
        groups.result(&key("a"), result(id));
    }
    assert_eq!(groups.answer(&key("a"), "0"), None);
    assert!(groups.answer(&key("a"), "1").is_some());
    assert_eq!(groups.answer(&key("b"), "1"), None);
}
