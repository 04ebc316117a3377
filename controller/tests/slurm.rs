//! The Slurm actuator against a real slurmctld, slurmd and munge, as Debian has them.

use std::{collections::BTreeSet, time::Duration};

use c4_controller::steer::{
    action::{Action, ActionId, Deed, Order, State, Step},
    actuator::Actuator,
    scheduler::SchedulerNode,
    slurm::{MARK, SlurmActuator},
};
use c4_detect::observation::{JobId, NodeName, Timestamp};
use c4_proto::v1::{self, agent_message::Body};

mod support;

#[path = "slurm/cluster.rs"]
mod cluster;

use cluster::{Slurm, wait};
use support::{
    Agent, agents, controller, done, event, isolated_and_released_though_killed, joined, program, started,
    window,
};

fn order(deed: Deed, step: Step) -> Order {
    let action = Action {
        id: ActionId("test-1".into()),
        job: deed.job().cloned(),
        deed,
        finding: None,
        kind: None,
        blamed: None,
        because: "GPU 4 of n1 fell off the bus".into(),
        by: None,
        planned: Timestamp(0),
        ended: None,
        state: State::Doing { step },
        attempt: 1,
    };
    Order { id: "test-1".into(), action, step, grace_us: 0, timeout_us: 60_000_000 }
}

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

fn isolate(name: &str) -> Order {
    order(Deed::Isolate { node: node(name) }, Step::Isolate)
}

fn release(name: &str) -> Order {
    order(Deed::Release { node: node(name), check: false }, Step::Release)
}

fn restart(number: u32, incarnation: u32, without: &[&str], step: Step) -> Order {
    let without: BTreeSet<NodeName> = without.iter().map(|name| node(name)).collect();
    let job = JobId(format!("slurm-{number}"));
    order(
        Deed::Restart {
            job,
            incarnation,
            without,
            isolate: false,
            ran_on: BTreeSet::new(),
            placement: Vec::new(),
        },
        step,
    )
}

async fn seen(slurm: &SlurmActuator, name: &str) -> SchedulerNode {
    slurm.nodes().await.expect("answers").into_iter().find(|seen| seen.name.0 == name).expect("known")
}

/// One Slurm for all that follows: it takes some seconds to start.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_drained_and_jobs_come_back_elsewhere() {
    let mut real = Slurm::start();
    let slurm = SlurmActuator::new(real.config());
    drains_and_resumes(&real, &slurm).await;
    requeues(&real, &slurm).await;
    comes_back_by_itself(&real).await;
    survives_the_controllers_death(&real).await;
    comes_back_once_whoever_dies(&real).await;
    sees_nodes_go_down(&mut real, &slurm).await;
}

async fn drains_and_resumes(real: &Slurm, slurm: &SlurmActuator) {
    // Twice: an order may come again.
    for _ in 0..2 {
        slurm.carry_out(&isolate("n1")).await.expect("drained");
        let drained = seen(slurm, "n1").await;
        assert!(drained.drained && drained.reason.starts_with(MARK), "{drained:?}");
        assert!(drained.reason.contains("fell off the bus (test-1)"), "{drained:?}");
    }
    for _ in 0..2 {
        slurm.carry_out(&release("n1")).await.expect("resumed");
        assert!(!seen(slurm, "n1").await.drained);
    }
    // What somebody else has drained stays so.
    real.ask("scontrol", &["update", "NodeName=n2", "State=DRAIN", "Reason=bad fan"]).expect("drained");
    let said = slurm.carry_out(&isolate("n2")).await.expect("as it is");
    assert!(said.contains("bad fan"), "{said}");
    let refused = slurm.carry_out(&release("n2")).await.expect_err("not ours").to_string();
    assert!(refused.contains("somebody else did: bad fan"), "{refused}");
    real.ask("scontrol", &["update", "NodeName=n2", "State=RESUME"]).expect("resumed");
    let unknown = slurm.carry_out(&isolate("n77")).await.expect_err("unknown").to_string();
    assert!(unknown.contains("knows no node n77"), "{unknown}");
}

async fn requeues(real: &Slurm, slurm: &SlurmActuator) {
    let number = real.submit(&["--nodelist=n1"]);
    wait("the job to run", || real.job(number, "JobState").filter(|state| state == "RUNNING"));
    real.ask("scontrol", &["update", &format!("JobId={number}"), "ReqNodeList="]);
    for _ in 0..2 {
        slurm.carry_out(&restart(number, 0, &[], Step::Stop)).await.expect("stopped");
        assert_eq!(real.job(number, "JobState").as_deref(), Some("PENDING"));
    }
    real.ask("scontrol", &["update", &format!("JobId={number}"), "ReqNodeList="]);
    let start = restart(number, 0, &["n1"], Step::Start);
    for _ in 0..2 {
        let said = slurm.carry_out(&start).await.expect("started");
        assert!(said.contains("n2") || said.contains("n3"), "{said}");
    }
    assert_eq!(real.job(number, "Restarts").as_deref(), Some("1"));
    // A stop of the incarnation before stops nothing.
    slurm.carry_out(&restart(number, 0, &[], Step::Stop)).await.expect("nothing to do");
    assert_eq!(real.job(number, "JobState").as_deref(), Some("RUNNING"));
    real.ask("scancel", &[&number.to_string()]).expect("cancelled");
    wait("the job's end", || real.job(number, "JobState").filter(|state| state == "CANCELLED"));
    let over = slurm.carry_out(&restart(number, 1, &[], Step::Stop)).await.expect_err("over").to_string();
    assert!(over.contains("is cancelled"), "{over}");
}

/// The whole of C4 in front of it: a GPU falls off the bus, the node is drained, the job runs on another.
async fn comes_back_by_itself(real: &Slurm) {
    let number = real.submit(&[]);
    let first = wait("the job to run", || {
        real.job(number, "JobState").filter(|state| state == "RUNNING")?;
        real.job(number, "NodeList")
    });
    let job = format!("slurm-{number}");
    let yaml = format!(
        "steer: {{mode: auto, settle_seconds: 0.0, stop_timeout_seconds: 60, start_timeout_seconds: 60, \
         slurm: {{conf: {}, poll_seconds: 0.5}}}}",
        real.conf().display()
    );
    let running = controller(&yaml).await;
    let mut agent = Agent::connect(&running, &first, "s", 1).await;
    let mut last = 0;
    for rank in 0..2 {
        let process = u64::from(rank) + 1;
        let mut start = started(process, &job, rank, 2);
        if let Body::ProcessStarted(start) = &mut start {
            start.gpu = Some(rank);
        }
        agent.say(start).await;
        agent.say(joined(process, 900, rank, 2)).await;
        last = agent.say(window(process, 900, 40)).await;
    }
    agent.acknowledged(last).await;
    agent
        .say(Body::Health(v1::Health {
            component: "gpu".into(),
            gpu: Some(1),
            code: "xid-79".into(),
            detail: "GPU has fallen off the bus".into(),
            severity: v1::Severity::Fatal.into(),
            ..Default::default()
        }))
        .await;
    agent
        .say(Body::ProcessEnded(v1::ProcessEnded { process: 2, signal: Some(9), ..Default::default() }))
        .await;
    event(&running, |event| event.kind == "action" && event.text.contains("which is isolated")).await;
    let second = wait("the job to run elsewhere", || {
        real.job(number, "JobState").filter(|state| state == "RUNNING")?;
        real.job(number, "NodeList").filter(|nodes| *nodes != first)
    });
    assert_eq!(real.job(number, "Restarts").as_deref(), Some("1"));
    let drained = seen(&SlurmActuator::new(real.config()), &first).await;
    assert!(drained.drained && drained.reason.starts_with(MARK), "{drained:?}");
    // It appears, and with it the action is over.
    let mut other = Agent::connect(&running, &second, "s", 1).await;
    for rank in 0..2 {
        let mut start = started(u64::from(rank) + 11, &job, rank, 2);
        if let Body::ProcessStarted(start) = &mut start {
            start.incarnation = 1;
        }
        other.say(start).await;
    }
    event(&running, |event| event.kind == "action" && event.text.contains("(incarnation 1")).await;
    // Somebody gives the node back in Slurm: C4 hears of it, and leaves it to them.
    real.ask("scontrol", &["update", &format!("NodeName={first}"), "State=RESUME"]).expect("resumed");
    event(&running, |event| event.text.contains("somebody in Slurm gave it back")).await;
    real.ask("scancel", &[&number.to_string()]).expect("cancelled");
    running.drain().await;
}

/// The controller as it ships is killed at every step of an isolation, of the ticket that follows it and of the release, and
/// started again: Slurm and the hook get each of them once.
async fn survives_the_controllers_death(real: &Slurm) {
    let mut moments = 0;
    for number in 1.. {
        let before = killed_at(real, &format!("before:{number}")).await;
        let after = killed_at(real, &format!("after:{number}")).await;
        if !before && !after {
            break;
        }
        moments += 1;
    }
    // Three actions, each planned, in its one step, and done; the ticket's plan may be written with what is due at that moment.
    assert!(moments >= 8, "{moments}");
}

/// Returns whether the moment came.
async fn killed_at(real: &Slurm, moment: &str) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, log) = (dir.path().join("c4.yaml"), dir.path().join("tickets"));
    let text = format!(
        "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nstate: {}\nsteer: {{mode: auto, settle_seconds: 0.0, \
         slurm: {{conf: {}, poll_seconds: 0.5}}, hook: {{command: [sh, -c, 'cat >> {}; echo >> {}']}}}}\n",
        dir.path().join("state").display(),
        real.conf().display(),
        log.display(),
        log.display()
    );
    std::fs::write(&config, text).expect("written");
    let (came, all) = isolated_and_released_though_killed(&config, moment, "n3").await;
    let mut deeds: Vec<_> = all.iter().map(|action| action.deed.as_str()).collect();
    deeds.sort_unstable();
    assert_eq!(deeds, ["isolate", "release", "ticket"], "killed {moment}: {all:#?}");
    let tickets: BTreeSet<String> = std::fs::read_to_string(&log)
        .expect("a ticket")
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("a document")["action"].to_string()
        })
        .collect();
    assert_eq!(tickets.len(), 1, "killed {moment}: {tickets:?}");
    assert!(!seen(&SlurmActuator::new(real.config()), "n3").await.drained, "killed {moment}");
    came
}

/// The same of a restart: a rank dies, and Slurm's job is requeued once, whichever controller did which part of it.
async fn comes_back_once_whoever_dies(real: &Slurm) {
    let mut moments = 0;
    for number in 1.. {
        for side in ["before", "after"] {
            if !restart_killed_at(real, &format!("{side}:{number}")).await {
                // Planned, stopping, starting, done: each before and after it was written.
                assert_eq!(moments, 8);
                return;
            }
            moments += 1;
        }
    }
}

/// Returns whether the moment came.
async fn restart_killed_at(real: &Slurm, moment: &str) -> bool {
    let number = real.submit(&[]);
    // A job that is requeued while it is still being launched has to wait for minutes.
    let ran = |time: &String| time != "00:00:00" && time != "00:00:01";
    wait("the job to run", || real.job(number, "RunTime").filter(ran));
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("c4.yaml");
    let text = format!(
        "listen: 127.0.0.1:0\nhttp: 127.0.0.1:0\nstate: {}\nsteer: {{mode: auto, settle_seconds: 0.0, \
         slurm: {{conf: {}, poll_seconds: 0.5}}}}\n",
        dir.path().join("state").display(),
        real.conf().display()
    );
    std::fs::write(&config, text).expect("written");
    let job = format!("slurm-{number}");
    let incarnation = || {
        real.job(number, "JobState").filter(|state| state == "RUNNING")?;
        real.job(number, "Restarts")?.parse().ok()
    };
    let (mut first, grpc) = program(&config, Some(moment)).await;
    let came = tokio::select! {
        _ = first.wait() => true,
        _ = done(&grpc) => false,
        () = agents::run(format!("http://{grpc}"), &job, incarnation) => unreachable!("they run for ever"),
    };
    first.kill().await.expect("ours");
    let (_second, grpc) = program(&config, None).await;
    let all = tokio::select! {
        all = done(&grpc) => all,
        () = agents::run(format!("http://{grpc}"), &job, incarnation) => unreachable!("they run for ever"),
    };
    assert_eq!(all.len(), 1, "killed {moment}: {all:#?}");
    assert_eq!(real.job(number, "Restarts").as_deref(), Some("1"), "killed {moment}");
    real.ask("scancel", &[&number.to_string()]).expect("cancelled");
    came
}

async fn sees_nodes_go_down(real: &mut Slurm, slurm: &SlurmActuator) {
    real.kill_node("n2");
    for (word, wanted) in [("down", true), ("up", false)] {
        let mut left = 300;
        while seen(slurm, "n2").await.down != wanted {
            assert!(left > 0, "n2 is never {word}");
            left -= 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if wanted {
            real.start_node("n2");
        }
    }
}
