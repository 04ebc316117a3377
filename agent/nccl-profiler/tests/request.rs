//! Which operations have network steps, as the bit in NCCL's mask says: all while the agent asks, through the recorder, and
//! by default all unless they come thick and fast over the network.
//!
//! A program of its own: the plugin's state is its process's, and the environment is set before anything runs.

use std::ffi::{c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use c4_recorder::monotonic_now_ns;
use c4_recorder::reader::Reader;
use nccl_profiler_c4::abi::{event, state, v5};
use nccl_profiler_c4::ncclProfiler_v5 as plugin;

static MASK: AtomicI32 = AtomicI32::new(0);

/// What NCCL does at the beginning of a group.
fn group(context: *mut c_void) -> bool {
    // SAFETY: zeroes are valid for a descriptor: numbers and nullable pointers.
    let mut descriptor: v5::Descriptor = unsafe { std::mem::zeroed() };
    descriptor.kind = event::GROUP_API;
    let mut handle = null_mut();
    // SAFETY: the pointers are valid for the call and the context is the plugin's.
    unsafe { plugin.start_event.expect("complete")(context, &mut handle, &mut descriptor) };
    // SAFETY: the handle is the plugin's.
    unsafe { plugin.stop_event.expect("complete")(handle) };
    MASK.load(Relaxed) & event::PROXY_STEP as c_int != 0
}

/// A collective whose network operation moves.
fn collective_over_the_network(context: *mut c_void) {
    // SAFETY: as in `group`.
    let mut collective: v5::Descriptor = unsafe { std::mem::zeroed() };
    collective.kind = event::COLL;
    let mut operation = null_mut();
    // SAFETY: as in `group`.
    unsafe { plugin.start_event.expect("complete")(context, &mut operation, &mut collective) };
    // SAFETY: as in `group`.
    let mut network: v5::Descriptor = unsafe { std::mem::zeroed() };
    (network.kind, network.parent) = (event::PROXY_OP, operation);
    network.detail.proxy_op.pid = std::process::id().cast_signed();
    let mut handle = null_mut();
    // SAFETY: the pointers are valid for the call, the handles are the plugin's, and this state may come without arguments.
    unsafe {
        plugin.start_event.expect("complete")(context, &mut handle, &mut network);
        plugin.record_event_state.expect("complete")(handle, state::PROXY_OP_IN_PROGRESS, null_mut());
    }
}

#[test]
fn steps_on_request() {
    let directory = tempfile::tempdir().expect("temporary directory");
    // SAFETY: nothing else runs yet that reads the environment.
    unsafe {
        std::env::set_var("C4_RECORDER_DIR", directory.path());
        std::env::set_var("C4_STEP_SAMPLING", "0");
        std::env::set_var("C4_STEP_STATE", "off");
    }
    let mut context = null_mut();
    let init = plugin.init.expect("complete");
    // SAFETY: the pointers are valid for the call, the mask for the life of the process.
    assert_eq!(unsafe { init(&mut context, 7, MASK.as_ptr(), null(), 2, 8, 3, None) }, 0);
    let file =
        std::fs::read_dir(directory.path()).expect("reads").next().expect("a recorder").expect("reads");
    let reader = Reader::open(&file.path()).expect("opens");
    let mask = || reader.snapshot().expect("reads").event_mask & event::PROXY_STEP as u32 != 0;

    assert!(!group(context), "sampling is off");
    let second = 1_000_000_000;
    reader.request_all_steps(monotonic_now_ns() + 60 * second).expect("asks");
    assert!(group(context) && group(context), "for every operation");
    assert!(mask(), "and the recorder says so");
    reader.request_all_steps(0).expect("takes it back");
    assert!(!group(context) && !mask());
    for (until, why) in [
        (monotonic_now_ns() - second, "past"),
        (1, "long past"),
        (monotonic_now_ns() + 3600 * second, "too far ahead"),
        (u64::MAX, "for ever"),
    ] {
        reader.request_all_steps(until).expect("asks");
        assert!(!group(context), "{why}: not heeded");
    }

    // SAFETY: still the only thread.
    unsafe { std::env::remove_var("C4_STEP_STATE") };
    // SAFETY: as above.
    assert_eq!(unsafe { init(&mut context, 8, MASK.as_ptr(), null(), 2, 8, 3, None) }, 0);
    assert!(
        (0..1_000).all(|_| group(context)),
        "without network there are no steps that could cost anything"
    );
    collective_over_the_network(context);
    let network_operations = || MASK.load(Relaxed) & event::PROXY_OP as c_int != 0;
    assert!((0..100_000).any(|_| !group(context)), "as fast as they can be called, no steps");
    assert!(!network_operations(), "nor network operations, since kernel events tell how far each is");
    let slow = |_| {
        std::thread::sleep(std::time::Duration::from_millis(2));
        group(context)
    };
    assert!((0..10_000).any(slow), "one in two milliseconds, steps again");
    assert!(network_operations());

    // SAFETY: still the only thread.
    unsafe { std::env::set_var("C4_KERNEL_EVENTS", "off") };
    // SAFETY: as above.
    assert_eq!(unsafe { init(&mut context, 9, MASK.as_ptr(), null(), 2, 8, 3, None) }, 0);
    collective_over_the_network(context);
    assert!((0..100_000).any(|_| !group(context)), "as fast as they can be called, no steps");
    assert!(network_operations(), "nothing else tells how far an operation is");
}
