//! The launch thread: what a training script does. Computes, enqueues all-reduces, waits for them, checks the sums,
//! writes a checkpoint now and then.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

use super::{
    args::Args,
    checkpoint::{self, Marker},
    clock::{self, GlobalTimer},
    control::{Control, Wrong},
    events::Profiler,
    gpu::{self, Gpu, Kernel},
    mix,
    proxy::{self, Operation, Proxy},
    rendezvous,
    schedule::Schedule,
};
use crate::faults::FaultDir;

/// What the launch thread waits for.
#[derive(Debug)]
pub enum Outcome {
    /// A kernel has ended.
    Done(gpu::Done),
    /// A connection broke; says to whom and how.
    PeerLost(String),
}

/// Runs one rank to its end.
///
/// # Errors
/// When the ring cannot be built, a peer is lost, a sum is wrong or a checkpoint cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    args.check()?;
    let control = Control::new(args.fault_dir.clone().map(FaultDir), args.rank)?;
    let resume = args.checkpoint_dir.as_deref().map_or(Ok(0), checkpoint::newest)?;
    let ring = rendezvous::meet(args, resume)?;
    if args.rank == 0 {
        eprintln!(
            "ringjob: {} ranks meet, communicator {:#x}, from iteration {}",
            args.world_size, ring.comm_id, ring.start_iteration
        );
    }
    let profiler = Profiler::load(args, ring.comm_id);
    let start_iteration = ring.start_iteration;
    let mut job = Job::start(args, ring.links, profiler, control)?;
    let mut iteration = start_iteration;
    while args.iterations == 0 || iteration < args.iterations {
        job.iteration(iteration)?;
        iteration += 1;
        job.checkpoint(iteration)?;
    }
    job.finish()
}

/// One rank's threads and state.
struct Job<'a> {
    args: &'a Args,
    profiler: Profiler,
    control: Control,
    marker: Marker,
    gpu: Sender<gpu::Message>,
    proxy: proxy::Mailbox,
    outcome: Receiver<Outcome>,
    threads: Vec<JoinHandle<()>>,
    /// Operations enqueued since the communicator was made.
    operations: u64,
}

impl<'a> Job<'a> {
    fn start(
        args: &'a Args,
        links: Vec<rendezvous::Link>,
        profiler: Profiler,
        control: Control,
    ) -> anyhow::Result<Self> {
        let (gpu, gpu_inbox) = channel();
        let (outcome, outcomes) = channel();
        let (proxy, proxy_inbox) = proxy::Mailbox::new().context("cannot make an eventfd")?;
        let worker =
            Proxy::new(args.rank as usize, links, proxy_inbox, &gpu, outcome.clone(), args.hang_on_peer_loss);
        // Each GPU's clock starts somewhere else.
        let timer =
            GlobalTimer::starting_at(Duration::from_millis(mix(&[args.seed, 7, args.rank.into()]) >> 24));
        let device = Gpu::new(timer, args.channels, gpu_inbox, proxy.clone(), outcome);
        let threads = vec![
            thread::Builder::new().name("proxy".to_owned()).spawn(move || worker.run())?,
            thread::Builder::new().name("gpu".to_owned()).spawn(move || device.run())?,
        ];
        let marker = Marker::new(args.checkpoint_marker.clone().filter(|_| args.local_rank == 0));
        Ok(Self { args, profiler, control, marker, gpu, proxy, outcome: outcomes, threads, operations: 0 })
    }

    fn iteration(&mut self, iteration: u64) -> anyhow::Result<()> {
        self.control.tell(iteration);
        let wrong = self.control.wrong(iteration);
        self.compute(iteration);
        thread::sleep(wrong.sleep);
        if !wrong.busy.is_zero() {
            let _ = self.gpu.send(gpu::Message::Busy(wrong.busy));
        }
        let first = self.operations;
        let mut launched = 0;
        for (index, bytes) in self.args.bytes.iter().enumerate() {
            let Some(count) = count(index, *bytes, wrong) else { continue };
            self.all_reduce(iteration, index, count);
            launched += 1;
        }
        for _ in 0..launched {
            match self.outcome.recv() {
                Ok(Outcome::Done(done)) => {
                    self.verify(iteration, (done.operation - first) as usize, &done, wrong)?
                }
                Ok(Outcome::PeerLost(how)) => bail!("{how}"),
                Err(_) => bail!("the GPU thread is gone"),
            }
        }
        Ok(())
    }

    fn compute(&self, iteration: u64) {
        let mean = self.args.compute_us as f64;
        let random = mix(&[self.args.seed, self.args.rank.into(), iteration]) as f64 / u64::MAX as f64;
        let us = mean * (1.0 + self.args.noise * (2.0 * random - 1.0));
        let until = clock::now() + Duration::from_micros((us * self.args.spin) as u64);
        while clock::now() < until {
            std::hint::spin_loop();
        }
        thread::sleep(Duration::from_micros((us * (1.0 - self.args.spin)) as u64));
    }

    fn all_reduce(&mut self, iteration: u64, index: usize, count: usize) {
        let number = self.operations;
        self.operations += 1;
        let schedule = Schedule {
            rank: self.args.rank as usize,
            size: self.args.world_size as usize,
            channels: self.args.channels,
            count,
        };
        let rank = u64::from(self.args.rank);
        let cycle = inputs(self.args.seed, iteration, index, |base| base + rank as f32);
        let mut data = cycle.repeat(count.div_ceil(CYCLE));
        data.truncate(count);
        let (proxy, gpu) = (&self.proxy, &self.gpu);
        // As in NCCL, the proxy and the GPU have the operation before its Coll event stops.
        self.profiler.launch(&schedule, |token| {
            proxy.send(proxy::Message::Enqueue(Operation { number, schedule, token }));
            let _ = gpu.send(gpu::Message::Launch(Kernel { operation: number, schedule, data }));
        });
    }

    /// Checks the sums. An operation that was wrong on purpose has no right sum.
    fn verify(&self, iteration: u64, index: usize, done: &gpu::Done, wrong: Wrong) -> anyhow::Result<()> {
        if wrong.skip || wrong.resize {
            return Ok(());
        }
        let ranks = u64::from(self.args.world_size);
        let sum = |base: f32| base * ranks as f32 + (ranks * (ranks - 1) / 2) as f32;
        let expected = inputs(self.args.seed, iteration, index, sum);
        for (cycle, values) in done.data.chunks(CYCLE).enumerate() {
            let wrong = values.iter().zip(&expected).position(|(value, expected)| value != expected);
            ensure!(
                wrong.is_none(),
                "iteration {iteration}, all-reduce {index}, element {}: sum {:?}, expected {:?}",
                cycle * CYCLE + wrong.unwrap_or(0),
                wrong.map(|at| values[at]),
                wrong.map(|at| expected[at])
            );
        }
        Ok(())
    }

    fn checkpoint(&mut self, iterations: u64) -> anyhow::Result<()> {
        let Some(dir) = &self.args.checkpoint_dir else { return Ok(()) };
        let mut took = None;
        if self.args.rank == 0 && iterations.is_multiple_of(self.args.checkpoint_every) {
            let began = clock::now();
            checkpoint::write(dir, iterations)?;
            took = Some(clock::now() - began);
        }
        // Every node's agent is told of what is really there, which rank 0 may not have written yet.
        if self.args.local_rank == 0 {
            self.marker.tell(checkpoint::newest(dir)?, took)?;
        }
        Ok(())
    }

    /// Ends like a program that destroys its communicator.
    fn finish(self) -> anyhow::Result<()> {
        self.proxy.send(proxy::Message::Finish);
        drop(self.gpu);
        for thread in self.threads {
            ensure!(thread.join().is_ok(), "a thread panicked");
        }
        self.profiler.finalize();
        eprintln!("ringjob rank {}: finished", self.args.rank);
        Ok(())
    }
}

/// Elements of the all-reduce at `index`, `None` if it is left out.
fn count(index: usize, bytes: usize, wrong: Wrong) -> Option<usize> {
    match index {
        0 if wrong.skip => None,
        0 if wrong.resize => Some(bytes / 2 + 64),
        _ => Some(bytes / 4),
    }
}

/// Elements after which inputs repeat: filling and checking must not cost what it takes to send them.
const CYCLE: usize = 61;

/// A cycle of elements, made of what rank 0 puts there: small whole numbers, so that every order of adding gives the same sum. Each rank
/// adds its own number.
fn inputs(seed: u64, iteration: u64, index: usize, make: impl Fn(f32) -> f32) -> [f32; CYCLE] {
    let start = seed.wrapping_add(iteration).wrapping_add(index as u64);
    std::array::from_fn(|element| make((start.wrapping_add(element as u64) % CYCLE as u64) as f32))
}
