//! What a fault costs its node.

use super::*;

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

/// Ends a restart that `out` began; returns what it was.
fn restarted(rig: &mut Rig, out: Vec<Output>, now: Timestamp) -> (BTreeSet<NodeName>, bool, Vec<Place>) {
    let deed = orders(&out).first().expect("an order").action.deed.clone();
    rig.carry_out(out, now);
    let Deed::Restart { without, isolate, placement, .. } = deed else { panic!("{deed:?}") };
    (without, isolate, placement)
}

fn auto() -> Config {
    Config { cooldown_seconds: 0.0, max_restarts: 100, job_fault_nodes: 100, ..config(Mode::Auto) }
}

#[test]
fn the_same_fault_on_the_same_node_goes_up_the_ladder() {
    let mut rig = Rig::new(auto());
    rig.facts = facts(0, &["spare"]);
    let out = rig.review(&[blaming("a", 0, "n1")], at(0));
    assert_eq!(restarted(&mut rig, out, at(0)), (BTreeSet::new(), false, Vec::new()));
    let out = rig.review(&[blaming("b", 1, "n1")], at(100));
    assert!(texts(&out)[0].contains("restarting job llm without n1"), "{out:?}");
    let (without, isolate, placement) = restarted(&mut rig, out, at(100));
    assert_eq!((without, isolate), (BTreeSet::from([node("n1")]), false));
    assert_eq!(placement[1], Place { node: node("spare"), first_rank: 2, ranks: 2 });
    let mut third = blaming("c", 2, "n1");
    third.suspects[0].rank = Some(9);
    let out = rig.review(&[third], at(200));
    let (without, isolate, _) = restarted(&mut rig, out, at(200));
    assert_eq!((without, isolate), (BTreeSet::from([node("n1")]), true));
    assert!(rig.steer.is_isolated(&node("n1")));
    // Much later, all of that is forgotten.
    rig.tick(at(90_000));
    let out = rig.review(&[blaming("d", 3, "n2")], at(90_000));
    assert!(restarted(&mut rig, out, at(90_000)).0.is_empty());
}

#[test]
fn without_a_spare_the_job_is_restarted_in_place_and_it_is_said_why() {
    let mut rig = Rig::new(auto());
    let out = rig.review(&[blaming("a", 0, "n1")], at(0));
    rig.carry_out(out, at(0));
    let out = rig.review(&[blaming("b", 1, "n1")], at(100));
    assert!(texts(&out)[0].contains("in place (n1 stays: no spare node stands by"), "{out:?}");
    assert!(restarted(&mut rig, out, at(100)).0.is_empty());
}

#[test]
fn a_node_that_is_to_be_left_alone_or_is_in_maintenance_stays_in_its_job() {
    let window = crate::config::Maintenance {
        from: Some("1970-01-01T00:00:00Z".parse().unwrap()),
        until: Some("2033-01-01T00:00:00Z".parse().unwrap()),
        nodes: vec!["n1".into()],
        ..Default::default()
    };
    for (maintenance, wish, words) in [
        (vec![window], None, "n1 stays: it is in maintenance until 2033"),
        (Vec::new(), Some("being debugged"), "n1 stays: it is to be left alone (being debugged)"),
    ] {
        let mut rig = Rig::new(Config { maintenance, ..auto() });
        rig.facts = facts(0, &["spare"]);
        rig.cluster.opted_out.extend(wish.map(|why| (node("n1"), why.to_owned())));
        let out = rig.review(&[blaming("a", 0, "n1")], at(0));
        assert!(restarted(&mut rig, out, at(0)).0.is_empty());
        // The second fault there would cost it the job.
        let out = rig.review(&[blaming("b", 1, "n1")], at(100));
        assert!(texts(&out)[0].contains(words), "{out:?}");
        assert!(restarted(&mut rig, out, at(100)).0.is_empty());
    }
}

#[test]
fn bugs_of_the_program_never_cost_a_node_anything() {
    let mut rig = Rig::new(auto());
    rig.facts = facts(0, &["spare"]);
    for incarnation in 0..5 {
        let desync = Finding { kind: Kind::Desync, ..blaming(&format!("f{incarnation}"), incarnation, "n1") };
        let now = at(u64::from(incarnation) * 100);
        let out = rig.review(&[desync], now);
        assert_eq!(restarted(&mut rig, out, now), (BTreeSet::new(), false, Vec::new()));
    }
}

#[test]
fn a_fault_that_follows_the_job_stops_its_restarts() {
    let mut rig = Rig::new(Config { job_fault_nodes: 3, ..auto() });
    for (incarnation, place) in [(0, "n0"), (1, "n1")] {
        let mut fault = blaming(&format!("f{incarnation}"), incarnation, place);
        fault.suspects[0].rank = Some(incarnation);
        let now = at(u64::from(incarnation) * 100);
        let out = rig.review(&[fault], now);
        rig.carry_out(out, now);
    }
    let mut fault = blaming("f2", 2, "n2");
    fault.suspects[0].rank = Some(5);
    let out = rig.review(&[fault], at(300));
    assert!(orders(&out).is_empty());
    assert!(
        texts(&out)[0].contains("the fault follows the job (it had the same fault on n0, n1, n2)"),
        "{out:?}"
    );
}

#[test]
fn nodes_are_taken_no_faster_than_the_rails_allow() {
    let mut rig = Rig::new(auto());
    rig.facts = facts(0, &["s0", "s1", "s2", "s3"]);
    rig.cluster.nodes = 1000;
    let broken = |id: &str, incarnation, place: &str| {
        let mut finding = blaming(id, incarnation, place);
        let cause = serde_json::json!({"origin": "hardware", "severity": "fatal"});
        finding.evidence.insert("cause".into(), cause);
        finding.suspects[0].rank = Some(incarnation);
        finding
    };
    for (incarnation, place) in [(0, "n0"), (1, "n1")] {
        let now = at(u64::from(incarnation) * 100);
        let out = rig.review(&[broken(&format!("f{incarnation}"), incarnation, place)], now);
        let (without, isolate, _) = restarted(&mut rig, out, now);
        assert_eq!((without.len(), isolate), (1, true));
    }
    // The third within the hour stays, and so it does as long as the two are out.
    let out = rig.review(&[broken("f2", 2, "n2")], at(300));
    assert!(texts(&out)[0].contains("n2 stays: 2 nodes were taken within an hour or are out"), "{out:?}");
    rig.carry_out(out, at(300));
    let out = rig.review(&[broken("f3", 3, "n2")], at(20_000));
    assert!(texts(&out)[0].contains("n2 stays"), "{out:?}");
}

#[test]
fn a_released_node_is_on_probation_and_what_a_person_undid_is_not_repeated() {
    let mut rig = Rig::new(auto());
    rig.facts = facts(0, &["spare", "other"]);
    let (result, out) = rig.command(Command::Isolate { node: node("n1"), why: String::new() }, at(0));
    assert!(result.is_ok());
    rig.carry_out(out, at(0));
    let (result, out) = rig.command(Command::Release { node: node("n1"), check: true }, at(10));
    assert!(result.is_ok());
    let steps: Vec<_> = orders(&rig.carry_out(out, at(10))).iter().map(|order| order.step).collect();
    assert_eq!(steps, [Step::Check, Step::Release]);
    // One fault is enough.
    let out = rig.review(&[blaming("a", 0, "n1")], at(20));
    let (without, isolate, _) = restarted(&mut rig, out, at(20));
    assert_eq!((without.len(), isolate), (1, true));
    // Now somebody gives it back whatever its checks say: from then on it is theirs.
    let (result, out) = rig.command(Command::Release { node: node("n1"), check: false }, at(30));
    assert!(result.is_ok());
    rig.carry_out(out, at(30));
    let out = rig.review(&[blaming("b", 1, "n1")], at(40));
    assert!(texts(&out)[0].contains("n1 stays: eve gave it back"), "{out:?}");
    rig.carry_out(out, at(40));
    rig.reborn(auto(), at(50));
    let out = rig.review(&[blaming("c", 2, "n1")], at(50));
    assert!(
        texts(&out)[0].contains("n1 stays: eve gave it back"),
        "a new controller knows that too: {out:?}"
    );
}

#[test]
fn a_node_given_back_behind_our_back_is_left_to_whoever_did_it() {
    let mut rig = Rig::new(auto());
    let (_, out) = rig.command(Command::Isolate { node: node("n1"), why: String::new() }, at(0));
    rig.carry_out(out, at(0));
    let outputs = rig.steer.given_back(&node("n1"), "somebody in Slurm", at(1));
    let out = rig.settle(outputs, at(1));
    assert!(texts(&out)[0].contains("somebody in Slurm gave it back"), "{out:?}");
    assert!(!rig.steer.is_isolated(&node("n1")));
    assert!(rig.steer.given_back(&node("n1"), "somebody in Slurm", at(2)).is_empty());
}

#[test]
fn kinds_without_a_restart_isolate_only_what_was_blamed_before() {
    let mut rig = Rig::new(auto());
    let slow = |id: &str, incarnation| Finding { kind: Kind::CommSlow, ..blaming(id, incarnation, "n1") };
    assert!(rig.review(&[slow("a", 0)], at(0)).is_empty());
    rig.facts.incarnation = 1;
    assert!(rig.review(&[slow("b", 1)], at(1)).is_empty());
    rig.facts.incarnation = 2;
    let out = rig.review(&[slow("c", 2)], at(2));
    assert_eq!(texts(&out), ["would isolate n1 (mode observe)"]);
    let scope = Scope::Kind(Kind::CommSlow);
    rig.command(Command::SetMode { scope, mode: Some(Mode::Auto), until: None }, at(3)).0.expect("set");
    let out = rig.review(&[slow("c", 2)], at(4));
    assert_eq!(orders(&out)[0].step, Step::Isolate);

    // A scheduler that refuses is asked as often as is configured, and not again for this finding.
    rig.answer(&orders(&out)[0], Err("not allowed"), at(5));
    let again = orders(&rig.tick(at(7))).remove(0);
    let out = rig.answer(&again, Err("not allowed"), at(8));
    assert!(texts(&out)[0].contains("not allowed; a person is needed"), "{out:?}");
    let out = rig.review(&[slow("c", 2)], at(9));
    assert_eq!(texts(&out), ["not going to isolate n1: that has failed before; a person is needed"]);
    assert!(rig.review(&[slow("c", 2)], at(10)).is_empty(), "it is said once");
}
