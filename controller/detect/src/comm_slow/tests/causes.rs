//! From links that are slow, and others that suffer from them, to the cause that is named.

use std::collections::BTreeSet;

use super::{
    super::{
        locate::{Cause, locate},
        matrix::Matrix,
    },
    *,
};

/// From a slow-down that is only just one to a link that hardly anything gets through.
const FACTORS: [f64; 10] = [1.3, 1.5, 2.0, 4.0, 8.0, 18.0, 60.0, 200.0, 636.0, 1_000.0];
/// What a link takes longer because of a slow one before it, as a part of what that takes longer: seventeen times the
/// usual time of six hundred and thirty-five were measured.
const PASSED_ON: f64 = 17.0 / 635.0;
/// Seconds until every slow link is known, the least slow ones too.
const LONG: u64 = 60;

impl Links {
    fn all_to_all(ranks: u32) -> Self {
        let pairs = (0..ranks).flat_map(|src| (0..ranks).map(move |dst| (src, dst)));
        Self::between(ranks, pairs.filter(|(src, dst)| src != dst))
    }

    /// What is named when some links are `factor` times as slow, and those that carry on what comes late a little.
    fn causes(&mut self, factor: f64, is_slow: impl Fn((u32, u32)) -> bool) -> Vec<Cause> {
        let late: BTreeSet<u32> =
            self.pairs.iter().filter(|pair| is_slow(**pair)).map(|(_, dst)| *dst).collect();
        self.run(20, |_| (1.0, 1.0));
        self.run_links(LONG, |pair| {
            let times = match pair {
                pair if is_slow(pair) => factor,
                (src, _) if late.contains(&src) => 1.0 + (factor - 1.0) * PASSED_ON,
                _ => 1.0,
            };
            (times, times)
        });
        let end = |rank: u32| (ProcessId(u64::from(rank)), &self.nodes[rank as usize]);
        let matrix = Matrix::of_network(&self.network, |key| Some((end(key.src), end(key.dst))));
        let slow: Vec<_> = matrix.slow.keys().copied().collect();
        let rank = |number: usize| matrix.processes[number].0 as usize;
        let ranks = |nodes: BTreeSet<usize>| {
            nodes.into_iter().map(|node| matrix.nodes[node].0["node-".len()..].parse().unwrap()).collect()
        };
        let by_rank = |cause| match cause {
            Cause::Path(src, dst) => Cause::Path(rank(src), rank(dst)),
            Cause::Sender(number) => Cause::Sender(rank(number)),
            Cause::Receiver(number) => Cause::Receiver(rank(number)),
            Cause::Ends(number) => Cause::Ends(rank(number)),
            Cause::Group(nodes) => Cause::Group(ranks(nodes)),
            Cause::Uplink(nodes) => Cause::Uplink(ranks(nodes)),
            Cause::Between(from, to) => Cause::Between(ranks(from), ranks(to)),
            other => other,
        };
        locate(&slow, &matrix.fine).into_iter().map(|found| by_rank(found.cause)).collect()
    }
}

#[test]
fn a_slow_link_of_a_ring_is_a_path_however_slow_it_is_and_whoever_suffers_from_it() {
    for ranks in [3, 4, 5, 8, 16, 48] {
        for factor in FACTORS {
            let causes = Links::ring(ranks).causes(factor, |pair| pair == (1, 2));
            assert_eq!(causes, [Cause::Path(1, 2)], "{factor} times as slow among {ranks}");
        }
    }
}

#[test]
fn a_slow_nic_of_a_ring_is_slow_both_ways_however_slow_it_is() {
    for ranks in [4, 8, 16, 48] {
        for factor in FACTORS {
            let causes = Links::ring(ranks).causes(factor, |(src, dst)| src == 2 || dst == 2);
            assert_eq!(causes, [Cause::Ends(2)], "{factor} times as slow among {ranks}");
        }
    }
}

#[test]
fn rows_columns_and_blocks_are_told_from_cells_however_slow_they_are() {
    for factor in FACTORS {
        let of = |is_slow: &dyn Fn((u32, u32)) -> bool| Links::all_to_all(12).causes(factor, is_slow);
        let named = [
            of(&|pair| pair == (3, 5)),
            of(&|(src, _)| src == 3),
            of(&|(_, dst)| dst == 3),
            of(&|(src, dst)| src == 3 || dst == 3),
            of(&|(src, dst)| (src < 2) != (dst < 2)),
            of(&|(src, dst)| src < 2 && (5..8).contains(&dst)),
        ];
        let expected = [
            Cause::Path(3, 5),
            Cause::Sender(3),
            Cause::Receiver(3),
            Cause::Ends(3),
            Cause::Uplink(BTreeSet::from([0, 1])),
            Cause::Between(BTreeSet::from([0, 1]), BTreeSet::from([5, 6, 7])),
        ];
        assert_eq!(named, expected.map(|cause| vec![cause]), "{factor} times as slow");
    }
}

#[test]
fn of_two_slow_links_of_a_ring_both_are_told_while_both_take_time() {
    for (factor, told) in [(100.0, true), (30.0, true), (6.0, false)] {
        let mut ring = Links::ring(16);
        ring.run(20, |_| (1.0, 1.0));
        ring.run(LONG, |src| match src {
            1 => (100.0, 100.0),
            9 => (factor, factor),
            _ => (1.0, 1.0),
        });
        assert_eq!(ring.slow(), [(1, 2), (9, 10)]);
        let end = |rank: u32| (ProcessId(u64::from(rank)), &ring.nodes[rank as usize]);
        let matrix = Matrix::of_network(&ring.network, |key| Some((end(key.src), end(key.dst))));
        assert_eq!(matrix.slow.len(), 1 + usize::from(told), "{factor} times as slow");
    }
}
