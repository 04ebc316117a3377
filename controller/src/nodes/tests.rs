use super::*;

fn hello(node: &str, session: &str, next_sequence: u64) -> Hello {
    Hello {
        node: NodeName(node.into()),
        agent_version: "1".into(),
        session: session.into(),
        next_sequence,
        sensors: Vec::new(),
        nic_class: None,
        kept: 0,
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(1_000_000_000 + seconds * 1_000_000)
}

const LOST_US: u64 = 3_000_000;

#[test]
fn duplicates_and_gaps_are_told_apart_across_reconnects() {
    let mut nodes = Nodes::default();
    assert_eq!(nodes.open(StreamId(1), &hello("n", "s", 1), at(0)).missing, 0);
    assert_eq!(nodes.sequence(StreamId(1), 1, at(0)), Sequence::Take { missing: 0 });
    assert_eq!(nodes.sequence(StreamId(1), 1, at(0)), Sequence::Duplicate);
    assert_eq!(nodes.sequence(StreamId(1), 4, at(0)), Sequence::Take { missing: 2 });
    nodes.close(StreamId(1), at(1));

    let opened = nodes.open(StreamId(2), &hello("n", "s", 3), at(2));
    assert_eq!(opened, Opened { replaced: None, missing: 0, taken: 4 });
    assert_eq!(nodes.sequence(StreamId(2), 3, at(2)), Sequence::Duplicate);
    assert_eq!(nodes.sequence(StreamId(2), 5, at(2)), Sequence::Take { missing: 0 });
    nodes.close(StreamId(2), at(3));
    assert_eq!(nodes.open(StreamId(3), &hello("n", "s", 9), at(4)).missing, 3);
    assert_eq!(nodes.sequence(StreamId(1), 9, at(4)), Sequence::Stale);
}

#[test]
fn a_controller_that_just_started_takes_up_where_the_agent_is() {
    let mut nodes = Nodes::default();
    assert_eq!(nodes.open(StreamId(1), &hello("n", "s", 500), at(0)).missing, 0);
    assert_eq!(nodes.sequence(StreamId(1), 500, at(0)), Sequence::Take { missing: 0 });
}

#[test]
fn a_second_stream_of_a_session_replaces_the_first() {
    let mut nodes = Nodes::default();
    nodes.open(StreamId(1), &hello("n", "s", 1), at(0));
    assert_eq!(nodes.open(StreamId(2), &hello("n", "s", 1), at(0)).replaced, Some(StreamId(1)));
    nodes.close(StreamId(1), at(1));
    assert_eq!(nodes.tick(at(60), LOST_US), Lost::default(), "the second stream is still open");
}

#[test]
fn a_node_is_lost_when_its_last_stream_has_been_gone_for_a_while() {
    let mut nodes = Nodes::default();
    nodes.open(StreamId(1), &hello("n", "daemon", 1), at(0));
    nodes.open(StreamId(2), &hello("n", "run", 1), at(0));
    nodes.close(StreamId(1), at(10));
    let lost = nodes.tick(at(20), LOST_US);
    assert!(lost.nodes.is_empty());
    assert_eq!(lost.sessions.len(), 1);
    nodes.close(StreamId(2), at(30));
    assert_eq!(nodes.tick(at(32), LOST_US), Lost::default());
    assert_eq!(nodes.tick(at(33), LOST_US).nodes, [NodeName("n".into())]);
    assert_eq!(nodes.tick(at(34), LOST_US), Lost::default(), "said once");
    assert!(!nodes.in_sight(&NodeName("n".into())));
    nodes.open(StreamId(3), &hello("n", "daemon", 1), at(40));
    assert!(nodes.in_sight(&NodeName("n".into())));
}

#[test]
fn a_node_is_heard_at_once_when_its_agents_have_told_all_that_they_had_kept() {
    let (mut nodes, node) = (Nodes::default(), NodeName("n".into()));
    let keeping = |session: &str, next, kept| Hello { kept, ..hello("n", session, next) };
    nodes.open(StreamId(1), &keeping("daemon", 5, 7), at(0));
    assert_eq!(nodes.news_of(&node), Some(Hearing::CatchingUp));
    nodes.open(StreamId(2), &keeping("run", 1, 1), at(0));
    for (stream, sequence, news) in
        [(1, 5, None), (1, 6, None), (2, 1, None), (1, 7, Some(Hearing::AtOnce)), (1, 8, None)]
    {
        nodes.sequence(StreamId(stream), sequence, at(1));
        nodes.told(StreamId(stream));
        assert_eq!(nodes.news_of(&node), news, "after message {sequence} of stream {stream}");
    }
    // What was taken already is not waited for.
    nodes.close(StreamId(1), at(2));
    assert_eq!(nodes.news_of(&node), None, "the other agent is there");
    nodes.open(StreamId(3), &keeping("daemon", 8, 8), at(3));
    assert_eq!(nodes.news_of(&node), None);
    // One that goes away in the midst of it has told of nothing more.
    nodes.close(StreamId(2), at(4));
    nodes.open(StreamId(4), &keeping("daemon", 9, 20), at(5));
    assert_eq!(nodes.news_of(&node), Some(Hearing::CatchingUp));
    nodes.close(StreamId(4), at(6));
    assert_eq!(nodes.news_of(&node), Some(Hearing::Away));
    nodes.open(StreamId(5), &keeping("daemon", 9, 0), at(7));
    assert_eq!(nodes.news_of(&node), Some(Hearing::AtOnce));
}
