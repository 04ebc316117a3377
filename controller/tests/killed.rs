//! The controller as it ships is killed (SIGKILL) at every step of an action, started again, and must neither lose the
//! action nor do anything twice. The agents are doubles that count what they are made to do; as real ones, they carry a
//! command out once and answer it again with the same result.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use c4_proto::v1::{
    self, AgentMessage, agent_message::Body, command, controller_message, telemetry_client::TelemetryClient,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;

mod support;

use support::{done, joined, program, started, window};

const JOB: &str = "llm";
/// Messages of an agent that introduces itself: its group, and rank 0's life.
const LIFE: u64 = 4;
/// Ranks, one on each node.
const RANKS: u32 = 2;

/// The world that the controller acts on: a job of two ranks on two nodes.
#[derive(Debug, Default)]
struct World {
    /// Commands carried out, by node: a command that comes again is not.
    done: BTreeMap<(usize, String), (bool, String)>,
    /// Process groups that were stopped and started, by node and incarnation.
    stops: BTreeMap<(usize, u32), u32>,
    starts: BTreeMap<(usize, u32), u32>,
    incarnation: [u32; RANKS as usize],
    /// Controllers that rank 0's agent has introduced itself to.
    lives: u32,
    stopped: [bool; RANKS as usize],
}

impl World {
    fn obey(&mut self, node: usize, command: v1::Command) -> Vec<Body> {
        let key = (node, command.id.clone());
        if !self.done.contains_key(&key) {
            let result = match command.body.expect("a body") {
                command::Body::StopGroup(stop) => self.stop(node, stop.incarnation),
                command::Body::StartGroup(start) => self.start(node, start.incarnation),
                command::Body::CheckNode(_) => (true, String::new()),
            };
            self.done.insert(key.clone(), result);
        }
        let (ok, detail) = self.done[&key].clone();
        vec![self.report(node), Body::CommandResult(v1::CommandResult { command_id: command.id, ok, detail })]
    }

    fn stop(&mut self, node: usize, incarnation: u32) -> (bool, String) {
        if incarnation == self.incarnation[node] && !self.stopped[node] {
            *self.stops.entry((node, incarnation)).or_default() += 1;
            self.stopped[node] = true;
        }
        (true, String::new())
    }

    fn start(&mut self, node: usize, incarnation: u32) -> (bool, String) {
        if incarnation > self.incarnation[node] {
            *self.starts.entry((node, incarnation)).or_default() += 1;
            (self.incarnation[node], self.stopped[node]) = (incarnation, false);
        }
        (incarnation == self.incarnation[node], String::new())
    }

    fn report(&self, node: usize) -> Body {
        let state = if self.stopped[node] { v1::GroupState::Stopped } else { v1::GroupState::Running };
        Body::GroupReport(v1::GroupReport {
            job: JOB.into(),
            incarnation: self.incarnation[node],
            state: state.into(),
            ranks: vec![node as u32],
            world_size: RANKS,
            ..Default::default()
        })
    }
}

/// An agent that connects again whenever its stream ends.
async fn agent(node: usize, grpc: String, world: Arc<Mutex<World>>) {
    let mut session = 0;
    loop {
        let Ok(mut client) = TelemetryClient::connect(grpc.clone()).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (messages, outgoing) = mpsc::channel(64);
        let mut sequence = 0;
        let mut number = |body| {
            sequence += 1;
            AgentMessage { sequence, age_us: 0, body: Some(body) }
        };
        // A session of its own each time: what was not acknowledged is said again anyway.
        let hello = v1::Hello {
            node: format!("n{node}"),
            agent_version: "test".into(),
            session_id: format!("s{session}"),
            next_sequence: 1,
            protocol: 1,
            ..Default::default()
        };
        // A death that nobody is there to suffer from is none: rank 0 comes first.
        while node == 1 && world.lock().expect("unpoisoned").lives <= session {
            sleep(Duration::from_millis(5)).await;
        }
        let (report, incarnation) = {
            let world = world.lock().expect("unpoisoned");
            (world.report(node), world.incarnation[node])
        };
        let first = AgentMessage { sequence: 0, age_us: 0, body: Some(Body::Hello(hello)) };
        messages.send(first).await.expect("room");
        messages.send(number(report)).await.expect("room");
        for body in life(node as u32, incarnation) {
            messages.send(number(body)).await.expect("room");
        }
        let Ok(replies) = client.stream(ReceiverStream::new(outgoing)).await else { continue };
        let mut replies = replies.into_inner();
        session += 1;
        while let Ok(Some(reply)) = replies.message().await {
            let command = match reply.body {
                Some(controller_message::Body::Command(command)) => command,
                Some(controller_message::Body::Ack(ack)) if node == 0 && ack.sequence >= LIFE => {
                    world.lock().expect("unpoisoned").lives = session;
                    continue;
                }
                _ => continue,
            };
            let said = world.lock().expect("unpoisoned").obey(node, command);
            for body in said {
                let _ = messages.send(number(body)).await;
            }
        }
    }
}

/// What a rank of an incarnation does: in the first, rank 1 dies while rank 0 waits for it.
fn life(rank: u32, incarnation: u32) -> Vec<Body> {
    let process = u64::from(incarnation * 100 + rank + 1);
    let mut start = started(process, JOB, rank, RANKS);
    if let Body::ProcessStarted(start) = &mut start {
        start.incarnation = incarnation;
    }
    let comm = 900 + u64::from(incarnation);
    let mut life = vec![start, joined(process, comm, rank, RANKS), window(process, comm, 40)];
    if incarnation == 0 && rank == 1 {
        let signal = Some(9);
        life.push(Body::ProcessEnded(v1::ProcessEnded { process, signal, ..Default::default() }));
    }
    life
}

/// Kills the controller at one moment, and lets another finish. Returns whether the moment came.
async fn killed_at(moment: &str) -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("c4.yaml");
    let write = |grpc: &str, http: &str| {
        let state = dir.path().join("state");
        let text = format!(
            "listen: {grpc}\nhttp: {http}\nstate: {}\nsteer: {{mode: auto, settle_seconds: 0.0, stop_timeout_seconds: 25.0}}\n",
            state.display()
        );
        std::fs::write(&config, text).expect("written");
    };
    write("127.0.0.1:0", "127.0.0.1:0");
    let (mut first, grpc) = program(&config, Some(moment)).await;
    write(&grpc, "127.0.0.1:0");
    let world = Arc::new(Mutex::new(World::default()));
    let agents: Vec<_> = (0..RANKS as usize)
        .map(|node| tokio::spawn(agent(node, format!("http://{grpc}"), world.clone())))
        .collect();
    let came = tokio::select! {
        _ = first.wait() => true,
        actions = done(&grpc) => {
            assert_eq!(actions.len(), 1);
            false
        }
    };
    if came {
        let (_second, grpc) = program(&config, None).await;
        let actions = done(&grpc).await;
        assert_eq!(actions.len(), 1, "killed {moment}: {actions:#?}");
        let world = world.lock().expect("unpoisoned");
        let once = |node: usize| (node, 1);
        for node in 0..RANKS as usize {
            assert_eq!(world.stops.get(&(node, 0)), Some(&1), "killed {moment}: {world:#?}");
            assert_eq!(world.starts.get(&once(node)), Some(&1), "killed {moment}: {world:#?}");
            assert_eq!((world.incarnation[node], world.stopped[node]), (1, false), "killed {moment}");
        }
        assert_eq!((world.stops.len(), world.starts.len()), (2, 2), "killed {moment}: {world:#?}");
    }
    for agent in agents {
        agent.abort();
    }
    came
}

#[tokio::test]
async fn a_controller_killed_at_every_step_loses_nothing_and_does_nothing_twice() {
    let mut moments = 0;
    for number in 1.. {
        let before = killed_at(&format!("before:{number}")).await;
        if !before {
            break;
        }
        assert!(killed_at(&format!("after:{number}")).await);
        moments += 2;
    }
    // Planned, stopping, starting, done: each before and after it was written.
    assert_eq!(moments, 8);
}
