//! A writer may be killed or frozen at any moment, in the middle of a record too; what is read is consistent all the same,
//! or said to be torn.
//!
//! These tests fork, so this program has one thread and no test harness. A forked child writes through the mapping that it
//! inherits, as fast as it can; every field of a record follows from one number, so a mixture of two records shows.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use c4_recorder::layout::{operation_flag, operation_kind, step_state};
use c4_recorder::monotonic_now_ns;
use c4_recorder::reader::{Liveness, Reader};
use c4_recorder::snapshot::{Communicator, Connection, Operation, Unreadable};
use c4_recorder::writer::{CommunicatorFacts, NewRecorder, OperationFacts, Recorder, StepKey};

const KILLS: u32 = 10_000;

fn main() {
    let tests: [(&str, fn()); 5] = [
        ("killed_ten_thousand_times", killed_ten_thousand_times),
        ("frozen_anywhere", frozen_anywhere),
        ("frozen_between_events_reads_whole", frozen_between_events_reads_whole),
        ("death_is_seen_through_the_lock", death_is_seen_through_the_lock),
        ("no_space_left", no_space_left),
    ];
    // As libtest: names given as arguments pick tests, options are not for us.
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}

/// A child process.
struct Child(libc::pid_t);

impl Child {
    /// Runs `body` in a child; it must not return.
    fn fork(body: impl FnOnce()) -> Self {
        // SAFETY: this program has one thread, so the child may do what it likes.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                body();
                // SAFETY: ends the child without running what belongs to the parent.
                unsafe { libc::_exit(0) }
            }
            pid => Self(pid),
        }
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: the pid is our child's, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0, signal) }, 0);
    }

    fn wait(&self, options: libc::c_int) -> libc::c_int {
        let mut status = 0;
        // SAFETY: the pid is our child's, and `status` a valid place.
        assert_eq!(unsafe { libc::waitpid(self.0, &mut status, options) }, self.0);
        status
    }

    fn kill(self) {
        self.signal(libc::SIGKILL);
        assert!(libc::WIFSIGNALED(self.wait(0)));
    }
}

/// A cheap number that is spread well.
fn scatter(number: u64) -> u64 {
    (number ^ number >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn recorder(directory: &Path) -> Recorder {
    let recorder = Recorder::create(&directory.join("c4"), &NewRecorder::default()).expect("creates");
    recorder.set_interface(5, 0);
    recorder.live().communicators.store(1, Relaxed);
    recorder.live().connections.store(1, Relaxed);
    recorder.names().add(b"AllReduce").expect("room");
    recorder.communicator(0).open(1, &CommunicatorFacts { size: 2, ..Default::default() }, 0);
    recorder.connection(0).expect("in the table").open((0, 1), 1, 0, true);
    recorder
}

/// Writes for ever: some operations, and then the last of them again and again, so that those who look have little to
/// read however long it takes them.
fn write_for_ever(recorder: &Recorder) {
    for _ in 0..32 {
        write_one(recorder, recorder.next_operation());
    }
    let last = recorder.next_operation();
    loop {
        write_one(recorder, last);
    }
}

/// Writes one operation, communicator and step, all of whose fields follow from one number.
fn write_one(recorder: &Recorder, index: u64) {
    let clock = recorder.tick_source();
    let number = scatter(index);
    let facts = OperationFacts {
        comm_slot: (number % 256) as u32,
        comm_generation: number as u32,
        kind: operation_kind::COLLECTIVE,
        function: (number & 1) as u8,
        flags: operation_flag::KERNEL_EVENTS,
        channels: 1,
        sequence: number & 0xFFFF_FFFF,
        count: number >> 12,
        bytes: !number >> 12,
        root_or_peer: (number >> 32) as u32,
        peer_number: number as u32,
        enqueued: clock.now(),
        ..OperationFacts::default()
    };
    let operation = recorder.operation(index);
    operation.publish(index, &facts);
    operation.kernel_started(0, 1_000_000 + number % 1000, clock);
    operation.kernel_stop_time(0, 1_000_000 + number % 1000 * 3);
    operation.kernel_stopped(0, clock);
    operation.proxy_started(true, clock);
    operation.proxy_stopped(clock);

    let name = format!("{number:064x}");
    let size = (number % 1000) as u32 + 1;
    let facts = CommunicatorFacts { id: number, name: &name, size, rank: size / 2, nodes: size * 2 };
    recorder.communicator(0).open(number as u32, &facts, clock.now());

    let connection = recorder.connection(0).expect("in the table");
    let key = StepKey::new(index, index as u32);
    connection.operation_started();
    connection.step_begin(key, true);
    connection.step_state(key, step_state::SEND_GPU_WAIT, 0, clock);
    connection.step_state(key, step_state::SEND_WAIT, 1000, clock);
    connection.step_end(key, clock);
    connection.operation_done();
}

fn assert_operation(operation: &Operation) {
    let number = scatter(operation.index);
    assert_eq!(operation.count, number >> 12, "{operation:?}");
    assert_eq!(operation.bytes, !number >> 12, "{operation:?}");
    assert_eq!(operation.comm_slot, (number % 256) as u32, "{operation:?}");
    assert_eq!(operation.comm_generation, number as u32, "{operation:?}");
    assert_eq!(operation.sequence, number & 0xFFFF_FFFF, "{operation:?}");
    assert_eq!(operation.root_or_peer, (number >> 32) as u32, "{operation:?}");
    assert_eq!(operation.peer_number.unwrap_or(0), number as u32, "{operation:?}");
    assert_eq!(operation.function, if number & 1 == 1 { "AllReduce" } else { "" }, "{operation:?}");
    if let (Some(started), Some(completed)) = (operation.started_ns, operation.completed_ns) {
        assert_eq!(completed - started, number % 1000 * 2, "{operation:?}");
    }
}

fn assert_communicator(comm: &Communicator) {
    // The first one has the id 0.
    if comm.id != 0 {
        assert_eq!(comm.name, format!("{:064x}", comm.id), "{comm:?}");
        assert_eq!(comm.generation, comm.id as u32, "{comm:?}");
        assert_eq!(comm.size, (comm.id % 1000) as u32 + 1, "{comm:?}");
        assert_eq!((comm.rank, comm.nodes), (comm.size / 2, comm.size * 2), "{comm:?}");
    }
}

fn assert_connection(connection: &Connection) {
    let done = connection.steps_done;
    assert_eq!(connection.timed_steps, done, "{connection:?}");
    assert_eq!(connection.bytes, connection.timed_bytes, "{connection:?}");
    assert!(connection.bytes == done * 1000 || connection.bytes == (done + 1) * 1000, "{connection:?}");
}

/// What was seen over all readings.
#[derive(Default)]
struct Seen {
    operations: u64,
    torn: u64,
    overwritten: u64,
}

impl Seen {
    /// A new reader each time: an old one would ask again and again for what dead writers left open.
    fn look(&mut self, path: &Path, cursor: &mut u64) {
        let mut reader = Reader::open(path).expect("opens");
        let poll = reader.poll(*cursor).expect("reads");
        *cursor = poll.next_cursor;
        poll.operations.iter().for_each(assert_operation);
        poll.communicators.iter().for_each(assert_communicator);
        poll.connections.iter().for_each(assert_connection);
        assert_named(&poll.unreadable);
        self.operations += poll.operations.len() as u64;
        self.torn += poll.unreadable.len() as u64;
        self.overwritten += poll.overwritten;
    }
}

fn assert_named(unreadable: &[Unreadable]) {
    for record in unreadable {
        assert!(["communicators", "operations", "connections"].contains(&record.table), "{record:?}");
        assert!(record.why.contains("torn"), "{record:?}");
    }
}

fn spin_us(us: u64) {
    let until = monotonic_now_ns() + us * 1000;
    while monotonic_now_ns() < until {
        std::hint::spin_loop();
    }
}

fn killed_ten_thousand_times() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let reader = Reader::open(recorder.path()).expect("opens");
    let (mut cursor, mut dead, mut live) = (0, Seen::default(), Seen::default());
    for kill in 0..KILLS {
        let before = recorder.live().operations.0.load(Relaxed);
        let child = Child::fork(|| {
            // The last one may have died inside this record, whose sums would then stay off by its last step.
            recorder.connection(0).expect("in the table").open((0, 1), 1, 0, true);
            write_for_ever(&recorder);
        });
        // The child has begun for sure; then some moment or other, in the middle of a record or between two.
        while recorder.live().operations.0.load(Relaxed) == before {
            std::thread::yield_now();
        }
        spin_us(scatter(u64::from(kill)) >> 40 & 0x3F);
        if kill % 8 == 0 {
            live.look(recorder.path(), &mut cursor);
        }
        child.kill();
        dead.look(recorder.path(), &mut cursor);
        if kill % 500 == 0 {
            let snapshot = reader.snapshot().expect("reads");
            snapshot.operations.iter().for_each(assert_operation);
            assert_named(&snapshot.unreadable);
        }
    }
    println!(
        "{KILLS} kills: {} operations read after them, {} torn records named; while running {} and {}",
        dead.operations, dead.torn, live.operations, live.torn
    );
    assert!(dead.operations > u64::from(KILLS), "every kill came after some operations");
    // A writer that does nothing else is inside a record much of the time.
    assert!(dead.torn > 0, "some kills must have come in the middle of a record");
}

fn frozen_anywhere() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let recorder = recorder(directory.path());
    let reader = Reader::open(recorder.path()).expect("opens");
    let (mut cursor, mut seen) = (0, Seen::default());
    let child = Child::fork(|| write_for_ever(&recorder));
    for _ in 0..100 {
        child.signal(libc::SIGSTOP);
        assert!(libc::WIFSTOPPED(child.wait(libc::WUNTRACED)));
        seen.look(recorder.path(), &mut cursor);
        let snapshot = reader.snapshot().expect("reads");
        snapshot.operations.iter().for_each(assert_operation);
        assert!(snapshot.unreadable.len() <= 1, "it is in one record at most: {:?}", snapshot.unreadable);
        child.signal(libc::SIGCONT);
        spin_us(300);
    }
    child.kill();
    assert!(seen.operations > 0);
}

/// A process that runs `body` with a recorder of its own, as a trainer does, and says by a byte when to go on.
fn trainer(directory: &Path, body: impl FnOnce(&Recorder, UnixStream)) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    let child = Child::fork(|| body(&recorder(directory), theirs));
    (child, ours)
}

fn told(stream: &mut UnixStream) {
    stream.read_exact(&mut [0]).expect("the child is ready");
}

/// The only recorder in a directory.
fn only(directory: &Path) -> Reader {
    let mut files =
        std::fs::read_dir(directory.join("c4")).expect("is there").map(|entry| entry.expect("reads").path());
    let reader = Reader::open(&files.next().expect("one file")).expect("opens");
    assert!(files.next().is_none());
    reader
}

fn pause_forever() {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn frozen_between_events_reads_whole() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (child, mut stream) = trainer(directory.path(), |recorder, mut stream| {
        for _ in 0..100 {
            write_one(recorder, recorder.next_operation());
        }
        stream.write_all(&[1]).expect("the parent listens");
        // SAFETY: stops this process.
        unsafe { libc::raise(libc::SIGSTOP) };
        pause_forever();
    });
    told(&mut stream);
    assert!(libc::WIFSTOPPED(child.wait(libc::WUNTRACED)));
    let reader = only(directory.path());
    assert_eq!(reader.liveness().expect("asks"), Liveness::Alive, "frozen is not dead");
    let snapshot = reader.snapshot().expect("reads");
    assert_eq!((snapshot.operations.len(), snapshot.unreadable.len()), (100, 0));
    snapshot.operations.iter().for_each(assert_operation);
    snapshot.connections.iter().for_each(assert_connection);
    child.kill();
}

fn death_is_seen_through_the_lock() {
    let mut fastest = u64::MAX;
    for _ in 0..5 {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (child, mut stream) = trainer(directory.path(), |_, mut stream| {
            // A data loader: inherits everything and outlives the trainer.
            let loader = Child::fork(pause_forever);
            stream.write_all(&loader.0.to_le_bytes()).expect("the parent listens");
            pause_forever();
        });
        let mut pid = [0; 4];
        stream.read_exact(&mut pid).expect("the child is ready");
        let loader = Child(libc::pid_t::from_le_bytes(pid));
        let reader = only(directory.path());
        assert_eq!(reader.liveness().expect("asks"), Liveness::Alive);
        let killed = monotonic_now_ns();
        child.signal(libc::SIGKILL);
        while reader.liveness().expect("asks") == Liveness::Alive {
            std::hint::spin_loop();
        }
        fastest = fastest.min(monotonic_now_ns() - killed);
        loader.signal(0);
        reader.snapshot().expect("the dead process's state reads");
        loader.signal(libc::SIGKILL);
        child.wait(0);
    }
    println!("death seen after {} us", fastest / 1000);
    // The fastest of five: a busy machine may delay the death itself.
    assert!(fastest < 100_000_000, "{fastest} ns");
}

/// A file system without room is an error at creation, never a SIGBUS later. A limit on the size of files stands in for a full
/// one, since mounting needs privileges.
fn no_space_left() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let child = Child::fork(|| {
        let limit = libc::rlimit { rlim_cur: 8192, rlim_max: 8192 };
        // SAFETY: a valid limit; the signal that comes with it is ignored so that the error is returned.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        }
        let error = Recorder::create(&directory.path().join("c4"), &NewRecorder::default());
        let said = error.err().map(|error| error.to_string()).unwrap_or_default();
        let left = std::fs::read_dir(directory.path().join("c4")).map(Iterator::count).unwrap_or(9);
        let fine = said.starts_with("cannot reserve space for") && left == 0;
        // SAFETY: ends the child.
        unsafe { libc::_exit(if fine { 0 } else { 1 }) }
    });
    assert_eq!(libc::WEXITSTATUS(child.wait(0)), 0, "creation must fail and leave nothing");
}
