//! Any bytes as what happens to a controller: agents of two nodes come, say something (converted as it is from the wire) and go,
//! operators decide, actions succeed and fail, time passes, and the controller is started again from what it has written down. A
//! refusal is fine; a panic, or a store that the next run cannot read, is not. The input is a list of steps: what, two bytes of
//! length, and that much of what is said.

use std::sync::Arc;

use c4_controller::{
    brain::{Brain, Effect, Input, Known},
    config::{Config, Mode},
    convert::{Hello, Incoming},
    findings::Findings,
    ledger::Ledger,
    metrics::Metrics,
    nodes::StreamId,
    steer::{
        action::{ActionId, Order},
        journal::Loaded,
        machine::Command,
        modes::Scope,
    },
    store::{MemoryStore, Store},
};
use c4_detect::observation::{JobId, NodeName, Timestamp};
use c4_proto::v1;
use prost::Message;

/// Orders that nobody has answered yet.
const MOST_ORDERS: usize = 64;
/// Steps played, of an input that has more.
const MOST_STEPS: usize = 200;

struct World {
    brain: Brain,
    store: MemoryStore,
    now: Timestamp,
    sequences: [u64; 2],
    orders: Vec<Order>,
    runs: u64,
}

/// A controller that knows what the store holds.
fn brain(store: &MemoryStore, now: Timestamp) -> Brain {
    let known = Known {
        steer: Loaded::read(store).expect("the journal is read again"),
        ledger: Ledger::load(store).expect("the ledger is read again"),
        findings: Findings::load(store).expect("the findings are read again"),
    };
    let mut config = Config::default();
    config.steer.mode = Mode::Auto;
    config.steer.settle_seconds = 0.0;
    Brain::new(config, known, Arc::new(Metrics::new().expect("metrics")), now)
}

impl World {
    fn new() -> Self {
        let (store, now) = (MemoryStore::default(), Timestamp(1_700_000_000_000_000));
        let mut world =
            Self { brain: brain(&store, now), store, now, sequences: [0; 2], orders: Vec::new(), runs: 1 };
        world.open(0);
        world.open(1);
        world
    }

    fn put(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.brain.handle(input, self.now) {
                match effect {
                    Effect::Persist(token, batch) => {
                        self.store.apply(&batch).expect("memory");
                        inputs.push(Input::Persisted { token, result: Ok(()) });
                    }
                    Effect::Keep(batch) => self.store.apply(&batch).expect("memory"),
                    Effect::Act(order) if self.orders.len() < MOST_ORDERS => self.orders.push(*order),
                    Effect::Halt => self.orders.clear(),
                    _ => {}
                }
            }
        }
    }

    fn open(&mut self, node: u64) {
        let hello = Hello {
            node: NodeName(format!("n{node}")),
            agent_version: "1".into(),
            session: format!("s{}", self.runs),
            next_sequence: 1,
            sensors: Vec::new(),
            nic_class: None,
            kept: 0,
        };
        self.put(Input::Opened { stream: StreamId(node), hello });
    }

    fn say(&mut self, node: u64, bytes: &[u8]) {
        let Ok(mut message) = v1::AgentMessage::decode(bytes) else { return };
        let sequence = &mut self.sequences[usize::from(node == 1)];
        *sequence += 1;
        message.sequence = *sequence;
        let input = match Incoming::from_wire(message, &NodeName(format!("n{node}"))) {
            Ok(message) => Input::Message { stream: StreamId(node), message },
            Err(invalid) => {
                Input::Invalid { stream: StreamId(node), sequence: *sequence, reason: invalid.to_string() }
            }
        };
        self.put(input);
    }

    fn step(&mut self, what: u8, said: &[u8]) {
        let node = u64::from(what >> 7);
        let name = || String::from_utf8_lossy(&said[..said.len().min(100)]).into_owned();
        match what & 0xf {
            0..=5 => self.say(node, said),
            6 => {
                self.now = self.now.after(u64::from(what >> 4) * 2_000_000);
                self.put(Input::Tick);
            }
            7 => self.put(Input::Closed { stream: StreamId(node) }),
            8 => {
                self.sequences[usize::from(node == 1)] = 0;
                self.runs += 1;
                self.open(node);
            }
            9 if !self.orders.is_empty() => {
                let order = self.orders.remove(usize::from(what >> 5) % self.orders.len());
                let result = if what & 0x10 == 0 { Ok(name()) } else { Err(name()) };
                self.put(Input::Answered { order: Box::new(order), result });
            }
            10 => self.wanted(what >> 4, name()),
            11 => self.put(Input::Checkpointed {
                job: JobId(name()),
                iteration: u64::from(what),
                took_us: (what & 0x10 != 0).then_some(u64::from(what) << 20),
            }),
            12 => {
                self.brain = brain(&self.store, self.now);
                (self.sequences, self.orders) = ([0; 2], Vec::new());
                self.runs += 1;
                self.open(0);
                self.open(1);
            }
            13 => self.put(Input::Looked { job: JobId(name()) }),
            _ => {
                // Seconds, as agents count them.
                self.now = self.now.after(1_000_000);
                self.put(Input::Tick);
            }
        }
    }

    fn wanted(&mut self, what: u8, name: String) {
        let known = self.brain.steer().view().actions;
        let id = known.get(name.len() % known.len().max(1)).map_or(ActionId(name.clone()), |one| one.id.clone());
        let command = match what & 7 {
            0 => Command::Approve(id),
            1 => Command::Reject(id),
            2 => Command::Pause { why: name },
            3 => Command::Resume,
            4 => Command::SetMode { scope: Scope::Job(JobId(name)), mode: Some(Mode::Approve), until: None },
            5 => Command::Isolate { node: NodeName(format!("n{}", what >> 3)), why: name },
            6 => Command::Release { node: NodeName(format!("n{}", what >> 3)), check: false },
            _ => Command::SetMode { scope: Scope::Cluster, mode: Some(Mode::Auto), until: Some(self.now.after(9_000_000)) },
        };
        self.put(Input::Wanted { ticket: 1, command, by: "somebody".into(), dry_run: false });
    }
}

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let mut world = World::new();
    let mut rest = bytes;
    for _ in 0..MOST_STEPS {
        let [what, high, low, after @ ..] = rest else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (said, after) = after.split_at(length);
        rest = after;
        world.step(*what, said);
    }
    // What was written down is enough to start from, whenever that is.
    drop(brain(&world.store, world.now));
}
