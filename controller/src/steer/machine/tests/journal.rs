//! The controller may die at any moment, and the store too.

use super::*;

/// A store that keeps only the first so many batches, as if the controller had been killed before the next.
fn cut(whole: &[Vec<Write>], at: usize) -> MemoryStore {
    let store = MemoryStore::default();
    for batch in &whole[..at] {
        store.apply(batch).expect("in memory");
    }
    store
}

/// Every batch that a restart writes, in order, and the ids of its orders.
fn restart() -> (Vec<Vec<Write>>, Vec<String>) {
    let mut rig = Rig::new(config(Mode::Auto));
    let (mut batches, mut ids) = (Vec::new(), Vec::new());
    let mut queue =
        VecDeque::from(rig.steer.review(&[blaming("f", 0, "n1")], &OneJob(&rig.facts, &rig.cluster), at(1)));
    while let Some(output) = queue.pop_front() {
        match output {
            Output::Persist { token, batch } => {
                batches.push(batch);
                queue.extend(rig.steer.persisted(token, Ok(()), at(1)));
            }
            Output::Order(order) => {
                ids.push(order.id.clone());
                if order.step == Step::Start {
                    rig.facts.incarnation = 1;
                }
                let facts = rig.facts.clone();
                queue.extend(rig.steer.answered(&order, Ok(String::new()), Some(&facts), at(1)));
            }
            _ => {}
        }
    }
    (batches, ids)
}

/// Killed after any batch, the machine orders the step it was in again, under the same id, and ends where it would
/// have ended; killed before the plan was written, it begins anew.
#[test]
fn killed_at_any_point_it_goes_on_from_its_journal() {
    let (batches, ids) = restart();
    assert_eq!(ids.len(), 2);
    assert!(batches.len() >= 5, "{}", batches.len());
    for killed in 0..=batches.len() {
        let mut rig = Rig::new(config(Mode::Auto));
        rig.store = cut(&batches, killed);
        rig.reborn(config(Mode::Auto), at(2));
        let planned = !rig.steer.view().actions.is_empty();
        let done = rig.steer.view().actions.iter().any(|action| action.state == State::Done);
        // The job is where the journal says: restarted only if it is done.
        rig.facts.incarnation = u32::from(done);
        let mut out = rig.tick(at(3));
        // While it resumes, the finding that is still open starts nothing more.
        out.extend(rig.review(&[blaming("f", 0, "n1")], at(3)));
        let first: Vec<_> = orders(&out);
        assert!(first.len() <= 1, "killed after {killed}: {first:?}");
        let out = rig.carry_out(out, at(4));
        for order in orders(&out) {
            assert!(!planned || ids.contains(&order.id), "killed after {killed}: {} is new", order.id);
        }
        assert_eq!(rig.steer.restarts(&llm()), 1, "killed after {killed}");
        assert_eq!(rig.facts.incarnation, 1, "killed after {killed}");
        let view = rig.steer.view();
        assert_eq!(view.actions.len(), 1);
        assert_eq!(view.actions[0].state, State::Done, "killed after {killed}");
    }
}

/// A restart ended while nothing could be written. When the next one is written down, so is the end of the first: who
/// reads both finds one that goes on.
#[test]
fn what_could_not_be_written_is_written_before_what_is_new() {
    let config = Config { cooldown_seconds: 0.0, ..config(Mode::Auto) };
    let mut rig = Rig::new(config.clone());
    let out = rig.review(&[blaming("f", 0, "n1")], at(1));
    rig.broken = true;
    rig.carry_out(out, at(2));
    assert_eq!(rig.steer.view().actions[0].state, State::Done);
    rig.broken = false;
    rig.review(&[blaming("g", 1, "n1")], at(30));
    rig.reborn(config, at(31));
    let states: Vec<_> = rig.steer.view().actions.into_iter().map(|action| action.state).collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert_eq!(states.iter().filter(|state| !state.is_final()).count(), 1, "{states:?}");
}

/// An isolation on somebody's order with a ticket behind it, killed after any batch and taken up again: the node is
/// isolated, and one repair is asked for, whoever did which part.
#[test]
fn a_node_that_is_isolated_by_two_controllers_gets_one_ticket() {
    let hook = Some(Hook { command: vec!["true".into()], ..Hook::default() });
    let config = Config { hook, ..config(Mode::Auto) };
    let isolate = Command::Isolate { node: NodeName("n".into()), why: "smoke".into() };
    // Runs until so many batches are written, and tells whom a ticket was asked for, and whether it was all.
    let run = |most: usize| {
        let mut rig = Rig::new(config.clone());
        let (mut written, mut tickets) = (0, Vec::new());
        let world = OneJob(&rig.facts, &rig.cluster);
        let mut queue = VecDeque::from(rig.steer.command(&isolate, "eve", false, &world, at(1)).1);
        while let Some(output) = queue.pop_front() {
            match output {
                Output::Persist { .. } if written == most => return (rig, tickets, false),
                Output::Persist { token, batch } => {
                    rig.store.apply(&batch).expect("in memory");
                    written += 1;
                    queue.extend(rig.steer.persisted(token, Ok(()), at(1)));
                }
                Output::Order(order) => {
                    tickets.extend((order.step == Step::Ticket).then(|| order.id.clone()));
                    let facts = rig.facts.clone();
                    queue.extend(rig.steer.answered(&order, Ok(String::new()), Some(&facts), at(1)));
                }
                _ => {}
            }
        }
        (rig, tickets, true)
    };
    let mut killed = 1;
    loop {
        let (mut rig, mut tickets, all) = run(killed);
        rig.reborn(config.clone(), at(2));
        // Killed before the plan was written: it never was one.
        let planned = usize::from(!rig.steer.view().actions.is_empty());
        let out = rig.tick(at(3));
        let out = rig.carry_out(out, at(4));
        tickets.extend(orders(&out).into_iter().filter(|o| o.step == Step::Ticket).map(|o| o.id));
        tickets.dedup();
        assert_eq!(tickets.len(), planned, "killed after {killed}: {tickets:?}");
        let view = rig.steer.view();
        assert!(view.actions.iter().all(|action| action.state == State::Done), "killed after {killed}");
        assert_eq!(view.actions.len(), 2 * planned, "killed after {killed}");
        let isolated = view.audit.iter().filter(|entry| entry.what == "isolated").count();
        assert_eq!(isolated, planned, "killed after {killed}: {:#?}", view.audit);
        if all {
            assert_eq!(planned, 1);
            break;
        }
        killed += 1;
    }
    assert!(killed > 4, "{killed} batches");
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let mut rig = Rig::new(config(Mode::Auto));
    rig.broken = true;
    let out = rig.review(&[finding("f", 0)], at(1));
    assert!(orders(&out).is_empty());
    assert!(texts(&out).iter().any(|text| text.contains("disk full")), "{out:?}");

    let mut rig = Rig::new(config(Mode::Auto));
    rig.hangs = true;
    assert!(orders(&rig.review(&[finding("f", 0)], at(1))).is_empty());
    assert!(orders(&rig.tick(at(30))).is_empty());
    let out = rig.tick(at(31));
    assert!(orders(&out).is_empty());
    assert!(texts(&out).iter().any(|text| text.contains("does not answer")), "{out:?}");
}

#[test]
fn a_slow_disk_holds_a_plan_up_and_does_not_end_it() {
    let mut rig = Rig::new(config(Mode::Auto));
    let out = rig.steer.review(&[finding("f", 0)], &OneJob(&rig.facts, &rig.cluster), at(1));
    assert!(orders(&rig.tick(at(20))).is_empty());
    // The step is said to be written, too, and that the disk takes.
    assert_eq!(orders(&rig.settle(out, at(20)))[0].step, Step::Stop);
}

#[test]
fn a_disk_that_fails_in_the_middle_leaves_no_job_half_restarted() {
    let mut rig = Rig::new(config(Mode::Auto));
    let stop = orders(&rig.review(&[finding("f", 0)], at(1))).remove(0);
    rig.broken = true;
    let out = rig.answer(&stop, Ok(()), at(2));
    let start = orders(&out).remove(0);
    assert_eq!(start.step, Step::Start);
    rig.answer(&start, Ok(()), at(3));
    // A controller that now starts again from the old journal repeats what does no harm.
    rig.reborn(config(Mode::Auto), at(4));
    assert_eq!(orders(&rig.tick(at(5)))[0].id, stop.id);
}

#[test]
fn a_plan_from_before_a_long_outage_is_not_begun() {
    let mut rig = Rig::new(config(Mode::Auto));
    let outputs = rig.steer.review(&[finding("f", 0)], &OneJob(&rig.facts, &rig.cluster), at(1));
    for output in &outputs {
        if let Output::Persist { batch, .. } = output {
            rig.store.apply(batch).expect("in memory");
        }
    }
    rig.reborn(config(Mode::Auto), at(3600));
    let out = rig.tick(at(3600));
    assert!(orders(&out).is_empty());
    assert!(texts(&out)[0].contains("too long ago"), "{out:?}");
}
