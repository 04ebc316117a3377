//! What a simulated job looks like, and what goes wrong in it.

use c4_detect::observation::ProcessState;

/// What the job looks like. Times in microseconds.
#[derive(Clone, Debug)]
pub struct Shape {
    pub ranks: usize,
    pub ranks_per_node: usize,
    /// Elements of each operation of an iteration.
    pub operations: Vec<u64>,
    /// Compute of an iteration, spread evenly before its operations.
    pub compute_us: u64,
    /// Time an operation takes once everybody is there.
    pub transfer_us: u64,
    /// Relative standard deviation of compute.
    pub noise: f64,
    /// Longest extra time of a rank in the first iteration.
    pub warm_up_us: u64,
    /// Every so many iterations rank 0 writes a checkpoint for so long, while the others wait in the next operation.
    pub checkpoint: Option<(u64, u64)>,
    /// Every so many iterations all ranks pause for so long (evaluation on one's own, say).
    pub all_pause: Option<(u64, u64)>,
    /// Every so many iterations, operations of another kind (evaluation with metrics).
    pub evaluation: Option<u64>,
    /// Every so many steps, an optimizer step with an operation of its own follows: gradients are accumulated until then.
    pub accumulate: Option<u64>,
    /// In this iteration every rank compiles for up to so long.
    pub recompile: Option<(u64, u64)>,
    /// From this time on all ranks compute for so many times as long.
    pub slower: Option<(u64, f64)>,
    /// From this time on operations take so many times as long once everybody is there.
    pub slower_transfers: Option<(u64, f64)>,
    /// Nodes from this one on have slower NICs, and their ranks come later by so much in each iteration.
    pub slow_class: Option<(usize, u64)>,
    /// Compute grows by this factor over a thousand iterations.
    pub growth: f64,
    pub kernel_events: bool,
    /// Hosts enqueue a whole iteration ahead of their GPUs.
    pub run_ahead: bool,
    /// Agents read a recorder once more when its process has ended.
    pub final_window: bool,
    pub window_us: u64,
}

impl Shape {
    pub fn new(ranks: usize, iteration_us: u64) -> Self {
        let transfer_us = iteration_us / 100;
        Self {
            ranks,
            ranks_per_node: 8,
            operations: vec![4_096, 1 << 20, 1 << 20, 1 << 18],
            compute_us: iteration_us - 4 * transfer_us,
            transfer_us,
            noise: 0.01,
            warm_up_us: (iteration_us * 3).min(40_000_000),
            checkpoint: None,
            all_pause: None,
            evaluation: None,
            accumulate: None,
            recompile: None,
            slower: None,
            slower_transfers: None,
            slow_class: None,
            growth: 0.0,
            kernel_events: true,
            run_ahead: true,
            final_window: true,
            window_us: 1_000_000,
        }
    }

    /// Whether all iterations have the same operations.
    pub fn is_even(&self) -> bool {
        self.evaluation.is_none() && self.accumulate.is_none()
    }

    pub fn iteration_us(&self) -> u64 {
        self.compute_us + self.transfer_us * self.operations.len() as u64
    }
}

/// What goes wrong, and when (microseconds after the start).
#[derive(Clone, Debug)]
pub enum Fault {
    /// Killed by signal 9; the signal is only reported where the process is supervised.
    Kill { rank: usize, at: u64, supervised: bool },
    /// SIGSTOP.
    Stop { rank: usize, at: u64, until: Option<u64> },
    /// A kernel that does not end keeps the GPU busy, and the driver waits for it on a CPU before anything more is enqueued.
    Spins { rank: usize, at: u64 },
    /// Stuck outside of collectives.
    Stuck { rank: usize, at: u64, until: Option<u64>, state: ProcessState },
    /// Late by so much each iteration.
    Slow { rank: usize, at: u64, until: u64, us: u64 },
    /// A rank that changes each iteration is late by so much.
    Turns { us: u64 },
    /// Leaves out one operation.
    Skip { rank: usize, at: u64 },
    /// One operation with another size; it does or does not hang.
    Resize { rank: usize, at: u64, hangs: bool },
    /// The GPU is busy with something else: operations are enqueued and not started.
    Busy { rank: usize, at: u64 },
    /// A connection carries nothing any more.
    Link { src: usize, at: u64 },
    /// The agent of a node is out of sight.
    AgentLost { node: usize, at: u64 },
    /// The agent of a node goes silent without being disconnected.
    AgentFrozen { node: usize, at: u64 },
    /// Events are lost in one rank.
    Drops { rank: usize, at: u64 },
    /// The event mask of a rank is cleared.
    Unprofiled { rank: usize, at: u64 },
    /// The job ends: every rank within `spread`, `finalized` or not, with an exit code or not.
    End { at: u64, spread: u64, finalized: bool, exit_code: Option<i32>, signal: Option<i32> },
    /// Told by the controller.
    Stopping { at: u64 },
}
