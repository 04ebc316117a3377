//! NCCL has one profiler slot: ours passes every call on to a second plugin (`C4_CHAIN_PROFILER`).

use c4_tests::nccl::{Collective, Nccl, built, take_log};
use libloading::os::unix::Library;
use nccl_profiler_c4::abi::{event, log_level};

use crate::harness::{
    STEPS, all_reduce, all_reduce_spec, assert_complete_all_reduce, config, init, isolated, nccl, plugin,
    recorded,
};

/// Numbers of the second plugin that are no event types (see its crate).
mod count {
    pub(super) const INITS: usize = 64;
    pub(super) const FINALIZES: usize = 65;
    pub(super) const STOPS: usize = 66;
    pub(super) const STATES: usize = 67;
    pub(super) const ALIEN: usize = 68;
    pub(super) const VERSION: usize = 69;
}

fn second() -> String {
    built::chained().expect("the second plugin is built").to_str().expect("a UTF-8 path").to_owned()
}

/// The second plugin as this process has it loaded.
struct Second(Library);

impl Second {
    fn loaded() -> Self {
        // SAFETY: loading it runs no code of its own; if it is loaded already, this is the same copy.
        Self(unsafe { Library::new(second()) }.expect("the second plugin loads"))
    }

    fn count(&self, which: usize) -> u64 {
        // SAFETY: the symbol is a function of this type.
        let count = unsafe { self.0.get::<extern "C" fn(usize) -> u64>(b"c4_chained_count\0") };
        count.expect("it exports its counts")(which)
    }

    fn starts(&self, kind: u64) -> u64 {
        self.count(kind.trailing_zeros() as usize)
    }
}

#[test]
fn second_plugin_sees_every_call() {
    isolated(&[("C4_CHAIN_PROFILER", &second()), ("C4_STEP_SAMPLING", "1")], |sandbox| {
        for (lives, version) in (1..=7).enumerate() {
            let nccl = Nccl::knowing_up_to(&plugin(), version);
            let comm = init(&nccl, u64::from(version));
            let second = Second::loaded();
            let before = [event::COLL, event::PROXY_OP, event::PROXY_STEP].map(|kind| second.starts(kind));
            (0..5).for_each(|_| all_reduce(&comm));
            assert_eq!(second.count(count::VERSION), u64::from(version), "the same version is passed on");
            assert_eq!(second.count(count::INITS), lives as u64 + 1);
            assert_eq!(second.starts(event::COLL) - before[0], 5, "v{version}");
            assert_eq!(second.starts(event::PROXY_OP) - before[1], 5 * 4, "v{version}");
            assert_eq!(second.starts(event::PROXY_STEP) - before[2], 5 * 4 * u64::from(STEPS), "v{version}");
            comm.finalize();
            assert_eq!(second.count(count::FINALIZES), lives as u64 + 1);
            assert_eq!(
                second.count(count::ALIEN),
                0,
                "v{version}: it is handed its own contexts and handles only"
            );
            assert!(second.count(count::STATES) > 0);
            let snapshot = sandbox.snapshot();
            assert_eq!(recorded(&snapshot, u64::from(version)).completed, 5, "ours records as well");
            snapshot.operations.iter().for_each(assert_complete_all_reduce);
        }
        let second = Second::loaded();
        let started: u64 = (0..64).map(|bit| second.count(bit)).sum();
        assert_eq!(second.count(count::STOPS), started, "what started was stopped");
    });
}

#[test]
fn masks_are_merged() {
    let only = (event::KERNEL_LAUNCH | event::PROXY_CTRL).to_string();
    isolated(&[("C4_CHAIN_PROFILER", &second()), ("C4_CHAINED_MASK", &only)], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let second = Second::loaded();
        for _ in 0..64 {
            all_reduce(&comm);
            comm.proxy_ctrl().stop();
        }
        assert_eq!(second.starts(event::KERNEL_LAUNCH), 64, "what only the second asks for");
        assert_eq!(second.starts(event::PROXY_CTRL), 64);
        assert_eq!(second.count(count::ALIEN), 0);
        let snapshot = sandbox.snapshot();
        let comm = recorded(&snapshot, 1);
        assert_eq!((comm.enqueued, comm.completed), (64, 64), "what only ours asks for");
        let timed = snapshot.connections[0].timed_steps;
        assert!(timed > 0 && timed < 64 * u64::from(STEPS), "sampling goes on: {timed}");
        assert_eq!(snapshot.losses, Default::default());
    });
}

#[test]
fn second_plugin_gets_its_steps_although_ours_samples() {
    isolated(&[("C4_CHAIN_PROFILER", &second())], |_| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let second = Second::loaded();
        (0..64).for_each(|_| all_reduce(&comm));
        assert_eq!(second.starts(event::PROXY_STEP), 64 * 4 * u64::from(STEPS));
    });
}

#[test]
fn second_plugin_whose_init_fails_is_left_alone() {
    isolated(&[("C4_CHAIN_PROFILER", &second()), ("C4_CHAINED_INIT", "fail")], |sandbox| {
        let nccl = nccl();
        let first = init(&nccl, 1);
        let comm = init(&nccl, 2);
        let second = Second::loaded();
        (0..5).for_each(|_| all_reduce(&comm));
        first.finalize();
        comm.finalize();
        assert!(second.count(count::INITS) >= 1);
        for which in (0..64).chain([count::STOPS, count::STATES, count::FINALIZES]) {
            assert_eq!(second.count(which), 0, "no call after a failed init (number {which})");
        }
        assert_eq!(recorded(&sandbox.snapshot(), 2).completed, 5, "ours records");
        let warnings: Vec<_> = take_log().into_iter().filter(|line| line.level <= log_level::WARN).collect();
        assert_eq!(warnings.len(), 1, "said once: {warnings:?}");
    });
}

#[test]
fn second_plugin_that_is_missing() {
    for path in ["/nonexistent/libother.so", "", "/etc/hostname"] {
        isolated(&[("C4_CHAIN_PROFILER", path)], |sandbox| {
            let nccl = nccl();
            let comm = init(&nccl, 1);
            let other = init(&nccl, 2);
            all_reduce(&comm);
            all_reduce(&other);
            assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 1, "ours records");
            let path = std::env::var("C4_CHAIN_PROFILER").expect("set");
            let said = take_log().into_iter().filter(|line| line.level <= log_level::WARN);
            let said = said.filter(|line| !path.is_empty() && line.text.contains(&path)).count();
            assert_eq!(said, usize::from(!path.is_empty()), "said once, with the path");
        });
    }
}

#[test]
fn graph_handles_go_to_their_owner() {
    isolated(&[("C4_CHAIN_PROFILER", &second())], |_| {
        let nccl = nccl();
        let comm = nccl.init(&config(1)).expect("the plugin loads");
        let graph = comm.capture(&Collective { graph_captured: true, ..all_reduce_spec() });
        for _ in 0..10 {
            let task = graph.replay();
            task.enqueued();
            crate::harness::children(&task);
        }
        let second = Second::loaded();
        assert_eq!(second.starts(event::COLL), 10);
        assert_eq!(second.count(count::ALIEN), 0);
    });
}
