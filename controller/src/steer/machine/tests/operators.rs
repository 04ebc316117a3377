//! What operators say.

use super::*;

fn proposed(rig: &mut Rig) -> ActionId {
    let out = rig.review(&[finding("f", 0)], at(1));
    assert!(orders(&out).is_empty());
    let id = rig.steer.view().actions[0].id.clone();
    assert!(
        texts(&out)[0].contains(&format!("waiting for a yes to restart job llm: c4ctl approve {}", id.0)),
        "{out:?}"
    );
    id
}

#[test]
fn in_mode_approve_nothing_happens_without_a_yes() {
    let mut rig = Rig::new(config(Mode::Approve));
    let id = proposed(&mut rig);
    assert!(rig.review(&[finding("f", 0)], at(500)).is_empty(), "it is asked once");
    // The controller may die while it waits.
    rig.reborn(config(Mode::Approve), at(600));
    assert!(orders(&rig.tick(at(601))).is_empty());
    let (result, out) = rig.command(Command::Approve(id.clone()), at(602));
    assert_eq!(result, Ok("going to restart job llm".into()));
    let out = rig.carry_out(out, at(602));
    assert_eq!(orders(&out).len(), 2);
    let (again, _) = rig.command(Command::Approve(id), at(603));
    assert!(matches!(again, Err(Refused::Not(why)) if why.contains("is done")));
    let audit = &rig.steer.view().audit;
    assert!(audit.iter().any(|entry| entry.who == "eve" && entry.what == "approved"), "{audit:?}");
}

#[test]
fn a_no_holds_for_the_finding_and_a_clear_withdraws_what_waits() {
    let mut rig = Rig::new(config(Mode::Approve));
    let id = proposed(&mut rig);
    rig.command(Command::Reject(id), at(2)).0.expect("rejected");
    let out = rig.review(&[finding("f", 0)], at(3));
    assert!(orders(&out).is_empty() && texts(&out)[0].contains("eve has said no"), "{out:?}");
    rig.reborn(config(Mode::Approve), at(4));
    assert!(texts(&rig.review(&[finding("f", 0)], at(5)))[0].contains("eve has said no"));

    let mut rig = Rig::new(config(Mode::Approve));
    proposed(&mut rig);
    let out = rig.review(&[], at(2));
    assert_eq!(texts(&out), ["not going to restart job llm: the cause is gone"]);
}

#[test]
fn a_no_lasts_as_long_as_its_finding_and_blames_do_not_pile_up() {
    let mut rig = Rig::new(config(Mode::Approve));
    let fault = [blaming("f", 0, "n1")];
    rig.review(&fault, at(0));
    let id = rig.steer.view().actions[0].id.clone();
    rig.command(Command::Reject(id), at(2)).0.expect("rejected");
    rig.review(&fault, at(3));
    // Longer than a blame is remembered.
    rig.tick(at(30_000));
    assert!(rig.review(&fault, at(30_001)).is_empty());
    rig.review(&[], at(30_002));
    rig.tick(at(90_000));
    assert!(rig.store.all(crate::steer::journal::BLAMES).expect("read").is_empty());
}

#[test]
fn what_an_old_proposal_comes_to_does_not_hide_the_restarts_of_the_last_hour() {
    let mut rig = Rig::new(config(Mode::Approve));
    proposed(&mut rig);
    let scope = Scope::Job(JobId("llm".into()));
    rig.command(Command::SetMode { scope, mode: Some(Mode::Auto), until: None }, at(3_990)).0.expect("set");
    let out = rig.review(&[finding("f", 0), finding("g", 0)], at(4_000));
    rig.carry_out(out, at(4_000));
    rig.review(&[], at(4_001));
    assert_eq!(rig.steer.view().actions.iter().filter(|action| action.state == State::Done).count(), 1);
    assert_eq!(rig.steer.restarted(at(4_002)).len(), 1);
}

#[test]
fn a_yes_that_comes_too_late_does_nothing() {
    let mut rig = Rig::new(config(Mode::Approve));
    let id = proposed(&mut rig);
    rig.facts.incarnation = 1;
    let (result, out) = rig.command(Command::Approve(id), at(9));
    assert!(matches!(result, Err(Refused::Not(why)) if why.contains("is no more")) && out.is_empty());
    let (unknown, _) = rig.command(Command::Approve(ActionId("x".into())), at(9));
    assert!(matches!(unknown, Err(Refused::Unknown(_))));
}

#[test]
fn a_pause_leaves_everything_where_it_is_also_without_a_store() {
    let mut rig = Rig::new(config(Mode::Auto));
    let stop = orders(&rig.review(&[finding("f", 0)], at(1))).remove(0);
    rig.hangs = true;
    let (result, out) = rig.command(Command::Pause { why: "fire drill".into() }, at(2));
    assert!(result.expect("paused").contains("1 are left"));
    assert!(out.contains(&Output::Halt));
    // Neither time nor answers move it.
    assert!(orders(&rig.answer_only(&stop, Ok(()), at(3))).is_empty());
    assert!(orders(&rig.tick(at(5000))).is_empty());
    assert!(orders(&rig.review(&[finding("f", 0)], at(5000))).is_empty());
    rig.hangs = false;
    let (result, out) = rig.command(Command::Resume, at(5001));
    assert_eq!(result, Ok("going on with 1 actions".into()));
    assert_eq!(orders(&out)[0].id, stop.id);
    assert_eq!(orders(&rig.carry_out(out, at(5002))).len(), 2);
}

#[test]
fn a_pause_survives_the_controller() {
    let mut rig = Rig::new(config(Mode::Auto));
    rig.command(Command::Pause { why: String::new() }, at(1)).0.expect("paused");
    rig.reborn(config(Mode::Auto), at(2));
    let out = rig.review(&[finding("f", 0)], at(3));
    assert!(orders(&out).is_empty() && texts(&out)[0].contains("paused by eve"), "{out:?}");
    let isolate = Command::Isolate { node: NodeName("n".into()), why: String::new() };
    assert!(matches!(rig.command(isolate, at(4)).0, Err(Refused::Not(_))), "nobody acts in a pause");
}

#[test]
fn a_dry_run_changes_nothing() {
    let mut rig = Rig::new(config(Mode::Approve));
    let id = proposed(&mut rig);
    let node = NodeName("n".into());
    let commands = [
        Command::Approve(id.clone()),
        Command::Reject(id),
        Command::Pause { why: String::new() },
        Command::SetMode { scope: Scope::Cluster, mode: Some(Mode::Auto), until: None },
        Command::Isolate { node, why: String::new() },
    ];
    for command in commands {
        let world = OneJob(&rig.facts, &rig.cluster);
        let (result, outputs) = rig.steer.command(&command, "eve", true, &world, at(2));
        assert!(result.expect("possible").starts_with("would"), "{command:?}");
        assert!(outputs.is_empty(), "{command:?}");
    }
    assert_eq!(rig.steer.view().actions[0].state, State::Proposed);
}

#[test]
fn modes_that_operators_set_survive_and_end() {
    let mut rig = Rig::new(config(Mode::Observe));
    let set = Command::SetMode { scope: Scope::Cluster, mode: Some(Mode::Auto), until: Some(at(100)) };
    rig.command(set, at(1)).0.expect("set");
    rig.reborn(config(Mode::Observe), at(2));
    assert_eq!(rig.steer.mode(), Mode::Auto);
    rig.tick(at(100));
    assert_eq!(rig.steer.mode(), Mode::Observe);
    let unset = Command::SetMode { scope: Scope::Cluster, mode: None, until: None };
    assert!(matches!(rig.command(unset, at(101)).0, Err(Refused::Unknown(_))));
}
