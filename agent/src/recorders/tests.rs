//! The sampler as it ships, over recorders that live in a table.

mod left_out;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    rc::Rc,
};

use c4_detect::{
    aggregate::Coverage,
    observation::{CommId, Membership, ProcessEnd, ProcessState, Window},
};
use c4_recorder::snapshot::{
    Communicator, Connection, Identity, Operation, OperationKind, StepState as RawStep,
};

use super::*;

const MS: u64 = 1_000_000;
const START: u64 = 1_000_000 * MS;

#[derive(Clone, Default)]
struct Fake {
    alive: bool,
    broken: bool,
    identity: Identity,
    sample: Sample,
    all_steps_until_ns: u64,
}

#[derive(Clone, Default)]
struct Table(Rc<RefCell<BTreeMap<String, Fake>>>);

struct Handle(Table, String);

impl Table {
    fn with(&self, name: &str, change: impl FnOnce(&mut Fake)) {
        change(self.0.borrow_mut().entry(name.to_owned()).or_default());
    }
}

impl RecorderSource for Table {
    type Recorder = Handle;

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    fn open(&mut self, name: &str) -> Result<Handle, SourceError> {
        match self.0.borrow().get(name) {
            Some(fake) if !fake.broken => Ok(Handle(self.clone(), name.to_owned())),
            _ => Err(SourceError("no recorder".to_owned())),
        }
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.borrow_mut().remove(name);
        Ok(())
    }
}

impl Handle {
    fn get<T>(&self, read: impl FnOnce(&Fake) -> T) -> Result<T, SourceError> {
        match self.0.0.borrow().get(&self.1) {
            Some(fake) if !fake.broken => Ok(read(fake)),
            _ => Err(SourceError("torn".to_owned())),
        }
    }
}

impl RecorderHandle for Handle {
    fn identity(&mut self) -> Result<Identity, SourceError> {
        self.get(|fake| fake.identity.clone())
    }

    fn origin(&mut self) -> Result<Origin, SourceError> {
        Ok(Origin { uid: 0, holder: None })
    }

    fn poll(&mut self, cursor: u64) -> Result<Sample, SourceError> {
        self.get(|fake| {
            let mut sample = fake.sample.clone();
            sample.operations.retain(|op| op.index >= cursor || op.completed_ns.is_none());
            sample
        })
    }

    fn alive(&mut self) -> Result<bool, SourceError> {
        self.get(|fake| fake.alive)
    }

    fn request_all_steps(&mut self, until_ns: u64) -> Result<(), SourceError> {
        self.get(|_| ())?;
        self.0.with(&self.1, |fake| fake.all_steps_until_ns = until_ns);
        Ok(())
    }
}

fn rank(rank: u32) -> Fake {
    let labels = [("C4_JOB", "llm"), ("RANK", &rank.to_string()), ("WORLD_SIZE", "2")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    Fake {
        alive: true,
        broken: false,
        identity: Identity {
            cookie: u64::from(rank) + 1,
            pid: 4_000_000 + rank,
            created_ns: START + MS,
            labels: labels.into(),
            ..Identity::default()
        },
        sample: Sample {
            profiling: true,
            event_mask: 0xff,
            communicators: vec![Communicator {
                id: 77,
                size: 2,
                rank,
                observable: true,
                ..Communicator::default()
            }],
            ..Sample::default()
        },
        all_steps_until_ns: 0,
    }
}

fn operation(sequence: u64, start_ms: u64, end_ms: Option<u64>) -> Operation {
    Operation {
        index: sequence,
        comm_slot: 0,
        comm_generation: 0,
        kind: OperationKind::Collective,
        sequence,
        function: "AllReduce".to_owned(),
        datatype: "ncclFloat32".to_owned(),
        count: 256,
        bytes: 1024,
        root_or_peer: 0,
        peer_number: None,
        algorithm: String::new(),
        protocol: String::new(),
        channels: 1,
        graph_captured: false,
        left_out: false,
        enqueued_ns: START + start_ms * MS,
        started_ns: Some(START + start_ms * MS),
        started_on_gpu: true,
        completed_ns: end_ms.map(|end| START + end * MS),
        observable: true,
    }
}

fn put(table: &Table, name: &str, operations: Vec<Operation>) {
    table.with(name, |fake| {
        let comm = &mut fake.sample.communicators[0];
        comm.enqueued = operations.iter().map(|op| op.sequence + 1).max().unwrap_or(0);
        comm.completed = operations.iter().filter(|op| op.completed_ns.is_some()).count() as u64;
        comm.started = comm.enqueued;
        fake.sample.operations = operations;
    });
}

fn settings() -> Settings {
    Settings {
        node: "n0".to_owned(),
        interval: Duration::from_millis(100),
        window: Duration::from_secs(1),
        overdue: Overdue { floor_ns: 1000 * MS, factor: 4 },
        retention: Retention { keep: Duration::from_secs(60), files: 2 },
        proc_root: PathBuf::from("/nonexistent"),
        sys_root: PathBuf::from("/nonexistent"),
    }
}

fn sampler(table: &Table, exits: &Exits) -> Sampler<Table> {
    Sampler::new(table.clone(), settings(), exits.clone(), START)
}

/// Looks every 100 ms from `from_ms` to `to_ms` and says what was told when.
fn watch(sampler: &mut Sampler<Table>, from_ms: u64, to_ms: u64) -> Vec<(u64, Report)> {
    let looks = (from_ms / 100 + 1)..=(to_ms / 100);
    looks
        .flat_map(|n| sampler.sample(START + n * 100 * MS).into_iter().map(move |report| (n * 100, report)))
        .collect()
}

/// What was said when; windows that are said together count one by one.
fn kinds(reports: &[(u64, Report)]) -> Vec<(u64, &'static str)> {
    let kind = |report: &Report| match report {
        Report::ProcessStarted(_) => ("started", 1),
        Report::CommunicatorJoined { .. } => ("joined", 1),
        Report::Windows(windows) => ("window", windows.len()),
        Report::ProcessEnded(_) => ("ended", 1),
        _ => ("other", 1),
    };
    let said = reports.iter().map(|(at, report)| (*at, kind(report)));
    said.flat_map(|(at, (kind, times))| std::iter::repeat_n((at, kind), times)).collect()
}

fn windows(reports: &[(u64, Report)]) -> Vec<(u64, &Window)> {
    reports
        .iter()
        .filter_map(
            |(at, report)| if let Report::Windows(windows) = report { Some((*at, windows)) } else { None },
        )
        .flat_map(|(at, windows)| windows.iter().map(move |window| (at, window)))
        .collect()
}

#[test]
fn the_nics_that_a_process_was_told_to_use_are_looked_up_when_it_is_announced() {
    let sys = tempfile::tempdir().unwrap();
    for device in ["mlx5_0", "mlx5_1"] {
        let device = sys.path().join("class/infiniband").join(device);
        // The one interface that every host has.
        std::fs::create_dir_all(device.join("device/net/lo")).unwrap();
        std::fs::create_dir_all(device.join("ports/1")).unwrap();
        std::fs::write(device.join("ports/1/state"), "4: ACTIVE\n").unwrap();
    }
    let told = |variables: &[(&str, &str)]| -> Vec<(String, Option<std::net::IpAddr>)> {
        let table = Table::default();
        table.with("0.c4r", |fake| {
            *fake = rank(0);
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            fake.identity.labels.extend(variables);
        });
        let settings = Settings { sys_root: sys.path().to_owned(), ..settings() };
        let mut sampler = Sampler::new(table, settings, Exits::default(), START);
        let start = watch(&mut sampler, 0, 100).into_iter().find_map(|(_, report)| match report {
            Report::ProcessStarted(start) => Some(start),
            _ => None,
        });
        start.unwrap().nics.into_iter().map(|nic| (nic.name, nic.address)).collect()
    };
    let loopback = Some([127, 0, 0, 1].into());
    assert_eq!(told(&[]), []);
    let hca = ("NCCL_IB_HCA", "=mlx5_1:1");
    assert!(told(&[hca]).contains(&("mlx5_1".to_owned(), loopback)));
    assert!(told(&[hca]).iter().all(|(name, _)| name == "mlx5_1"));
    let sockets = [hca, ("NCCL_IB_DISABLE", "1"), ("NCCL_SOCKET_IFNAME", "=lo")];
    assert_eq!(told(&sockets), [("lo".to_owned(), loopback)]);
}

#[test]
fn a_communicator_whose_size_nccl_does_not_tell_is_announced_once_its_first_operation_has_named_it() {
    let table = Table::default();
    table.with("a.c4r", |fake| {
        *fake = rank(1);
        let comm = &mut fake.sample.communicators[0];
        (comm.id, comm.size, comm.rank) = (0, 0, 0);
    });
    let mut sampler = sampler(&table, &Exits::default());
    let joins = |reports: Vec<(u64, Report)>| -> Vec<Membership> {
        let join = |(_, report)| match report {
            Report::CommunicatorJoined { membership, .. } => Some(membership),
            _ => None,
        };
        reports.into_iter().filter_map(join).collect()
    };
    assert_eq!(joins(watch(&mut sampler, 0, 1_500)), []);
    table.with("a.c4r", |fake| {
        let comm = &mut fake.sample.communicators[0];
        (comm.id, comm.rank) = (0xC0, 1);
    });
    let joined = joins(watch(&mut sampler, 1_500, 3_000));
    let [one] = joined.as_slice() else { panic!("{joined:?}") };
    assert_eq!((one.comm, one.size, one.comm_rank), (CommId(0xC0), 0, 1));
}

#[test]
fn a_process_with_several_gpus_is_one_rank_of_their_communicator() {
    let table = Table::default();
    table.with("a.c4r", |fake| {
        *fake = rank(0);
        let second = Communicator { slot: 1, rank: 1, ..fake.sample.communicators[0].clone() };
        fake.sample.communicators.push(second);
    });
    let mut sampler = sampler(&table, &Exits::default());
    let told = watch(&mut sampler, 0, 2000);
    assert_eq!(kinds(&told), [(100, "started"), (100, "joined"), (1000, "window"), (2000, "window")]);
    assert_eq!(windows(&told)[1].1.comms.len(), 1);
}

#[test]
fn a_process_is_announced_once_and_reports_each_second() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    let mut sampler = sampler(&table, &Exits::default());
    let told = watch(&mut sampler, 0, 2000);
    assert_eq!(kinds(&told), [(100, "started"), (100, "joined"), (1000, "window"), (2000, "window")]);
    assert_eq!(windows(&told)[1].1.duration_us, 1_000_000);
}

#[test]
fn an_operation_that_takes_unusually_long_is_told_early_with_its_edges() {
    let table = Table::default();
    for (name, n) in [("a.c4r", 0), ("b.c4r", 1)] {
        table.with(name, |fake| {
            *fake = rank(n);
            fake.sample.connections = vec![Connection {
                peer: 1 - n,
                is_send: true,
                bytes: 5,
                steps_done: 7,
                state: RawStep::SendWait,
                state_since_ns: START,
                ..Connection::default()
            }];
        });
    }
    put(&table, "a.c4r", vec![operation(0, 10, Some(20)), operation(1, 250, None)]);
    let mut sampler = sampler(&table, &Exits::default());
    let told = watch(&mut sampler, 0, 3000);
    let told = windows(&told);
    // At 1 s it is 750 ms old, at 1.3 s it is overdue: then both processes report, and a second later again.
    assert_eq!(told.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1000, 1000, 1300, 1300, 2300, 2300]);
    let comm = |n: usize| &told[n].1.comms[0];
    assert!(comm(0).edges.is_empty(), "a young operation needs no edges");
    assert_eq!(comm(2).in_flight.as_ref().unwrap().age_us, 1_050_000);
    assert_eq!((comm(2).edges[0].peer, comm(2).edges[0].state_age_us), (1, 1_300_000));
    assert!(comm(3).in_flight.is_none() && comm(3).edges.is_empty());
}

#[test]
fn long_operations_that_are_usual_are_no_alarm() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    put(&table, "a.c4r", vec![operation(0, 0, Some(900)), operation(1, 1000, None)]);
    let mut sampler = sampler(&table, &Exits::default());
    let told = watch(&mut sampler, 900, 5000);
    let times: Vec<_> = windows(&told).iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [1000, 2000, 3000, 4000, 4700], "4 × 900 ms after 1000 ms is 4600 ms");
}

#[test]
fn a_death_is_told_at_the_next_look_after_a_last_window() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    table.with("b.c4r", |fake| *fake = rank(1));
    let mut sampler = sampler(&table, &Exits::default());
    watch(&mut sampler, 0, 300);
    put(&table, "a.c4r", vec![operation(0, 310, Some(320))]);
    table.with("a.c4r", |fake| fake.alive = false);
    let told = watch(&mut sampler, 300, 400);
    assert_eq!(kinds(&told), [(400, "window"), (400, "window"), (400, "ended")]);
    assert_eq!(windows(&told)[0].1.comms[0].completed, 1, "what it did last is told");
    let Some((_, Report::ProcessEnded(end))) = told.last() else { panic!("not an end") };
    assert!(!end.finalized && end.exit_code.is_none());
    assert_eq!(kinds(&watch(&mut sampler, 400, 1000)), [], "once");
}

#[test]
fn a_process_that_finalised_everything_ended_in_peace() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    let mut sampler = sampler(&table, &Exits::default());
    watch(&mut sampler, 0, 100);
    table.with("a.c4r", |fake| {
        fake.sample.communicators[0].finalized = true;
        fake.alive = false;
    });
    let told = watch(&mut sampler, 100, 200);
    assert!(told.iter().any(|(_, report)| matches!(report, Report::ProcessEnded(end) if end.finalized)));
}

#[test]
fn the_exit_status_is_waited_for_one_look() {
    for known in [false, true] {
        let table = Table::default();
        let exits = Exits::default();
        table.with("a.c4r", |fake| *fake = rank(0));
        exits.started(4_000_000);
        let mut sampler = sampler(&table, &exits);
        watch(&mut sampler, 0, 100);
        table.with("a.c4r", |fake| fake.alive = false);
        assert_eq!(kinds(&watch(&mut sampler, 100, 200)), []);
        if known {
            exits.ended(4_000_000, ExitStatus { code: None, signal: Some(9) });
        }
        let told = watch(&mut sampler, 200, 300);
        let Some((_, Report::ProcessEnded(end))) = told.last() else { panic!("not told: {told:?}") };
        assert_eq!(end.signal, known.then_some(9));
    }
}

#[test]
fn a_killed_process_is_told_of_while_its_gpu_still_keeps_it() {
    let (table, proc_root) = (Table::default(), tempfile::tempdir().unwrap());
    table.with("a.c4r", |fake| {
        *fake = rank(0);
        (fake.identity.pid, fake.identity.start_ticks) = (4711, 98_765);
    });
    fs::create_dir(proc_root.path().join("4711")).unwrap();
    let stat = |state: &str, wait_status: i32| {
        let unused = "0 ".repeat(29);
        let line = format!(
            "4711 (python3) {state} 1 47 47 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 98765 {unused}{wait_status}"
        );
        fs::write(proc_root.path().join("4711/stat"), line).unwrap();
    };
    stat("S", 0);
    let mut sampler = sampler(&table, &Exits::default());
    sampler.settings.proc_root = proc_root.path().to_owned();
    watch(&mut sampler, 0, 100);
    stat("T", 19);
    assert!(kinds(&watch(&mut sampler, 100, 200)).iter().all(|(_, kind)| *kind == "window"), "it is stopped");
    // The recorder's lock is still there.
    stat("D", 9);
    let told = watch(&mut sampler, 200, 300);
    let Some((300, Report::ProcessEnded(end))) = told.last() else { panic!("not told: {told:?}") };
    assert_eq!((end.signal, end.exit_code), (Some(9), None));
    table.with("a.c4r", |fake| fake.alive = false);
    assert_eq!(kinds(&watch(&mut sampler, 300, 600)), [], "once");
}

#[test]
fn who_died_first_is_told_first() {
    let table = Table::default();
    let exits = Exits::default();
    for n in 0..3 {
        table.with(&format!("{n}.c4r"), |fake| *fake = rank(n));
        exits.started(4_000_000 + n);
    }
    let mut sampler = sampler(&table, &exits);
    watch(&mut sampler, 0, 100);
    for n in [2, 0, 1] {
        table.with(&format!("{n}.c4r"), |fake| fake.alive = false);
        exits.ended(4_000_000 + n, ExitStatus { code: Some(i32::try_from(n).unwrap()), signal: None });
    }
    let told = watch(&mut sampler, 100, 200);
    let codes = told.iter().filter_map(|(_, report)| match report {
        Report::ProcessEnded(end) => end.exit_code,
        _ => None,
    });
    assert_eq!(codes.collect::<Vec<_>>(), [2, 0, 1]);
}

#[test]
fn the_dead_of_before_are_no_news_but_a_short_life_is() {
    let table = Table::default();
    let long_ago = START - FOUND_NS;
    table.with("old.c4r", |fake| {
        *fake = Fake { alive: false, ..rank(0) };
        fake.identity.created_ns = long_ago;
    });
    let mut sampler = sampler(&table, &Exits::default());
    assert_eq!(kinds(&watch(&mut sampler, 0, 1000)), []);
    table.with("older.c4r", |fake| {
        *fake = Fake { alive: false, ..rank(1) };
        fake.identity.created_ns = long_ago - 1;
    });
    assert_eq!(kinds(&watch(&mut sampler, 1000, 1200)), []);
    table.with("short.c4r", |fake| *fake = Fake { alive: false, ..rank(1) });
    let told = watch(&mut sampler, 1200, 1300);
    assert_eq!(kinds(&told), [(1300, "started"), (1300, "joined"), (1300, "window"), (1300, "ended")]);
}

#[test]
fn who_ended_shortly_before_the_agent_began_is_told_as_of_its_last_sign_of_life() {
    let table = Table::default();
    let ended = |rank_of: u32| {
        let mut fake = Fake { alive: false, ..rank(rank_of) };
        fake.identity.created_ns = START - 50_000 * MS;
        let mut last = operation(5, 0, None);
        (last.enqueued_ns, last.started_ns) = (START - 3_000 * MS, Some(START - 2_900 * MS));
        fake.sample.operations = vec![last];
        fake
    };
    table.with("dead.c4r", |fake| *fake = ended(0));
    // Another has taken its place.
    table.with("replaced.c4r", |fake| *fake = ended(1));
    table.with("alive.c4r", |fake| *fake = rank(1));
    let mut sampler = sampler(&table, &Exits::default());
    let told = watch(&mut sampler, 0, 300);
    let ends: Vec<&ProcessEnd> = told
        .iter()
        .filter_map(|(_, report)| if let Report::ProcessEnded(end) = report { Some(end) } else { None })
        .collect();
    assert_eq!(ends.len(), 1, "{told:?}");
    assert!(ends[0].found && ends[0].exit_code.is_none() && ends[0].signal.is_none());
    assert_eq!(ends[0].ago_us, 3_000_000, "it was looked at 100 ms after the start");
    let states: Vec<ProcessState> =
        windows(&told).iter().filter(|(_, w)| w.process == ends[0].process).map(|(_, w)| w.state).collect();
    assert_eq!(states, [ProcessState::Zombie], "no window shows it alive");
    let starts = told.iter().filter_map(|(_, report)| match report {
        Report::ProcessStarted(start) => {
            Some((start.process == ends[0].process, start.found_ended, start.uid.is_some()))
        }
        _ => None,
    });
    assert_eq!(starts.collect::<BTreeSet<_>>(), BTreeSet::from([(false, false, false), (true, true, true)]));
}

#[test]
fn who_ended_while_the_agent_stood_still_is_told_as_of_when_it_was_last_known_to_live() {
    for (looks_ms, found, ago_us) in [(200, false, 0), (3_000, true, 1_900_000), (1_000, true, 900_000)] {
        let table = Table::default();
        table.with("0.c4r", |fake| *fake = rank(0));
        let mut sampler = sampler(&table, &Exits::default());
        watch(&mut sampler, 0, 100);
        table.with("0.c4r", |fake| fake.alive = false);
        // It was in an operation that it had begun 1.1 s after the start, if it came so far.
        put(&table, "0.c4r", vec![operation(0, 50, Some(60)), operation(1, 1_100, None)]);
        let told = sampler.sample(START + looks_ms * MS);
        let end = told.iter().find_map(|report| match report {
            Report::ProcessEnded(end) => Some((end.found, end.ago_us)),
            _ => None,
        });
        assert_eq!(end, Some((found, ago_us)), "looked at after {looks_ms} ms: {told:?}");
    }
}

#[test]
fn evidence_is_kept_for_a_while_and_not_without_bound() {
    let table = Table::default();
    let mut sampler = sampler(&table, &Exits::default());
    for n in 0..4 {
        table.with(&format!("{n}.c4r"), |fake| {
            *fake = rank(0);
            fake.identity.cookie = 100 + n;
        });
    }
    watch(&mut sampler, 0, 100);
    for n in 0..4 {
        table.with(&format!("{n}.c4r"), |fake| fake.alive = false);
    }
    watch(&mut sampler, 100, 200);
    assert_eq!(table.0.borrow().len(), 2);
    watch(&mut sampler, 60_100, 60_400);
    assert_eq!(table.0.borrow().len(), 0);
}

#[test]
fn what_cannot_be_read_is_unknown_and_counted_and_nothing_else_suffers() {
    let table = Table::default();
    table.with("bad.c4r", |fake| fake.broken = true);
    table.with("good.c4r", |fake| *fake = rank(0));
    table.with("turns.c4r", |fake| *fake = rank(1));
    let mut sampler = sampler(&table, &Exits::default());
    watch(&mut sampler, 0, 100);
    table.with("turns.c4r", |fake| fake.broken = true);
    // The window at 1 s still covers its first look; the one at 2 s covers none.
    let told = watch(&mut sampler, 100, 2000);
    let times: Vec<_> = windows(&told).iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [1000, 1000, 2000]);
    let figures = sampler.figures();
    assert_eq!((figures.live, figures.unreadable), (2, 1));
    // A bad file is tried again after seconds, not at each look.
    assert!(figures.errors < 40, "{figures:?}");
    table.with("turns.c4r", |fake| fake.broken = false);
    assert_eq!(windows(&watch(&mut sampler, 2000, 3000)).len(), 2);
}

#[test]
fn a_communicator_of_which_nothing_can_be_seen_is_not_told_as_hanging() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    put(&table, "a.c4r", vec![Operation { observable: false, ..operation(0, 0, None) }]);
    table.with("a.c4r", |fake| fake.sample.communicators[0].observable = false);
    let mut sampler = sampler(&table, &Exits::default());
    let told = watch(&mut sampler, 0, 5000);
    assert_eq!(windows(&told).len(), 5);
    assert!(windows(&told).iter().all(|(_, window)| window.comms.is_empty()));
}

#[test]
fn operations_reach_the_aggregator_once_and_in_order() {
    let mut track = communicator::CommTrack::default();
    let comm = Communicator { id: 7, size: 2, observable: true, ..Communicator::default() };
    let look = |track: &mut communicator::CommTrack, ops: &[Operation]| {
        track.update(
            &comm,
            &ops.iter().collect::<Vec<_>>(),
            &[],
            &Coverage::default(),
            &mut Collectives::default(),
            START,
        );
    };
    // 1 completes before 0 is seen to; 0 comes later; everything is told again.
    look(&mut track, &[operation(1, 20, Some(30)), operation(0, 10, None)]);
    let all: Vec<_> = (0..64).map(|n| operation(n, 10 + 10 * n, Some(15 + 10 * n))).collect();
    look(&mut track, &all);
    look(&mut track, &all);
    let rule = Overdue { floor_ns: 1, factor: 1 };
    let window = track.close(rule, START).unwrap();
    let told: u64 = window.blocks.iter().map(|block| u64::from(block.length)).sum();
    assert!(told >= 32 && window.blocks[0].first == 0, "{:?}", window.blocks);
    let mut next = 0;
    for block in &window.blocks {
        assert_eq!(block.first, next);
        next += u64::from(block.length);
    }
    assert_eq!(window.enqueued, 64, "never behind what was seen");
}

#[test]
fn all_steps_are_timed_where_that_is_wished_for_and_not_for_longer() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    table.with("b.c4r", |fake| *fake = rank(1));
    let mut sampler = sampler(&table, &Exits::default());
    let said = sampler.sample(START + 10 * MS);
    let process = said.iter().find_map(|report| match report {
        Report::ProcessStarted(start) if start.rank == Some(1) => Some(start.process),
        _ => None,
    });
    let until = || {
        let table = table.0.borrow();
        ["a.c4r", "b.c4r"].map(|name| table[name].all_steps_until_ns)
    };
    let wish = |seconds| TimeSteps {
        processes: process.into_iter().chain([c4_detect::observation::ProcessId(1)]).collect(),
        duration: Duration::from_secs(seconds),
    };
    let now = START + 20 * MS;
    sampler.time_steps(&wish(30), now);
    assert_eq!(until(), [0, now + 30_000 * MS]);
    sampler.time_steps(&wish(0), now + MS);
    assert_eq!(until(), [0, 0], "taken back");
    assert_eq!(sampler.figures().step_requests, 2);
}

#[test]
fn collectives_are_counted_once_by_job_the_last_ones_of_the_dead_too() {
    let table = Table::default();
    table.with("a.c4r", |fake| *fake = rank(0));
    table.with("b.c4r", |fake| *fake = rank(1));
    let mut sampler = sampler(&table, &Exits::default());
    let three = [operation(0, 0, Some(10)), operation(1, 20, Some(40)), operation(2, 60, None)];
    put(&table, "a.c4r", three.to_vec());
    watch(&mut sampler, 0, 300);
    put(&table, "a.c4r", vec![operation(1, 20, Some(40)), operation(2, 60, Some(400))]);
    put(&table, "b.c4r", vec![operation(0, 0, Some(10))]);
    table.with("b.c4r", |fake| fake.alive = false);
    watch(&mut sampler, 300, 500);
    let taken = sampler.take_collectives();
    let counts: Vec<_> = taken["llm"]
        .iter()
        .map(|(function, size, alike)| (function.label(), size, alike.times.count()))
        .collect();
    assert_eq!(counts, [("all_reduce", "64KiB", 4)]);
    assert!(sampler.take_collectives().is_empty());
}

/// A send to, or a receive from, the other rank of two: which one it is, from 0.
fn transfer(kind: OperationKind, n: u64, peer: u32, start_ms: u64, end_ms: u64) -> Operation {
    let (function, peer_number) = (format!("{kind:?}"), Some(n as u32 + 1));
    Operation { kind, function, root_or_peer: peer, peer_number, ..operation(n, start_ms, Some(end_ms)) }
}

/// The time by itself, in ms, between the first collective, until 10 ms, and the second, from 290 ms on, of a rank that receives
/// from 20 ms on, said to have ended at 25 ms, and perhaps again, while the other rank has sent once before and does this.
fn own_ms_of_a_receiver(again: &[Operation], sender: &[Operation]) -> u64 {
    let table = Table::default();
    for (name, n) in [("a.c4r", 0), ("b.c4r", 1)] {
        table.with(name, |fake| *fake = rank(n));
    }
    let tell = |name: &str, parts: &[&[Operation]]| {
        let operations = parts.concat().into_iter().zip(0..);
        let operations: Vec<_> = operations.map(|(op, index)| Operation { index, ..op }).collect();
        table.with(name, |fake| {
            fake.sample.next_cursor = operations.len() as u64;
            fake.sample.operations = operations;
        });
    };
    let mut sampler = sampler(&table, &Exits::default());
    let first = [operation(0, 0, Some(10)), transfer(OperationKind::Receive, 1, 1, 20, 25)];
    let before = [operation(0, 0, Some(10)), transfer(OperationKind::Send, 0, 0, 2, 3)];
    tell("a.c4r", &[&first]);
    let begun = |op: &&Operation| op.started_ns.is_some_and(|ns| ns < START + 100 * MS);
    tell("b.c4r", &[&before, &sender.iter().filter(begun).cloned().collect::<Vec<_>>()]);
    watch(&mut sampler, 0, 100);
    tell("a.c4r", &[&first, again, &[operation(1, 290, Some(295))]]);
    tell("b.c4r", &[&before, sender]);
    let told = watch(&mut sampler, 200, 1_000);
    let receiver = windows(&told)[0].1.process;
    let blocks = windows(&told).into_iter().filter(|(_, window)| window.process == receiver);
    let mut blocks = blocks.flat_map(|(_, window)| &window.comms[0].blocks);
    blocks.find(|block| block.first == 1).and_then(|block| block.own_ns).expect("it is told") / MS
}

#[test]
fn a_receive_that_is_said_to_have_ended_lasts_until_its_sender_begins() {
    let send = |start_ms| transfer(OperationKind::Send, 1, 0, start_ms, start_ms + 5);
    assert_eq!(own_ms_of_a_receiver(&[], &[send(230)]), 10 + 60, "until 20 ms, and from 230 ms on");
    assert_eq!(own_ms_of_a_receiver(&[], &[send(12)]), 10 + 265, "it had begun before");
}

#[test]
fn ranks_that_do_not_count_alike_are_not_believed() {
    // At 100 ms nothing contradicts it. Then another receive has begun, while the sender tells of no send.
    let again = [transfer(OperationKind::Receive, 2, 1, 150, 155)];
    assert_eq!(own_ms_of_a_receiver(&again, &[]), 10 + 50 + 135);
}

#[test]
fn a_gpu_that_spins_is_told_of_the_one_process_that_uses_it() {
    let spinning = Spinning::new(Duration::from_secs(1));
    let table = Table::default();
    for (name, number, gpu) in [("0.c4r", 0, 0), ("1.c4r", 1, 1), ("2.c4r", 2, 2), ("3.c4r", 3, 2)] {
        table.with(name, |fake| {
            *fake = rank(number);
            fake.identity.gpu = Some(gpu);
        });
    }
    let mut sampler = sampler(&table, &Exits::default()).with_spinning(spinning.clone());
    for name in ["0.c4r", "1.c4r", "2.c4r", "3.c4r"] {
        put(&table, name, vec![operation(0, 10, Some(20))]);
    }
    watch(&mut sampler, 0, 2_000);
    [1, 2].into_iter().for_each(|gpu| spinning.note(gpu, true, START + 2_000 * MS));
    let told = watch(&mut sampler, 2_000, 4_000);
    let last = windows(&told).into_iter().rev().take(4).map(|(_, window)| window.own.unwrap().gpu_spins_us);
    let mut last: Vec<u64> = last.collect();
    last.sort_unstable();
    assert_eq!(last[..3], [0, 0, 0], "not known of two on one GPU");
    assert!(last[3] >= 1_000_000, "{last:?}");
}

#[test]
fn a_process_that_makes_communicators_all_the_time_does_not_make_the_agent_grow() {
    let table = Table::default();
    table.with("0.c4r", |fake| *fake = rank(0));
    let mut sampler = sampler(&table, &Exits::default());
    for look in 0..40 {
        table.with("0.c4r", |fake| {
            let comm = &mut fake.sample.communicators[0];
            (comm.generation, comm.id) = (look, 77 + u64::from(look));
        });
        watch(&mut sampler, u64::from(look) * 100, u64::from(look + 1) * 100);
    }
    let followed: Vec<_> = sampler.tracked["0.c4r"].memberships().map(|(_, comm, _)| comm).collect();
    assert_eq!(followed, [116]);
}
