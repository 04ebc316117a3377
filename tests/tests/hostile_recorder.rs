//! A training process may write into its recorder what it likes. The agent follows it all the same, and what it makes of that the
//! controller believes: what it does not believe ends the stream of the whole node.
//!
//! `C4_SEEDS=3000 cargo test -p c4-tests --test hostile_recorder` tells three thousand such stories instead of two hundred.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use c4_agent::{
    convert,
    recorders::{
        Exits, Origin, Overdue, RecorderHandle, RecorderSource, Retention, Sample, Sampler, Settings,
        SourceError,
    },
};
use c4_controller::convert::Incoming;
use c4_detect::observation::NodeName;
use c4_proto::v1::AgentMessage;
use c4_recorder::{
    layout::{self, operation_flag, operation_kind, step_state, table::SECTIONS},
    monotonic_now_ns,
    reader::Reader,
    snapshot::Identity,
    writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder, StepKey},
};
use rand::{Rng, RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// Looks of a story, and operations between two of them.
const LOOKS: u64 = 40;
const OPERATIONS: u64 = 3;
/// Records of each table that are written to.
const RECORDS: usize = 6;

/// Recorders that are read as in production. Their writer is this process, which does not see its own locks, so who lives is said.
struct Recorders {
    paths: Vec<PathBuf>,
    alive: Arc<AtomicBool>,
}

struct Held(Reader, Arc<AtomicBool>);

impl RecorderSource for Recorders {
    type Recorder = Held;

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.paths.iter().map(|path| path.display().to_string()).collect())
    }

    fn open(&mut self, name: &str) -> Result<Held, SourceError> {
        let reader = Reader::open(Path::new(name)).map_err(|error| SourceError(error.to_string()))?;
        Ok(Held(reader, Arc::clone(&self.alive)))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.paths.retain(|path| path.display().to_string() != name);
        Ok(())
    }
}

impl RecorderHandle for Held {
    fn identity(&mut self) -> Result<Identity, SourceError> {
        RecorderHandle::identity(&mut self.0)
    }

    fn origin(&mut self) -> Result<Origin, SourceError> {
        RecorderHandle::origin(&mut self.0)
    }

    fn poll(&mut self, cursor: u64) -> Result<Sample, SourceError> {
        RecorderHandle::poll(&mut self.0, cursor)
    }

    fn alive(&mut self) -> Result<bool, SourceError> {
        Ok(self.1.load(Relaxed))
    }

    fn request_all_steps(&mut self, until_ns: u64) -> Result<(), SourceError> {
        RecorderHandle::request_all_steps(&mut self.0, until_ns)
    }
}

/// A rank of two, as the plugin would write it.
fn rank(directory: &Path, rank: u32, labels: BTreeMap<String, String>) -> Recorder {
    let new = NewRecorder { host_id: "host".to_owned(), gpu: Some(rank), gpu_address: None, labels };
    let recorder = Recorder::create(directory, &new).expect("creates");
    recorder.set_interface(5, 22809);
    recorder.set_mask(0x4e, true);
    for slot in 0..2_u64 {
        let facts = CommunicatorFacts { id: slot + 7, name: "dp", size: 2, rank, nodes: 2 };
        recorder.communicator(slot as usize).open(1, &facts, recorder.tick_source().now());
        recorder.connection(slot as usize).expect("in the table").open((0, 1), 1 - rank, 0, slot == 0);
    }
    recorder.live().communicators.store(2, Relaxed);
    recorder.live().connections.store(2, Relaxed);
    recorder.names().add(b"AllReduce").expect("room");
    recorder
}

/// An operation, from the call to its end, unless it is one that does not end.
fn operate(recorder: &Recorder, number: u64, ends: bool) {
    let (clock, comm) = (recorder.tick_source(), recorder.communicator(0));
    let is_collective = !number.is_multiple_of(4);
    let sequence = comm.next_sequence(is_collective);
    let facts = OperationFacts {
        comm_generation: 1,
        kind: if is_collective { operation_kind::COLLECTIVE } else { operation_kind::SEND },
        flags: operation_flag::KERNEL_EVENTS,
        channels: 1,
        sequence,
        enqueued: clock.now(),
        ..OperationFacts::default()
    };
    let index = recorder.next_operation();
    let record = recorder.operation(index);
    record.publish(index, &facts);
    record.kernel_started(0, 1_000, clock);
    comm.operation_started(is_collective, sequence);
    if ends {
        record.kernel_stop_time(0, 2_000);
        record.kernel_stopped(0, clock);
        comm.operation_completed(is_collective, sequence);
    }
    let connection = recorder.connection(0).expect("in the table");
    connection.operation_started();
    connection.step_begin(StepKey::new(index, 3), true);
    connection.step_state(StepKey::new(index, 3), step_state::SEND_WAIT, 9, clock);
}

/// Some bytes at an offset in the file.
type Patch = (u64, Vec<u8>);

/// Something that was never so, anywhere behind the header.
fn lie(recorder: &Recorder, rng: &mut impl Rng) -> Patch {
    let section = SECTIONS.iter().filter(|section| section.at > layout::LABELS_AT).collect::<Vec<_>>();
    let section = section.choose(rng).expect("tables");
    let record = rng.random_range(0..section.count.min(RECORDS));
    let word = rng.random_range(0..section.stride / 4) * 4;
    let value: u64 = match rng.random_range(0..10) {
        0 => u64::MAX,
        1 => 1 << rng.random_range(0..64),
        2 => recorder.tick_source().now().wrapping_add(rng.random::<u64>() >> 24),
        3 => recorder.tick_source().now().wrapping_sub(rng.random::<u64>() >> 24),
        4 => rng.random(),
        // What passes for valid.
        5 => rng.random_range(0..1 << 20),
        _ => rng.random_range(0..8),
    };
    let length = if rng.random_bool(0.5) && word + 8 <= section.stride { 8 } else { 4 };
    let at = (section.at + record * section.stride + word) as u64;
    (at, value.to_le_bytes()[..length].to_vec())
}

/// Writes it; returns what was there before.
fn patch(file: &File, (at, bytes): &Patch) -> Patch {
    let mut before = vec![0; bytes.len()];
    file.read_exact_at(&mut before, *at).expect("reads");
    file.write_all_at(bytes, *at).expect("writes");
    (*at, before)
}

fn labels(number: u32, rng: Option<&mut ChaCha8Rng>) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> =
        [("C4_JOB", "llm".to_owned()), ("RANK", number.to_string()), ("WORLD_SIZE", "2".to_owned())]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
    if let Some(rng) = rng {
        let lies = [
            "",
            "-1",
            "4294967295",
            "99999999999999999999",
            "a\u{7}\n\u{202e}b",
            &"x".repeat(300),
            " 1 ",
            "a/../b",
        ];
        for name in ["C4_JOB", "RANK", "LOCAL_RANK", "WORLD_SIZE", "C4_INCARNATION", "C4_GPU", "POD_NAME"] {
            if rng.random_bool(0.3) {
                labels.insert(name.to_owned(), (*lies.choose(rng).expect("lies")).to_owned());
            }
        }
    }
    labels
}

/// What the controller does not believe, if there is anything.
fn tell(seed: u64) -> Result<usize, String> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let directory = tempfile::tempdir().expect("temporary directory");
    let liar = rank(directory.path(), 0, labels(0, Some(&mut rng)));
    let honest = rank(directory.path(), 1, labels(1, None));
    let file = File::options().read(true).write(true).open(liar.path()).expect("opens");
    let alive = Arc::new(AtomicBool::new(true));
    let paths = [&liar, &honest].map(|recorder| recorder.path().to_owned()).into();
    let settings = Settings {
        node: "n0".to_owned(),
        interval: Duration::from_millis(100),
        window: Duration::from_secs(1),
        overdue: Overdue { floor_ns: 1_000_000_000, factor: 4 },
        retention: Retention { keep: Duration::from_secs(3_600), files: 64 },
        proc_root: "/proc".into(),
        sys_root: "/sys".into(),
    };
    let begin_ns = monotonic_now_ns();
    let source = Recorders { paths, alive: Arc::clone(&alive) };
    let mut sampler = Sampler::new(source, settings, Exits::default(), begin_ns);
    let node = NodeName("n0".to_owned());
    let (mut told, mut lies, mut truth) = (0, Vec::new(), Vec::<Patch>::new());
    for look in 0..LOOKS {
        // The writer goes on from what is true.
        truth.drain(..).rev().for_each(|truth| drop(patch(&file, &truth)));
        for n in 0..OPERATIONS {
            let number = look * OPERATIONS + n;
            operate(&honest, number, true);
            operate(&liar, number, rng.random_bool(0.9));
        }
        // What cannot be read at all tells nothing, so no lie is kept for long.
        if rng.random_bool(0.5) {
            lies.clear();
        }
        lies.extend((0..rng.random_range(0..4)).map(|_| lie(&liar, &mut rng)));
        truth.extend(lies.iter().map(|lie| patch(&file, lie)));
        alive.store(look + 2 < LOOKS, Relaxed);
        for report in sampler.sample(begin_ns + (look + 1) * 100_000_000) {
            told += 1;
            let shown = format!("{report:?}");
            let message = AgentMessage { body: Some(convert::body(report)), ..AgentMessage::default() };
            Incoming::from_wire(message, &node)
                .map_err(|invalid| format!("look {look}: {invalid}: {shown}"))?;
        }
    }
    Ok(told)
}

#[test]
fn what_the_agent_makes_of_a_hostile_recorder_is_believed() {
    let seeds: u64 = std::env::var("C4_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let told: usize =
        (0..seeds).map(|seed| tell(seed).unwrap_or_else(|why| panic!("seed {seed}, {why}"))).sum();
    assert!(told as u64 > seeds * 8, "{told} reports");
}
