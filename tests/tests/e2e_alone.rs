//! A job under `c4-agent run` with no controller anywhere: the diagnosis is in the terminal at the end.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use c4_tests::{
    cluster::{Child, Programs, wait_for},
    faults::{FaultDir, inject},
};
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(90);

struct Alone {
    dir: tempfile::TempDir,
    agent: Child,
}

impl Alone {
    fn start(ring_args: &[&str]) -> Self {
        let programs = Programs::built().expect("programs");
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("faults")).expect("a directory");
        let mut command = Command::new(programs.agent());
        for variable in ["C4_JOB", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "C4_INCARNATION", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command.env("C4_FAULT_DIR", dir.path().join("faults"));
        command.args([
            "run",
            "--job",
            "alone",
            "--node",
            "here",
            "--ranks",
            "0-3",
            "--world-size",
            "4",
            "--plugin",
        ]);
        command.arg(programs.plugin()).arg("--").arg(programs.ringjob());
        command.arg("--rendezvous").arg(dir.path().join("rendezvous")).args(["--nodes", "1"]);
        command.args(["--compute-us", "40000", "--bytes", "4096,262144"]).args(ring_args);
        let agent = Child::start("agent", &mut command, &dir.path().join("log")).expect("an agent");
        Self { dir, agent }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn faults(&self) -> FaultDir {
        FaultDir(PathBuf::from(self.dir.path()).join("faults"))
    }

    /// Waits until the rhythm is known.
    fn settle(&self) {
        let reached = || self.faults().read_iteration(0).filter(|(iteration, _)| *iteration > 40);
        wait_for("iterations", LIMIT, || Ok(reached())).expect("iterations");
    }

    /// The exit code, and what was said after the job's end.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.agent.wait(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        let log = self.log();
        let diagnosis = log.find("C4 watched").unwrap_or_else(|| panic!("no diagnosis:\n{log}"));
        (status.code(), log[diagnosis..].to_owned())
    }
}

#[test]
fn a_healthy_job_is_told_to_be_healthy() {
    let (code, said) = Alone::start(&["--iterations", "80"]).end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("C4 watched job alone: 4 ranks, "), "{said}");
    assert!(said.contains("Nothing was wrong with it."), "{said}");
}

#[test]
fn a_hang_is_told_when_somebody_gives_up_waiting() {
    let alone = Alone::start(&[]);
    alone.settle();
    inject::signal(&alone.faults(), 2, Signal::STOP).expect("stopped");
    wait_for("the finding", LIMIT, || Ok(alone.log().contains("_hang").then_some(()))).expect("told at once");
    let pid = Pid::from_raw(i32::try_from(alone.agent.pid()).expect("a pid")).expect("a pid");
    kill_process(pid, Signal::INT).expect("interrupted");
    let (code, said) = alone.end();
    assert_eq!(code, Some(130), "{said}");
    let first = said.lines().nth(1).unwrap_or_default();
    assert!(first.contains("_hang: rank 2"), "{said}");
    assert!(!said.contains("process_death"), "what was ended on purpose accuses nobody: {said}");
}

#[test]
fn a_death_is_told_with_the_exit_code_of_the_job() {
    let alone = Alone::start(&[]);
    alone.settle();
    inject::signal(&alone.faults(), 1, Signal::KILL).expect("killed");
    let (code, said) = alone.end();
    assert_eq!(code, Some(137), "{said}");
    let first = said.lines().nth(1).unwrap_or_default();
    assert!(first.contains("process_death: rank 1") && first.contains("killed by signal 9"), "{said}");
}
