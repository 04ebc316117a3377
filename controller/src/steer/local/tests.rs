use c4_detect::observation::{JobId, NodeName, Timestamp};

use super::*;
use crate::{
    convert::{CommandResult, GroupReport},
    nodes::SessionKey,
    steer::testing,
};

fn order(step: Step) -> Order {
    placed(step, Vec::new())
}

fn placed(step: Step, placement: Vec<Place>) -> Order {
    let mut action = testing::action("a", testing::restart("job", 0));
    if let Deed::Restart { placement: places, .. } = &mut action.deed {
        *places = placement;
    }
    Order { id: "o".into(), action, step, grace_us: 0, timeout_us: 0 }
}

/// The streams that still have to be told something.
fn pending(order: &Order, groups: &Groups) -> Vec<StreamId> {
    match progress(order, groups, false) {
        Progress::Pending(pending) => pending.into_iter().map(|(stream, _)| stream).collect(),
        other => panic!("{other:?}"),
    }
}

fn done() -> Progress {
    Progress::Done(String::new())
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
            checkpoint_took_us: None,
            least_ranks: 0,
            opted_out: None,
        };
        groups.report(&key(node), StreamId(number), report, Timestamp(0));
    }
    groups
}

#[test]
fn a_stop_is_done_when_every_group_has_stopped() {
    let stop = order(Step::Stop);
    let half = groups(&[("a", 0, GroupState::Stopped), ("b", 0, GroupState::Stopping)]);
    assert_eq!(pending(&stop, &half), vec![StreamId(2)]);
    let all = groups(&[("a", 0, GroupState::Stopped), ("b", 0, GroupState::Stopped)]);
    assert_eq!(progress(&stop, &all, false), done());
}

#[test]
fn a_group_that_failed_by_itself_must_still_answer_the_stop() {
    let stop = order(Step::Stop);
    let mut table = groups(&[("a", 0, GroupState::Failed)]);
    assert_eq!(pending(&stop, &table), vec![StreamId(1)]);
    table.result(&key("a"), CommandResult { id: "o".into(), ok: true, detail: String::new() });
    assert_eq!(progress(&stop, &table, false), done());
}

#[test]
fn a_start_is_done_when_every_group_runs_as_the_next_incarnation() {
    let start = order(Step::Start);
    let old = groups(&[("a", 0, GroupState::Running), ("b", 1, GroupState::Running)]);
    assert_eq!(pending(&start, &old), vec![StreamId(1)]);
    let new = groups(&[("a", 1, GroupState::Running), ("b", 1, GroupState::Finished)]);
    assert_eq!(progress(&start, &new, false), done());
    let dead = groups(&[("a", 1, GroupState::Failed)]);
    assert_eq!(
        progress(&start, &dead, false),
        Progress::Failed("the group on a failed at once: exit code 3".into())
    );
}

#[test]
fn a_refusal_is_a_failure_and_who_is_not_there_is_waited_for() {
    let mut table = groups(&[("a", 0, GroupState::Running)]);
    table.result(&key("a"), CommandResult { id: "o".into(), ok: false, detail: "no such job".into() });
    assert_eq!(
        progress(&order(Step::Stop), &table, false),
        Progress::Failed("the agent on a said: no such job".into())
    );
    assert_eq!(pending(&order(Step::Stop), &Groups::default()), []);
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
            let Some(controller_message::Body::Command(command)) = said.body else { panic!("no command") };
            assert_eq!(command.id, "o");
            assert!(matches!(command.body, Some(command::Body::StopGroup(StopGroup { incarnation: 0, .. }))));
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
    assert_eq!(answer, Ok(String::new()));
}

fn report_of(table: &Groups) -> GroupReport {
    table.of(&JobId("job".into())).next().unwrap().1.report.clone()
}

#[test]
fn a_spare_gets_the_ranks_of_the_node_that_is_left_out_which_stands_by_from_then_on() {
    let place = |node: &str, first_rank| Place { node: NodeName(node.into()), first_rank, ranks: 2 };
    let start = placed(Step::Start, vec![place("spare", 0), place("b", 2)]);
    let states = |a, spare| groups(&[("a", 0, a), ("b", 1, GroupState::Running), ("spare", 0, spare)]);
    let Progress::Pending(told) = progress(&start, &states(GroupState::Stopped, GroupState::Standby), false)
    else {
        panic!("not pending")
    };
    let told: Vec<_> = told.into_iter().map(|(_, body)| body).collect();
    let command::Body::StartGroup(out) = &told[0] else { panic!("{told:?}") };
    assert!(out.stand_by && out.assignment.is_none() && out.incarnation == 1);
    let command::Body::StartGroup(taken) = &told[1] else { panic!("{told:?}") };
    let assignment = taken.assignment.as_ref().expect("ranks");
    assert_eq!((assignment.first_rank, assignment.ranks, assignment.world_size), (0, 2, 4));
    assert_eq!((assignment.node_rank, assignment.nodes, assignment.master.as_str()), (0, 2, "spare"));
    assert!(!taken.stand_by);
    let over = groups(&[
        ("a", 1, GroupState::Standby),
        ("b", 1, GroupState::Running),
        ("spare", 1, GroupState::Running),
    ]);
    assert_eq!(progress(&start, &over, false), done());
    // A restart in place leaves who stands by alone, and a spare that has gone is waited for.
    assert_eq!(
        progress(
            &order(Step::Start),
            &groups(&[("b", 1, GroupState::Running), ("spare", 0, GroupState::Standby)]),
            false
        ),
        done()
    );
    assert_eq!(pending(&start, &groups(&[("b", 1, GroupState::Running)])), []);
}

#[test]
fn checks_are_done_by_an_agent_of_the_node() {
    let deed = Deed::Release { node: NodeName("n".into()), check: true };
    let check = Order { action: testing::action("a", deed), ..order(Step::Check) };
    let mut table = Groups::default();
    assert_eq!(pending(&check, &table), []);
    table.set_stream(&key("n"), Some(StreamId(7)));
    assert_eq!(pending(&check, &table), [StreamId(7)]);
    table.result(&key("n"), CommandResult { id: "o".into(), ok: false, detail: "GPU 3: XID 79".into() });
    assert_eq!(progress(&check, &table, false), Progress::Failed("GPU 3: XID 79".into()));
}

#[test]
fn a_stop_waits_for_agents_that_are_away_and_not_for_ever() {
    let mut stop = order(Step::Stop);
    if let Deed::Restart { ran_on, .. } = &mut stop.action.deed {
        ran_on.extend(["a", "b"].map(|node| NodeName(node.into())));
    }
    let half = groups(&[("a", 0, GroupState::Stopped)]);
    assert_eq!(pending(&stop, &half), []);
    assert_eq!(progress(&stop, &half, true), done());
}
