//! Operation traces of a made-up data-parallel job: every iteration is four all-reduces of different sizes, every rank
//! computes between them, and every rank's clock is off by its own amount. Noise is deterministic.

use std::fmt::Write;

/// How the ranks of the job behave.
pub(crate) struct Job {
    pub(crate) ranks: u32,
    pub(crate) iterations: u64,
    /// How much later than it should rank r enters operation n, in microseconds.
    pub(crate) late_us: fn(u32, u64) -> f64,
    /// What becomes of operation n on rank r.
    pub(crate) fate: fn(u32, u64) -> Fate,
}

/// What becomes of an operation on one rank.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As always.
    Done,
    /// The rank enters it and never leaves.
    Stuck,
    /// The same with another size.
    StuckWithOtherSize,
    /// The rank never comes.
    Absent,
}

pub(crate) const OPERATIONS: u64 = 4;
const SIZES: [u64; 4] = [1 << 20, 4 << 20, 1 << 16, 4096];
const COMPUTE_US: f64 = 2_000.0;
const TRANSFER_US: f64 = 300.0;

impl Default for Job {
    fn default() -> Self {
        Self { ranks: 8, iterations: 200, late_us: |_, _| 0.0, fate: |_, _| Fate::Done }
    }
}

impl Job {
    /// The trace, a line an operation, after a meta line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(r#"{{"meta":{{"job":"train","world_size":{}}}}}"#, self.ranks)];
        let ranks: Vec<String> = (0..self.ranks).map(|rank| rank.to_string()).collect();
        lines.push(format!(r#"{{"comm":"dp0","ranks":[{}]}}"#, ranks.join(",")));
        let mut now = 0.0;
        for operation in 0..self.iterations * OPERATIONS {
            let enter =
                |rank: u32| now + COMPUTE_US + noise(rank, operation) + (self.late_us)(rank, operation);
            let last = (0..self.ranks).map(enter).fold(0.0, f64::max);
            let end = last + TRANSFER_US;
            for rank in 0..self.ranks {
                let fate = (self.fate)(rank, operation);
                if fate == Fate::Absent {
                    continue;
                }
                let clock = f64::from(rank) * 1e7;
                let size = SIZES[(operation % OPERATIONS) as usize];
                let size = if fate == Fate::StuckWithOtherSize { size * 2 } else { size };
                let mut line = format!(
                    r#"{{"rank":{rank},"comm":"dp0","seq":{operation},"op":"all_reduce","bytes":{size},"start_us":{:.3}"#,
                    enter(rank) + clock
                );
                if fate == Fate::Done {
                    write!(line, r#","end_us":{:.3}"#, end + clock).expect("a string");
                }
                line.push_str(r#","color":"unknown fields are ignored"}"#);
                lines.push(line);
            }
            now = end;
        }
        lines
    }
}

/// Up to 100 µs, the same every time, different for every rank and operation.
fn noise(rank: u32, operation: u64) -> f64 {
    let mut state = (u64::from(rank) << 32 | operation).wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ state >> 31) % 1000) as f64 / 10.0
}
