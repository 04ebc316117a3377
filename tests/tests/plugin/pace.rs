//! Kernel events while operations come thick and fast: only some have them, and the recorder says which.

use std::time::{Duration, Instant};

use c4_recorder::clock::monotonic_now_ns;
use c4_recorder::reader::Reader;
use c4_recorder::snapshot::Snapshot;
use c4_tests::nccl::{Communicator, Task};
use nccl_profiler_c4::abi::event;

use crate::harness::{Sandbox, all_reduce, all_reduce_spec, children, init, isolated, nccl, recorded};

/// Between two calls: some ten thousand a second.
const APART: Duration = Duration::from_micros(50);
/// What is counted as a run by the plugin.
const RUN: u64 = 256;
/// It takes a second to be known, and the calls before it the time of a slow machine.
const UNTIL_KNOWN: Duration = Duration::from_millis(2_500);

fn has_kernel_events(task: &Task) -> bool {
    task.mask() & event::KERNEL_CH != 0
}

/// An all-reduce inside a node: kernels, if they are told of, and no network.
fn local(comm: &Communicator) -> bool {
    let task = comm.collective(&all_reduce_spec());
    task.enqueued();
    if has_kernel_events(&task) {
        let now_ns = monotonic_now_ns();
        let mut kernels = [task.kernel(0), task.kernel(1)];
        kernels.iter_mut().for_each(|kernel| kernel.start(now_ns));
        kernels.iter_mut().for_each(|kernel| kernel.stop(now_ns + 1_000));
    }
    has_kernel_events(&task)
}

/// Calls thick and fast for a while; says of each whether it had kernel events.
#[expect(clippy::disallowed_methods, reason = "a pace is one of now")]
fn fast(lasts: Duration, mut call: impl FnMut() -> bool) -> Vec<bool> {
    let begun = Instant::now();
    let mut had = Vec::new();
    while begun.elapsed() < lasts {
        let next = Instant::now() + APART;
        had.push(call());
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
    had
}

fn operations(snapshot: &Snapshot) -> Vec<(u64, bool)> {
    snapshot.operations.iter().map(|operation| (operation.sequence, operation.left_out)).collect()
}

#[test]
fn kernel_events_come_in_runs() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let mut had = fast(UNTIL_KNOWN, || local(&comm));
        let known = had.len();
        had.extend(fast(Duration::from_secs(2), || local(&comm)));
        assert!(had[..1_000].iter().all(|had| *had), "nothing is known at first");
        let late = &had[known..];
        let share = late.iter().filter(|had| **had).count() as f64 / late.len() as f64;
        let per_second = late.len() as f64 / 2.0;
        assert!(share > 0.0 && share * per_second < 2.0 * 1_000.0, "{share} of {per_second} a second");
        // But for where the pace was taken, they begin and end together.
        let changes =
            (known as u64 + 1..had.len() as u64).filter(|&n| had[n as usize] != had[n as usize - 1]);
        let (whole, torn): (Vec<u64>, Vec<u64>) = changes.partition(|n| n.is_multiple_of(RUN));
        assert!(whole.len() >= 2 && torn.len() <= 4, "{whole:?} {torn:?}");
        let snapshot = sandbox.snapshot();
        for (sequence, left_out) in operations(&snapshot) {
            assert_eq!(left_out, !had[sequence as usize], "operation {sequence}");
        }
        assert!(snapshot.operations.iter().filter(|op| op.left_out).all(|op| op.started_ns.is_none()));
        assert_ne!(u64::from(snapshot.event_mask) & event::KERNEL_CH, 0, "they are switched on all the same");
        assert!(snapshot.profiling && recorded(&snapshot, 1).observable);
        assert_eq!(recorded(&snapshot, 1).enqueued, had.len() as u64);
    });
}

#[test]
fn all_have_them_again_when_they_come_slowly_or_are_asked_for_or_captured() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let rare = || while fast(Duration::from_millis(100), || local(&comm)).contains(&true) {};
        fast(UNTIL_KNOWN, || local(&comm));
        rare();
        // NCCL reads the mask for a call before the plugin knows that it is captured.
        comm.capture(&all_reduce_spec());
        assert!(has_kernel_events(&comm.capture(&all_reduce_spec()).replay()), "a graph keeps what it has");
        rare();
        let reader = Reader::open(&sandbox.recorders()[0]).expect("a sound recorder");
        let now_ns = reader.snapshot().expect("a sound snapshot").taken_ns;
        reader.request_all_steps(now_ns + 60_000_000_000).expect("a request");
        local(&comm);
        assert!(fast(Duration::from_millis(200), || local(&comm)).iter().all(|had| *had), "as it is asked");
        reader.request_all_steps(0).expect("a request");
        local(&comm);
        rare();
        for _ in 0..192 {
            local(&comm);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(local(&comm), "slowly");
    });
}

/// Over the network the two ends of an operation are worth what they cost.
#[test]
fn all_have_them_where_the_network_is_used() {
    isolated(&[], |_| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        let had = fast(UNTIL_KNOWN, || {
            let task = comm.collective(&all_reduce_spec());
            task.enqueued();
            children(&task);
            has_kernel_events(&task)
        });
        assert!(had.iter().all(|had| *had));
    });
}

#[test]
fn all_have_them_if_the_user_says_so() {
    isolated(&[("C4_KERNEL_EVENTS", "on")], |_: &Sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        assert!(fast(UNTIL_KNOWN, || local(&comm)).iter().all(|had| *had));
    });
}
