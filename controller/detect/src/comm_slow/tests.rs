mod causes;

use super::*;

#[test]
fn the_pace_is_compared_with_what_was_usual_before_anything_was_wrong() {
    let mut pace = Pace::default();
    (0..40).for_each(|i| pace.push(100_000_000 + i % 3, false, Timestamp(0)));
    assert!(pace.loss() < 0.05, "{}", pace.loss());
    (0..100).for_each(|_| pace.push(150_000_000, true, Timestamp(0)));
    assert!((0.25..0.4).contains(&pace.loss()), "a third of the iteration is lost: {}", pace.loss());
    (0..20).for_each(|_| pace.push(100_000_000, false, Timestamp(0)));
    assert!(pace.loss() < 0.05, "{}", pace.loss());
}

#[test]
fn a_pace_that_is_not_known_tells_of_no_loss() {
    let mut pace = Pace::default();
    (0..10).for_each(|i| pace.push(1_000 * (i + 1), false, Timestamp(0)));
    assert_eq!(pace.loss(), 0.0);
}

/// A communicator of so many ranks, one on a node, as its members tell of their links once a second.
struct Links {
    network: Network,
    nodes: Vec<NodeName>,
    pairs: Vec<(u32, u32)>,
    second: u64,
    random: u64,
}

impl Links {
    fn ring(ranks: u32) -> Self {
        Self::between(ranks, (0..ranks).map(|src| (src, (src + 1) % ranks)))
    }

    fn between(ranks: u32, pairs: impl Iterator<Item = (u32, u32)>) -> Self {
        let nodes = (0..ranks).map(|n| NodeName(format!("node-{n}"))).collect();
        Self { network: Network::default(), nodes, pairs: pairs.collect(), second: 0, random: 1 }
    }

    /// A number that is zero on average and at most `scale` away from it.
    fn noise(&mut self, scale: f64) -> f64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) as f64 / f64::from(1_u32 << 31) * 2.0 - 1.0) * scale
    }

    /// Seconds pass; `times` says by which factors the sender's and the receiver's network time of a link are longer.
    fn run(&mut self, seconds: u64, times: impl Fn(u32) -> (f64, f64)) {
        self.run_links(seconds, |(src, _)| times(src));
    }

    fn run_links(&mut self, seconds: u64, times: impl Fn((u32, u32)) -> (f64, f64)) {
        for _ in 0..seconds {
            self.second += 1;
            let now = Timestamp(1_000_000_000_000 + self.second * 1_000_000);
            let size = self.nodes.len() as u32;
            for (src, dst) in self.pairs.clone() {
                for is_send in [true, false] {
                    let (send, receive) = times((src, dst));
                    let factor = (if is_send { send } else { receive * 2.0 }) * (1.0 + self.noise(0.1));
                    let (own, peer) = if is_send { (src, dst) } else { (dst, src) };
                    let place = |comm_rank: u32| {
                        let process = ProcessId(u64::from(comm_rank) + 1);
                        Some(Place { process, node: &self.nodes[comm_rank as usize], nodes: None })
                    };
                    let link = LinkTime {
                        peer,
                        is_send,
                        channels: 2,
                        steps: 32,
                        bytes: 32 << 19,
                        network_ns: (32.0 * 20_000.0 * factor) as u64,
                        ..LinkTime::default()
                    };
                    let at = Where { comm: CommId(7), size, name: "" };
                    self.network.take(at, own, &link, place, now);
                }
            }
            self.network.compare(&Config::default(), now);
        }
    }

    fn slow(&self) -> Vec<(u32, u32)> {
        self.network.slow.iter().map(|key| (key.src, key.dst)).collect()
    }
}

#[test]
fn a_link_that_becomes_slow_is_found_and_clears() {
    let mut ring = Links::ring(8);
    ring.run(30, |_| (1.0, 1.0));
    assert_eq!(ring.slow(), []);
    ring.run(12, |src| if src == 3 { (1.6, 1.6) } else { (1.0, 1.0) });
    assert_eq!(ring.slow(), [(3, 4)]);
    let numbers = ring.network.cells.get(ring.network.slow.first().unwrap()).unwrap().numbers;
    assert!((1.4..1.8).contains(&numbers.excess.exp()), "{numbers:?}");
    assert_eq!(numbers.peers, 8);
    ring.run(30, |_| (1.0, 1.0));
    assert_eq!(ring.slow(), []);
}

#[test]
fn a_late_rank_is_no_slow_link_whichever_end_waits_for_it() {
    // Rank 4 is late: what is sent to it lies with the network, and what it sends is waited for.
    let mut ring = Links::ring(8);
    ring.run(20, |_| (1.0, 1.0));
    ring.run(200, |src| match src {
        3 => (50.0, 0.2),
        4 => (1.0, 50.0),
        _ => (1.0, 10.0),
    });
    assert_eq!(ring.slow(), []);
}

#[test]
fn a_link_that_was_always_slow_is_found_as_one_of_few() {
    let mut ring = Links::ring(16);
    ring.run(40, |src| if src == 3 { (2.5, 2.5) } else { (1.0, 1.0) });
    assert_eq!(ring.slow(), [(3, 4)]);
}

#[test]
fn links_of_another_class_are_not_slow_but_one_of_them_may_become_so() {
    let slow_class = |src: u32| src % 2 == 1;
    let mut ring = Links::ring(16);
    ring.run(200, |src| if slow_class(src) { (4.0, 4.0) } else { (1.0, 1.0) });
    assert_eq!(ring.slow(), []);
    ring.run(15, |src| match src {
        5 => (8.0, 8.0),
        _ if slow_class(src) => (4.0, 4.0),
        _ => (1.0, 1.0),
    });
    assert_eq!(ring.slow(), [(5, 6)]);
}

#[test]
fn what_slows_every_link_accuses_none() {
    let mut ring = Links::ring(8);
    ring.run(30, |_| (1.0, 1.0));
    ring.run(60, |_| (3.0, 3.0));
    assert_eq!(ring.slow(), []);
}

#[test]
fn others_that_become_faster_make_no_link_slow() {
    // Rank 1 is late and finds its data there, in a kind of so few links that this is what the others are measured against.
    let mut ring = Links::ring(4);
    ring.run(30, |_| (1.0, 1.0));
    ring.run(60, |src| if src == 0 { (1.0, 0.1) } else { (1.0, 1.0) });
    assert_eq!(ring.slow(), []);
}

#[test]
fn links_that_become_slow_while_they_are_learned_are_found_although_they_are_half_of_their_kind() {
    let mut ring = Links::ring(6);
    ring.run(1, |_| (1.0, 1.0));
    ring.run(20, |src| if src < 3 { (500.0, 500.0) } else { (1.0, 1.0) });
    assert_eq!(ring.slow(), [(0, 1), (1, 2), (2, 3)]);
}

#[test]
fn one_end_alone_proves_nothing_and_nothing_odd_breaks_it() {
    let mut network = Network::default();
    let node = NodeName("n".into());
    let place = |rank: u32| Some(Place { process: ProcessId(rank.into()), node: &node, nodes: None });
    let at = Where { comm: CommId(1), size: 4, name: "" };
    for second in 0..100 {
        let now = Timestamp(second * 1_000_000);
        for (bytes, steps, ns) in [(1 << 20, 8, u64::MAX), (u64::MAX, 8, 0), (0, 0, 1), (1 << 20, 0, 5)] {
            for peer in [1, 2, 3] {
                let link =
                    LinkTime { peer, is_send: true, steps, bytes, network_ns: ns, ..LinkTime::default() };
                network.take(at, 0, &link, place, now);
            }
        }
        network.compare(&Config::default(), now);
    }
    assert!(network.slow.is_empty() && network.suspicious.is_empty());
}

#[test]
fn a_link_that_hardly_anything_gets_through_is_found_soon_and_clears_although_a_little_remains() {
    let blocked = |src: u32| if src == 2 { (200.0, 200.0) } else { (1.0, 1.0) };
    let mut ring = Links::ring(4);
    ring.run(30, |_| (1.0, 1.0));
    ring.run(1, blocked);
    ring.run(10, |_| (1.0, 1.0));
    assert_eq!(ring.slow(), [], "one bad second accuses nobody");
    ring.run(4, blocked);
    assert_eq!(ring.slow(), [(2, 3)]);
    ring.run(12, blocked);
    ring.run(11, |src| if src == 2 { (1.3, 1.3) } else { (1.0, 1.0) });
    assert_eq!(ring.slow(), []);
}

#[test]
fn a_slow_link_that_becomes_much_slower_is_as_slow_as_it_is_now() {
    let mut ring = Links::ring(4);
    ring.run(30, |_| (1.0, 1.0));
    ring.run(30, |src| if src == 2 { (2.0, 2.0) } else { (1.0, 1.0) });
    let worst = |ring: &Links| ring.network.cells.get(ring.network.slow.first().unwrap()).unwrap().numbers;
    let before = worst(&ring);
    ring.run(3, |src| if src == 2 { (100.0, 100.0) } else { (1.0, 1.0) });
    let after = worst(&ring);
    assert!(after.excess.exp() > 50.0 && after.since > before.since, "{before:?} {after:?}");
}

#[test]
fn links_that_became_slow_together_are_not_fine_because_they_are_compared_with_each_other() {
    let slow = |src: u32| if src == 3 || src == 4 { (50.0, 50.0) } else { (1.0, 1.0) };
    let mut ring = Links::ring(8);
    ring.run(30, |_| (1.0, 1.0));
    let all = ring.pairs.clone();
    for _ in 0..4 {
        // Now and then all are timed, and most of the time those two alone.
        ring.pairs.clone_from(&all);
        ring.run(1, slow);
        ring.pairs.retain(|(src, _)| *src == 3 || *src == 4);
        ring.run(24, slow);
    }
    assert_eq!(ring.slow(), [(3, 4), (4, 5)]);
}

#[test]
fn links_that_are_always_compared_among_themselves_are_slow_if_others_since_are_not() {
    let halves = |is_slow: fn(u32) -> bool| {
        let mut ring = Links::ring(16);
        ring.run(30, |_| (1.0, 1.0));
        let all = ring.pairs.clone();
        for half in (0..2).cycle().take(16) {
            ring.pairs = all.iter().copied().filter(|(src, _)| src / 8 == half).collect();
            ring.run(4, |src| if is_slow(src) { (50.0, 50.0) } else { (1.0, 1.0) });
        }
        ring.slow()
    };
    assert_eq!(halves(|src| src < 8), (0..8).map(|src| (src, src + 1)).collect::<Vec<_>>());
    assert_eq!(halves(|_| true), [], "so are all of their kind");
}

#[test]
fn a_gpu_that_is_busy_with_something_else_is_no_slow_link() {
    let told = |is_send, gpu_ns| LinkTime {
        is_send,
        steps: 8,
        bytes: 1 << 20,
        network_ns: 1 << 20,
        gpu_ns,
        flush_ns: if is_send { 0 } else { 10 << 20 },
        ..LinkTime::default()
    };
    let cost = |gpu_ns| {
        let likeness = Likeness { size_class: 0, local: false, nics: 0 };
        let mut cell = Cell::new(Kin { size: 4, name: 0, likeness }, Timestamp(0));
        assert!(!cell.take(&told(true, 0), Timestamp(1)));
        assert!(cell.take(&told(false, gpu_ns), Timestamp(2)));
        cell.cost().unwrap()
    };
    assert_eq!((cost(0), cost(20 << 20)), (11.0, 1.0), "ns a byte");
}
