//! A job of two ranks on two nodes, and the agents that supervise it: doubles that count what they are made to do. As real
//! ones, they carry a command out once, answer it again with the same result, try one controller after the other, and do not
//! obey one whose term is over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use c4_proto::v1::{
    self, AgentMessage, agent_message::Body, command, controller_message, telemetry_client::TelemetryClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::{joined, started, window};

pub(crate) const JOB: &str = "llm";
/// Messages of an agent that introduces itself: its group, and rank 0's life.
const LIFE: u64 = 4;
/// Ranks, one on each node.
pub(crate) const RANKS: u32 = 2;

/// The world that the controller acts on: a job of two ranks on two nodes.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Commands carried out, by node: a command that comes again is not.
    done: BTreeMap<(usize, String), (bool, String)>,
    /// Process groups that were stopped and started, by node and incarnation.
    pub(crate) stops: BTreeMap<(usize, u32), u32>,
    pub(crate) starts: BTreeMap<(usize, u32), u32>,
    pub(crate) incarnation: [u32; RANKS as usize],
    /// Controllers that rank 0's agent has introduced itself to.
    lives: u32,
    pub(crate) stopped: [bool; RANKS as usize],
    /// Whether rank 1 has died, or is to.
    pub(crate) dead: bool,
    /// The latest term that was heard of, by node.
    terms: [u64; RANKS as usize],
    /// Commands of leaders whose term was over.
    pub(crate) late: u32,
}

impl World {
    /// Rank 1 dies as soon as it is seen.
    pub(crate) fn dying() -> Self {
        Self { dead: true, ..Self::default() }
    }

    fn obey(&mut self, node: usize, command: v1::Command) -> Vec<Body> {
        if command.term != 0 && command.term < self.terms[node] {
            self.late += 1;
            return Vec::new();
        }
        self.terms[node] = command.term;
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

/// How long an agent waits for a controller that says nothing.
const SILENCE: Duration = Duration::from_millis(1500);
/// How long rank 1's agent waits for a controller to have heard of rank 0, which may never happen again if only rank 1's agent
/// lost it.
const ALONE: Duration = Duration::from_secs(10);

/// An agent that connects again whenever its stream ends, to the next controller.
pub(crate) async fn agent(node: usize, controllers: Vec<String>, world: Arc<Mutex<World>>) {
    let mut session = 0;
    for attempt in 0.. {
        let endpoint = Endpoint::from_shared(controllers[attempt % controllers.len()].clone());
        let endpoint = endpoint.expect("an address").connect_timeout(Duration::from_secs(1));
        let endpoint = endpoint.http2_keep_alive_interval(SILENCE).keep_alive_timeout(SILENCE);
        let Ok(channel) = endpoint.keep_alive_while_idle(true).connect().await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut client = TelemetryClient::new(channel);
        let (messages, outgoing) = mpsc::channel(64);
        let mut sequence = 0;
        let mut number = |body| {
            sequence += 1;
            AgentMessage { sequence, age_us: 0, body: Some(body), ..Default::default() }
        };
        // A session of its own each time: what was not acknowledged is said again anyway.
        let hello = v1::Hello {
            node: format!("n{node}"),
            agent_version: "test".into(),
            session_id: format!("s{attempt}"),
            next_sequence: 1,
            protocol: 1,
            ..Default::default()
        };
        // A death that nobody is there to suffer from is none: rank 0 comes first.
        let before = Instant::now();
        while node == 1 && world.lock().expect("unpoisoned").lives <= session && before.elapsed() < ALONE {
            sleep(Duration::from_millis(5)).await;
        }
        let (report, incarnation, dead) = {
            let world = world.lock().expect("unpoisoned");
            (world.report(node), world.incarnation[node], world.dead)
        };
        let first =
            AgentMessage { sequence: 0, age_us: 0, body: Some(Body::Hello(hello)), ..Default::default() };
        messages.send(first).await.expect("room");
        messages.send(number(report)).await.expect("room");
        for body in life(JOB, node as u32, incarnation, dead) {
            messages.send(number(body)).await.expect("room");
        }
        let stream = timeout(SILENCE, client.stream(ReceiverStream::new(outgoing))).await;
        let Ok(Ok(replies)) = stream else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut replies = replies.into_inner();
        session = world.lock().expect("unpoisoned").lives + u32::from(node == 0);
        let mut told = dead;
        loop {
            let reply = tokio::select! {
                reply = replies.message() => reply,
                () = sleep(Duration::from_millis(50)) => {
                    // A death is told when it happens.
                    let dies = world.lock().expect("unpoisoned").dead && !std::mem::replace(&mut told, true);
                    if dies && node == 1 && incarnation == 0 {
                        let _ = messages.send(number(death(1))).await;
                    }
                    continue;
                }
            };
            let Ok(Some(reply)) = reply else { break };
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
pub(crate) fn life(job: &str, rank: u32, incarnation: u32, dead: bool) -> Vec<Body> {
    let process = u64::from(incarnation * 100 + rank + 1);
    let mut start = started(process, job, rank, RANKS);
    if let Body::ProcessStarted(start) = &mut start {
        start.incarnation = incarnation;
    }
    let comm = 900 + u64::from(incarnation);
    let mut life = vec![start, joined(process, comm, rank, RANKS), window(process, comm, 40)];
    if incarnation == 0 && rank == 1 && dead {
        life.push(death(rank));
    }
    life
}

fn death(rank: u32) -> Body {
    let process = u64::from(rank + 1);
    Body::ProcessEnded(v1::ProcessEnded { process, signal: Some(9), ..Default::default() })
}
