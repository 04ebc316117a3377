use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use c4_detect::finding::{CERTAINTY, Kind};

use super::*;
use crate::{config::Mode, steer::journal::JournalError};

/// A journal whose entries the test can see, and which can be made to fail.
#[derive(Clone, Default)]
struct Shared {
    entries: Arc<Mutex<Vec<Entry>>>,
    broken: bool,
}

impl Journal for Shared {
    fn append(&mut self, entry: Entry) -> Result<(), JournalError> {
        if self.broken {
            return Err(JournalError("disk full".into()));
        }
        self.entries.lock().unwrap().push(entry);
        Ok(())
    }
}

fn config(mode: Mode) -> Config {
    Config { mode, ..Config::default() }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp(1_000_000_000_000 + seconds * 1_000_000)
}

fn finding(id: &str, incarnation: u32) -> Finding {
    Finding {
        id: FindingId(id.into()),
        job: JobId("llm".into()),
        incarnation,
        kind: Kind::ProcessDeath,
        suspects: Vec::new(),
        confidence: 0.95,
        since: at(0),
        detected: at(0),
        cleared: None,
        summary: "rank 3 died".into(),
        evidence: BTreeMap::new(),
        explains: Vec::new(),
        refuted_by: String::new(),
    }
}

fn facts(incarnation: u32) -> JobFacts {
    JobFacts { incarnation, supervised: Ok(()), conflict: None, checkpoint: Some(120) }
}

fn review(steer: &mut Steer, open: &[Finding], facts: &JobFacts, now: Timestamp) -> Vec<Output> {
    steer.review(open, |_| Some(facts.clone()), now)
}

fn texts(out: &[Output]) -> Vec<&str> {
    out.iter()
        .filter_map(|o| if let Output::Said { text, .. } = o { Some(text.as_str()) } else { None })
        .collect()
}

fn orders(out: &[Output]) -> Vec<Order> {
    out.iter().filter_map(|o| if let Output::Order(order) = o { Some(order.clone()) } else { None }).collect()
}

/// Restarts the job once, from finding to done.
fn restart(steer: &mut Steer, finding: Finding, now: Timestamp) {
    let facts = facts(finding.incarnation);
    let stop = orders(&review(steer, &[finding], &facts, now)).remove(0);
    let start = orders(&steer.answered(&stop, Ok(()), Some(&facts), now)).remove(0);
    steer.answered(&start, Ok(()), Some(&facts), now);
}

#[test]
fn observe_says_once_what_it_would_have_done_and_does_nothing() {
    let mut steer = Steer::new(config(Mode::Observe), Box::new(Shared::default()));
    let out = review(&mut steer, &[finding("f", 0)], &facts(0), at(1));
    assert_eq!(texts(&out), ["would restart job llm from checkpoint 120 (mode observe)"]);
    assert!(orders(&out).is_empty());
    assert!(review(&mut steer, &[finding("f", 0)], &facts(0), at(2)).is_empty());
    let out = review(&mut steer, &[], &facts(0), at(3));
    assert_eq!(texts(&out), ["not restarting job llm: the cause is gone"]);
    assert_eq!(steer.restarts(&JobId("llm".into())), 0);
}

#[test]
fn auto_stops_then_starts_and_says_from_where() {
    let journal = Shared::default();
    let mut steer = Steer::new(config(Mode::Auto), Box::new(journal.clone()));
    let out = review(&mut steer, &[finding("f", 0)], &facts(0), at(1));
    // The detector learns that the job is being stopped before anybody is told to stop it.
    let stopping = out.iter().position(|o| matches!(o, Output::Stopping { incarnation: 0, .. })).unwrap();
    let ordered = out.iter().position(|o| matches!(o, Output::Order(_))).unwrap();
    assert!(stopping < ordered);
    let stop = orders(&out).remove(0);
    assert_eq!((stop.step, stop.incarnation), (Step::Stop, 0));

    let out = steer.answered(&stop, Ok(()), Some(&facts(0)), at(2));
    assert!(matches!(out[0], Output::Stopped { incarnation: 0, .. }));
    let start = orders(&out).remove(0);
    assert_eq!(start.step, Step::Start);

    let out = steer.answered(&start, Ok(()), Some(&facts(0)), at(3));
    assert_eq!(texts(&out), ["job restarted from checkpoint 120 (incarnation 1)"]);
    let states: Vec<_> = journal.entries.lock().unwrap().iter().map(|e| e.action.state.name()).collect();
    assert_eq!(states, ["planned", "stopping", "starting", "done"]);
    assert!(steer.running(&JobId("llm".into())).is_none());
}

#[test]
fn one_restart_at_a_time_and_none_for_a_past_incarnation() {
    let mut steer = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
    let out = review(&mut steer, &[finding("f", 0), finding("g", 0)], &facts(0), at(1));
    assert_eq!(orders(&out).len(), 1);
    assert!(review(&mut steer, &[finding("h", 0)], &facts(0), at(50)).is_empty());
    let mut other = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
    assert!(review(&mut other, &[finding("f", 0)], &facts(1), at(1)).is_empty());
}

#[test]
fn at_most_so_many_restarts_and_not_before_the_cool_down() {
    let config = Config { max_restarts: 2, cooldown_seconds: 10.0, ..config(Mode::Auto) };
    let mut steer = Steer::new(config, Box::new(Shared::default()));
    restart(&mut steer, finding("a", 0), at(0));
    let out = review(&mut steer, &[finding("b", 1)], &facts(1), at(5));
    assert!(texts(&out)[0].contains("cool-down"), "{out:?}");
    assert!(orders(&out).is_empty());
    restart(&mut steer, finding("b", 1), at(10));
    let out = review(&mut steer, &[finding("c", 2)], &facts(2), at(99));
    assert_eq!(
        texts(&out),
        ["not restarting job llm: it was restarted 2 times, which is the limit; a person is needed"]
    );
    assert!(orders(&out).is_empty());
    // The same name, used for a new run, starts afresh.
    let out = review(&mut steer, &[finding("d", 0)], &facts(0), at(200));
    assert_eq!(orders(&out).len(), 1, "{out:?}");
}

/// Words of a rail, and what makes it hold.
type Rail = (&'static str, fn(&mut Finding, &mut JobFacts));

#[test]
fn a_certain_hang_is_restarted_even_if_nobody_can_be_blamed() {
    let hang = |certainty: f64| Finding {
        kind: Kind::CommHang,
        confidence: 0.3,
        evidence: BTreeMap::from([(CERTAINTY.to_owned(), certainty.into())]),
        ..finding("f", 0)
    };
    let mut steer = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
    assert!(orders(&review(&mut steer, &[hang(0.7)], &facts(0), at(0))).is_empty());
    let ordered = orders(&review(&mut steer, &[hang(0.95)], &facts(0), at(1)));
    assert_eq!(ordered.iter().map(|order| order.step).collect::<Vec<_>>(), [Step::Stop]);
}

#[test]
fn every_rail_holds() {
    let rails: [Rail; 5] = [
        ("not sure enough", |f, _| f.confidence = 0.5),
        ("not sure enough", |f, _| f.confidence = f64::NAN),
        ("nobody supervises this job", |_, j| {
            j.supervised = Err("no actuator: nobody supervises this job".into())
        }),
        ("identity is in doubt: rank 1 twice", |_, j| j.conflict = Some("rank 1 twice".into())),
        ("", |f, _| f.kind = Kind::WorkloadImbalance),
    ];
    for (words, change) in rails {
        let (mut finding, mut facts) = (finding("f", 0), facts(0));
        change(&mut finding, &mut facts);
        let mut steer = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
        let out = review(&mut steer, &[finding], &facts, at(1));
        assert!(orders(&out).is_empty(), "{words}");
        assert!(texts(&out).join(" ").contains(words), "{words}: {out:?}");
    }
    let mut steer = Steer::new(config(Mode::Approve), Box::new(Shared::default()));
    let out = review(&mut steer, &[finding("f", 0)], &facts(0), at(1));
    assert!(texts(&out)[0].contains("nobody can give yet") && orders(&out).is_empty());
}

#[test]
fn a_held_restart_is_withdrawn_when_the_cause_is_gone() {
    let mut steer = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
    restart(&mut steer, finding("a", 0), at(0));
    review(&mut steer, &[finding("b", 1)], &facts(1), at(1));
    let out = review(&mut steer, &[], &facts(1), at(2));
    assert_eq!(texts(&out), ["not restarting job llm: the cause is gone"]);
    assert!(review(&mut steer, &[], &facts(1), at(100)).is_empty());
}

#[test]
fn a_step_is_tried_again_then_given_up_and_never_repeated() {
    let mut steer = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
    let first = orders(&review(&mut steer, &[finding("f", 0)], &facts(0), at(0))).remove(0);
    assert!(steer.tick(at(19)).is_empty());
    assert!(texts(&steer.tick(at(20)))[0].contains("no answer in time"));
    let second = orders(&steer.tick(at(21))).remove(0);
    assert_eq!((second.attempt, second.step), (2, Step::Stop));
    assert_ne!(first.id, second.id);
    assert!(steer.answered(&first, Ok(()), None, at(22)).is_empty(), "a late answer to the first attempt");
    let out = steer.answered(&second, Err("agent says no".into()), None, at(23));
    assert!(texts(&out)[0].contains("agent says no; a person is needed"), "{out:?}");
    let out = review(&mut steer, &[finding("f", 0)], &facts(0), at(500));
    assert!(orders(&out).is_empty() && texts(&out)[0].contains("has failed before"), "{out:?}");
}

/// Killed after any entry of the journal, the machine orders the step it was in again, under the same id, and ends
/// where it would have ended.
#[test]
fn killed_at_any_point_it_goes_on_from_its_journal() {
    let whole = Shared::default();
    let mut steer = Steer::new(config(Mode::Auto), Box::new(whole.clone()));
    restart(&mut steer, finding("f", 0), at(1));
    let whole = whole.entries.lock().unwrap().clone();
    let mut original = Steer::new(config(Mode::Auto), Box::new(Shared::default()));
    let stop_id = orders(&review(&mut original, &[finding("f", 0)], &facts(0), at(1))).remove(0).id;

    for cut in 1..=whole.len() {
        let journal = Shared { entries: Arc::new(Mutex::new(whole[..cut].to_vec())), broken: false };
        let mut steer = Steer::resume(config(Mode::Auto), Box::new(journal.clone()), &whole[..cut]);
        assert_eq!(steer.restarts(&JobId("llm".into())), 1, "cut after {cut}");
        // While resuming, the finding that is still open starts nothing new.
        assert!(
            orders(&review(&mut steer, &[finding("f", 0)], &facts(0), at(2))).is_empty()
                || cut == whole.len()
        );
        let mut pending = orders(&steer.tick(at(3)));
        if cut <= 2 {
            assert_eq!(pending[0].id, stop_id);
        }
        while let Some(order) = pending.pop() {
            pending.extend(orders(&steer.answered(&order, Ok(()), Some(&facts(0)), at(4))));
        }
        let states: Vec<_> = journal.entries.lock().unwrap().iter().map(|e| e.action.state.name()).collect();
        assert_eq!(states, ["planned", "stopping", "starting", "done"], "cut after {cut}");
    }
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let journal = Shared { broken: true, ..Shared::default() };
    let mut steer = Steer::new(config(Mode::Auto), Box::new(journal));
    let out = review(&mut steer, &[finding("f", 0)], &facts(0), at(1));
    assert!(orders(&out).is_empty());
    assert!(texts(&out)[0].contains("disk full"));
}
