//! On the hot path the plugin allocates nothing and makes no system call, once warm.
//!
//! Allocations are counted by standing in for malloc: this executable exports the C library's allocation functions, so
//! every shared library loaded into it calls these, whatever language it is in. System calls are counted by strace, between
//! two marker calls. Both counts are shown able to fail by a plugin that does both at every event.

use std::cell::Cell;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;

use c4_tests::nccl::{
    Collective, CommConfig, Communicator, Datatype, Function, Nccl, ProxyOperationSpec, built,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

/// Stands in for the C library's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: passed on.
    unsafe { __libc_malloc(size) }
}

/// Stands in for the C library's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn calloc(items: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: passed on.
    unsafe { __libc_calloc(items, size) }
}

/// Stands in for the C library's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: passed on.
    unsafe { __libc_realloc(old, size) }
}

/// Stands in for the C library's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: passed on.
    unsafe { __libc_memalign(alignment, size) }
}

/// Stands in for the C library's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: passed on.
    unsafe { __libc_memalign(alignment, size) }
}

/// Stands in for the C library's.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, alignment: usize, size: usize) -> i32 {
    count();
    // SAFETY: passed on; `place` is valid for the call.
    unsafe { *place = __libc_memalign(alignment, size) };
    0
}

/// Process groups that do not exist: asking for them marks begin and end in the list of system calls.
const BEGIN: i32 = 2_000_000_011;
const END: i32 = 2_000_000_012;
/// All-reduces before the marks and between them; more than any ring holds.
const ROUNDS: u32 = 20_000;
/// The same for the plugin that is heavy.
const HEAVY_ROUNDS: u32 = 20;

fn mark(group: i32) {
    // SAFETY: takes a number, touches nothing.
    unsafe { libc::getpgid(group) };
}

fn all_reduce(comm: &Communicator) {
    let task = comm.collective(&Collective::new(Function::AllReduce, 1 << 20, Datatype::Float32, 2));
    task.enqueued();
    let mut kernels = [task.kernel(0), task.kernel(1)];
    kernels.iter_mut().for_each(|kernel| kernel.start(1_000));
    for channel in 0..2 {
        for is_send in [true, false] {
            let peer = if is_send { 4 } else { 2 };
            task.proxy(ProxyOperationSpec { channel, peer, is_send, steps: 8, chunk_bytes: 1 << 17 }).run();
        }
    }
    kernels.iter_mut().for_each(|kernel| kernel.stop(2_000));
}

/// Runs the hot path on this thread and on another, marked; allocations on both.
fn hot_path(plugin: &Path) -> u64 {
    let nccl = Nccl::knowing_up_to(plugin, 5);
    let config = CommConfig { id: 1, name: None, nodes: 2, ranks: 8, rank: 3 };
    let comm = nccl.init(&config).expect("the plugin loads");
    let heavy = std::env::var_os("C4_CHAINED_COST").is_some();
    let rounds = if heavy { HEAVY_ROUNDS } else { ROUNDS };
    let measured = || {
        (0..rounds).for_each(|_| all_reduce(&comm));
        let before = ALLOCATIONS.get();
        mark(BEGIN);
        (0..rounds).for_each(|_| all_reduce(&comm));
        mark(END);
        ALLOCATIONS.get() - before
    };
    let here = measured();
    here + std::thread::scope(|scope| scope.spawn(measured).join().expect("the thread ends well"))
}

/// Runs a test of this file again in a process of its own, under `wrapper` if there is one; its standard output.
fn again(test: &str, environment: &[(&str, &str)], wrapper: &[&str]) -> String {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let own = std::env::current_exe().expect("own path");
    let own = own.to_str().expect("a UTF-8 path");
    let mut words = wrapper.to_vec();
    words.extend([own, test, "--exact", "--nocapture", "--ignored", "--test-threads=1"]);
    let mut command = Command::new(words[0]);
    for label in ["C4_CHAIN_PROFILER", "C4_PROFILER", "C4_STEP_SAMPLING", "C4_KERNEL_EVENTS"] {
        command.env_remove(label);
    }
    command.args(&words[1..]).env("C4_RECORDER_DIR", scratch.path()).envs(environment.iter().copied());
    let output = command.output().expect("it runs again");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr));
    said
}

/// The process the tests below start. Prints its number of allocations.
#[test]
#[ignore = "a part of the other tests, which start it"]
fn the_hot_path_itself() {
    let plugin = std::env::var_os("C4_PLUGIN_UNDER_TEST").map(PathBuf::from).expect("set by the other tests");
    println!("allocations={}", hot_path(&plugin));
}

/// Plugin, environment.
fn cases() -> Vec<(String, Vec<(&'static str, String)>)> {
    let text = |path: PathBuf| path.to_str().expect("a UTF-8 path").to_owned();
    let own = text(built::plugin().expect("the plugin is built"));
    let second = text(built::chained().expect("the second plugin is built"));
    vec![
        (own.clone(), vec![]),
        (own.clone(), vec![("C4_STEP_SAMPLING", "1".to_owned())]),
        (own, vec![("C4_STEP_SAMPLING", "1".to_owned()), ("C4_CHAIN_PROFILER", second)]),
    ]
}

/// A plugin that allocates and makes a system call at every event.
fn heavy() -> (String, Vec<(&'static str, String)>) {
    let path = built::chained().expect("the second plugin is built");
    (path.to_str().expect("a UTF-8 path").to_owned(), vec![("C4_CHAINED_COST", "heavy".to_owned())])
}

fn allocations(case: &(String, Vec<(&'static str, String)>)) -> u64 {
    let mut environment: Vec<_> = case.1.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.push(("C4_PLUGIN_UNDER_TEST", &case.0));
    let said = again("the_hot_path_itself", &environment, &[]);
    let count = said.lines().find_map(|line| line.split_once("allocations=").map(|(_, count)| count));
    count.expect("it says so").trim().parse().expect("a number")
}

#[test]
fn no_allocation() {
    for case in cases() {
        assert_eq!(allocations(&case), 0, "{:?}", case.1);
    }
    assert!(allocations(&heavy()) > u64::from(HEAVY_ROUNDS), "the count sees a plugin that allocates");
}

/// System calls between the marks, of the threads that set them.
fn system_calls(case: &(String, Vec<(&'static str, String)>)) -> Vec<String> {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let trace = scratch.path().join("trace");
    let mut environment: Vec<_> = case.1.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.push(("C4_PLUGIN_UNDER_TEST", &case.0));
    let strace = ["strace", "-f", "-qq", "-o", trace.to_str().expect("a UTF-8 path")];
    again("the_hot_path_itself", &environment, &strace);
    let trace = std::fs::read_to_string(&trace).expect("strace writes");
    let (mut inside, mut marks, mut found) = (None, 0, Vec::new());
    for line in trace.lines() {
        let (thread, call) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        let call = call.trim_start();
        if call.starts_with(&format!("getpgid({BEGIN})")) {
            inside = Some(thread.to_owned());
            marks += 1;
        } else if call.starts_with(&format!("getpgid({END})")) {
            inside = None;
            marks += 1;
        } else if inside.as_deref() == Some(thread) && !call.starts_with("---") {
            found.push(call.to_owned());
        }
    }
    assert_eq!(marks, 4, "begin and end on two threads");
    found
}

#[test]
fn no_system_call() {
    let permitted = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    if !permitted.as_ref().is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: strace is not installed or ptrace is not permitted here: {permitted:?}");
        return;
    }
    for case in cases() {
        let calls = system_calls(&case);
        assert!(calls.is_empty(), "{:?}: {} calls, such as {:?}", case.1, calls.len(), calls.first());
    }
    assert!(!system_calls(&heavy()).is_empty(), "the trace sees a plugin that makes system calls");
}
