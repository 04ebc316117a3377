//! Agents that are killed, stopped or cut off, and leaders that change, around the death of a rank: in whatever order it comes, whoever was
//! killed is told, and nobody else, not for a moment.

use std::collections::VecDeque;

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::*;

const MS: u64 = 1_000;
/// When the rank is killed; what else happens is said in milliseconds from then.
const DIED: Timestamp = Timestamp(1_700_000_000_000_000);
const BEGINS_MS: i64 = -14_000;
const ENDS_MS: i64 = 60_000;
const STEP_MS: i64 = 20;
/// So many cases are played.
const CASES: u32 = 100;
/// The rank that is killed; its peers fail of that.
const CAUSE: u32 = 3;
/// An agent looks this often, says again what it captured in so much time, and is given up by the controller when it is silent for so long.
const LOOK_MS: i64 = 100;
const MEMORY_US: u64 = 15_000_000;
const SILENT_MS: i64 = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wound {
    Killed,
    Stopped,
    Cut,
}

/// What happens besides the death.
#[derive(Clone, Copy, Debug)]
struct Case {
    wound: Wound,
    /// To whose agent, from when, and for how long.
    node: usize,
    from_ms: i64,
    for_ms: i64,
    /// When the leader is gone, and how long nobody leads.
    deposed_ms: i64,
    gap_ms: i64,
    /// How long agents take until they have found the next one.
    finds_ms: [i64; 2],
    /// When each peer has failed.
    fails_ms: [i64; 4],
}

impl Case {
    fn is_hurt(&self, ms: i64) -> bool {
        (self.from_ms..self.from_ms + self.for_ms).contains(&ms)
    }

    fn ended_ms(&self, rank: u32) -> i64 {
        if rank == CAUSE { 0 } else { self.fails_ms[rank as usize] }
    }
}

fn case() -> impl Strategy<Value = Case> {
    let wound = prop_oneof![Just(Wound::Killed), Just(Wound::Stopped), Just(Wound::Cut)];
    let finds = || prop_oneof![Just(0), 0..6_000_i64];
    let agent = (wound, 0..2_usize, -6_000..20_000_i64, 200..8_000_i64);
    let leader = (-8_000..30_000_i64, 20..4_000_i64, finds(), finds());
    let fails = [5..90_i64, 5..90, 5..90, 5..90];
    (agent, leader, fails).prop_map(
        |((wound, node, from_ms, for_ms), (deposed_ms, gap_ms, one, other), fails_ms)| Case {
            wound,
            node,
            from_ms,
            for_ms,
            deposed_ms,
            gap_ms,
            finds_ms: [one, other],
            fails_ms,
        },
    )
}

/// An agent as far as it matters here: what it sees, keeps and says again.
#[derive(Debug)]
struct Agent {
    node: usize,
    session: u32,
    began_ms: i64,
    stream: Option<StreamId>,
    next: u64,
    /// What is not acknowledged, and what was a short while ago.
    kept: VecDeque<(u64, Timestamp, Body)>,
    acknowledged: VecDeque<(u64, Timestamp, Body)>,
    sent: u64,
    announced: Vec<u32>,
    ended: Vec<(u32, u64)>,
    looked_ms: i64,
}

impl Agent {
    fn new(node: usize, session: u32, began_ms: i64) -> Self {
        Self {
            node,
            session,
            began_ms,
            stream: None,
            next: 1,
            kept: VecDeque::new(),
            acknowledged: VecDeque::new(),
            sent: 0,
            announced: Vec::new(),
            ended: Vec::new(),
            looked_ms: began_ms,
        }
    }

    fn push(&mut self, now: Timestamp, body: Body) -> u64 {
        self.kept.push_back((self.next, now, body));
        self.next += 1;
        self.next - 1
    }

    fn identity(&self, rank: u32) -> [Body; 2] {
        let info = ProcessInfo {
            process: process(0, rank),
            job: job(),
            incarnation: 0,
            rank: Some(rank),
            world_size: Some(RANKS),
            node: NodeName(format!("n{}", self.node)),
            gpu: None,
            pid: 100 + rank,
            blind_spots: Vec::new(),
        };
        let (process, comm) = (process(0, rank), CommId(900));
        let member = Membership { process, comm, name: String::new(), size: RANKS, comm_rank: rank };
        [Body::ProcessStarted(info, Vec::new()), Body::CommunicatorJoined(member)]
    }

    /// Looks at the ranks of its node.
    fn look(&mut self, case: &Case, ms: i64, now: Timestamp) {
        let window_due = ms.div_euclid(1_000) != self.looked_ms.div_euclid(1_000);
        let ranks = (0..RANKS).filter(|rank| rank / 2 == self.node as u32);
        let open: Vec<u32> = ranks.filter(|rank| self.ended.iter().all(|(ended, _)| ended != rank)).collect();
        let dead: Vec<u32> = open.iter().copied().filter(|rank| case.ended_ms(*rank) <= ms).collect();
        for rank in &open {
            if !self.announced.contains(rank) {
                self.announced.push(*rank);
                for body in self.identity(*rank) {
                    self.push(now, body);
                }
            }
        }
        for rank in open.iter().filter(|_| window_due || !dead.is_empty()) {
            let done = us(ms.min(0) - BEGINS_MS) / 100_000;
            let mut window = window(0, *rank, done + 100, us(ms.max(0)));
            if dead.contains(rank) {
                window.state = ProcessState::Zombie;
            }
            self.push(now, Body::Window(window));
        }
        for rank in dead {
            // It ended before this agent began, or while this agent stood still.
            let before = case.ended_ms(rank) < self.began_ms;
            let found = before || ms - self.looked_ms > 2 * LOOK_MS;
            let lived_ms = if before { case.ended_ms(rank) - 30 } else { self.looked_ms };
            let ago_ms = if found { ms - lived_ms.max(case.ended_ms(rank) - 30) } else { 0 };
            let killed = rank == CAUSE;
            let end = ProcessEnd {
                process: process(0, rank),
                ago_us: us(ago_ms),
                finalized: false,
                exit_code: (!killed).then_some(1),
                signal: killed.then_some(9),
                found,
            };
            let sequence = self.push(now, Body::ProcessEnded(end));
            self.ended.push((rank, sequence));
        }
        self.looked_ms = ms;
    }

    /// All that was sent is taken.
    fn acknowledge(&mut self, now: Timestamp) {
        while self.kept.front().is_some_and(|(sequence, ..)| *sequence <= self.sent) {
            self.acknowledged.extend(self.kept.pop_front());
        }
        self.forget(now);
    }

    fn forget(&mut self, now: Timestamp) {
        while self.acknowledged.front().is_some_and(|(_, at, _)| now.micros_since(*at) >= MEMORY_US) {
            self.acknowledged.pop_front();
        }
    }

    /// What it says first on a new stream.
    fn introduce(&mut self, now: Timestamp) -> (Hello, Vec<Body>) {
        self.forget(now);
        if self.acknowledged.iter().any(|(.., body)| matches!(body, Body::ProcessEnded(_))) {
            self.acknowledged.append(&mut self.kept);
            std::mem::swap(&mut self.acknowledged, &mut self.kept);
        }
        let first = self.acknowledged.front().or(self.kept.front());
        let settled = first.map_or(self.next, |(sequence, ..)| *sequence) - 1;
        let gone = |rank: &u32| self.ended.iter().any(|(ended, at)| ended == rank && *at <= settled);
        let known: Vec<u32> = self.announced.iter().copied().filter(|rank| !gone(rank)).collect();
        self.sent = 0;
        let hello = Hello {
            node: NodeName(format!("n{}", self.node)),
            agent_version: "1".into(),
            session: format!("s{}-{}", self.node, self.session),
            next_sequence: self.kept.front().map_or(self.next, |(sequence, ..)| *sequence),
            sensors: Vec::new(),
            nic_class: None,
            kept: self.kept.back().map_or(0, |(sequence, ..)| *sequence),
        };
        (hello, known.into_iter().flat_map(|rank| self.identity(rank)).collect())
    }
}

fn us(ms: i64) -> u64 {
    u64::try_from(ms).unwrap() * MS
}

/// Plays a case; who was named first in what was told, in order, and the findings that are shown at the end.
fn play(case: &Case) -> (Vec<Option<u32>>, Vec<Finding>) {
    let mut agents = [Agent::new(0, 0, BEGINS_MS), Agent::new(1, 0, BEGINS_MS)];
    let mut found_ms = [BEGINS_MS; 2];
    let mut streams = 0;
    let mut leads = true;
    let begins = DIED.before(us(-BEGINS_MS));
    let mut world = World::of(brain(Mode::Observe, Known::default(), begins), begins);
    for ms in (BEGINS_MS..ENDS_MS).step_by(STEP_MS as usize) {
        world.now = begins.after(us(ms - BEGINS_MS));
        let now = world.now;
        if leads && (case.deposed_ms..case.deposed_ms + case.gap_ms).contains(&ms) {
            leads = false;
            agents.iter_mut().for_each(|agent| agent.stream = None);
        }
        if !leads && ms >= case.deposed_ms + case.gap_ms {
            leads = true;
            let findings = Findings::load(&world.store).unwrap();
            world.brain = brain(Mode::Observe, Known { findings, ..Known::default() }, now);
            found_ms = case.finds_ms.map(|finds_ms| ms + finds_ms);
        }
        for agent in &mut agents {
            let hurt = agent.node == case.node && case.is_hurt(ms);
            let restarts = case.wound == Wound::Killed && agent.node == case.node;
            if restarts && !case.is_hurt(ms) && case.is_hurt(ms - STEP_MS) {
                *agent = Agent::new(agent.node, 1, ms);
            }
            let patience_ms = if case.wound == Wound::Stopped { SILENT_MS } else { 0 };
            let gone = hurt && ms >= case.from_ms + patience_ms;
            if gone && let Some(stream) = agent.stream.take() {
                world.put(Input::Closed { stream });
            }
            if (!hurt || case.wound == Wound::Cut) && (ms - BEGINS_MS) % LOOK_MS == 0 {
                agent.look(case, ms, now);
            }
            if hurt || !leads || ms < found_ms[agent.node] {
                continue;
            }
            if agent.stream.is_none() {
                streams += 1;
                let stream = StreamId(streams);
                let (hello, bodies) = agent.introduce(now);
                agent.stream = Some(stream);
                world.put(Input::Opened { stream, hello });
                for body in bodies {
                    let message = Incoming { sequence: 0, age_us: 0, sent_us: 0, body };
                    world.put(Input::Message { stream, message });
                }
            }
            let Some(stream) = agent.stream else { continue };
            let unsent: Vec<_> = agent.kept.iter().filter(|kept| kept.0 > agent.sent).cloned().collect();
            for (sequence, captured, mut body) in unsent {
                let age_us = now.micros_since(captured);
                if let Body::ProcessEnded(end) = &mut body {
                    end.ago_us += age_us;
                }
                agent.sent = sequence;
                world
                    .put(Input::Message { stream, message: Incoming { sequence, age_us, sent_us: 0, body } });
            }
            if (ms - BEGINS_MS) % LOOK_MS == 0 {
                agent.acknowledge(now);
            }
        }
        if leads && (ms - BEGINS_MS) % 100 == 0 {
            world.put(Input::Tick);
        }
    }
    let told = world.notices().into_iter().map(|notice| notice.finding.suspects[0].rank).collect();
    let shown = world.brain.findings().shown().map(|record| record.finding.clone()).collect();
    (told, shown)
}

fn tells_of_the_cause_only(case: &Case) {
    let (told, shown) = play(case);
    assert!(!told.is_empty(), "it is told: {case:?}");
    assert!(told.iter().all(|rank| *rank == Some(CAUSE)), "{told:?}: {case:?}");
    let open: Vec<_> = shown.iter().filter(|finding| finding.cleared.is_none()).collect();
    assert_eq!((shown.len(), open.len()), (1, 1), "{shown:#?}: {case:?}");
}

#[test]
fn whoever_was_killed_is_told_and_nobody_else_whatever_becomes_of_agents_and_leaders() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..CASES {
        tells_of_the_cause_only(&case().new_tree(&mut runner).unwrap().current());
    }
}

/// The agent of the rank that is killed is stopped a second before, and goes on after three.
const STOPPED: Case = Case {
    wound: Wound::Stopped,
    node: 1,
    from_ms: -1_000,
    for_ms: 3_000,
    deposed_ms: ENDS_MS,
    gap_ms: 0,
    finds_ms: [0; 2],
    fails_ms: [40, 55, 60, 0],
};

#[test]
fn an_agent_that_stood_still_does_not_make_its_dead_later_than_those_who_failed_of_them() {
    tells_of_the_cause_only(&STOPPED);
}

#[test]
fn a_leader_that_has_only_begun_waits_for_an_agent_that_has_not_found_it() {
    let case = Case { from_ms: 4_000, for_ms: 7_800, deposed_ms: -400, gap_ms: 160, ..STOPPED };
    tells_of_the_cause_only(&Case { finds_ms: [0, 5_800], ..case });
}
