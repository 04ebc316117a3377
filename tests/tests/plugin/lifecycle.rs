//! Communicators come and go, on several threads, in forked children, and without an end.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use c4_recorder::reader::{Liveness, Reader};
use c4_tests::nccl::{Nccl, Plugin};
use nccl_profiler_c4::abi::event;

use crate::harness::{
    all_reduce, all_reduce_spec, assert_complete_all_reduce, children, config, facts, init, is_mapped,
    isolated, isolated_then, nccl, plugin, recorded, ring,
};

fn three_lives() {
    for id in 1..=3 {
        let nccl = nccl();
        let comm = init(&nccl, id);
        all_reduce(&comm);
        comm.finalize();
    }
}

fn assert_three_lives(snapshot: &c4_recorder::snapshot::Snapshot) {
    assert_eq!(snapshot.operations.len(), 3);
    snapshot.operations.iter().for_each(assert_complete_all_reduce);
    let last = recorded(snapshot, 3);
    assert!(last.finalized, "{last:?}");
    assert_eq!((last.enqueued, last.completed), (1, 1), "a new life counts from the beginning");
    assert_eq!(snapshot.losses, Default::default());
}

#[test]
fn init_finalize_init_with_dlclose() {
    isolated(&[], |sandbox| {
        three_lives();
        assert!(is_mapped(&plugin()), "the library pins itself: a thread of it may still run");
        assert_three_lives(&sandbox.snapshot());
    });
}

#[test]
fn init_finalize_init_without_dlclose() {
    isolated(&[], |sandbox| {
        // Somebody else, such as a network plugin in the same library, keeps it loaded.
        let _held = Plugin::load(&plugin()).expect("the plugin loads");
        three_lives();
        assert_three_lives(&sandbox.snapshot());
    });
}

#[test]
fn sixty_four_communicators() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comms: Vec<_> = (0..64).map(|id| init(&nccl, id)).collect();
        for (times, comm) in comms.iter().enumerate() {
            (0..=times).for_each(|_| all_reduce(comm));
        }
        let snapshot = sandbox.snapshot();
        for id in 0..64 {
            let comm = recorded(&snapshot, id);
            assert_eq!((comm.size, comm.rank, comm.nodes), (8, 3, 2));
            assert_eq!(comm.name, format!("dp{id}"));
            assert_eq!((comm.enqueued, comm.started, comm.completed), (id + 1, id + 1, id + 1));
        }
        assert_eq!(snapshot.losses.communicators, 0);
        comms.into_iter().for_each(|comm| comm.finalize());
        assert!(sandbox.snapshot().communicators.iter().all(|comm| comm.finalized));
    });
}

#[test]
fn several_threads_init_at_once() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (nccl, barrier) = (&nccl, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for round in 0..4 {
                        let comm = init(nccl, thread * 4 + round);
                        all_reduce(&comm);
                        // Not finalised: all of them live at once.
                    }
                });
            }
        });
        let snapshot = sandbox.snapshot();
        for id in 0..32 {
            let comm = recorded(&snapshot, id);
            assert_eq!((comm.enqueued, comm.completed), (1, 1), "{comm:?}");
        }
        let mut slots: Vec<_> = snapshot.communicators.iter().map(|comm| comm.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), 32, "every communicator has a slot of its own");
        assert_eq!(snapshot.losses, Default::default());
    });
}

#[test]
fn forked_child_is_silent() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        all_reduce(&comm);
        let before = sandbox.snapshot();
        let in_child = || {
            (0..100).for_each(|_| all_reduce(&comm));
            let other = init(&nccl, 2);
            all_reduce(&other);
            other.finalize();
        };
        assert!(in_forked_child(in_child), "the child lives through its calls");
        let after = sandbox.snapshot();
        assert_eq!(facts(&after), facts(&before));
        assert_eq!(after.losses, before.losses);
        all_reduce(&comm);
        assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 2, "the parent goes on recording");
    });
}

/// Runs a closure in a forked child; whether the child ended well.
fn in_forked_child(body: impl FnOnce()) -> bool {
    // SAFETY: the child calls the closure, which allocates at most (glibc keeps malloc usable after fork), and ends
    // without running anybody's exit handlers.
    match unsafe { libc::fork() } {
        0 => {
            body();
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        child => {
            assert!(child > 0, "fork works");
            let mut status = 0;
            // SAFETY: `status` is valid for the call.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

#[test]
fn finalize_never_called() {
    let body = |_: &_| {
        let nccl = nccl();
        let comm = init(&nccl, 7);
        all_reduce(&comm);
        let open = comm.collective(&all_reduce_spec());
        open.enqueued();
        std::process::abort();
    };
    isolated_then(&[], body, |sandbox, output| {
        assert!(!output.status.success(), "the process aborted");
        let snapshot = sandbox.snapshot();
        let comm = recorded(&snapshot, 7);
        assert!(!comm.finalized);
        assert_eq!((comm.enqueued, comm.completed), (2, 1), "what was in flight stays in evidence");
        assert_eq!(snapshot.operations.last().expect("the open operation").completed_ns, None);
        let reader = Reader::open(&sandbox.recorders()[0]).expect("a sound recorder");
        assert_eq!(reader.liveness().expect("the lock can be asked for"), Liveness::Dead);
    });
}

#[test]
fn finalize_while_events_arrive() {
    isolated(&[("C4_STEP_SAMPLING", "1")], |sandbox| {
        let nccl = nccl();
        let keep = init(&nccl, 0);
        for round in 1..=200 {
            let comm = init(&nccl, round);
            let task = comm.collective(&all_reduce_spec());
            task.enqueued();
            let running = AtomicBool::new(false);
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        children(&task);
                        running.store(true, Ordering::Release);
                    }
                });
                while !running.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                comm.finalize();
                stop.store(true, Ordering::Relaxed);
            });
            children(&task);
        }
        let before = recorded(&sandbox.snapshot(), 0).completed;
        all_reduce(&keep);
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 0).completed, before + 1, "the others go on");
        assert!(recorded(&snapshot, 200).finalized);
        assert!(snapshot.losses.stale_handles > 0, "late children are counted: {:?}", snapshot.losses);
    });
}

#[test]
fn mask_changed_while_running() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let own = nccl.mask().load(Ordering::Relaxed);
        assert_ne!(own, 0);
        all_reduce(&comm);
        // From 2.31 RAS may set the mask of a whole job; nothing reaches the plugin then.
        nccl.mask().store(0, Ordering::Relaxed);
        all_reduce(&comm);
        assert_eq!(recorded(&sandbox.snapshot(), 1).enqueued, 1);
        // Launched under one mask, carried out under another: the children keep the mask of the launch.
        nccl.mask().store(own, Ordering::Relaxed);
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        nccl.mask().store(event::COLL as i32, Ordering::Relaxed);
        children(&task);
        let comms = sandbox.snapshot();
        assert_eq!((recorded(&comms, 1).enqueued, recorded(&comms, 1).completed), (2, 2));
        // Everything at once, things never asked for included.
        nccl.mask().store(0xFFFF, Ordering::Relaxed);
        all_reduce(&comm);
        comm.proxy_ctrl().stop();
        let snapshot = sandbox.snapshot();
        assert_eq!((recorded(&snapshot, 1).enqueued, recorded(&snapshot, 1).completed), (3, 3));
        assert_eq!(snapshot.losses, Default::default());
    });
}

#[test]
fn full_communicator_table_is_counted() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let first = init(&nccl, 1);
        let mut made = 1;
        let lost = loop {
            // Contexts are checked in `init`; none is finalised.
            let comm = init(&nccl, 1_000 + made);
            made += 1;
            all_reduce(&comm);
            let lost = sandbox.snapshot().losses.communicators;
            if lost > 0 {
                break lost;
            }
            assert!(made < 100_000, "the table is bounded");
        };
        assert_eq!(lost, 1);
        let snapshot = sandbox.snapshot();
        assert_eq!(snapshot.communicators.len() as u64, made - 1, "all but the last are recorded");
        all_reduce(&first);
        assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 1, "the others go on");
    });
}

#[test]
fn slots_of_finalised_communicators_are_used_again() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let keep = init(&nccl, 0);
        for id in 1..=5_000 {
            let comm = init(&nccl, id);
            all_reduce(&comm);
            comm.finalize();
        }
        all_reduce(&keep);
        let snapshot = sandbox.snapshot();
        assert_eq!(snapshot.losses, Default::default());
        assert_eq!(recorded(&snapshot, 0).completed, 1);
        let last = recorded(&snapshot, 5_000);
        assert!(last.finalized && last.completed == 1, "{last:?}");
    });
}

#[test]
fn network_thread_of_its_own() {
    isolated(&[("C4_STEP_SAMPLING", "1")], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let (to_proxy, tasks) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Ok(task) = tasks.recv() {
                    children(&task);
                }
            });
            for _ in 0..1_000 {
                let task = comm.collective(&all_reduce_spec());
                // The proxy thread may begin, and end, before the launch thread says that it is enqueued.
                to_proxy.send(task.clone()).expect("the proxy thread lives");
                task.enqueued();
            }
            drop(to_proxy);
        });
        let snapshot = sandbox.snapshot();
        let comm = recorded(&snapshot, 1);
        assert_eq!((comm.enqueued, comm.started, comm.completed), (1_000, 1_000, 1_000));
        assert_eq!(snapshot.losses, Default::default());
        assert!(snapshot.operations.iter().all(|operation| operation.completed_ns.is_some()));
    });
}

#[test]
fn operations_are_numbered_without_gaps() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        (0..20_000).for_each(|_| all_reduce(&comm));
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 1).completed, 20_000);
        let indices: Vec<_> = snapshot.operations.iter().map(|operation| operation.index).collect();
        assert_eq!(indices.last(), Some(&19_999), "the newest are kept");
        assert!(indices.windows(2).all(|pair| pair[1] == pair[0] + 1), "{indices:?}");
        let sequences = snapshot.operations.iter().map(|operation| operation.sequence);
        assert!(sequences.eq(indices.iter().copied()), "one communicator: its sequence is the index");
        assert_eq!(snapshot.losses.operations, 0, "complete operations may go");
    });
}

#[test]
fn config_is_what_the_recorder_shows() {
    isolated(&[("RANK", "11"), ("WORLD_SIZE", "16"), ("C4_JOB", "llm")], |sandbox| {
        let nccl = Nccl::new(&plugin());
        let mut nameless = config(5);
        nameless.name = None;
        let comm = nccl.init(&nameless).expect("the plugin loads");
        let task = comm.collective(&all_reduce_spec());
        task.enqueued();
        let _open = task.proxy(ring(0, true));
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 5).name, "");
        assert_eq!(snapshot.identity.pid, std::process::id());
        assert_eq!(snapshot.identity.profiler_api, 7);
        assert!(snapshot.identity.nccl_version.starts_with("2.31"), "{:?}", snapshot.identity.nccl_version);
        assert_eq!(snapshot.identity.labels.get("RANK").map(String::as_str), Some("11"));
        assert_eq!(snapshot.identity.labels.get("C4_JOB").map(String::as_str), Some("llm"));
        assert!(snapshot.profiling);
    });
}
