//! The ring job by itself, without C4: what the end-to-end tests rely on when they break it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use c4_tests::{
    cluster::wait_for,
    faults::{FaultDir, NetMode, WorkerFault, inject},
    ringjob::checkpoint,
};
use rustix::process::Signal;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// The ranks of one job. Dropping it kills them.
struct Job {
    dir: TempDir,
    ranks: Vec<Child>,
}

impl Job {
    fn start(size: u32, arguments: &[&str]) -> Self {
        let mut job = Self { dir: tempfile::tempdir().expect("temporary directory"), ranks: Vec::new() };
        job.start_ranks(size, 0, arguments);
        job
    }

    fn start_ranks(&mut self, size: u32, incarnation: u32, arguments: &[&str]) {
        let path = |name: &str| self.dir.path().join(name);
        self.ranks = (0..size)
            .map(|rank| {
                Command::new(env!("CARGO_BIN_EXE_ringjob"))
                    .envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string())])
                    .envs([("WORLD_SIZE", size.to_string()), ("C4_INCARNATION", incarnation.to_string())])
                    .env("C4_FAULT_DIR", path("faults"))
                    .env("C4_CHECKPOINT_MARKER", path("marker"))
                    .env("LD_PRELOAD", netfault())
                    .env_remove("NCCL_PROFILER_PLUGIN")
                    .args(["--compute-us", "2000", "--checkpoint-every", "5"])
                    .arg("--rendezvous")
                    .arg(path("rendezvous"))
                    .arg("--checkpoint-dir")
                    .arg(path("checkpoints"))
                    .args(arguments)
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("ringjob starts")
            })
            .collect();
    }

    fn faults(&self) -> FaultDir {
        FaultDir(self.dir.path().join("faults"))
    }

    fn checkpoint(&self) -> u64 {
        checkpoint::newest(&self.dir.path().join("checkpoints")).expect("readable checkpoint")
    }

    fn wait_iteration(&self, rank: u32, iteration: u64) {
        wait_for(&format!("rank {rank} to reach iteration {iteration}"), LIMIT, || {
            Ok(self.faults().read_iteration(rank).filter(|(reached, _)| *reached >= iteration))
        })
        .expect("progress");
    }

    fn wait(&mut self, rank: usize) -> ExitStatus {
        wait_for(&format!("the end of rank {rank}"), LIMIT, || Ok(self.ranks[rank].try_wait()?))
            .expect("an end")
    }

    /// All ranks are there, and none has moved while `for_long` passed.
    fn assert_hangs(&mut self) {
        let iterations = |job: &Job| -> Vec<_> {
            (0..job.ranks.len() as u32).map(|rank| job.faults().read_iteration(rank)).collect()
        };
        // Progress is told every 100 ms, so two equal looks half a second apart mean that nobody moves.
        wait_for("the job to stand still", LIMIT, || {
            let before = iterations(self);
            std::thread::sleep(Duration::from_millis(500));
            Ok((before == iterations(self)).then_some(()))
        })
        .expect("a hang");
        for (rank, child) in self.ranks.iter_mut().enumerate() {
            assert!(child.try_wait().expect("status").is_none(), "rank {rank} has ended");
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

fn netfault() -> std::path::PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ringjob")).with_file_name("libc4_netfault.so");
    assert!(path.exists(), "{} is missing", path.display());
    path
}

#[test]
fn finishes_with_right_sums_and_a_checkpoint() {
    let mut job = Job::start(4, &["--iterations", "12", "--bytes", "4,0,40000", "--channels", "3"]);
    for rank in 0..4 {
        assert!(job.wait(rank).success(), "rank {rank}");
    }
    assert_eq!(job.checkpoint(), 10);
    let marker = fs::read_to_string(job.dir.path().join("marker")).expect("marker");
    let (iteration, seconds) = marker.trim().split_once(' ').expect("two numbers");
    assert_eq!(iteration, "10");
    assert!(seconds.parse::<f64>().is_ok_and(|seconds| seconds >= 0.0), "{marker}");
}

#[test]
fn one_rank_alone_is_a_ring() {
    let mut job = Job::start(1, &["--iterations", "3"]);
    assert!(job.wait(0).success());
}

#[test]
fn a_killed_rank_ends_its_peers_and_the_job_resumes_from_the_checkpoint() {
    let mut job = Job::start(3, &[]);
    job.wait_iteration(1, 6);
    inject::signal(&job.faults(), 1, Signal::KILL).expect("killed");
    assert_eq!(job.wait(0).code(), Some(1));
    assert_eq!(job.wait(2).code(), Some(1));
    job.wait(1);

    let checkpoint = job.checkpoint();
    assert!(checkpoint >= 5);
    let until = (checkpoint + 2).to_string();
    job.start_ranks(3, 1, &["--iterations", &until]);
    for rank in 0..3 {
        assert!(job.wait(rank).success(), "rank {rank}");
    }
    let mut said = String::new();
    let mut stderr = job.ranks[0].stderr.take().expect("piped");
    std::io::Read::read_to_string(&mut stderr, &mut said).expect("what rank 0 said");
    assert!(said.contains(&format!("from iteration {checkpoint}")), "{said}");
}

#[test]
fn without_a_watchdog_the_peers_of_a_killed_rank_wait() {
    let mut job = Job::start(3, &["--hang-on-peer-loss"]);
    job.wait_iteration(1, 2);
    inject::signal(&job.faults(), 1, Signal::KILL).expect("killed");
    job.ranks.remove(1).wait().expect("the killed rank ends");
    job.assert_hangs();
}

#[test]
fn a_skipped_or_resized_collective_hangs_the_job() {
    for fault in [WorkerFault::Skip { once: true }, WorkerFault::Resize { once: true }] {
        let mut job = Job::start(3, &[]);
        job.wait_iteration(2, 2);
        inject::misbehave(&job.faults(), 2, &fault).expect("told");
        job.assert_hangs();
        assert!(!job.faults().fault(2).exists(), "{fault:?} happened and was taken away");
    }
}

#[test]
fn a_blocked_link_hangs_the_job_and_a_mended_one_frees_it() {
    let mut job = Job::start(3, &[]);
    job.wait_iteration(0, 2);
    inject::break_link(&job.faults(), 0, 1, NetMode::Block, 0, false).expect("blocked");
    job.assert_hangs();
    let (stuck, _) = job.faults().read_iteration(0).expect("an iteration");
    inject::mend_links(&job.faults(), 0).expect("mended");
    job.wait_iteration(0, stuck + 3);
}

#[test]
fn links_exist_between_neighbours_only() {
    let job = Job::start(4, &[]);
    job.wait_iteration(0, 1);
    let error = inject::break_link(&job.faults(), 0, 2, NetMode::Block, 0, false).expect_err("no neighbours");
    assert!(error.to_string().contains("no TCP connection"), "{error}");
}

#[test]
fn a_slow_link_lets_its_rate_pass() {
    let mut job = Job::start(2, &["--bytes", "100000"]);
    job.wait_iteration(0, 2);
    // 100 kB a step and direction at 20 kB/s: seconds an iteration, but the job goes on.
    inject::break_link(&job.faults(), 0, 1, NetMode::Slow, 20_000, false).expect("slowed");
    let (before, _) = job.faults().read_iteration(0).expect("an iteration");
    job.wait_iteration(0, before + 2);
    assert!(job.ranks.iter_mut().all(|rank| rank.try_wait().expect("status").is_none()));
}

#[test]
fn wrong_arguments_are_all_named() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringjob"))
        .args(["--rank", "3", "--world-size", "2", "--bytes", "5", "--channels", "0", "--noise", "2"])
        .args(["--rendezvous", "/nonexistent"])
        .output()
        .expect("ringjob starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["rank 3", "--bytes 5", "--channels 0", "--noise 2"] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}
