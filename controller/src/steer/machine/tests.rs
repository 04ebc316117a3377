use std::collections::BTreeMap;

use c4_detect::finding::{CERTAINTY, Kind};

use super::*;
use crate::{
    config::Hook,
    steer::{
        action::Step,
        modes::Scope,
        placement::{self, Place},
        rails::{self, Means},
        testing::{at, blaming, facts, finding},
    },
    store::{MemoryStore, Store, owed::Owed},
};

mod journal;
mod ladder;
mod operators;
mod properties;
mod storm;

/// A machine with its store, in a world of one job.
pub(super) struct Rig {
    pub(super) steer: Steer,
    pub(super) store: MemoryStore,
    pub(super) facts: JobFacts,
    pub(super) cluster: ClusterFacts,
    /// The store fails.
    pub(super) broken: bool,
    /// The store does not answer.
    pub(super) hangs: bool,
    /// What it has not taken.
    owed: Owed,
}

struct OneJob<'a>(&'a JobFacts, &'a ClusterFacts);

impl World for OneJob<'_> {
    fn job(&self, job: &JobId) -> Option<JobFacts> {
        (job.0 == "llm").then(|| self.0.clone())
    }
    fn cluster(&self) -> ClusterFacts {
        self.1.clone()
    }
}

pub(super) fn config(mode: Mode) -> Config {
    Config { mode, settle_seconds: 0.0, ..Config::default() }
}

impl Rig {
    pub(super) fn new(config: Config) -> Self {
        Self {
            steer: Steer::new(config, at(0)),
            store: MemoryStore::default(),
            facts: facts(0, &[]),
            cluster: ClusterFacts { nodes: 100, ..ClusterFacts::default() },
            broken: false,
            hangs: false,
            owed: Owed::default(),
        }
    }

    /// Does what the machine wants of the store, until it wants nothing more.
    pub(super) fn settle(&mut self, outputs: Vec<Output>, now: Timestamp) -> Vec<Output> {
        let mut queue = VecDeque::from(outputs);
        let mut out = Vec::new();
        while let Some(output) = queue.pop_front() {
            let Output::Persist { token, batch } = output else {
                out.push(output);
                continue;
            };
            if self.hangs {
                continue;
            }
            let late = self.owed.before(&batch);
            self.write(&late).ok();
            let result = self.write(&batch);
            queue.extend(self.steer.persisted(token, result, now));
        }
        out
    }

    fn write(&mut self, batch: &[Write]) -> Result<(), String> {
        let number = self.owed.begin(batch);
        let result = match self.broken {
            true => Err("disk full".to_owned()),
            false => self.store.apply(batch).map_err(|error| error.to_string()),
        };
        self.owed.done(number, result.is_ok());
        result
    }

    pub(super) fn review(&mut self, open: &[Finding], now: Timestamp) -> Vec<Output> {
        let outputs = self.steer.review(open, &OneJob(&self.facts, &self.cluster), now);
        self.settle(outputs, now)
    }

    pub(super) fn answer(&mut self, order: &Order, result: Result<(), &str>, now: Timestamp) -> Vec<Output> {
        if let (Some((_, incarnation, _)), Step::Start, Ok(())) = (order.restart(), order.step, result) {
            self.facts.incarnation = incarnation + 1;
        }
        self.answer_only(order, result, now)
    }

    /// The same without the job having changed.
    pub(super) fn answer_only(
        &mut self,
        order: &Order,
        result: Result<(), &str>,
        now: Timestamp,
    ) -> Vec<Output> {
        let result = result.map(|()| String::new()).map_err(str::to_owned);
        let facts = self.facts.clone();
        let outputs = self.steer.answered(order, result, Some(&facts), now);
        self.settle(outputs, now)
    }

    pub(super) fn tick(&mut self, now: Timestamp) -> Vec<Output> {
        let outputs = self.steer.tick(now);
        self.settle(outputs, now)
    }

    pub(super) fn command(
        &mut self,
        command: Command,
        now: Timestamp,
    ) -> (Result<String, Refused>, Vec<Output>) {
        let world = OneJob(&self.facts, &self.cluster);
        let (result, outputs) = self.steer.command(&command, "eve", false, &world, now);
        (result, self.settle(outputs, now))
    }

    /// Has every order carried out at once, and what follows.
    pub(super) fn carry_out(&mut self, outputs: Vec<Output>, now: Timestamp) -> Vec<Output> {
        let mut all = Vec::new();
        let mut pending = outputs;
        while !pending.is_empty() {
            let orders = orders(&pending);
            all.append(&mut pending);
            for order in orders {
                pending.extend(self.answer(&order, Ok(()), now));
            }
        }
        all
    }

    /// A machine that goes on from what is in the store, as after the death of the controller.
    pub(super) fn reborn(&mut self, config: Config, now: Timestamp) {
        self.owed = Owed::default();
        self.steer = Steer::resume(config, Loaded::read(&self.store).expect("readable"), now);
    }
}

pub(super) fn texts(out: &[Output]) -> Vec<&str> {
    out.iter()
        .filter_map(|o| if let Output::Said { text, .. } = o { Some(text.as_str()) } else { None })
        .collect()
}

pub(super) fn orders(out: &[Output]) -> Vec<Order> {
    out.iter()
        .filter_map(|o| if let Output::Order(order) = o { Some((**order).clone()) } else { None })
        .collect()
}

pub(super) fn llm() -> JobId {
    JobId("llm".into())
}

#[test]
fn observe_says_once_what_it_would_have_done_and_does_nothing() {
    let mut rig = Rig::new(config(Mode::Observe));
    let out = rig.review(&[finding("f", 0)], at(1));
    assert_eq!(texts(&out), ["would restart job llm from checkpoint 120 (mode observe)"]);
    assert!(orders(&out).is_empty());
    assert!(rig.review(&[finding("f", 0)], at(2)).is_empty());
    let out = rig.review(&[], at(3));
    assert_eq!(texts(&out), ["not restarting job llm: the cause is gone"]);
    assert_eq!(rig.steer.restarts(&llm()), 0);
}

#[test]
fn auto_stops_then_starts_and_says_from_where() {
    let mut rig = Rig::new(config(Mode::Auto));
    let out = rig.review(&[finding("f", 0)], at(1));
    // The detector learns that the job is being stopped before anybody is told to stop it.
    let stopping = out.iter().position(|o| matches!(o, Output::Stopping { incarnation: 0, .. })).unwrap();
    let ordered = out.iter().position(|o| matches!(o, Output::Order(_))).unwrap();
    assert!(stopping < ordered);
    let stop = orders(&out).remove(0);
    assert_eq!(stop.step, Step::Stop);

    let out = rig.answer(&stop, Ok(()), at(2));
    assert!(matches!(out[0], Output::Stopped { incarnation: 0, .. }));
    let start = orders(&out).remove(0);
    assert_eq!(start.step, Step::Start);

    let out = rig.answer(&start, Ok(()), at(3));
    assert_eq!(texts(&out), ["job restarted from checkpoint 120 (incarnation 1)"]);
    assert!(rig.steer.running(&llm()).is_none());
    assert_eq!(rig.steer.view().actions[0].state, State::Done);
}

#[test]
fn one_restart_at_a_time_and_none_for_a_past_incarnation() {
    let mut rig = Rig::new(config(Mode::Auto));
    let out = rig.review(&[finding("f", 0), finding("g", 0)], at(1));
    assert_eq!(orders(&out).len(), 1);
    assert!(rig.review(&[finding("h", 0)], at(50)).is_empty());
    let mut other = Rig::new(config(Mode::Auto));
    other.facts.incarnation = 1;
    assert!(other.review(&[finding("f", 0)], at(1)).is_empty());
}

#[test]
fn at_most_so_many_restarts_and_not_before_the_cool_down() {
    let config = Config { max_restarts: 2, cooldown_seconds: 10.0, ..config(Mode::Auto) };
    let mut rig = Rig::new(config);
    let out = rig.review(&[finding("a", 0)], at(0));
    rig.carry_out(out, at(0));
    let out = rig.review(&[finding("b", 1)], at(5));
    assert!(texts(&out)[0].contains("cool-down"), "{out:?}");
    assert!(orders(&out).is_empty());
    let out = rig.review(&[finding("b", 1)], at(10));
    rig.carry_out(out, at(10));
    let out = rig.review(&[finding("c", 2)], at(99));
    assert_eq!(
        texts(&out),
        ["not restarting job llm: it was restarted 2 times, which is the limit; a person is needed"]
    );
    assert!(orders(&out).is_empty());
    // The same name, used for a new run, starts afresh.
    rig.facts.incarnation = 0;
    let out = rig.review(&[finding("d", 0)], at(200));
    assert_eq!(orders(&out).len(), 1, "{out:?}");
}

#[test]
fn a_certain_hang_is_restarted_even_if_nobody_can_be_blamed() {
    let hang = |certainty: f64| Finding {
        kind: Kind::CommHang,
        confidence: 0.3,
        evidence: BTreeMap::from([(CERTAINTY.to_owned(), certainty.into())]),
        ..finding("f", 0)
    };
    let mut rig = Rig::new(config(Mode::Auto));
    assert!(orders(&rig.review(&[hang(0.7)], at(0))).is_empty());
    let ordered = orders(&rig.review(&[hang(0.95)], at(1)));
    assert_eq!(ordered.iter().map(|order| order.step).collect::<Vec<_>>(), [Step::Stop]);
}

/// Words of a rail, and what makes it hold.
type Rail = (&'static str, fn(&mut Finding, &mut Rig));

#[test]
fn every_rail_holds() {
    let rails: [Rail; 12] = [
        ("not sure enough", |f, _| f.confidence = 0.5),
        ("not sure enough", |f, _| f.confidence = f64::NAN),
        ("nobody supervises this job", |_, r| {
            r.facts.means = Err("no actuator: nobody supervises this job".into());
        }),
        ("identity is in doubt: rank 1 twice", |_, r| r.facts.conflict = Some("rank 1 twice".into())),
        ("left alone (debugging)", |_, r| r.facts.opted_out = Some("debugging".into())),
        ("", |f, _| f.kind = Kind::WorkloadImbalance),
        ("only just started", |_, r| r.steer.config.settle_seconds = 10.0),
        ("agents of 40 of 100 nodes are out of sight", |_, r| r.cluster.lost = 40),
        ("paused by bob", |_, r| {
            r.steer.pause = Some(Pause { by: "bob".into(), why: String::new(), since: at(0) });
        }),
        ("in maintenance until 2033", |_, r| {
            let window = crate::config::Maintenance {
                from: Some("1970-01-01T00:00:00Z".parse().unwrap()),
                until: Some("2033-01-01T00:00:00Z".parse().unwrap()),
                jobs: vec!["llm".into()],
                ..Default::default()
            };
            r.steer.config.maintenance.push(window);
        }),
        ("mode observe", |_, r| {
            r.steer.modes.set(crate::steer::modes::Setting {
                scope: Scope::Job(llm()),
                mode: Mode::Observe,
                by: "bob".into(),
                until: None,
            });
        }),
        ("would restart", |_, r| r.steer.modes = Modes::new(Mode::Observe, &Default::default())),
    ];
    for (words, change) in rails {
        let mut rig = Rig::new(config(Mode::Auto));
        let mut finding = finding("f", 0);
        change(&mut finding, &mut rig);
        let out = rig.review(&[finding], at(1));
        assert!(orders(&out).is_empty(), "{words}");
        assert!(texts(&out).join(" ").contains(words), "{words}: {out:?}");
    }
}

#[test]
fn a_held_restart_is_withdrawn_when_the_cause_is_gone() {
    let mut rig = Rig::new(config(Mode::Auto));
    let out = rig.review(&[finding("a", 0)], at(0));
    rig.carry_out(out, at(0));
    rig.review(&[finding("b", 1)], at(1));
    let out = rig.review(&[], at(2));
    assert_eq!(texts(&out), ["not restarting job llm: the cause is gone"]);
    assert!(rig.review(&[], at(100)).is_empty());
}

#[test]
fn a_step_is_tried_again_then_given_up_and_never_repeated() {
    let mut rig = Rig::new(config(Mode::Auto));
    let first = orders(&rig.review(&[finding("f", 0)], at(0))).remove(0);
    assert!(rig.tick(at(19)).is_empty());
    assert!(texts(&rig.tick(at(20)))[0].contains("no answer in time"));
    let second = orders(&rig.tick(at(21))).remove(0);
    assert_eq!((second.action.attempt, second.step), (2, Step::Stop));
    assert_ne!(first.id, second.id);
    assert!(rig.answer(&first, Ok(()), at(22)).is_empty(), "a late answer to the first attempt");
    let out = rig.answer(&second, Err("agent says no"), at(23));
    assert!(texts(&out)[0].contains("agent says no; a person is needed"), "{out:?}");
    let out = rig.review(&[finding("f", 0)], at(500));
    assert!(orders(&out).is_empty() && texts(&out)[0].contains("has failed before"), "{out:?}");
}

#[test]
fn an_actuator_that_says_done_and_has_done_nothing_is_not_believed() {
    let mut rig = Rig::new(config(Mode::Auto));
    let stop = orders(&rig.review(&[finding("f", 0)], at(0))).remove(0);
    let start = orders(&rig.answer(&stop, Ok(()), at(1))).remove(0);
    let out = rig.answer_only(&start, Ok(()), at(2));
    assert!(texts(&out)[0].contains("waiting for its incarnation 1"), "{out:?}");
    assert!(orders(&rig.review(&[finding("f", 0)], at(10))).is_empty());
    let out = rig.tick(at(2 + 900));
    assert!(texts(&out)[0].contains("never appeared; a person is needed"), "{out:?}");

    // One that appears late is taken for what it is.
    let mut rig = Rig::new(config(Mode::Auto));
    let stop = orders(&rig.review(&[finding("f", 0)], at(0))).remove(0);
    let start = orders(&rig.answer(&stop, Ok(()), at(1))).remove(0);
    rig.answer_only(&start, Ok(()), at(2));
    rig.facts.incarnation = 1;
    let out = rig.review(&[], at(300));
    assert_eq!(texts(&out), ["job restarted from checkpoint 120 (incarnation 1)"]);
}

#[test]
fn tickets_follow_isolation_where_a_hook_is_configured() {
    let hook = Some(Hook { command: vec!["true".into()], ..Hook::default() });
    let mut rig = Rig::new(Config { hook, ..config(Mode::Auto) });
    let isolate = Command::Isolate { node: NodeName("n1".into()), why: "smells burnt".into() };
    let (result, out) = rig.command(isolate, at(1));
    assert!(result.expect("done").contains("isolate n1"));
    let out = rig.carry_out(out, at(1));
    let steps: Vec<_> = orders(&out).iter().map(|order| order.step).collect();
    assert_eq!(steps, [Step::Isolate, Step::Ticket]);
    assert!(rig.steer.is_isolated(&NodeName("n1".into())));
}
