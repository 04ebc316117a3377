//! One process per test, a recorder directory per process, and the usual all-reduce.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use c4_recorder::reader::Reader;
use c4_recorder::snapshot::{Communicator as Recorded, Connection, Operation, Snapshot};
use c4_tests::nccl::{
    Collective, CommConfig, Communicator, Datatype, Function, Nccl, ProxyOperationSpec, Task, built,
};

/// Set in the process that runs a test's body.
const CHILD: &str = "C4_PLUGIN_TEST";
/// What a machine's environment must not bring into a test.
const LABELS: [&str; 16] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "TORCHELASTIC_RUN_ID",
    "MASTER_ADDR",
    "MASTER_PORT",
    "C4_JOB",
    "C4_INCARNATION",
    "C4_CHAIN_PROFILER",
    "C4_PROFILER",
    "C4_STEP_SAMPLING",
    "C4_KERNEL_EVENTS",
    "C4_GPU",
    "NCCL_HOSTID",
];

/// Channels of the usual all-reduce.
pub(crate) const CHANNELS: u8 = 2;
/// Network transfers of each of its proxy operations.
pub(crate) const STEPS: u32 = 4;
/// Bytes of each transfer.
pub(crate) const CHUNK: u32 = 1 << 17;

/// Where a test's process is to put its recorder.
pub(crate) struct Sandbox {
    pub(crate) directory: PathBuf,
}

impl Sandbox {
    /// The recorders written so far.
    pub(crate) fn recorders(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let paths = entries.map(|entry| entry.expect("a directory entry").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "c4r")).collect()
    }

    /// What the one recorder holds now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let recorders = self.recorders();
        assert_eq!(recorders.len(), 1, "one process, one recorder: {recorders:?}");
        Reader::open(&recorders[0]).expect("a sound recorder").snapshot().expect("a sound snapshot")
    }
}

/// Runs `body` in a process of its own with these environment variables, and fails as it fails.
pub(crate) fn isolated(environment: &[(&str, &str)], body: impl FnOnce(&Sandbox)) {
    isolated_then(environment, body, |_, output| {
        assert!(output.status.success(), "the test's process ended with {}", output.status);
    });
}

/// Like [`isolated`]; `after` then looks at what the process left behind, from outside.
pub(crate) fn isolated_then<B: FnOnce(&Sandbox)>(
    environment: &[(&str, &str)],
    body: B,
    after: impl FnOnce(&Sandbox, &Output),
) {
    let name = test_name::<B>();
    if std::env::var(CHILD).as_deref() == Ok(name.as_str()) {
        let directory = std::env::var_os("C4_RECORDER_DIR").expect("set by the parent").into();
        body(&Sandbox { directory });
        // A test may run several processes, and this one is to do one body only.
        std::process::exit(0);
    }
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let directory = scratch.path().join("recorders");
    std::fs::create_dir(&directory).expect("a directory for recorders");
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args([name.as_str(), "--exact", "--nocapture", "--test-threads=1"]);
    LABELS.iter().for_each(|label| {
        command.env_remove(label);
    });
    command.env(CHILD, &name).env("C4_RECORDER_DIR", &directory).envs(environment.iter().copied());
    let output = command.output().expect("this executable runs again");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let ran = String::from_utf8_lossy(&output.stdout).contains("running 1 test");
    assert!(ran, "the test {name} was not found again");
    after(&Sandbox { directory }, &output);
}

/// The name libtest knows the test by, from the type of the closure in it: "plugin::module::test::{{closure}}".
fn test_name<B>() -> String {
    let closure = std::any::type_name::<B>();
    let function = closure.split("::{{closure}}").next().unwrap_or(closure);
    function.split_once("::").map_or(function, |(_, name)| name).to_owned()
}

/// The built plugin.
pub(crate) fn plugin() -> PathBuf {
    built::plugin().expect("the plugin is built")
}

/// NCCL 2.28 with the built plugin: the family most of today's jobs have.
pub(crate) fn nccl() -> Nccl {
    Nccl::knowing_up_to(&plugin(), 5)
}

/// A communicator of eight ranks on two nodes; own rank 3.
pub(crate) fn config(id: u64) -> CommConfig {
    CommConfig { id, name: Some(format!("dp{id}")), nodes: 2, ranks: 8, rank: 3 }
}

/// Makes such a communicator.
pub(crate) fn init(nccl: &Nccl, id: u64) -> Communicator {
    let comm = nccl.init(&config(id)).expect("the plugin loads");
    assert_eq!(comm.init_result(), 0, "init never fails");
    assert!(!comm.context().is_null(), "init always gives a context");
    comm
}

/// The usual collective: 1 Mi floats over two channels.
pub(crate) fn all_reduce_spec() -> Collective {
    Collective::new(Function::AllReduce, 1 << 20, Datatype::Float32, CHANNELS)
}

/// The proxy operation of the ring on a channel: to rank 4, from rank 2.
pub(crate) fn ring(channel: u8, is_send: bool) -> ProxyOperationSpec {
    let peer = if is_send { 4 } else { 2 };
    ProxyOperationSpec { channel, peer, is_send, steps: STEPS, chunk_bytes: CHUNK }
}

/// A whole ring all-reduce.
pub(crate) fn all_reduce(comm: &Communicator) {
    let task = comm.collective(&all_reduce_spec());
    task.enqueued();
    children(&task);
}

/// Kernels and network of a launched all-reduce. The proxy thread takes all operations of a task at once, then moves each
/// as far as it goes.
pub(crate) fn children(task: &Task) {
    let mut kernels = [task.kernel(0), task.kernel(1)];
    kernels.iter_mut().for_each(|kernel| kernel.start(1_000));
    let ends = (0..CHANNELS).flat_map(|channel| [ring(channel, true), ring(channel, false)]);
    let mut proxies: Vec<_> = ends.map(|spec| task.proxy(spec)).collect();
    proxies.iter().for_each(|proxy| proxy.in_progress());
    for step in 0..STEPS {
        proxies.iter_mut().for_each(|proxy| proxy.transfer(step, CHUNK as usize));
    }
    proxies.iter_mut().for_each(|proxy| proxy.stop());
    kernels.iter_mut().for_each(|kernel| kernel.stop(2_000));
}

/// What must not move when a call is to be ignored: all but the losses and the exact times. (Whoever reads a recorder converts
/// its times with what he then knows of the clocks, so two readings differ by some nanoseconds.)
pub(crate) fn facts(snapshot: &Snapshot) -> Snapshot {
    let mut facts = Snapshot { taken_ns: 0, losses: Default::default(), ..snapshot.clone() };
    facts.identity.created_ns = 0;
    for operation in &mut facts.operations {
        operation.enqueued_ns = 0;
        operation.started_ns = operation.started_ns.map(|_| 0);
        operation.completed_ns = operation.completed_ns.map(|_| 0);
    }
    for connection in &mut facts.connections {
        connection.state_since_ns = 0;
        let sums = [&mut connection.gpu_wait_ns, &mut connection.peer_wait_ns];
        sums.into_iter()
            .chain([&mut connection.network_wait_ns, &mut connection.flush_wait_ns])
            .for_each(|ns| *ns = 0);
    }
    facts
}

/// The recorded communicator with an id, in its newest generation.
pub(crate) fn recorded(snapshot: &Snapshot, id: u64) -> &Recorded {
    let found = snapshot.communicators.iter().rev().find(|comm| comm.id == id);
    found.unwrap_or_else(|| panic!("communicator {id} is not among {:?}", snapshot.communicators))
}

/// The recorded connection of a channel and direction to the ring's neighbour.
pub(crate) fn connection(snapshot: &Snapshot, channel: u8, is_send: bool) -> &Connection {
    let peer = ring(channel, is_send).peer;
    let wanted = |connection: &&Connection| {
        connection.channel == u32::from(channel) && connection.is_send == is_send && connection.peer == peer
    };
    snapshot.connections.iter().find(wanted).expect("the connection is recorded")
}

/// Asserts that an operation is the usual all-reduce, complete.
pub(crate) fn assert_complete_all_reduce(operation: &Operation) {
    assert_eq!(operation.function, "AllReduce");
    assert_eq!(operation.count, 1 << 20);
    assert_eq!(operation.bytes, 4 << 20);
    let started = operation.started_ns.expect("it started");
    let completed = operation.completed_ns.expect("it is complete");
    assert!(operation.enqueued_ns > 0, "it has the time it was enqueued");
    assert!(started <= completed, "{operation:?}");
}

/// Whether this process has a library mapped.
pub(crate) fn is_mapped(library: &Path) -> bool {
    let name = library.file_name().and_then(|name| name.to_str()).expect("a file name");
    std::fs::read_to_string("/proc/self/maps").expect("procfs").contains(name)
}
