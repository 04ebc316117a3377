//! What windows cost a controller by themselves, without any network: messages of simulated agents are decoded, checked and taken in by
//! the brain, one second after the other, on one thread, and its CPU time is counted for each of these. The first half makes
//! known what is usual, the second half counts.
//!
//! `cargo bench -p c4-tests --bench intake -- --ranks 4000`

use std::{sync::Arc, time::Duration};

use c4_controller::{
    brain::{Brain, Input, Known},
    config::Config,
    convert::{Hello, Incoming},
    metrics::Metrics,
    nodes::StreamId,
};
use c4_detect::observation::{NodeName, Timestamp};
use c4_proto::v1::{AgentMessage, agent_message::Body};
use c4_tests::scale::{
    args::Broken,
    fleet::Fleet,
    source::{self, Said},
};
use clap::Parser;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};

/// As the controller's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// When it begins, in microseconds since the Unix epoch.
const BEGIN_US: u64 = 1_700_000_000_000_000;
const TICK: Duration = Duration::from_millis(100);

#[derive(Parser)]
struct Args {
    /// Ranks; a multiple of 16.
    #[arg(long, default_value_t = 4000)]
    ranks: u32,
    /// Ranks that are simulated by themselves.
    #[arg(long, default_value_t = 500)]
    distinct: u32,
    /// Seconds of the job.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

/// CPU time of each stage, and what for.
#[derive(Clone, Copy, Default)]
struct Spent {
    /// Decoding, checking, taking in, ticks, and one picture a second.
    stages: [Duration; 5],
    windows: u64,
    bytes: u64,
}

/// A message as it comes: when, from which node, and what.
type Wire = (Duration, u32, Vec<u8>);

struct Controller {
    fleet: Fleet,
    brain: Brain,
    nodes: Vec<NodeName>,
    sequences: Vec<u64>,
    ticked: Duration,
    spent: Spent,
}

impl Controller {
    fn new(fleet: Fleet) -> Self {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        let brain = Brain::new(Config::default(), Known::default(), metrics, at(Duration::ZERO));
        let nodes: Vec<NodeName> = (0..fleet.nodes()).map(|node| NodeName(format!("node-{node}"))).collect();
        let sequences = vec![0; nodes.len()];
        let mut new =
            Self { fleet, brain, nodes, sequences, ticked: Duration::ZERO, spent: Spent::default() };
        let mut said = Vec::new();
        for node in 0..fleet.nodes() {
            let hello = Hello {
                node: new.nodes[node as usize].clone(),
                agent_version: "0".into(),
                session: "intake".into(),
                next_sequence: 1,
                sensors: Vec::new(),
                nic_class: None,
                kept: 0,
            };
            new.brain.handle(Input::Opened { stream: stream(node), hello }, at(Duration::ZERO));
            let bodies = fleet.announcements("intake", node).into_iter();
            said.extend(bodies.map(|body| (Duration::ZERO, node, new.encode(node, body))));
        }
        new.take(&said);
        new.spent = Spent::default();
        new
    }

    fn encode(&mut self, node: u32, body: Body) -> Vec<u8> {
        let sequence = &mut self.sequences[node as usize];
        *sequence += 1;
        AgentMessage { sequence: *sequence, body: Some(body), ..Default::default() }.encode_to_vec()
    }

    /// What all nodes that a simulated one stands for say.
    fn readdressed(&mut self, said: &Said, wire: &mut Vec<Wire>) {
        for node in self.fleet.replicas(said.node) {
            for mut body in said.bodies.iter().cloned() {
                if let Body::Windows(windows) = &mut body {
                    for window in &mut windows.windows {
                        let rank = u32::try_from(window.process - 1).expect("a rank");
                        self.fleet.readdress(window, rank, self.fleet.counterpart(rank, node));
                    }
                    self.spent.windows += windows.windows.len() as u64;
                }
                wire.push((said.at, node, self.encode(node, body)));
            }
        }
    }

    fn take(&mut self, wire: &[Wire]) {
        let [mut began, mut ticks] = [cpu(), Duration::ZERO];
        let mut lap = |less: Duration| {
            let before = std::mem::replace(&mut began, cpu());
            began - before - less
        };
        let decode = |(_, _, bytes): &Wire| AgentMessage::decode(&bytes[..]).expect("a message");
        let decoded: Vec<AgentMessage> = wire.iter().map(decode).collect();
        let decoding = lap(Duration::ZERO);
        let check = |(message, (_, node, _)): (AgentMessage, &Wire)| {
            Incoming::from_wire(message, &self.nodes[*node as usize]).expect("right")
        };
        let checked: Vec<Incoming> = decoded.into_iter().zip(wire).map(check).collect();
        let checking = lap(Duration::ZERO);
        for (message, (when, node, _)) in checked.into_iter().zip(wire) {
            let before = cpu();
            while self.ticked <= *when {
                self.brain.handle(Input::Tick, at(self.ticked));
                self.ticked += TICK;
            }
            ticks += cpu() - before;
            self.brain.handle(Input::Message { stream: stream(*node), message }, at(*when));
        }
        let taking = lap(ticks);
        drop(self.brain.snapshot(at(self.ticked)));
        let picture = lap(Duration::ZERO);
        let more = [decoding, checking, taking, ticks, picture];
        self.spent.stages.iter_mut().zip(more).for_each(|(spent, more)| *spent += more);
        self.spent.bytes += wire.iter().map(|(_, _, bytes)| bytes.len() as u64).sum::<u64>();
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn at(since: Duration) -> Timestamp {
    Timestamp(BEGIN_US + since.as_micros() as u64)
}

fn stream(node: u32) -> StreamId {
    StreamId(u64::from(node) + 1)
}

fn main() {
    let args = Args::parse();
    let fleet = Fleet::new(args.ranks, args.distinct).expect("--ranks");
    let mut controller = Controller::new(fleet);
    let length = Duration::from_secs(args.seconds);
    let (mut wire, mut second, mut before) = (Vec::new(), 0, Spent::default());
    for said in source::start(fleet, 1, Broken::None, length, length) {
        if said.at.as_secs() != second {
            controller.take(&wire);
            wire.clear();
            second = said.at.as_secs();
            if second == args.seconds / 2 {
                before = controller.spent;
            }
        }
        controller.readdressed(&said, &mut wire);
    }
    let windows = (controller.spent.windows - before.windows) as f64;
    let mut sum = 0.0;
    let stages = controller.spent.stages.iter().zip(before.stages);
    for (name, (spent, before)) in ["decode", "check", "take in", "ticks", "picture"].iter().zip(stages) {
        let us = (*spent - before).as_secs_f64() * 1e6 / windows;
        sum += us;
        println!("{name:8} {us:6.2} µs a window");
    }
    let bytes = (controller.spent.bytes - before.bytes) as f64 / windows;
    println!("sum      {sum:6.2} µs a window of {bytes:.0} bytes, {} ranks", args.ranks);
}
