//! Whatever happens, in whatever order: what must always hold.

use proptest::prelude::*;

use super::*;

/// Something that happens.
#[derive(Clone, Debug)]
enum Happening {
    /// A finding about the present incarnation blames a node, or one about an earlier incarnation does.
    Found {
        node: usize,
        stale: bool,
        hardware: bool,
    },
    /// All findings clear.
    Cleared,
    /// The oldest order that nobody has answered is answered.
    Answered(bool),
    /// An order is answered again.
    AnsweredAgain,
    Passed(u64),
    Paused,
    Resumed,
    /// An operator says yes to whatever waits.
    Approved,
    /// The store stops or begins to work.
    Store(bool),
    /// The controller is killed and started again.
    Killed,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3_usize, any::<bool>(), any::<bool>())
            .prop_map(|(node, stale, hardware)| Happening::Found { node, stale, hardware }),
        1 => Just(Happening::Cleared),
        6 => any::<bool>().prop_map(Happening::Answered),
        1 => Just(Happening::AnsweredAgain),
        4 => (1..200_u64).prop_map(Happening::Passed),
        1 => Just(Happening::Paused),
        1 => Just(Happening::Resumed),
        1 => Just(Happening::Approved),
        1 => any::<bool>().prop_map(Happening::Store),
        1 => Just(Happening::Killed),
    ]
}

struct Play {
    rig: Rig,
    config: Config,
    now: u64,
    findings: Vec<Finding>,
    found: usize,
    /// Orders that nobody has answered, and those that somebody has.
    waiting: VecDeque<Order>,
    answered: Vec<Order>,
    paused: bool,
    /// Incarnations of the job that were stopped: each may be once.
    stopped: BTreeSet<u32>,
}

impl Play {
    fn new(mode: Mode) -> Self {
        let config = Config { cooldown_seconds: 10.0, breaker_nodes: 100, ..config(mode) };
        let mut rig = Rig::new(config.clone());
        rig.facts = facts(0, &["s0", "s1"]);
        Self {
            rig,
            config,
            now: 0,
            findings: Vec::new(),
            found: 0,
            waiting: VecDeque::new(),
            answered: Vec::new(),
            paused: false,
            stopped: BTreeSet::new(),
        }
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for order in orders(&outputs) {
            assert!(!self.paused, "nothing is ordered in a pause: {order:?}");
            // What is ordered was written down, whatever became of the store since.
            let stored = Loaded::read(&self.rig.store).expect("readable");
            assert!(stored.actions.iter().any(|action| action.id == order.action.id), "{order:?}");
            if let (Step::Stop, Some((_, incarnation, _))) = (order.step, order.restart()) {
                assert!(incarnation <= self.rig.facts.incarnation);
                self.stopped.insert(incarnation);
            }
            self.waiting.push_back(order);
        }
    }

    fn happen(&mut self, happening: &Happening) {
        let now = at(self.now);
        match happening {
            Happening::Found { node, stale, hardware } => {
                self.found += 1;
                let incarnation = self.rig.facts.incarnation.saturating_sub(u32::from(*stale));
                let mut finding = blaming(&format!("f{}", self.found), incarnation, &format!("n{node}"));
                finding.suspects[0].rank = Some(self.found as u32);
                if *hardware {
                    let cause = serde_json::json!({"origin": "hardware", "severity": "fatal"});
                    finding.evidence.insert("cause".into(), cause);
                }
                self.findings.push(finding);
            }
            Happening::Cleared => self.findings.clear(),
            Happening::Answered(well) => {
                let Some(order) = self.waiting.pop_front() else { return };
                let out = self.rig.answer(&order, if *well { Ok(()) } else { Err("no") }, now);
                self.answered.push(order);
                self.take(out);
            }
            Happening::AnsweredAgain => {
                let Some(order) = self.answered.last().cloned() else { return };
                let out = self.rig.answer_only(&order, Ok(()), now);
                self.take(out);
            }
            Happening::Passed(seconds) => self.now += seconds,
            Happening::Paused => {
                let (result, out) = self.rig.command(Command::Pause { why: String::new() }, now);
                assert!(result.is_ok(), "a pause always succeeds");
                self.paused = true;
                // What actuators were doing is dropped.
                self.waiting.clear();
                self.take(out);
            }
            Happening::Resumed => {
                self.paused = false;
                let (_, out) = self.rig.command(Command::Resume, now);
                self.take(out);
            }
            Happening::Approved => {
                let waiting = self.rig.steer.view().actions;
                let Some(action) = waiting.into_iter().find(|action| action.state == State::Proposed) else {
                    return;
                };
                let (_, out) = self.rig.command(Command::Approve(action.id), now);
                self.take(out);
            }
            Happening::Store(works) => self.rig.broken = !works,
            Happening::Killed => {
                self.waiting.clear();
                let paused = Loaded::read(&self.rig.store).expect("readable").pause.is_some();
                self.rig.reborn(self.config.clone(), now);
                self.paused = paused;
            }
        }
        let out = self.rig.tick(at(self.now));
        self.take(out);
        let out = self.rig.review(&self.findings.clone(), at(self.now));
        self.take(out);
        self.check();
    }

    fn check(&self) {
        let steer = &self.rig.steer;
        let running = steer.view().actions.into_iter().filter(|action| {
            action.deed.job().is_some() && !action.state.is_final() && action.state != State::Proposed
        });
        assert!(running.count() <= 1, "one restart of a job at a time");
        let budget = rails::node_budget(&self.config, self.rig.cluster.nodes) as usize;
        assert!(steer.taken(at(self.now)).len() <= budget, "{:?}", steer.taken(at(self.now)));
        assert!(steer.restarts(&llm()) <= self.config.max_restarts);
        assert!(self.stopped.len() <= self.config.max_restarts as usize, "{:?}", self.stopped);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn rails_and_journal_hold_whatever_happens(
        auto in any::<bool>(),
        happenings in proptest::collection::vec(happening(), 1..80),
    ) {
        let mut play = Play::new(if auto { Mode::Auto } else { Mode::Approve });
        for happening in &happenings {
            play.happen(happening);
        }
    }
}
