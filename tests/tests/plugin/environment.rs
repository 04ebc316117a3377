//! A recorder directory that cannot be used, and settings that make no sense: the job goes on, and is told once.

use std::process::Command;

use c4_tests::nccl::{Nccl, take_log};
use nccl_profiler_c4::abi::log_level;

use crate::harness::{
    STEPS, all_reduce, config, connection, init, isolated, isolated_then, nccl, plugin, recorded,
};

/// Runs a job on three communicators whose recorder cannot be made; it must notice nothing but one warning.
fn job_goes_on_without_a_recorder() {
    // v1 has no logger, so it is not the one that says it.
    for version in [5, 1, 4, 7] {
        let nccl = Nccl::knowing_up_to(&plugin(), version);
        let comms: Vec<_> = (0..3).map(|id| init(&nccl, id)).collect();
        comms.iter().for_each(all_reduce);
        nccl.mask().store(0xFFFF, std::sync::atomic::Ordering::Relaxed);
        comms.iter().for_each(all_reduce);
        comms.into_iter().for_each(|comm| comm.finalize());
    }
    let warnings: Vec<_> = take_log().into_iter().filter(|line| line.level <= log_level::WARN).collect();
    assert_eq!(warnings.len(), 1, "said once: {warnings:?}");
    let directory = std::env::var("C4_RECORDER_DIR").expect("set");
    assert!(warnings[0].text.contains(&directory), "says where: {:?}", warnings[0]);
}

#[test]
fn recorder_directory_that_cannot_be_made() {
    // Not even root can: the parent is a file.
    isolated(&[("C4_RECORDER_DIR", "/etc/hostname/c4")], |_| job_goes_on_without_a_recorder());
}

#[test]
fn recorder_directory_that_cannot_be_written() {
    // A directory in which not even root can make files.
    isolated(&[("C4_RECORDER_DIR", "/proc/self")], |_| job_goes_on_without_a_recorder());
}

#[test]
fn recorder_directory_that_is_missing_is_made() {
    isolated_then(
        &[],
        |sandbox| {
            std::fs::remove_dir(&sandbox.directory).expect("it is empty");
            let nccl = nccl();
            let comm = init(&nccl, 1);
            all_reduce(&comm);
            assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 1);
        },
        |sandbox, output| {
            assert!(output.status.success());
            assert_eq!(sandbox.recorders().len(), 1);
        },
    );
}

/// Set in the process for which there is no room.
const NO_ROOM: &str = "C4_NO_ROOM";

/// The body of the two tests below, in the process for which there is no room.
fn no_room(test: &str) -> bool {
    if std::env::var(NO_ROOM).as_deref() != Ok(test) {
        return false;
    }
    job_goes_on_without_a_recorder();
    let directory = std::env::var("C4_RECORDER_DIR").expect("set");
    let left = std::fs::read_dir(directory).expect("the directory").count();
    assert_eq!(left, 0, "no half-made recorder is left for the agent to trip over");
    true
}

/// Runs a test again under a shell script that takes its room away.
fn run_again_without_room(test: &str, wrapper: &[&str], script: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(wrapper.first().unwrap_or(&"sh"));
    command.args(wrapper.iter().skip(1));
    if !wrapper.is_empty() {
        command.arg("sh");
    }
    command.args(["-c", script]).arg(std::env::current_exe().expect("own path"));
    command.args([&format!("environment::{test}"), "--exact", "--nocapture", "--test-threads=1"]);
    command.env("C4_RECORDER_DIR", directory.path()).env(NO_ROOM, test);
    let output = command.output().expect("a shell");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(said.contains("running 1 test"), "{said}");
}

/// A tmpfs of 64 KiB, mounted in namespaces of its own (no privilege needed): /dev/shm in a pod that has filled it.
#[test]
fn recorder_directory_that_is_full() {
    let test = "recorder_directory_that_is_full";
    if no_room(test) {
        return;
    }
    let namespaces = ["unshare", "--user", "--map-root-user", "--mount"];
    let mut probe = Command::new(namespaces[0]);
    let allowed = probe.args(&namespaces[1..]).args(["mount", "-t", "tmpfs", "none", "/mnt"]).status();
    if !allowed.as_ref().is_ok_and(|status| status.success()) {
        println!("SKIPPED: unprivileged user namespaces with mounts are not permitted here: {allowed:?}");
        return;
    }
    let script = "mount -t tmpfs -o size=64k none \"$C4_RECORDER_DIR\" && exec \"$0\" \"$@\"";
    run_again_without_room(test, &namespaces, script);
}

/// A limit on the size of files, with its signal ignored as Python does: the same on machines that allow no mounts.
#[test]
fn recorder_larger_than_files_may_be() {
    let test = "recorder_larger_than_files_may_be";
    if !no_room(test) {
        // In blocks of 512 bytes.
        run_again_without_room(test, &[], "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"");
    }
}

#[test]
fn settings_that_make_no_sense_are_the_defaults() {
    let nonsense = [("C4_STEP_SAMPLING", "often"), ("C4_KERNEL_EVENTS", "perhaps"), ("C4_PROFILER", "maybe")];
    isolated(&nonsense, |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        let _second = init(&nccl, 2);
        (0..64).for_each(|_| all_reduce(&comm));
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 1).completed, 64);
        let timed = connection(&snapshot, 0, true).timed_steps / u64::from(STEPS);
        assert!((15..=17).contains(&timed), "four in sixteen, since they come slowly at first: {timed}");
        assert!(snapshot.operations.iter().all(|operation| operation.started_on_gpu));
        let warnings: Vec<_> = take_log().into_iter().filter(|line| line.level <= log_level::WARN).collect();
        for (name, value) in
            [("C4_STEP_SAMPLING", "often"), ("C4_KERNEL_EVENTS", "perhaps"), ("C4_PROFILER", "maybe")]
        {
            let about = warnings.iter().filter(|line| line.text.contains(name) && line.text.contains(value));
            assert_eq!(about.count(), 1, "{name}={value} is said once: {warnings:?}");
        }
    });
}

#[test]
fn what_says_which_network_is_used_is_kept_whole_or_not_at_all() {
    // Longer than labels are kept.
    let list = format!("={}", (0..40).map(|n| format!("mlx5_{n}:1")).collect::<Vec<_>>().join(","));
    let absurd = "e".repeat(2_000);
    let variables =
        [("NCCL_IB_HCA", list.as_str()), ("NCCL_SOCKET_IFNAME", &absurd), ("NCCL_IB_DISABLE", "0")];
    isolated(&variables, |sandbox| {
        let _comm = init(&nccl(), 1);
        let labels = sandbox.snapshot().identity.labels;
        let label = |name: &str| labels.get(name).map(String::as_str);
        assert_eq!(label("NCCL_IB_HCA"), std::env::var("NCCL_IB_HCA").ok().as_deref());
        assert!(label("NCCL_IB_HCA").is_some_and(|list| list.ends_with(",mlx5_39:1")));
        assert_eq!((label("NCCL_SOCKET_IFNAME"), label("NCCL_IB_DISABLE")), (None, Some("0")));
    });
}

#[test]
fn numbers_out_of_range() {
    for value in ["-1", "99999999999999999999", "1.5", " 4"] {
        isolated(&[("C4_STEP_SAMPLING", value)], |sandbox| {
            let nccl = nccl();
            let comm = init(&nccl, 1);
            all_reduce(&comm);
            assert_eq!(recorded(&sandbox.snapshot(), 1).completed, 1);
        });
    }
}

#[test]
fn switched_off() {
    isolated(&[("C4_PROFILER", "off")], |sandbox| {
        let nccl = nccl();
        let comm = init(&nccl, 1);
        assert_eq!(nccl.mask().load(std::sync::atomic::Ordering::Relaxed), 0);
        all_reduce(&comm);
        // Even if somebody else sets the mask.
        nccl.mask().store(0xFFFF, std::sync::atomic::Ordering::Relaxed);
        all_reduce(&comm);
        comm.finalize();
        for recorder in sandbox.recorders() {
            let snapshot =
                c4_recorder::reader::Reader::open(&recorder).expect("sound").snapshot().expect("sound");
            assert!(!snapshot.profiling, "it does not claim to see");
            assert_eq!(snapshot.operations.len(), 0);
        }
    });
}

#[test]
fn names_that_are_no_text() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let long = "n".repeat(10_000);
        let mut with_name = config(1);
        with_name.name = Some(long.clone());
        let comm = nccl.init(&with_name).expect("the plugin loads");
        let mut odd = config(2);
        odd.name = Some("zwölf \u{1F600} \u{7}".to_owned());
        let _odd = nccl.init(&odd).expect("the plugin loads");
        all_reduce(&comm);
        let snapshot = sandbox.snapshot();
        let kept = &recorded(&snapshot, 1).name;
        assert!(!kept.is_empty() && long.starts_with(kept.as_str()), "cut, not lost: {}", kept.len());
        assert!(recorded(&snapshot, 2).name.starts_with("zw"));
    });
}

#[test]
fn sizes_that_make_no_sense() {
    isolated(&[], |sandbox| {
        let nccl = nccl();
        let mut absurd = config(1);
        (absurd.ranks, absurd.rank, absurd.nodes) = (u32::MAX, u32::MAX, 0);
        let comm = nccl.init(&absurd).expect("the plugin loads");
        assert_eq!(comm.init_result(), 0);
        let spec = c4_tests::nccl::Collective { count: usize::MAX / 8, ..crate::harness::all_reduce_spec() };
        let task = comm.collective(&spec);
        task.enqueued();
        crate::harness::children(&task);
        let snapshot = sandbox.snapshot();
        assert_eq!(recorded(&snapshot, 1).completed, 1);
    });
}
