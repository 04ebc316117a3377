//! Where the time of timed network steps goes, by peer and direction.
//!
//! A recorder keeps sums per connection since it was opened; the controller wants what is new, by peer, with steps of like size
//! together. Connections are looked at ten times a second, so what moved between two looks is mostly one operation's
//! and of one size. An all-to-all has a thousand peers: what does not fit into one window waits for the next, those that
//! have waited longest first, and keeps adding up meanwhile, so nothing is lost and both ends tell of a link in turn. So it does from
//! one telling to the next in large jobs, which tell of links in fewer windows.

use std::collections::{BTreeMap, HashMap};

use c4_detect::{aggregate::Detail, observation::LinkTime};
use c4_recorder::snapshot::Connection;

/// Entries of one communicator for each window.
const MOST: usize = 32;
/// Connections of one communicator that are remembered: far more than a recorder has room for at once.
const MAX_SEEN: usize = 16_384;
/// Steps smaller than this tell of latency only, and are not told of.
const MIN_STEP_BYTES: u64 = 4_096;

/// Sums of one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    steps: u64,
    bytes: u64,
    network_ns: u64,
    gpu_ns: u64,
    peer_ns: u64,
    flush_ns: u64,
}

impl Sums {
    fn of(connection: &Connection) -> Self {
        Self {
            steps: connection.timed_steps,
            bytes: connection.timed_bytes,
            network_ns: connection.network_wait_ns,
            gpu_ns: connection.gpu_wait_ns,
            peer_ns: connection.peer_wait_ns,
            flush_ns: connection.flush_wait_ns,
        }
    }
}

/// What is to be told of one peer, direction and size.
#[derive(Debug, Default)]
struct Due {
    link: LinkTime,
    /// Channels seen, as bits.
    channels: u128,
    since: u64,
}

/// The connections of one communicator.
#[derive(Debug, Default)]
pub(super) struct Links {
    seen: HashMap<(u32, u32, bool), Sums>,
    due: BTreeMap<(u32, bool, u32), Due>,
    windows: u64,
    detail: Detail,
}

impl Links {
    pub(super) fn with(detail: Detail) -> Self {
        Self { detail, ..Self::default() }
    }

    /// Takes in one look. What a connection had done before it was first seen is not told: nobody knows when it was.
    pub(super) fn update(&mut self, connections: &[&Connection]) {
        for connection in connections {
            let now = Sums::of(connection);
            let key = (connection.peer, connection.channel, connection.is_send);
            let Some(before) = self.seen.get_mut(&key) else {
                if self.seen.len() >= MAX_SEEN {
                    self.seen.clear();
                }
                self.seen.insert(key, now);
                continue;
            };
            if now.steps == before.steps {
                continue;
            }
            // A slot that begins anew is another connection to the same peer.
            let before = std::mem::replace(before, now);
            let before = if now.steps < before.steps { Sums::default() } else { before };
            self.add(connection, &now, &before);
        }
    }

    fn add(&mut self, connection: &Connection, now: &Sums, before: &Sums) {
        let new = LinkTime {
            peer: connection.peer,
            is_send: connection.is_send,
            channels: 0,
            steps: now.steps - before.steps,
            bytes: now.bytes.saturating_sub(before.bytes),
            network_ns: now.network_ns.saturating_sub(before.network_ns),
            gpu_ns: now.gpu_ns.saturating_sub(before.gpu_ns),
            peer_ns: now.peer_ns.saturating_sub(before.peer_ns),
            flush_ns: now.flush_ns.saturating_sub(before.flush_ns),
        };
        if new.bytes < new.steps.saturating_mul(MIN_STEP_BYTES) {
            return;
        }
        let due = self.due.entry((new.peer, new.is_send, new.size_class())).or_default();
        if due.link.steps == 0 {
            due.since = self.windows;
        }
        due.channels |= 1 << connection.channel.min(127);
        let link = &mut due.link;
        (link.peer, link.is_send, link.channels) = (new.peer, new.is_send, due.channels.count_ones());
        for (sum, more) in [
            (&mut link.steps, new.steps),
            (&mut link.bytes, new.bytes),
            (&mut link.network_ns, new.network_ns),
            (&mut link.gpu_ns, new.gpu_ns),
            (&mut link.peer_ns, new.peer_ns),
            (&mut link.flush_ns, new.flush_ns),
        ] {
            *sum = sum.saturating_add(more);
        }
    }

    /// What is told in this window.
    pub(super) fn take(&mut self) -> Vec<LinkTime> {
        self.windows += 1;
        if !self.detail.tells_of_links(self.windows) {
            return Vec::new();
        }
        let most = MOST * self.detail.windows_of_links() as usize;
        if self.due.len() <= most {
            return std::mem::take(&mut self.due).into_values().map(|due| due.link).collect();
        }
        let mut waiting: Vec<_> = self.due.iter().map(|(key, due)| (due.since, *key)).collect();
        waiting.sort_unstable();
        waiting.iter().take(most).filter_map(|(_, key)| self.due.remove(key)).map(|due| due.link).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A connection after so many steps of 64 KiB, each with 10 µs of network and 3 µs of GPU.
    fn connection(peer: u32, channel: u32, is_send: bool, steps: u64) -> Connection {
        Connection {
            comm_generation: 1,
            peer,
            channel,
            is_send,
            steps_done: steps,
            timed_steps: steps,
            timed_bytes: steps << 16,
            gpu_wait_ns: steps * 3_000,
            network_wait_ns: steps * 10_000,
            ..Connection::default()
        }
    }

    fn look(links: &mut Links, connections: &[Connection]) {
        links.update(&connections.iter().collect::<Vec<_>>());
    }

    #[test]
    fn differences_are_added_up_over_channels_and_looks() {
        let mut links = Links::default();
        let at = |steps| {
            [connection(1, 0, true, steps), connection(1, 1, true, steps), connection(2, 0, false, 7)]
        };
        look(&mut links, &at(100));
        assert_eq!(links.take(), [], "what was before is not told");
        look(&mut links, &at(103));
        look(&mut links, &at(105));
        let told = links.take();
        let expected = LinkTime {
            peer: 1,
            is_send: true,
            channels: 2,
            steps: 10,
            bytes: 10 << 16,
            network_ns: 100_000,
            gpu_ns: 30_000,
            ..LinkTime::default()
        };
        assert_eq!(told, [expected]);
        assert_eq!(links.take(), [], "each step is told once");
    }

    #[test]
    fn steps_of_other_sizes_stay_apart_and_tiny_ones_are_not_told() {
        let mut links = Links::default();
        look(&mut links, &[connection(1, 0, true, 0)]);
        look(&mut links, &[connection(1, 0, true, 4)]);
        let mut large = connection(1, 0, true, 8);
        large.timed_bytes = (4 << 16) + (4 << 20);
        look(&mut links, &[large.clone()]);
        let mut tiny = large;
        (tiny.timed_steps, tiny.timed_bytes) = (12, tiny.timed_bytes + 4 * 8);
        look(&mut links, &[tiny]);
        let told: Vec<_> = links.take().iter().map(|link| (link.steps, link.bytes)).collect();
        assert_eq!(told, [(4, 4 << 16), (4, 4 << 20)]);
    }

    #[test]
    fn a_connection_that_begins_anew_is_told_from_its_beginning() {
        let mut links = Links::default();
        look(&mut links, &[connection(1, 0, true, 100)]);
        look(&mut links, &[connection(1, 0, true, 6)]);
        assert_eq!(links.take().first().map(|link| link.steps), Some(6));
    }

    #[test]
    fn of_a_thousand_peers_all_are_told_in_turn_and_nothing_is_lost() {
        let mut links = Links::default();
        let all = |steps| (0..1_000).map(|peer| connection(peer, 0, true, steps)).collect::<Vec<_>>();
        look(&mut links, &all(0));
        let (mut peers, mut steps, mut windows) = (BTreeSet::new(), 0, 0);
        while peers.len() < 1_000 {
            windows += 1;
            look(&mut links, &all(windows));
            let told = links.take();
            assert!(told.len() <= MOST);
            peers.extend(told.iter().map(|link| link.peer));
            steps += told.iter().map(|link| link.steps).sum::<u64>();
        }
        assert!(windows <= 32, "{windows}");
        let left: u64 = links.due.values().map(|due| due.link.steps).sum();
        assert_eq!(steps + left, 1_000 * windows);
    }

    #[test]
    fn large_jobs_tell_in_fewer_windows_and_lose_nothing() {
        let told = |ranks: u32| {
            let mut links = Links::with(Detail::in_job_of(Some(ranks)));
            let at = |steps| (0..64).map(|peer| connection(peer, 0, true, steps)).collect::<Vec<_>>();
            look(&mut links, &at(0));
            let windows = (1..=16).map(|steps| {
                look(&mut links, &at(steps));
                links.take()
            });
            let windows: Vec<_> = windows.filter(|told| !told.is_empty()).collect();
            (windows.len(), windows.iter().flatten().map(|link| link.steps).sum::<u64>())
        };
        assert_eq!(told(100_000), (4, 64 * 16), "all peers at once, since it is for four windows");
        assert_eq!(told(16_384), (8, 64 * 16));
        assert_eq!(told(10_000).0, 16);
    }
}
