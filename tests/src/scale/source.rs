//! What the simulated ranks say, as it comes, and when it is enough to tell what is wrong.
//!
//! A thread simulates the small job, aggregated by the agent's own code, and hands on what each of its nodes says,
//! a little ahead of time. It also tells all of it to a detector of its own: what that one had heard when it named
//! the fault is the evidence, and the message that completes it is marked. The controller's delay counts from there.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use c4_agent::{convert, report::Report};
use c4_detect::{
    detector::{Config, Detector},
    observation::{Observation, Timestamp, Window},
};
use c4_proto::v1::agent_message::Body;

use super::{
    args::Broken,
    fleet::{self, Fleet},
};
use crate::simulator::{
    fault::Fault,
    noise::Noise,
    program::{Model, Sharding},
    telemetry::{EPOCH_US, Spec, Telemetry},
    workload::Workload,
};

/// Node messages that the simulation may be ahead.
const AHEAD: usize = 1024;

/// What one simulated node says at one moment.
#[derive(Debug)]
pub struct Said {
    /// When, since the job began.
    pub at: Duration,
    /// The simulated node.
    pub node: u32,
    /// What: the windows of its ranks in one message, ends in messages of their own.
    pub bodies: Vec<Body>,
    /// Whether with this the evidence for the fault is complete.
    pub evident: bool,
}

/// Simulates the fleet's small job until `until`; the fault comes at `breaks`.
#[must_use]
pub fn start(fleet: Fleet, seed: u64, broken: Broken, breaks: Duration, until: Duration) -> Receiver<Said> {
    let spec = spec(&fleet, seed, broken, breaks);
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::spawn(move || {
        let mut source = Source {
            fleet,
            sender,
            said: None,
            windows: Vec::new(),
            detector: Detector::new(Config::default()),
            evident: false,
        };
        let until_ns = until.as_nanos() as u64;
        Telemetry::new(spec).in_job_of(fleet.layout.ranks()).run(until_ns, |now, observation| {
            source.take(Duration::from_micros(now.0 - EPOCH_US), now, observation);
        });
        source.flush();
    });
    receiver
}

/// An iteration of about 1.5 s, with some 130 collectives and 30 sends and receives a second and rank.
#[must_use]
pub fn spec(fleet: &Fleet, seed: u64, broken: Broken, breaks: Duration) -> Spec {
    let model = Model {
        microbatches: 8,
        layers: 4,
        chunks: 1,
        layer_ns: 6_000_000,
        activation_bytes: 8 << 20,
        gradient_bytes: 64 << 20,
        sharding: Sharding::Optimizer,
        overlap: true,
        optimizer_ns: 10_000_000,
    };
    let fault = |kind| Fault { kind, rank: fleet.broken(), start_ns: breaks.as_nanos() as u64, end_ns: None };
    Spec {
        layout: fleet.simulated,
        model,
        workload: Workload::default(),
        names: true,
        // A checkpoint in the midst of a measurement of some twenty seconds would be chance, and a minute of compilation
        // only makes the run longer.
        noise: Noise { checkpoint_every: 0, warm_up: (2, 2.0), ..Noise::ordinary() },
        faults: broken.kind().map(fault).into_iter().collect(),
        happenings: Vec::new(),
        seed,
    }
}

struct Source {
    fleet: Fleet,
    sender: SyncSender<Said>,
    said: Option<Said>,
    windows: Vec<Window>,
    detector: Detector,
    evident: bool,
}

impl Source {
    fn take(&mut self, at: Duration, now: Timestamp, observation: Observation) {
        let findings = self.detector.observe(observation.clone(), now);
        let named = findings.iter().any(|finding| {
            finding.suspects.first().is_some_and(|suspect| suspect.rank == Some(self.fleet.broken()))
        });
        let (process, end) = match &observation {
            Observation::Window(window) => (window.process, None),
            Observation::ProcessEnded(end) => (end.process, Some(end.clone())),
            // Who is there is announced for all ranks, not only for those simulated.
            _ => return,
        };
        let node = self.fleet.simulated.node(fleet::rank(process.0));
        if self.said.as_ref().is_some_and(|said| (said.node, said.at) != (node, at)) {
            self.flush();
        }
        let said = self.said.get_or_insert(Said { at, node, bodies: Vec::new(), evident: false });
        said.evident |= named && !self.evident;
        self.evident |= named;
        if let Observation::Window(window) = observation {
            self.windows.push(window);
        }
        said.bodies.extend(end.map(|end| convert::body(Report::ProcessEnded(end))));
    }

    fn flush(&mut self) {
        if let Some(mut said) = self.said.take() {
            if !self.windows.is_empty() {
                said.bodies.insert(0, convert::body(Report::Windows(std::mem::take(&mut self.windows))));
            }
            // Nobody listens any more once the verdict is known.
            let _ = self.sender.send(said);
        }
    }
}
