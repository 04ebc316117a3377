//! The supervisor as it ships, over real processes. Nothing is timed: each step waits for the report that says it is done.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use c4_detect::observation::ProcessState;
use rustix::process::{Pid, kill_process};
use tokio::task::JoinHandle;

use super::*;
use crate::{procfs, recorders::Known, report::Checkpoint};

/// A step that takes longer than this never happens.
const NEVER: Duration = Duration::from_secs(60);

struct Rig {
    dir: tempfile::TempDir,
    exits: Exits,
    commands: mpsc::Sender<Command>,
    interrupts: mpsc::Sender<i32>,
    reports: mpsc::Receiver<Captured>,
    done: JoinHandle<Result<u8, SpawnError>>,
    asked: u32,
}

fn settings() -> Supervise {
    Supervise {
        restart_grace: NEVER,
        stop_grace: NEVER,
        report_interval: Duration::from_secs(3600),
        evidence: EvidenceSettings { sets: 0, ..EvidenceSettings::default() },
    }
}

/// Runs `script` for ranks 0 and 1. It finds a directory for itself in `DIR`.
fn rig(script: &str, settings: Supervise, has_controller: bool) -> Rig {
    rig_that(script, settings, has_controller, First::Run(0))
}

fn rig_that(script: &str, mut settings: Supervise, has_controller: bool, first: First) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let spec = Spec {
        job: "llm".to_owned(),
        command: ["sh", "-c", script].map(OsString::from).to_vec(),
        ranks: Some(4..=5),
        world_size: 8,
        least_world_size: 0,
        opted_out: String::new(),
        place: None,
        checkpoint_marker: dir.path().join("marker"),
        environment: BTreeMap::from([("DIR", "."), ("C4_RECORDER_DIR", "recorders")])
            .into_iter()
            .map(|(name, place)| (name.to_owned(), dir.path().join(place).into()))
            .collect(),
        log_dir: Some(dir.path().join("logs")),
    };
    let exits = Exits::default();
    let (commands, command_receiver) = mpsc::channel(8);
    let (interrupts, interrupt_receiver) = mpsc::channel(8);
    let (sender, reports) = mpsc::channel(64);
    let token = format!("test-{}", dir.path().display());
    settings.evidence.directory = dir.path().join("evidence");
    let checks = CheckSettings::default();
    let supervisor = Supervisor::new(spec, settings, checks, has_controller, token, exits.clone(), sender);
    let done = tokio::spawn(supervisor.run(first, command_receiver, interrupt_receiver));
    Rig { dir, exits, commands, interrupts, reports, done, asked: 0 }
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn next(&mut self) -> Report {
        let report = tokio::time::timeout(NEVER, self.reports.recv()).await.expect("a report in time");
        report.expect("the supervisor runs").report
    }

    /// Waits for the group to say that it is in `state`.
    async fn state(&mut self, state: GroupState) -> GroupStatus {
        loop {
            if let Report::Group(status) = self.next().await
                && status.state == state
            {
                return status;
            }
        }
    }

    async fn answer(&mut self) -> (String, bool, String) {
        loop {
            if let Report::CommandResult { command_id, ok, detail } = self.next().await {
                return (command_id, ok, detail);
            }
        }
    }

    async fn send(&self, id: &str, action: CommandAction) {
        self.commands.send(Command { id: id.to_owned(), action, trace: None }).await.unwrap();
    }

    /// Sends a new command and waits for its answer.
    async fn ask(&mut self, action: CommandAction) -> (bool, String) {
        self.asked += 1;
        let id = format!("c{}", self.asked);
        self.send(&id, action).await;
        let (answered, ok, detail) = self.answer().await;
        assert_eq!(answered, id);
        (ok, detail)
    }

    /// Waits for a file with a whole line in it, and returns the line.
    async fn line(&self, name: &str) -> String {
        let path = self.path(name);
        let written = async {
            loop {
                match fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(NEVER, written).await.unwrap_or_else(|_| panic!("{name} was never written"))
    }

    async fn end(self) -> u8 {
        tokio::time::timeout(NEVER, self.done).await.expect("an end in time").unwrap().unwrap()
    }
}

fn stop(incarnation: u32, grace: Duration) -> CommandAction {
    CommandAction::StopGroup { job: "llm".to_owned(), incarnation, grace }
}

fn start(incarnation: u32) -> CommandAction {
    start_as(incarnation, Part::AsBefore)
}

fn start_as(incarnation: u32, part: Part) -> CommandAction {
    CommandAction::StartGroup { job: "llm".to_owned(), incarnation, part }
}

fn lives(pid: &str) -> bool {
    let stat = procfs::read_stat(Path::new("/proc"), pid.parse().unwrap());
    stat.is_some_and(|stat| stat.state != ProcessState::Zombie)
}

fn kill(pid: &str, signal: Signal) {
    kill_process(Pid::from_raw(pid.parse().unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn ranks_get_their_environment_and_the_end_is_the_jobs() {
    let mut rig = rig("echo $RANK $LOCAL_RANK $WORLD_SIZE $C4_JOB $C4_INCARNATION; exit 0", settings(), true);
    let status = rig.state(GroupState::Finished).await;
    assert_eq!((status.ranks, status.world_size), (vec![4, 5], 8));
    assert_eq!(rig.line("logs/rank-4.log").await, "4 0 8 llm 0");
    assert_eq!(rig.line("logs/rank-5.log").await, "5 1 8 llm 0");
    assert_eq!(rig.end().await, 0);
}

#[tokio::test]
async fn without_a_controller_one_failure_ends_all_with_its_code() {
    let mut rig = rig("[ $RANK = 5 ] && exit 7; echo $$ >$DIR/pid; sleep 1000 & wait", settings(), false);
    let status = rig.state(GroupState::Failed).await;
    assert!(status.detail.contains("rank 5") && status.detail.contains("exit code 7"), "{}", status.detail);
    rig.state(GroupState::Stopped).await;
    assert_eq!(rig.end().await, 7);
}

#[tokio::test]
async fn a_killed_rank_is_told_at_once_and_the_others_are_left_as_evidence() {
    let mut rig = rig("echo $$ >$DIR/pid-$RANK; exec sleep 1000", settings(), true);
    let (dead, frozen) = (rig.line("pid-4").await, rig.line("pid-5").await);
    kill(&frozen, Signal::STOP);
    kill(&dead, Signal::KILL);
    let status = rig.state(GroupState::Failed).await;
    assert!(status.detail.contains("rank 4") && status.detail.contains("signal 9"), "{}", status.detail);
    assert_eq!(
        rig.exits.get(dead.parse().unwrap()),
        Known::Ended(ExitStatus { code: None, signal: Some(9) })
    );
    assert_eq!(rig.exits.get(frozen.parse().unwrap()), Known::Running);
    assert!(lives(&frozen));
    // Stopping it takes the frozen one along, too, though it cannot hear SIGTERM while it is stopped.
    let (ok, detail) = rig.ask(stop(0, NEVER)).await;
    assert!(ok, "{detail}");
    assert!(!lives(&frozen));
}

#[tokio::test]
async fn a_restart_is_a_new_incarnation_and_idempotent() {
    let script = "echo $$ >$DIR/pid-$RANK-$C4_INCARNATION; exec sleep 1000";
    let mut rig = rig(script, settings(), true);
    let old = rig.line("pid-4-0").await;
    let (ok, detail) = rig.ask(start(1)).await;
    assert!(!ok && detail.contains("still runs"), "{detail}");
    assert!(rig.ask(stop(0, NEVER)).await.0 && !lives(&old));
    assert!(rig.ask(stop(0, NEVER)).await.0, "it was stopped already");
    rig.send("again", start(1)).await;
    assert_eq!(rig.state(GroupState::Running).await.incarnation, 1);
    assert_eq!(rig.answer().await.0, "again");
    let new = rig.line("pid-4-1").await;
    // The same command again, and another that asks for the same: answered, not carried out.
    rig.send("again", start(1)).await;
    assert!(rig.answer().await.1);
    assert!(rig.ask(start(1)).await.0);
    // What is of yesterday does not stop what runs today; what never was is an error.
    assert!(rig.ask(stop(0, NEVER)).await.0);
    assert!(!rig.ask(stop(9, NEVER)).await.0);
    let other = CommandAction::StopGroup { job: "other".to_owned(), incarnation: 1, grace: NEVER };
    assert!(!rig.ask(other).await.0);
    assert!(lives(&new));
}

#[tokio::test]
async fn whoever_does_not_hear_sigterm_is_killed_with_everything_it_started() {
    // A worker in a session of its own, as torchrun starts them, that ignores SIGTERM, below a leader that does, too.
    let script = "trap '' TERM; [ $RANK = 4 ] && setsid sh -c 'echo $$ >$DIR/worker; exec sleep 1000' & \
                  echo $$ >$DIR/pid-$RANK; while :; do sleep 1; done";
    let mut rig = rig(script, settings(), true);
    let (leader, worker) = (rig.line("pid-4").await, rig.line("worker").await);
    assert!(rig.ask(stop(0, Duration::ZERO)).await.0);
    assert!(!lives(&leader) && !lives(&worker));
}

#[tokio::test]
async fn orphans_of_a_launcher_that_was_killed_are_ended_too() {
    let script =
        "setsid sh -c 'echo $$ >$DIR/worker-'$RANK'; exec sleep 1000' & echo $$ >$DIR/pid-$RANK; wait";
    let mut rig = rig(script, settings(), true);
    let (launcher, worker) = (rig.line("pid-4").await, rig.line("worker-4").await);
    kill(&launcher, Signal::KILL);
    rig.state(GroupState::Failed).await;
    assert!(lives(&worker));
    assert!(rig.ask(stop(0, NEVER)).await.0);
    assert!(!lives(&worker));
}

#[tokio::test]
async fn a_controller_that_does_nothing_is_waited_for_so_long() {
    let patient = Supervise { restart_grace: Duration::from_millis(300), ..settings() };
    let mut rig = rig("[ $RANK = 4 ] && kill -9 $$; exec sleep 1000", patient, true);
    rig.state(GroupState::Failed).await;
    let status = rig.state(GroupState::Stopping).await;
    assert!(status.detail.contains("nobody restarted"), "{}", status.detail);
    rig.state(GroupState::Stopped).await;
    assert_eq!(rig.end().await, 137);
}

#[tokio::test]
async fn whoever_stops_a_job_that_failed_is_not_hurried_and_finds_it_there_to_start() {
    let hasty =
        Supervise { restart_grace: Duration::from_millis(500), stop_grace: Duration::ZERO, ..settings() };
    let script =
        "trap 'sleep 1; echo yes >$DIR/saved-$RANK; exit 0' TERM; echo $$ >$DIR/pid-$RANK-$C4_INCARNATION
        [ $RANK-$C4_INCARNATION = 4-0 ] && exit 7; while :; do sleep 0.1; done";
    let mut rig = rig(script, hasty, true);
    rig.line("pid-5-0").await;
    rig.state(GroupState::Failed).await;
    let (ok, detail) = rig.ask(stop(0, NEVER)).await;
    assert!(ok, "{detail}");
    assert_eq!(rig.line("saved-5").await, "yes", "it had the time that it was given");
    assert!(rig.ask(start(1)).await.0);
    rig.line("pid-4-1").await;
    assert!(rig.ask(stop(1, Duration::ZERO)).await.0);
}

#[tokio::test]
async fn an_interrupt_ends_the_group_and_a_second_one_at_once() {
    let mut rig = rig("trap '' TERM; echo $$ >$DIR/pid-$RANK; while :; do sleep 1; done", settings(), true);
    let (one, other) = (rig.line("pid-4").await, rig.line("pid-5").await);
    rig.interrupts.send(2).await.unwrap();
    rig.state(GroupState::Stopping).await;
    assert!(lives(&one) && lives(&other), "they ignore SIGTERM and have a minute");
    rig.interrupts.send(2).await.unwrap();
    rig.state(GroupState::Stopped).await;
    assert!(!lives(&one) && !lives(&other));
    assert_eq!(rig.end().await, 130);
}

#[tokio::test]
async fn nobody_outlives_a_supervisor_that_is_dropped() {
    let rig = rig("echo $$ >$DIR/pid-$RANK; exec sleep 1000", settings(), true);
    let (one, other) = (rig.line("pid-4").await, rig.line("pid-5").await);
    rig.done.abort();
    let _ = rig.done.await;
    let gone = async {
        while lives(&one) || lives(&other) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, gone).await.expect("both are gone");
}

#[tokio::test]
async fn checkpoints_are_told_as_they_appear() {
    let mut rig = rig("echo $$ >$DIR/pid-$RANK; exec sleep 1000", settings(), true);
    rig.line("pid-5").await;
    assert_eq!(rig.state(GroupState::Running).await.checkpoint, None);
    fs::write(rig.path("marker"), "40\n").unwrap();
    let status = rig.state(GroupState::Running).await;
    assert!(
        matches!(status.checkpoint, Some(Checkpoint { iteration: 40, age_us: Some(_), .. })),
        "{status:?}"
    );
    // The restart keeps it.
    rig.ask(stop(0, NEVER)).await;
    rig.send("c", start(1)).await;
    assert_eq!(rig.state(GroupState::Running).await.checkpoint.unwrap().iteration, 40);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_an_error_that_names_it() {
    let spec = Spec {
        job: "llm".to_owned(),
        command: vec!["/nonexistent/train".into()],
        ranks: None,
        world_size: 0,
        least_world_size: 0,
        opted_out: String::new(),
        place: None,
        checkpoint_marker: PathBuf::from("/nonexistent/marker"),
        environment: BTreeMap::new(),
        log_dir: None,
    };
    let (reports, _keep) = mpsc::channel(8);
    let checks = CheckSettings::default();
    let supervisor =
        Supervisor::new(spec, settings(), checks, false, "t".to_owned(), Exits::default(), reports);
    let (_commands, commands) = mpsc::channel(1);
    let (_interrupts, interrupts) = mpsc::channel(1);
    let error = supervisor.run(First::Run(0), commands, interrupts).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/train"), "{error}");
    assert_eq!(error.exit_code(), 127);
}

#[tokio::test]
async fn a_spare_waits_for_ranks_and_gives_them_up_again() {
    let script = "echo $RANK $WORLD_SIZE $NODE_RANK $NNODES $PET_MASTER_ADDR $C4_INCARNATION >$DIR/is-$RANK; exec sleep 1000";
    let mut rig = rig_that(script, settings(), true, First::StandBy);
    let spare = rig.state(GroupState::Standby).await;
    assert_eq!((spare.incarnation, rig.ask(stop(3, NEVER)).await.0), (0, true));
    let (ok, detail) = rig.ask(start(4)).await;
    assert!(ok && detail.contains("stands by"), "{detail}");
    let assignment = crate::report::Assignment {
        first_rank: 2,
        ranks: 1,
        world_size: 6,
        node_rank: 1,
        nodes: 3,
        master: "n0".to_owned(),
    };
    assert!(rig.ask(start_as(4, Part::Assigned(assignment))).await.0);
    assert_eq!(rig.line("is-2").await, "2 6 1 3 n0 4");
    assert!(rig.ask(stop(4, Duration::ZERO)).await.0);
    rig.send("stand by", start_as(5, Part::StandBy)).await;
    assert_eq!(rig.state(GroupState::Standby).await.incarnation, 5);
    assert!(rig.answer().await.1);
    rig.interrupts.send(15).await.unwrap();
    assert_eq!(rig.end().await, 143);
}

#[tokio::test]
async fn evidence_is_saved_before_anything_is_ended() {
    let with_evidence =
        Supervise { evidence: EvidenceSettings { sets: 2, ..EvidenceSettings::default() }, ..settings() };
    let mut rig = rig("exec sleep 1000", with_evidence, true);
    fs::create_dir_all(rig.path("recorders")).unwrap();
    fs::write(rig.path("recorders/rank-4"), "flight").unwrap();
    rig.state(GroupState::Running).await;
    rig.send("c", stop(0, Duration::ZERO)).await;
    let saved = loop {
        match rig.next().await {
            Report::Evidence { job, incarnation, saved } => break (job, incarnation, saved),
            Report::Group(status) => assert_eq!(status.state, GroupState::Running, "nothing was ended yet"),
            _ => {}
        }
    };
    assert_eq!((saved.0.as_str(), saved.1), ("llm", 0));
    assert_eq!(fs::read_to_string(saved.2.path.join("rank-4")).unwrap(), "flight");
    assert!(saved.2.files > 1, "what the kernel says of the processes is there too");
    rig.state(GroupState::Stopped).await;
    drop(rig.interrupts);
}
