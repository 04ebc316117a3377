//! What an event costs: the built plugin called through its function table over the event mix of a ring all-reduce.
//!
//! One all-reduce is a collective (start, stop), and on each of two channels a kernel (start, stop state, stop) and two
//! network operations (send and receive: start, stop) of eight steps each (start, three states, stop). The descriptors are filled
//! in as NCCL does, which is part of the cost, as it is in the figures of other plugins; the loop around it is not
//! taken off. Printed are the median over many rounds, the spread (10th to 90th percentile), and the ratio to a plugin that
//! only counts. `default` is the plugin's own mask, where steps come for one operation in sixteen; `all steps` has them
//! all. No figure passes or fails: machines differ.
//!
//! The second table is one small all-reduce at a time inside a node, without kernel events, as most are while thousands come in a
//! second. Between them as much memory is touched and as much code run as a step of a job's Python may, and an agent reads the
//! recorder beside it, so that little of the plugin's, data or code, is in a near cache when it is called.
//!
//! `cargo bench -p c4-tests --bench plugin`; each case runs in a process of its own, since a plugin's state is its process's.

use std::ffi::{c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use c4_recorder::reader::Reader;
use c4_tests::nccl::{CommConfig, Handle, Nccl, Plugin, built};
use nccl_profiler_c4::abi::payload::{
    CollV4, CollV5, KernelCh, KernelChState, ProxyOp, ProxyStep, ProxyStepState,
};
use nccl_profiler_c4::abi::{RecordEventState, StartEvent, StopEvent, event, state, v4, v5};

/// Channels, network operations on each, steps of each.
const SHAPE: (u8, u32, u32) = (2, 2, 8);
/// All-reduces of one timed round.
const BATCH: u32 = 64;
/// Timed rounds.
const ROUNDS: usize = 2_000;
/// Says to a process of this program which plugin it is to measure.
const PLUGIN: &str = "C4_BENCH_PLUGIN";
/// Says to it that one all-reduce at a time is to be measured.
const ALONE: &str = "C4_BENCH_ALONE";
/// All-reduces one at a time: those that warm up, and those that are timed.
const TIMES: (usize, usize) = (2_000, 8_000);
/// Bytes touched between them.
const TOUCHED: usize = 4 << 20;
/// Bytes of code run between them, of which one instruction in each line.
const CODE: usize = 256 << 10;
/// Time between two looks of the agent.
const LOOKS: Duration = Duration::from_millis(100);

/// The functions under test, out of their table as NCCL has them.
struct Caller {
    context: *mut c_void,
    mask: &'static std::sync::atomic::AtomicI32,
    start: StartEvent<v5::Descriptor>,
    stop: StopEvent,
    record: RecordEventState<v5::StateArgs>,
    pid: c_int,
    events: u64,
}

impl Caller {
    fn start(&mut self, descriptor: &mut v5::Descriptor) -> *mut c_void {
        let mut handle = null_mut();
        self.events += 1;
        // SAFETY: context and functions are of one plugin; descriptor and handle are valid for the call.
        unsafe { (self.start)(self.context, &mut handle, descriptor) };
        handle
    }

    fn stop(&mut self, handle: *mut c_void) {
        if !handle.is_null() {
            self.events += 1;
            // SAFETY: the plugin gave this handle.
            unsafe { (self.stop)(handle) };
        }
    }

    fn record(&mut self, handle: *mut c_void, state: c_int, args: &mut v5::StateArgs) {
        if !handle.is_null() {
            self.events += 1;
            // SAFETY: as above; the arguments are valid for the call.
            unsafe { (self.record)(handle, state, args) };
        }
    }

    /// One ring all-reduce, under the mask of this moment.
    fn all_reduce(&mut self, number: u64) {
        let mask = self.mask.load(std::sync::atomic::Ordering::Relaxed) as u64;
        let below = event::PROXY_OP | event::PROXY_STEP | event::KERNEL_CH;
        let group = if mask & (event::GROUP_API | event::COLL_API | event::COLL | below) != 0 {
            self.start(&mut descriptor(event::GROUP_API, null_mut()))
        } else {
            null_mut()
        };
        let mut coll = descriptor(event::COLL, group);
        coll.detail.coll = collective(number);
        let task = if mask & (event::COLL | below) != 0 { self.start(&mut coll) } else { null_mut() };
        self.stop(task);
        self.stop(group);
        for channel in 0..SHAPE.0 {
            let kernel = if mask & event::KERNEL_CH != 0 {
                let mut kernel = descriptor(event::KERNEL_CH, task);
                kernel.detail.kernel_ch = KernelCh { channel_id: channel, p_timer: number };
                self.start(&mut kernel)
            } else {
                null_mut()
            };
            for direction in 0..SHAPE.1 {
                self.network(mask, task, channel, direction == 0);
            }
            self.record(
                kernel,
                state::KERNEL_CH_STOP,
                &mut v4::StateArgs { kernel_ch: KernelChState { p_timer: number } },
            );
            self.stop(kernel);
        }
    }

    /// A small all-reduce inside a node: the events of the launching thread, as NCCL 2.28 has them, and no others.
    fn small_all_reduce(&mut self, number: u64) {
        let group_api = self.start(&mut descriptor(event::GROUP_API, null_mut()));
        self.record_nothing(group_api, state::GROUP_START_API_STOP);
        let call = self.start(&mut descriptor(event::COLL_API, group_api));
        self.stop(call);
        self.record_nothing(group_api, state::GROUP_END_API_START);
        let group = self.start(&mut descriptor(event::GROUP, null_mut()));
        let mut coll = descriptor(event::COLL, call);
        coll.detail.coll = collective(number);
        let task = self.start(&mut coll);
        self.stop(task);
        self.stop(group);
        self.stop(group_api);
    }

    fn record_nothing(&mut self, handle: *mut c_void, state: c_int) {
        if !handle.is_null() {
            self.events += 1;
            // SAFETY: the plugin gave this handle; these states have no arguments.
            unsafe { (self.record)(handle, state, null_mut()) };
        }
    }

    fn network(&mut self, mask: u64, task: *mut c_void, channel: u8, is_send: bool) {
        if mask & (event::PROXY_OP | event::PROXY_STEP) == 0 {
            return;
        }
        let mut operation = descriptor(event::PROXY_OP, task);
        operation.detail.proxy_op = ProxyOp {
            pid: self.pid,
            channel_id: channel,
            peer: if is_send { 4 } else { 2 },
            n_steps: SHAPE.2 as c_int,
            chunk_size: 1 << 17,
            is_send: c_int::from(is_send),
        };
        let operation = self.start(&mut operation);
        let states = if is_send {
            [state::SEND_GPU_WAIT, state::SEND_PEER_WAIT, state::SEND_WAIT]
        } else {
            [state::RECV_WAIT, state::RECV_FLUSH_WAIT, state::RECV_GPU_WAIT]
        };
        if mask & event::PROXY_STEP != 0 {
            for number in 0..SHAPE.2 {
                let mut step = descriptor(event::PROXY_STEP, operation);
                step.detail.proxy_step = ProxyStep { step: number as c_int };
                let step = self.start(&mut step);
                for state in states {
                    let proxy_step = ProxyStepState { trans_size: 1 << 17 };
                    self.record(step, state, &mut v4::StateArgs { proxy_step });
                }
                self.stop(step);
            }
        }
        self.stop(operation);
    }
}

/// A descriptor of zeros with its head filled in, as NCCL makes them.
fn descriptor(kind: u64, parent: *mut c_void) -> v5::Descriptor {
    // SAFETY: descriptors consist of integers and raw pointers, for which zero is a value.
    let mut descriptor: v5::Descriptor = unsafe { std::mem::zeroed() };
    descriptor.kind = kind;
    descriptor.parent = parent;
    descriptor.rank = 3;
    descriptor
}

fn collective(number: u64) -> CollV5 {
    let base = CollV4 {
        seq_number: number,
        func: c"AllReduce".as_ptr(),
        send_buff: null(),
        recv_buff: null_mut(),
        count: 1 << 20,
        root: 0,
        datatype: c"ncclFloat32".as_ptr(),
        n_channels: SHAPE.0,
        n_warps: 16,
        algo: c"RING".as_ptr(),
        proto: c"SIMPLE".as_ptr(),
    };
    CollV5 { base, parent_group: null_mut() }
}

/// Measures one plugin in this process and prints its nanoseconds for each event, sorted.
fn measure(path: &Path) {
    let nccl = Nccl::knowing_up_to(path, 5);
    let config = CommConfig { id: 1, name: None, nodes: 2, ranks: 8, rank: 3 };
    let comm = nccl.init(&config).expect("the plugin loads");
    let mut caller = caller(comm.plugin(), comm.context(), nccl.mask());
    let mut number = 0;
    let mut samples = Vec::with_capacity(ROUNDS);
    // A quarter more, to warm up.
    for round in 0..ROUNDS + ROUNDS / 4 {
        let events = caller.events;
        #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
        let start = Instant::now();
        for _ in 0..BATCH {
            caller.all_reduce(number);
            number += 1;
        }
        let elapsed = start.elapsed().as_nanos() as f64;
        if round >= ROUNDS / 4 {
            samples.push(elapsed / (caller.events - events) as f64);
        }
    }
    assert_recorded(number);
    print_quantiles(samples, caller.events as f64 / number as f64);
}

/// Measures one plugin in this process, one small all-reduce at a time, and prints nanoseconds for each.
fn measure_alone(path: &Path) {
    let nccl = Nccl::knowing_up_to(path, 5);
    let config = CommConfig { id: 1, name: None, nodes: 1, ranks: 8, rank: 3 };
    let comm = nccl.init(&config).expect("the plugin loads");
    let mut caller = caller(comm.plugin(), comm.context(), nccl.mask());
    let done = Arc::new(AtomicBool::new(false));
    let agent = std::thread::spawn({
        let (done, readers) = (done.clone(), recorders());
        move || {
            while !done.load(Relaxed) {
                readers.iter().for_each(|reader| drop(reader.snapshot().expect("a sound snapshot")));
                std::thread::sleep(LOOKS);
            }
        }
    });
    let mut touched = vec![1_u64; TOUCHED / size_of::<u64>()];
    let code = other_code();
    let mut samples = Vec::with_capacity(TIMES.1);
    let all = TIMES.0 + TIMES.1;
    for number in 0..all {
        // One word of each line.
        touched.iter_mut().step_by(8).for_each(|word| *word = word.wrapping_mul(3));
        std::hint::black_box(&mut touched);
        code.iter().for_each(|line| line());
        #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
        let start = Instant::now();
        caller.small_all_reduce(number as u64);
        let elapsed = start.elapsed().as_nanos() as f64;
        if number >= TIMES.0 {
            samples.push(elapsed);
        }
    }
    done.store(true, Relaxed);
    agent.join().expect("the agent's thread");
    for reader in recorders() {
        let snapshot = reader.snapshot().expect("a sound snapshot");
        assert_eq!(snapshot.communicators[0].enqueued, all as u64, "a plugin that keeps nothing is fast");
    }
    print_quantiles(samples, caller.events as f64 / all as f64);
}

/// A function in each line of a block of memory that does nothing but return.
#[cfg(target_arch = "x86_64")]
fn other_code() -> Vec<extern "C" fn()> {
    const RETURN: u8 = 0xC3;
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh private mapping at an address of the kernel's choice, which is never unmapped. It is filled before it becomes
    // code, and the instruction at each address is a function of no arguments.
    unsafe {
        let memory = libc::mmap(null_mut(), CODE, access, flags, -1, 0);
        assert!(memory != libc::MAP_FAILED, "no memory");
        memory.cast::<u8>().write_bytes(RETURN, CODE);
        assert_eq!(libc::mprotect(memory, CODE, libc::PROT_READ | libc::PROT_EXEC), 0, "no code");
        (0..CODE).step_by(64).map(|at| std::mem::transmute(memory.byte_add(at))).collect()
    }
}

/// Elsewhere, only data is touched.
#[cfg(not(target_arch = "x86_64"))]
fn other_code() -> Vec<extern "C" fn()> {
    Vec::new()
}

fn print_quantiles(mut samples: Vec<f64>, events: f64) {
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[(share * (samples.len() - 1) as f64) as usize];
    println!("{} {} {} {events}", at(0.5), at(0.1), at(0.9));
}

fn recorders() -> Vec<Reader> {
    let directory = std::env::var_os("C4_RECORDER_DIR").expect("set by the parent");
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| Reader::open(&entry.expect("an entry").path()).expect("a sound recorder")).collect()
}

/// A plugin that keeps nothing is fast: if this one keeps a recorder, it must hold what was done.
fn assert_recorded(operations: u64) {
    for reader in recorders() {
        let snapshot = reader.snapshot().expect("a sound snapshot");
        let comm = &snapshot.communicators[0];
        assert_eq!((comm.enqueued, comm.completed), (operations, operations));
        assert_eq!(snapshot.losses, Default::default());
    }
}

fn caller(plugin: &Plugin, context: Handle, mask: &'static std::sync::atomic::AtomicI32) -> Caller {
    let table = plugin.v5().expect("loaded as v5");
    Caller {
        context: std::ptr::with_exposed_provenance_mut(context.0),
        mask,
        start: table.start_event.expect("complete"),
        stop: table.stop_event.expect("complete"),
        record: table.record_event_state.expect("complete"),
        pid: std::process::id() as c_int,
        events: 0,
    }
}

/// Nanoseconds for each reading of the processor's time stamp counter, which an event that keeps a time cannot go below.
fn time_stamp_cost() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut rounds: Vec<f64> = (0..200)
            .map(|_| {
                #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
                let start = Instant::now();
                for _ in 0..10_000 {
                    // SAFETY: every x86-64 processor has it, and Linux lets user programs use it.
                    std::hint::black_box(unsafe { std::arch::x86_64::_rdtsc() });
                }
                start.elapsed().as_nanos() as f64 / 10_000.0
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        Some(rounds[rounds.len() / 2])
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Median, 10th and 90th percentile, events of an all-reduce.
fn in_a_process(plugin: &Path, environment: &[(&str, &str)]) -> [f64; 4] {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.env_remove("C4_CHAIN_PROFILER").env_remove("C4_STEP_SAMPLING").env_remove("C4_KERNEL_EVENTS");
    command.env(PLUGIN, plugin).env("C4_RECORDER_DIR", scratch.path()).envs(environment.iter().copied());
    let output = command.output().expect("this program runs again");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let mut numbers = said.split_whitespace().map(|word| word.parse().expect("a number"));
    std::array::from_fn(|_| numbers.next().expect("four numbers"))
}

fn main() {
    if let Some(plugin) = std::env::var_os(PLUGIN) {
        let plugin = PathBuf::from(plugin);
        return if std::env::var_os(ALONE).is_some() { measure_alone(&plugin) } else { measure(&plugin) };
    }
    let own = built::plugin().expect("the plugin is built");
    let counting = built::chained().expect("the counting plugin is built");
    let ours = event::COLL | event::GROUP | event::PROXY_OP | event::KERNEL_CH;
    let (ours, with_steps) = (ours.to_string(), (ours | event::PROXY_STEP).to_string());
    println!(
        "ring all-reduce, {} channels, {} network operations each, {} steps each",
        SHAPE.0, SHAPE.1, SHAPE.2
    );
    if let Some(cost) = time_stamp_cost() {
        println!("reading the time stamp counter: {cost:.1} ns");
    }
    println!("{:<34} {:>9} {:>15} {:>8} {:>7}", "", "ns/event", "10 % - 90 %", "events", "ratio");
    let row = |name: &str, [median, low, high, events]: [f64; 4], floor: f64| {
        let ratio = median / floor;
        println!(
            "{name:<34} {median:>9.1} {:>15} {events:>8.1} {ratio:>7.2}",
            format!("{low:.1} - {high:.1}")
        );
    };
    let floor = in_a_process(&counting, &[("C4_CHAINED_MASK", &with_steps)]);
    row("only counts, all steps", floor, floor[0]);
    row("C4, all steps", in_a_process(&own, &[("C4_STEP_SAMPLING", "1")]), floor[0]);
    let floor = in_a_process(&counting, &[("C4_CHAINED_MASK", &ours)]);
    row("only counts, no steps", floor, floor[0]);
    row("C4, default (steps of one in 16)", in_a_process(&own, &[]), floor[0]);
    row("C4, no steps", in_a_process(&own, &[("C4_STEP_SAMPLING", "0")]), floor[0]);
    let chained =
        [("C4_CHAIN_PROFILER", counting.to_str().expect("a UTF-8 path")), ("C4_CHAINED_MASK", ours.as_str())];
    row("C4 with the counting one chained", in_a_process(&own, &chained), floor[0]);

    println!(
        "\n{:<34} {:>9} {:>15} {:>8} {:>7}",
        "one at a time inside a node", "ns/op", "10 % - 90 %", "events", "ratio"
    );
    let floor = in_a_process(&counting, &[(ALONE, "1"), ("C4_CHAINED_MASK", &ours)]);
    row("only counts", floor, floor[0]);
    row(
        "C4, without kernel events",
        in_a_process(&own, &[(ALONE, "1"), ("C4_KERNEL_EVENTS", "off")]),
        floor[0],
    );
}
