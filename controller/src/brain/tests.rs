use c4_detect::{
    finding::Kind,
    observation::{
        CommId, CommWindow, InFlight, Membership, NodeName, OperationSignature, ProcessEnd, ProcessId,
        ProcessInfo, ProcessState, Window,
    },
};

use super::*;
use crate::{
    config::Mode,
    convert::{Body, CommandResult, GroupReport, GroupState},
    steer::action::{State, Step},
    store::{MemoryStore, Store},
};

mod failover;
mod late;
mod outage;

const RANKS: u32 = 4;
const STEP_US: u64 = 100_000;

/// A job of four ranks on two nodes, played into a brain.
struct World {
    brain: Brain,
    now: Timestamp,
    sequences: [u64; 2],
    effects: Vec<Effect>,
    store: MemoryStore,
    /// Runs of the controller.
    lives: u64,
    /// For how long messages are held up on their way.
    held_us: u64,
}

impl World {
    fn new(mode: Mode) -> Self {
        let now = Timestamp(1_700_000_000_000_000);
        let mut world = Self::of(brain(mode, Known::default(), now), now);
        world.connect();
        world
    }

    /// Nobody is connected yet.
    fn of(brain: Brain, now: Timestamp) -> Self {
        let (store, effects) = (MemoryStore::default(), Vec::new());
        Self { brain, now, sequences: [0; 2], effects, store, lives: 1, held_us: 0 }
    }

    /// The controller ends, and another one starts from what is in the store.
    fn reborn(&mut self, mode: Mode) {
        let known = Known {
            steer: Loaded::read(&self.store).unwrap(),
            ledger: Ledger::load(&self.store).unwrap(),
            findings: Findings::load(&self.store).unwrap(),
        };
        self.pass(STEP_US);
        self.brain = brain(mode, known, self.now);
        self.lives += 1;
        (self.sequences, self.effects) = ([0; 2], Vec::new());
        self.connect();
    }

    fn connect(&mut self) {
        for node in 0..2 {
            let hello = Hello {
                node: NodeName(format!("n{node}")),
                agent_version: "1".into(),
                session: format!("s{}", self.lives),
                next_sequence: 1,
                sensors: Vec::new(),
                nic_class: None,
                kept: 0,
            };
            self.put(Input::Opened { stream: StreamId(node), hello });
        }
    }

    fn put(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.brain.handle(input, self.now) {
                if let Effect::Persist(token, batch) = &effect {
                    self.store.apply(batch).unwrap();
                    inputs.push(Input::Persisted { token: *token, result: Ok(()) });
                }
                if let Effect::Keep(batch) = &effect {
                    self.store.apply(batch).unwrap();
                }
                self.effects.push(effect);
            }
        }
    }

    fn say(&mut self, node: u64, body: Body) {
        self.say_late(node, body, 0);
    }

    fn say_late(&mut self, node: u64, body: Body, age_us: u64) {
        let sequence = &mut self.sequences[usize::try_from(node).unwrap()];
        *sequence += 1;
        // The clocks of both nodes began at some time of their own.
        let sent_us = self.now.0 - 1_600_000_000_000_000 - node * 86_400_000_000 - self.held_us;
        let message = Incoming { sequence: *sequence, age_us, sent_us, body };
        self.put(Input::Message { stream: StreamId(node), message });
    }

    fn groups(&mut self, incarnation: u32, state: GroupState) {
        for node in 0..2_u32 {
            let report = GroupReport {
                job: job(),
                incarnation,
                state,
                ranks: vec![node * 2, node * 2 + 1],
                world_size: RANKS,
                detail: String::new(),
                checkpoint: Some((120, 500_000)),
                checkpoint_took_us: None,
                least_ranks: 0,
                opted_out: None,
            };
            self.say(node.into(), Body::Group(report));
        }
    }

    fn start(&mut self, incarnation: u32) {
        for rank in 0..RANKS {
            let process = process(incarnation, rank);
            let node = u64::from(rank / 2);
            let info = ProcessInfo {
                process,
                job: job(),
                incarnation,
                rank: Some(rank),
                world_size: Some(RANKS),
                node: NodeName(format!("n{node}")),
                gpu: None,
                pid: 100 + rank,
                blind_spots: Vec::new(),
            };
            self.say(node, Body::ProcessStarted(info, Vec::new()));
            let comm = CommId(900 + u64::from(incarnation));
            let member = Membership { process, comm, name: String::new(), size: RANKS, comm_rank: rank };
            self.say(node, Body::CommunicatorJoined(member));
        }
    }

    fn windows(&mut self, incarnation: u32, position: u64, without: Option<u32>) {
        for rank in (0..RANKS).filter(|rank| Some(*rank) != without) {
            let window = window(incarnation, rank, position, 0);
            self.say(u64::from(rank / 2), Body::Window(window));
        }
    }

    fn pass(&mut self, us: u64) {
        for _ in 0..us.div_ceil(STEP_US) {
            self.now = self.now.after(STEP_US);
            self.put(Input::Tick);
        }
    }

    /// Runs healthily for thirty windows.
    fn healthy(mode: Mode) -> Self {
        let mut world = Self::new(mode);
        world.groups(0, GroupState::Running);
        world.start(0);
        for position in 1..=30 {
            world.pass(STEP_US);
            world.windows(0, position * 4, None);
        }
        world
    }

    /// Runs healthily, then rank 3 is killed.
    fn killed(mode: Mode) -> Self {
        let mut world = Self::healthy(mode);
        let end = ProcessEnd {
            found: false,
            process: process(0, 3),
            ago_us: 300_000,
            finalized: false,
            exit_code: None,
            signal: Some(9),
        };
        world.say(1, Body::ProcessEnded(end));
        for _ in 0..20 {
            world.pass(STEP_US);
            world.windows(0, 120, Some(3));
        }
        world
    }

    fn orders(&mut self) -> Vec<Order> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::Act(order) => Some((**order).clone()),
            _ => None,
        });
        let orders = orders.collect();
        self.effects.clear();
        orders
    }

    fn notices(&self) -> Vec<&Notice> {
        let notices = self.effects.iter().filter_map(|effect| match effect {
            Effect::Notify(notice) => Some(&**notice),
            _ => None,
        });
        notices.collect()
    }
}

fn brain(mode: Mode, known: Known, now: Timestamp) -> Brain {
    let mut config = Config::default();
    config.steer.mode = mode;
    config.steer.settle_seconds = 0.0;
    Brain::new(config, known, Arc::new(Metrics::new().unwrap()), now)
}

fn job() -> JobId {
    JobId("llm".into())
}

/// A window of a rank that has completed so many collectives, and waits in the next one for so long.
fn window(incarnation: u32, rank: u32, completed: u64, waits_us: u64) -> Window {
    let signature =
        OperationSignature { function: "AllReduce".into(), count: 8, datatype: "f32".into(), root: 0 };
    let in_flight = (waits_us > 0).then_some(InFlight {
        sequence: completed,
        signature,
        started: true,
        age_us: waits_us,
        started_age_us: waits_us,
        before: None,
    });
    let begun = completed + u64::from(in_flight.is_some());
    let comm = CommWindow {
        pending_peers: Vec::new(),
        links: Vec::new(),
        comm: CommId(900 + u64::from(incarnation)),
        enqueued: begun,
        started: begun,
        completed,
        in_flight,
        idle_us: 1000,
        unseen_us: 0,
        blocks: Vec::new(),
        edges: Vec::new(),
        iterations: Vec::new(),
    };
    Window {
        process: process(incarnation, rank),
        duration_us: STEP_US,
        state: ProcessState::Running,
        kernel_events: true,
        profiling: true,
        dropped: 0,
        unread: 0,
        own: None,
        comms: vec![comm],
    }
}

fn process(incarnation: u32, rank: u32) -> ProcessId {
    ProcessId(u64::from(incarnation * 100 + rank + 1))
}

#[test]
fn a_death_is_found_told_and_in_mode_observe_only_commented() {
    let mut world = World::killed(Mode::Observe);
    let last = world.notices().last().map(|notice| (*notice).clone()).expect("somebody is told");
    assert_eq!(last.finding.kind, Kind::ProcessDeath);
    assert_eq!(last.finding.suspects[0].rank, Some(3));
    assert_eq!(last.actions, ["would restart job llm from checkpoint 120 (mode observe)"]);
    let because = format!("{} because {}", last.actions[0], last.finding.summary);
    assert!(
        world.effects.iter().any(|effect| matches!(effect, Effect::Event(event) if event.text == because))
    );
    assert!(world.orders().is_empty());
    let snapshot = world.brain.snapshot(world.now);
    assert_eq!(snapshot.jobs[&job()].state, "faulty");
}

#[test]
fn in_mode_auto_the_job_is_restarted_and_the_ledger_adds_up() {
    let mut world = World::killed(Mode::Auto);
    let stop = world.orders().remove(0);
    assert_eq!((stop.step, stop.restart().unwrap().1), (Step::Stop, 0));
    assert_eq!(world.brain.snapshot(world.now).jobs[&job()].state, "restarting");

    // The agents stop the rest, which accuses nobody.
    for rank in 0..3 {
        let end = ProcessEnd {
            found: false,
            process: process(0, rank),
            ago_us: 0,
            finalized: false,
            exit_code: None,
            signal: Some(15),
        };
        world.say(u64::from(rank / 2), Body::ProcessEnded(end));
    }
    world.groups(0, GroupState::Stopped);
    world.pass(1_000_000);
    assert!(world.notices().iter().all(|notice| notice.finding.suspects[0].rank == Some(3)));
    world.put(Input::Answered { order: Box::new(stop), result: Ok(String::new()) });
    let start = world.orders().remove(0);
    assert_eq!(start.step, Step::Start);

    world.groups(1, GroupState::Running);
    world.put(Input::Answered { order: Box::new(start), result: Ok(String::new()) });
    world.start(1);
    world.pass(2_000_000);
    world.windows(1, 4, None);
    let snapshot = world.brain.snapshot(world.now);
    let state = &snapshot.jobs[&job()];
    assert_eq!((state.restarts, state.view.incarnation), (1, 1));
    assert_eq!(state.outages.len(), 1);
    let (outage, parts) = (&state.outages[0], state.downtime);
    assert!(outage.complete());
    assert_eq!(parts.wall_us(), outage.progress.unwrap().micros_since(outage.fault));
    assert!(parts.detection_us >= 300_000 && parts.diagnosis_isolation_us >= 1_000_000, "{parts:?}");
    assert!(parts.reinitialisation_us >= 2_000_000, "{parts:?}");
    assert!(outage.checkpoint.is_some() && parts.post_checkpoint_us > 0, "{parts:?}");
    let actions = snapshot.findings.values().next().unwrap().actions.clone();
    assert_eq!(actions.last().unwrap(), "job restarted from checkpoint 120 (incarnation 1)");
}

#[test]
fn a_restart_that_fails_leaves_its_finding_open_until_the_job_is_started_again() {
    let mut world = World::killed(Mode::Auto);
    let stop = world.orders().remove(0);
    world.put(Input::Answered { order: Box::new(stop), result: Err("a rank does not end".into()) });
    world.pass(1_500_000);
    let again = world.orders().remove(0);
    world.put(Input::Answered { order: Box::new(again), result: Err("a rank does not end".into()) });
    let told = world.notices().last().map(|notice| (*notice).clone()).expect("told");
    assert_eq!(told.finding.cleared, None, "nobody is told that all is well");
    assert!(told.sentence().contains("a rank does not end; a person is needed"), "{}", told.sentence());
    world.pass(60_000_000);
    assert_eq!(world.brain.snapshot(world.now).jobs[&job()].state, "faulty");
    assert_eq!(world.brain.findings().open().count(), 1);

    world.effects.clear();
    world.groups(1, GroupState::Running);
    world.start(1);
    assert_eq!(world.brain.findings().open().count(), 0, "somebody has started it again");
    assert!(world.notices().iter().any(|notice| notice.finding.cleared.is_some()));
}

/// The open findings and the actions, as operators see them.
fn seen(world: &World) -> (Vec<String>, Vec<(String, State)>) {
    let open = world.brain.findings().open().map(|finding| finding.id.0.clone());
    let actions = world.brain.steer().view().actions.into_iter();
    (open.collect(), actions.map(|action| (action.id.0, action.state)).collect())
}

#[test]
fn what_waits_for_an_operator_waits_on_in_the_next_controller() {
    let mut world = World::killed(Mode::Approve);
    let before = seen(&world);
    assert_eq!((before.0.len(), before.1.len()), (1, 1), "{before:?}");
    assert_eq!(before.1[0].1, State::Proposed);
    world.reborn(Mode::Approve);
    // The agents tell of who lives; nobody tells of the dead twice.
    world.groups(0, GroupState::Running);
    world.start(0);
    world.pass(90_000_000);
    assert_eq!(seen(&world), before, "nothing is lost, and nothing is there twice");
    assert!(world.notices().is_empty(), "nobody is told again");
    let command = Command::Approve(crate::steer::action::ActionId(before.1[0].0.clone()));
    world.put(Input::Wanted { ticket: 1, command, by: "eve".into(), dry_run: false });
    assert_eq!(world.orders().len(), 1);
}

#[test]
fn what_was_found_before_a_jobs_restart_accuses_nobody_after_it() {
    let mut world = World::killed(Mode::Approve);
    world.reborn(Mode::Approve);
    // Somebody has started the job again meanwhile.
    world.groups(1, GroupState::Running);
    world.start(1);
    world.pass(2_000_000);
    let (open, actions) = seen(&world);
    assert!(open.is_empty(), "{open:?}");
    assert!(matches!(actions[0].1, State::Withdrawn { .. }) && actions.len() == 1, "{actions:?}");
    assert!(world.orders().is_empty());
}

#[test]
fn a_job_whose_agent_is_told_to_end_accuses_nobody() {
    let mut world = World::healthy(Mode::Auto);
    world.groups(0, GroupState::Stopping);
    let end = ProcessEnd {
        found: false,
        process: process(0, 0),
        ago_us: 300,
        finalized: false,
        exit_code: None,
        signal: None,
    };
    world.say(0, Body::ProcessEnded(end));
    for _ in 0..20 {
        world.pass(STEP_US);
        world.windows(0, 120, Some(0));
    }
    assert!(world.notices().is_empty(), "{:?}", world.notices());
    assert!(world.orders().is_empty());
}

#[test]
fn while_a_rank_is_claimed_twice_nobody_is_accused_and_nothing_is_done() {
    let mut world = World::healthy(Mode::Auto);
    let twin = ProcessInfo {
        process: ProcessId(77),
        job: job(),
        incarnation: 0,
        rank: Some(3),
        world_size: Some(RANKS),
        node: NodeName("n0".into()),
        gpu: None,
        pid: 7,
        blind_spots: Vec::new(),
    };
    world.say(0, Body::ProcessStarted(twin, Vec::new()));
    let end = ProcessEnd {
        found: false,
        process: process(0, 2),
        ago_us: 0,
        finalized: false,
        exit_code: None,
        signal: Some(9),
    };
    world.say(1, Body::ProcessEnded(end));
    for _ in 0..20 {
        world.pass(STEP_US);
        world.windows(0, 120, Some(2));
    }
    assert!(world.notices().is_empty());
    assert!(world.orders().is_empty());
    let snapshot = world.brain.snapshot(world.now);
    assert_eq!(snapshot.jobs[&job()].state, "unknown");
    assert!(
        snapshot.jobs[&job()].missing[0].contains("rank 3 is claimed by"),
        "{:?}",
        snapshot.jobs[&job()].missing
    );

    // The twin goes: what was withheld is said.
    let end = ProcessEnd {
        found: false,
        process: ProcessId(77),
        ago_us: 0,
        finalized: true,
        exit_code: Some(0),
        signal: None,
    };
    world.say(0, Body::ProcessEnded(end));
    world.pass(2 * STEP_US);
    assert!(world.notices().iter().any(|notice| notice.finding.suspects[0].rank == Some(2)));
    assert_eq!(world.orders().len(), 1);
}

#[test]
fn a_result_of_a_command_reaches_the_table_that_the_actuator_reads() {
    let mut world = World::new(Mode::Auto);
    let before = world.brain.groups().version();
    world.say(0, Body::CommandResult(CommandResult { id: "c".into(), ok: false, detail: "no".into() }));
    assert!(world.brain.groups().version() > before);
}
