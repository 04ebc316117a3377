//! Operation traces of a made-up job in three dimensions: tensor, data and pipeline parallelism, 1F1B. Every rank runs
//! its program in order; collectives end for all when the last has come, receives when the data is there. Noise is
//! deterministic, and every rank's clock is off by its own amount.

use std::collections::HashMap;

pub(crate) struct Job {
    pub(crate) tp: u32,
    pub(crate) dp: u32,
    pub(crate) pp: u32,
    pub(crate) microbatches: u32,
    pub(crate) iterations: u64,
    /// How much longer than usual rank r computes in iteration i.
    pub(crate) factor: fn(u32, u64) -> f64,
    /// What goes wrong, once.
    pub(crate) fault: Option<(u32, u64, Fault)>,
    /// Whether the trace tells coordinates, and computations.
    pub(crate) coords: bool,
    pub(crate) computes: bool,
    /// Whether gradients are reduced while the rank computes.
    pub(crate) overlap: bool,
    /// Whether an iteration is in the trace.
    pub(crate) recorded: fn(u64) -> bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The rank computes for ever before its n-th tensor-parallel operation of the iteration.
    Hang(u32),
    /// The rank does not take part in the gradients' reduction and goes on.
    SkipsGradients,
    /// The rank does not send on to the next stage any more: it computes for ever before its first send.
    HangBeforeSend,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            tp: 2,
            dp: 2,
            pp: 2,
            microbatches: 4,
            iterations: 60,
            factor: |_, _| 1.0,
            fault: None,
            coords: true,
            computes: false,
            overlap: false,
            recorded: |_| true,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Compute(f64, &'static str),
    Collective {
        comm: u32,
        kind: u8,
        background: bool,
    },
    /// Waits for the last background operation of a communicator.
    Join(u32),
    Send(u32),
    Recv(u32),
    Never,
}

const KINDS: [(&str, u64); 3] = [("all_reduce", 1 << 20), ("reduce_scatter", 8 << 20), ("all_reduce", 8)];
const FORWARD_US: f64 = 1_000.0;
const TRANSFER_US: f64 = 150.0;

struct Rank {
    now: f64,
    at: usize,
    program: Vec<Op>,
    background: HashMap<u32, f64>,
}

impl Job {
    pub(crate) fn ranks(&self) -> u32 {
        self.tp * self.dp * self.pp
    }

    fn coordinates(&self, rank: u32) -> (u32, u32, u32) {
        (rank % self.tp, rank / self.tp % self.dp, rank / (self.tp * self.dp))
    }

    fn rank(&self, tp: u32, dp: u32, pp: u32) -> u32 {
        tp + self.tp * (dp + self.dp * pp)
    }

    /// Communicators: number, name and members, of a rank.
    fn comms(&self, rank: u32) -> [(u32, String, Vec<u32>); 3] {
        let (tp, dp, pp) = self.coordinates(rank);
        let tensor = dp + self.dp * pp;
        let data = tp + self.tp * pp;
        [
            (tensor, format!("tp{tensor}"), (0..self.tp).map(|tp| self.rank(tp, dp, pp)).collect()),
            (1000 + data, format!("dp{data}"), (0..self.dp).map(|dp| self.rank(tp, dp, pp)).collect()),
            (2000, "world".to_owned(), (0..self.ranks()).collect()),
        ]
    }

    fn program(&self, rank: u32, iteration: u64) -> Vec<Op> {
        let (_, dp, pp) = self.coordinates(rank);
        let (tp, _, _) = self.coordinates(rank);
        let factor = (self.factor)(rank, iteration);
        let fault = self.fault.filter(|(who, when, _)| *who == rank && *when == iteration).map(|f| f.2);
        let [tensor, data, world] = self.comms(rank);
        let mut ops = Vec::new();
        let (mut tensors, mut microbatch) = (0, 0);
        let mut half = |ops: &mut Vec<Op>, forward: bool| {
            let (from, to) =
                if forward { (pp.checked_sub(1), pp + 1) } else { (Some(pp + 1), pp.wrapping_sub(1)) };
            if let Some(from) = from.filter(|from| *from < self.pp) {
                ops.push(Op::Recv(self.rank(tp, dp, from)));
            }
            for layer in 0..2 {
                microbatch += 1;
                let time = FORWARD_US * if forward { 0.5 } else { 1.0 } * factor;
                let time = time + noise(rank, iteration * 1000 + microbatch);
                ops.push(Op::Compute(time, if forward { "forward" } else { "backward" }));
                if fault == Some(Fault::Hang(tensors)) {
                    ops.push(Op::Never);
                }
                tensors += 1;
                if self.tp > 1 {
                    ops.push(Op::Collective { comm: tensor.0, kind: 0, background: false });
                }
                if self.overlap
                    && layer == 0
                    && !forward
                    && self.dp > 1
                    && microbatch + 4 > 4 * u64::from(self.microbatches)
                {
                    ops.push(Op::Collective { comm: data.0, kind: 1, background: true });
                }
            }
            if to < self.pp {
                if fault == Some(Fault::HangBeforeSend) {
                    ops.push(Op::Never);
                }
                ops.push(Op::Send(self.rank(tp, dp, to)));
            }
        };
        let warm_up = self.microbatches.min(self.pp - 1 - pp);
        for _ in 0..warm_up {
            half(&mut ops, true);
        }
        for _ in warm_up..self.microbatches {
            half(&mut ops, true);
            half(&mut ops, false);
        }
        for _ in 0..warm_up {
            half(&mut ops, false);
        }
        if self.dp > 1 && fault != Some(Fault::SkipsGradients) {
            match self.overlap {
                true => ops.push(Op::Join(data.0)),
                false => ops.push(Op::Collective { comm: data.0, kind: 1, background: false }),
            }
        }
        ops.push(Op::Compute(300.0 * factor, "optimizer"));
        ops.push(Op::Collective { comm: world.0, kind: 2, background: false });
        ops
    }

    /// The trace, a line an operation, after a meta line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.meta()];
        let mut named = std::collections::BTreeSet::new();
        for rank in 0..self.ranks() {
            for (number, name, members) in self.comms(rank) {
                if members.len() > 1 && named.insert(number) {
                    lines.push(format!(r#"{{"comm":"{name}","ranks":{members:?}}}"#));
                }
            }
        }
        let mut ranks: Vec<Rank> = (0..self.ranks())
            .map(|_| Rank { now: 0.0, at: 0, program: Vec::new(), background: HashMap::new() })
            .collect();
        let mut meetings: HashMap<(u32, u64), (f64, u32)> = HashMap::new();
        let mut sequence: HashMap<(u32, u32), u64> = HashMap::new();
        let mut sent: HashMap<(u32, u32), Vec<f64>> = HashMap::new();
        let mut received: HashMap<(u32, u32), usize> = HashMap::new();
        for iteration in 0..self.iterations {
            for (rank, state) in ranks.iter_mut().enumerate() {
                // Who stands still goes no further.
                if state.at == state.program.len() {
                    state.program = self.program(rank as u32, iteration);
                    state.at = 0;
                }
            }
            let mut told = Vec::new();
            loop {
                let mut moved = false;
                for rank in 0..self.ranks() {
                    while self.step(
                        rank,
                        &mut ranks,
                        &mut meetings,
                        &mut sequence,
                        &mut sent,
                        &mut received,
                        &mut told,
                    ) {
                        moved = true;
                    }
                }
                if !moved {
                    break;
                }
            }
            if (self.recorded)(iteration) {
                lines.append(&mut told);
            }
        }
        self.open(&ranks, &sequence, &meetings, &mut lines);
        lines
    }

    fn meta(&self) -> String {
        let place = |rank: u32| {
            let (tp, dp, pp) = self.coordinates(rank);
            let coords = format!(r#","coords":{{"tp":{tp},"dp":{dp},"pp":{pp}}}"#);
            let coords = if self.coords { coords.as_str() } else { "" };
            format!(r#"{{"rank":{rank},"node":"n{}","gpu":{}{coords}}}"#, rank / 4, rank % 4)
        };
        let places: Vec<String> = (0..self.ranks()).map(place).collect();
        format!(r#"{{"meta":{{"job":"llm","world_size":{},"ranks":[{}]}}}}"#, self.ranks(), places.join(","))
    }

    #[expect(clippy::too_many_arguments, reason = "the state of a small simulation")]
    fn step(
        &self,
        rank: u32,
        ranks: &mut [Rank],
        meetings: &mut HashMap<(u32, u64), (f64, u32)>,
        sequence: &mut HashMap<(u32, u32), u64>,
        sent: &mut HashMap<(u32, u32), Vec<f64>>,
        received: &mut HashMap<(u32, u32), usize>,
        told: &mut Vec<String>,
    ) -> bool {
        let state = &mut ranks[rank as usize];
        let Some(op) = state.program.get(state.at).copied() else { return false };
        let (start, at) = (state.now, state.at);
        match op {
            Op::Never => return false,
            Op::Compute(us, name) => {
                state.now += us;
                if self.computes {
                    told.push(line(
                        rank,
                        &format!(r#""op":"compute","name":"{name}""#),
                        start,
                        Some(state.now),
                    ));
                }
            }
            Op::Join(comm) => match state.background.get(&comm) {
                Some(end) => state.now = state.now.max(*end),
                None => return false,
            },
            Op::Collective { comm, kind, background } => {
                let number = sequence.entry((rank, comm)).or_insert(0);
                let (_, name, members) = self.comms(rank).into_iter().find(|c| c.0 == comm).expect("own");
                let meeting = meetings.entry((comm, *number)).or_insert((0.0, 0));
                // Counted once, when it comes.
                state.background.entry(u32::MAX - comm).or_insert_with(|| {
                    meeting.0 = meeting.0.max(start);
                    meeting.1 += 1;
                    start
                });
                if meeting.1 < members.len() as u32 && !background {
                    return false;
                }
                let came = state.background.remove(&(u32::MAX - comm)).expect("came");
                if background {
                    // Its end is only known later; the rank goes on.
                    let end = came + 2_000.0 + TRANSFER_US;
                    state.background.insert(comm, end);
                    *number += 1;
                    told.push(collective(rank, &name, *number - 1, kind, came, Some(end)));
                } else {
                    let end = meeting.0 + TRANSFER_US;
                    state.now = end;
                    *number += 1;
                    told.push(collective(rank, &name, *number - 1, kind, came, Some(end)));
                }
            }
            Op::Send(peer) => {
                state.now += 20.0;
                sent.entry((rank, peer)).or_default().push(start);
                told.push(line(
                    rank,
                    &format!(r#""peer":{peer},"op":"send","bytes":4096"#),
                    start,
                    Some(state.now),
                ));
            }
            Op::Recv(peer) => {
                let number = received.entry((peer, rank)).or_insert(0);
                let Some(there) = sent.get(&(peer, rank)).and_then(|all| all.get(*number)) else {
                    return false;
                };
                state.now = start.max(*there) + TRANSFER_US;
                *number += 1;
                told.push(line(
                    rank,
                    &format!(r#""peer":{peer},"op":"recv","bytes":4096"#),
                    start,
                    Some(state.now),
                ));
            }
        }
        state.at = at + 1;
        true
    }

    /// What never ended.
    fn open(
        &self,
        ranks: &[Rank],
        sequence: &HashMap<(u32, u32), u64>,
        _meetings: &HashMap<(u32, u64), (f64, u32)>,
        lines: &mut Vec<String>,
    ) {
        for (rank, state) in ranks.iter().enumerate() {
            let rank = rank as u32;
            match state.program.get(state.at) {
                Some(Op::Collective { comm, kind, .. }) => {
                    let (_, name, _) = self.comms(rank).into_iter().find(|c| c.0 == *comm).expect("own");
                    let number = sequence.get(&(rank, *comm)).copied().unwrap_or(0);
                    lines.push(collective(rank, &name, number, *kind, state.now, None));
                }
                Some(Op::Recv(peer)) => {
                    lines.push(line(
                        rank,
                        &format!(r#""peer":{peer},"op":"recv","bytes":4096"#),
                        state.now,
                        None,
                    ));
                }
                _ => {}
            }
        }
    }
}

fn collective(rank: u32, comm: &str, sequence: u64, kind: u8, start: f64, end: Option<f64>) -> String {
    let (op, bytes) = KINDS[kind as usize];
    line(rank, &format!(r#""comm":"{comm}","seq":{sequence},"op":"{op}","bytes":{bytes}"#), start, end)
}

fn line(rank: u32, middle: &str, start: f64, end: Option<f64>) -> String {
    let clock = f64::from(rank) * 3.3e6;
    let end = end.map_or_else(String::new, |end| format!(r#","end_us":{:.3}"#, end + clock));
    format!(r#"{{"rank":{rank},{middle},"start_us":{:.3}{end}}}"#, start + clock)
}

/// Up to 30 µs, the same every time, different for every rank and operation.
fn noise(rank: u32, operation: u64) -> f64 {
    let mut state = (u64::from(rank) << 40 | operation).wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((state ^ state >> 31) % 1000) as f64 * 0.03
}
