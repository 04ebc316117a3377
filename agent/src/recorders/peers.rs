//! Whom a communicator sends to, and how much: what paths are planned for. A new peer or channel is told at once, so that a
//! plan can follow within an iteration or two; sums are told again every few seconds, also for a controller that has
//! forgotten them.

use std::collections::BTreeMap;

use c4_recorder::snapshot::Connection;

/// Time between two reports of what is known already.
const AGAIN_NS: u64 = 5_000_000_000;
/// Peers told of one communicator; an all-to-all over more is not planned flow by flow.
const MOST: usize = 4096;

/// What a process has sent to one peer of a communicator so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSums {
    /// Channels in use.
    pub channels: u32,
    /// Network operations that ended.
    pub operations: u64,
    /// Bytes of the network steps that were sampled: a measure beside those of other peers.
    pub bytes: u64,
}

/// The peers of one communicator.
#[derive(Debug, Default)]
pub(super) struct Peers {
    sums: BTreeMap<u32, PeerSums>,
    news: bool,
    told_ns: u64,
}

impl Peers {
    /// Takes in one look.
    pub(super) fn update(&mut self, connections: &[&Connection]) {
        let mut sums: BTreeMap<u32, PeerSums> = BTreeMap::new();
        for connection in connections.iter().filter(|connection| connection.is_send) {
            if sums.len() >= MOST && !sums.contains_key(&connection.peer) {
                continue;
            }
            let sum = sums.entry(connection.peer).or_default();
            sum.channels += 1;
            sum.operations = sum.operations.saturating_add(connection.operations_done);
            sum.bytes = sum.bytes.saturating_add(connection.bytes);
        }
        let before = |peer| self.sums.get(peer).map_or(0, |sum: &PeerSums| sum.channels);
        self.news |= sums.iter().any(|(peer, sum)| sum.channels != before(peer));
        self.sums = sums;
    }

    /// What is to be told now; empty when nothing is.
    pub(super) fn take(&mut self, now_ns: u64) -> Vec<(u32, PeerSums)> {
        if !self.news && now_ns.saturating_sub(self.told_ns) < AGAIN_NS {
            return Vec::new();
        }
        (self.news, self.told_ns) = (false, now_ns);
        self.sums.iter().map(|(peer, sum)| (*peer, *sum)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(peer: u32, channel: u32, is_send: bool, operations: u64) -> Connection {
        Connection {
            comm_generation: 1,
            peer,
            channel,
            is_send,
            bytes: operations << 16,
            steps_done: operations,
            operations_started: operations,
            operations_done: operations,
            ..Connection::default()
        }
    }

    #[test]
    fn new_peers_and_channels_are_told_at_once_and_sums_now_and_then() {
        let mut peers = Peers::default();
        let mut look = |connections: &[Connection], now_ns| {
            peers.update(&connections.iter().collect::<Vec<_>>());
            peers.take(now_ns)
        };
        let sums = |channels, operations| PeerSums { channels, operations, bytes: operations << 16 };
        assert_eq!(look(&[], 1), []);
        assert_eq!(look(&[connection(3, 0, true, 1), connection(2, 0, false, 1)], 2), [(3, sums(1, 1))]);
        assert_eq!(look(&[connection(3, 0, true, 9)], 3), [], "nothing new");
        let both = [connection(3, 0, true, 10), connection(3, 1, true, 10)];
        assert_eq!(look(&both, 4), [(3, sums(2, 20))]);
        assert_eq!(look(&both, 4 + AGAIN_NS - 1), []);
        assert_eq!(look(&both, 4 + AGAIN_NS), [(3, sums(2, 20))]);
    }
}
