//! What a rank sends, receives and computes, as lines tell of it, until all are read and it is clear which send meets
//! which receive: by tag or number where given, else by order within an iteration.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::analyze::{
    recording::{Compute, Transfer},
    trace::{self, PointToPoint},
};

/// Names of computations that are told apart; a trace that has more puts numbers into its names.
const MAX_KINDS: usize = 4096;

/// All moves of all ranks.
#[derive(Debug, Default)]
pub(super) struct Moves {
    ranks: BTreeMap<u32, OfRank>,
    kinds: HashMap<String, u32>,
    names: Vec<String>,
}

#[derive(Debug, Default)]
struct OfRank {
    transfers: Vec<Read>,
    computes: Vec<Compute>,
    /// Transfers that were let go, by way: they count in the order of those that follow.
    dropped: HashMap<Way, u64>,
}

/// Peer, direction and channel.
type Way = (u32, bool, u64);

#[derive(Clone, Copy, Debug)]
struct Read {
    transfer: Transfer,
    sequence: Option<u64>,
    iteration: Option<u64>,
    group: Option<u64>,
}

impl Read {
    fn way(&self) -> Way {
        (self.transfer.peer, self.transfer.is_send, self.transfer.channel)
    }
}

impl Moves {
    pub(super) fn transfer(&mut self, line: &PointToPoint<'_>) {
        let transfer = Transfer {
            peer: line.peer,
            is_send: line.is_send,
            channel: hash(&(&line.comm, &line.tag)),
            place: 0,
            bytes: line.bytes.unwrap_or(0),
            batch: 0,
            enqueued_ns: line.enqueued_ns.unwrap_or(line.start_ns),
            started_ns: Some(line.start_ns),
            ended_ns: line.end_ns,
        };
        self.ranks.entry(line.rank).or_default().transfers.push(Read {
            transfer,
            sequence: line.sequence,
            iteration: line.iteration,
            group: line.group.as_ref().map(hash),
        });
    }

    pub(super) fn compute(&mut self, line: &trace::Compute<'_>) {
        let kind = match self.kinds.get(line.name.as_ref()) {
            Some(kind) => *kind,
            None if self.names.len() >= MAX_KINDS => 0,
            None => {
                let kind = u32::try_from(self.names.len()).unwrap_or(0);
                self.kinds.insert(line.name.clone().into_owned(), kind);
                self.names.push(line.name.clone().into_owned());
                kind
            }
        };
        self.ranks.entry(line.rank).or_default().computes.push(Compute {
            kind,
            iteration: line.iteration,
            start_ns: line.start_ns,
            end_ns: line.end_ns,
        });
    }

    pub(super) fn ranks(&self) -> impl Iterator<Item = u32> {
        self.ranks.keys().copied()
    }

    /// Leaves out a rank; returns how many moves it had.
    pub(super) fn forget(&mut self, rank: u32) -> usize {
        self.ranks.remove(&rank).map_or(0, |of| of.transfers.len() + of.computes.len())
    }

    /// Keeps the last ones of each rank. Returns how many are left.
    pub(super) fn trim(&mut self, limit: usize) -> usize {
        let mut left = 0;
        for of in self.ranks.values_mut() {
            if of.computes.len() > limit {
                of.computes.sort_by_key(|compute| compute.start_ns);
                of.computes.drain(..of.computes.len() - limit);
            }
            if of.transfers.len() > limit {
                of.transfers.sort_by_key(|read| read.transfer.started_ns);
                // What never ended is what this is all about.
                let old = of.transfers.len() - limit;
                let dropped = of.transfers[..old].iter().filter(|read| read.transfer.ended_ns.is_some());
                for read in dropped {
                    *of.dropped.entry(read.way()).or_default() += 1;
                }
                let mut place = 0;
                of.transfers.retain(|read| {
                    place += 1;
                    place > old || read.transfer.ended_ns.is_none()
                });
            }
            left += of.computes.len() + of.transfers.len();
        }
        left
    }

    pub(super) fn names(&mut self) -> Vec<String> {
        std::mem::take(&mut self.names)
    }

    /// One rank's transfers and computations, in order.
    pub(super) fn take(&mut self, rank: u32) -> (Vec<Transfer>, Vec<Compute>) {
        let Some(mut of) = self.ranks.remove(&rank) else { return Default::default() };
        of.computes.sort_by_key(|compute| (compute.start_ns, compute.kind));
        of.transfers.sort_by_key(|read| {
            (read.iteration, read.transfer.started_ns, read.transfer.peer, read.transfer.is_send)
        });
        number(&mut of.transfers, &of.dropped);
        of.transfers.sort_by_key(|read| (read.transfer.started_ns, read.transfer.place));
        batch(&mut of.transfers);
        let mut transfers: Vec<Transfer> = of.transfers.into_iter().map(|read| read.transfer).collect();
        mend(&mut transfers);
        (transfers, of.computes)
    }
}

/// Gives each transfer its place among those of its way.
fn number(transfers: &mut [Read], dropped: &HashMap<Way, u64>) {
    let mut next: HashMap<(Way, Option<u64>), u64> = HashMap::new();
    for read in transfers {
        let way = read.way();
        let place = next.entry((way, read.iteration)).or_insert_with(|| match read.iteration {
            None => dropped.get(&way).copied().unwrap_or(0),
            Some(_) => 0,
        });
        read.transfer.place = match (read.sequence, read.iteration) {
            (Some(sequence), _) => sequence,
            (None, Some(iteration)) => iteration << 24 | *place & 0xff_ffff,
            (None, None) => *place,
        };
        *place += 1;
    }
}

/// Transfers with the same group, or the same begin and end, are one batch.
fn batch(transfers: &mut [Read]) {
    let mut groups: HashMap<u64, u32> = HashMap::new();
    let mut next = 0;
    let mut before: Option<(Option<i64>, Option<i64>, u32)> = None;
    for read in transfers {
        let (begin, end) = (read.transfer.started_ns, read.transfer.ended_ns);
        let number = match (read.group, before) {
            (Some(group), _) => *groups.entry(group).or_insert_with(|| {
                next += 1;
                next
            }),
            (None, Some((begin_before, end_before, number)))
                if (begin_before, end_before) == (begin, end) =>
            {
                number
            }
            _ => {
                next += 1;
                next
            }
        };
        read.transfer.batch = number;
        before = Some((begin, end, number));
    }
}

/// A transfer without an end, after which another of the same way has ended, ended as well.
fn mend(transfers: &mut [Transfer]) {
    let mut ended: HashMap<Way, u64> = HashMap::new();
    for transfer in transfers.iter().filter(|transfer| transfer.ended_ns.is_some()) {
        let last = ended.entry((transfer.peer, transfer.is_send, transfer.channel)).or_default();
        *last = (*last).max(transfer.place);
    }
    for transfer in transfers {
        let last = ended.get(&(transfer.peer, transfer.is_send, transfer.channel));
        if transfer.ended_ns.is_none() && last.is_some_and(|last| *last > transfer.place) {
            transfer.ended_ns = transfer.started_ns;
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    // The same within one run, which is all that is needed.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(moves: &mut Moves, text: &str) {
        match trace::parse(text.as_bytes(), None).expect("a good line") {
            trace::Line::PointToPoint(line) => moves.transfer(&line),
            other => panic!("{other:?}"),
        }
    }

    fn places(lines: &[&str]) -> Vec<(u64, u32)> {
        let mut moves = Moves::default();
        for line in lines {
            read(&mut moves, line);
        }
        moves.take(0).0.iter().map(|transfer| (transfer.place, transfer.batch)).collect()
    }

    #[test]
    fn order_counts_within_an_iteration_and_whatever_the_order_of_lines() {
        let lines = [
            r#"{"rank":0,"peer":1,"op":"send","iteration":1,"start_us":30,"end_us":31}"#,
            r#"{"rank":0,"peer":1,"op":"send","iteration":0,"start_us":20,"end_us":21}"#,
            r#"{"rank":0,"peer":1,"op":"send","iteration":0,"start_us":10,"end_us":11}"#,
        ];
        let of: Vec<u64> = places(&lines).iter().map(|(place, _)| *place).collect();
        assert_eq!(of, [0, 1, 1 << 24]);
        let numbered = r#"{"rank":0,"peer":1,"op":"send","seq":77,"start_us":10,"end_us":11}"#;
        assert_eq!(places(&[numbered])[0].0, 77);
    }

    #[test]
    fn one_group_or_one_begin_and_end_is_one_batch() {
        let of = |lines: &[&str]| places(lines).iter().map(|(_, batch)| *batch).collect::<Vec<_>>();
        let grouped = [
            r#"{"rank":0,"peer":1,"op":"send","group":"a","start_us":10,"end_us":11}"#,
            r#"{"rank":0,"peer":2,"op":"recv","group":"a","start_us":12,"end_us":13}"#,
            r#"{"rank":0,"peer":2,"op":"recv","group":"b","start_us":14,"end_us":15}"#,
        ];
        assert_eq!(of(&grouped), [1, 1, 2]);
        let equal = [
            r#"{"rank":0,"peer":1,"op":"send","start_us":10}"#,
            r#"{"rank":0,"peer":2,"op":"recv","start_us":10}"#,
            r#"{"rank":0,"peer":2,"op":"recv","start_us":11}"#,
        ];
        assert_eq!(of(&equal), [1, 1, 2]);
    }

    #[test]
    fn what_was_let_go_still_counts() {
        let mut moves = Moves::default();
        for n in 0..10 {
            read(&mut moves, &format!(r#"{{"rank":0,"peer":1,"op":"send","start_us":{n},"end_us":{n}.5}}"#));
        }
        assert_eq!(moves.trim(3), 3);
        read(&mut moves, r#"{"rank":0,"peer":1,"op":"send","start_us":20}"#);
        let places: Vec<u64> = moves.take(0).0.iter().map(|transfer| transfer.place).collect();
        assert_eq!(places, [7, 8, 9, 10]);
    }
}
