use c4_detect::observation::{JobId, NodeName, Timestamp};

use super::*;
use crate::{
    convert::{CommandResult, GroupReport},
    nodes::SessionKey,
    steer::action::ActionId,
};

fn order(step: Step) -> Order {
    Order {
        id: "o".into(),
        action: ActionId("a".into()),
        step,
        attempt: 1,
        job: JobId("job".into()),
        incarnation: 0,
        grace_us: 0,
        timeout_us: 0,
    }
}

fn key(node: &str) -> SessionKey {
    SessionKey { node: NodeName(node.into()), session: "s".into() }
}

fn groups(states: &[(&str, u32, GroupState)]) -> Groups {
    let mut groups = Groups::default();
    for (number, (node, incarnation, state)) in (1..).zip(states) {
        let report = GroupReport {
            job: JobId("job".into()),
            incarnation: *incarnation,
            state: *state,
            ranks: Vec::new(),
            world_size: 0,
            detail: "exit code 3".into(),
            checkpoint: None,
        };
        groups.report(&key(node), StreamId(number), report, Timestamp(0));
    }
    groups
}

#[test]
fn a_stop_is_done_when_every_group_has_stopped() {
    let stop = order(Step::Stop);
    let half = groups(&[("a", 0, GroupState::Stopped), ("b", 0, GroupState::Stopping)]);
    assert_eq!(progress(&stop, &half), Progress::Pending(vec![StreamId(2)]));
    let all = groups(&[("a", 0, GroupState::Stopped), ("b", 0, GroupState::Stopped)]);
    assert_eq!(progress(&stop, &all), Progress::Done);
}

#[test]
fn a_group_that_failed_by_itself_must_still_answer_the_stop() {
    let stop = order(Step::Stop);
    let mut table = groups(&[("a", 0, GroupState::Failed)]);
    assert_eq!(progress(&stop, &table), Progress::Pending(vec![StreamId(1)]));
    table.result(&key("a"), CommandResult { id: "o".into(), ok: true, detail: String::new() });
    assert_eq!(progress(&stop, &table), Progress::Done);
}

#[test]
fn a_start_is_done_when_every_group_runs_as_the_next_incarnation() {
    let start = order(Step::Start);
    let old = groups(&[("a", 0, GroupState::Running), ("b", 1, GroupState::Running)]);
    assert_eq!(progress(&start, &old), Progress::Pending(vec![StreamId(1)]));
    let new = groups(&[("a", 1, GroupState::Running), ("b", 1, GroupState::Finished)]);
    assert_eq!(progress(&start, &new), Progress::Done);
    let dead = groups(&[("a", 1, GroupState::Failed)]);
    assert_eq!(
        progress(&start, &dead),
        Progress::Failed("the group on a failed at once: exit code 3".into())
    );
}

#[test]
fn a_refusal_and_an_empty_table_are_failures() {
    let mut table = groups(&[("a", 0, GroupState::Running)]);
    table.result(&key("a"), CommandResult { id: "o".into(), ok: false, detail: "no such job".into() });
    assert_eq!(
        progress(&order(Step::Stop), &table),
        Progress::Failed("the agent on a said: no such job".into())
    );
    assert!(matches!(progress(&order(Step::Stop), &Groups::default()), Progress::Failed(_)));
}

/// A disconnected agent is told as soon as it is back, under its new stream.
#[tokio::test(start_paused = true)]
async fn commands_are_said_again_until_they_take_effect() {
    let streams = Streams::default();
    let (id, mut heard) = streams.register_for_test();
    let mut table = groups(&[("a", 0, GroupState::Running)]);
    table.set_stream(&key("a"), None);
    let (publish, see) = watch::channel(Arc::new(table.clone()));
    let actuator = LocalActuator::new(see, streams);
    let stop = order(Step::Stop);
    let agent = async {
        table.set_stream(&key("a"), Some(id));
        publish.send_replace(Arc::new(table.clone()));
        for _ in 0..2 {
            let said = heard.recv().await.unwrap();
            assert_eq!(said, message(&stop));
        }
        table.report(
            &key("a"),
            id,
            GroupReport { state: GroupState::Stopped, ..report_of(&table) },
            Timestamp(1),
        );
        publish.send_replace(Arc::new(table.clone()));
    };
    let (answer, ()) = tokio::join!(actuator.carry_out(&stop), agent);
    assert_eq!(answer, Ok(()));
}

fn report_of(table: &Groups) -> GroupReport {
    table.of(&JobId("job".into())).next().unwrap().1.report.clone()
}
