//! From the pattern of slow links in the delay matrix to what they have in common.
//!
//! One slow cell is a path. A row is a sender's NIC, a column a receiver's, both are that NIC whichever way; the same for
//! a node whose ranks all suffer. Links in and out of several nodes, or between two groups of nodes, have a switch in
//! common. Of the causes that fit, the one that explains most slow links wins, then the one that claims least
//! of others; what it does not explain is another cause.

use std::collections::{BTreeMap, BTreeSet};

/// A link by the indices of its ends and their nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) src: usize,
    pub(super) dst: usize,
    pub(super) src_node: usize,
    pub(super) dst_node: usize,
}

impl Link {
    fn is_local(&self) -> bool {
        self.src_node == self.dst_node
    }

    /// Whether both are of one rank, or leave or come to one node.
    pub(super) fn may_share_cause(&self, other: &Link) -> bool {
        let ranks =
            self.src == other.src || self.dst == other.dst || self.src == other.dst || self.dst == other.src;
        let nodes = [self.src_node, self.dst_node];
        ranks || (!other.is_local() && (nodes.contains(&other.src_node) || nodes.contains(&other.dst_node)))
    }
}

/// What slow links have in common. Ends and nodes are indices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// One path.
    Path(usize, usize),
    /// Whatever a rank sends.
    Sender(usize),
    /// Whatever a rank receives.
    Receiver(usize),
    /// Whatever a rank sends or receives.
    Ends(usize),
    /// Whatever leaves a node.
    NodeOut(usize),
    /// Whatever comes to a node.
    NodeIn(usize),
    /// Whatever leaves a node or comes to it.
    Node(usize),
    /// Everything from one group of nodes to another.
    Between(BTreeSet<usize>, BTreeSet<usize>),
    /// Everything that touches a group of nodes: their switch.
    Group(BTreeSet<usize>),
    /// Everything in and out of a group of nodes, and nothing among them: what connects their switch with others.
    Uplink(BTreeSet<usize>),
}

impl Cause {
    /// Whether it would make this link slow. What does not leave a node passes no switch.
    fn covers(&self, link: &Link) -> bool {
        let remote = !link.is_local();
        match self {
            Cause::Path(src, dst) => (link.src, link.dst) == (*src, *dst),
            Cause::Sender(rank) => link.src == *rank,
            Cause::Receiver(rank) => link.dst == *rank,
            Cause::Ends(rank) => link.src == *rank || link.dst == *rank,
            Cause::NodeOut(node) => remote && link.src_node == *node,
            Cause::NodeIn(node) => remote && link.dst_node == *node,
            Cause::Node(node) => remote && (link.src_node == *node || link.dst_node == *node),
            Cause::Between(from, to) => {
                remote && from.contains(&link.src_node) && to.contains(&link.dst_node)
            }
            Cause::Uplink(nodes) => nodes.contains(&link.src_node) != nodes.contains(&link.dst_node),
            Cause::Group(nodes) => {
                remote && (nodes.contains(&link.src_node) || nodes.contains(&link.dst_node))
            }
        }
    }

    /// Slow links it has to explain. Any few links lie between some groups of nodes.
    fn least(&self) -> usize {
        match self {
            Cause::Between(from, to) => from.len() + to.len(),
            Cause::Group(nodes) | Cause::Uplink(nodes) => nodes.len() + 1,
            _ => 1,
        }
    }

    /// Simple causes are likelier.
    fn complexity(&self) -> usize {
        match self {
            Cause::Path(..) => 0,
            Cause::Sender(_) | Cause::Receiver(_) => 1,
            Cause::Ends(_) => 2,
            Cause::NodeOut(_) | Cause::NodeIn(_) => 3,
            Cause::Node(_) => 4,
            Cause::Between(from, to) => 4 + from.len() + to.len(),
            Cause::Group(nodes) | Cause::Uplink(nodes) => 4 + nodes.len(),
        }
    }
}

/// A cause, the slow links it explains, and others that explain the same as well as it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) cause: Cause,
    pub(super) slow: Vec<Link>,
    /// Links that it would make slow and that were looked at.
    pub(super) covered: usize,
    pub(super) equals: Vec<Cause>,
}

/// Causes named at once, at most.
const MOST: usize = 8;

/// Explains the slow links, given those that were looked at and are not slow.
pub(super) fn locate(slow: &[Link], fine: &[Link]) -> Vec<Found> {
    let mut left: Vec<Link> = slow.to_vec();
    let mut found = Vec::new();
    while !left.is_empty() && found.len() < MOST {
        let Some(next) = best(&left, fine) else { break };
        left.retain(|link| !next.slow.contains(link));
        found.push(next);
    }
    found
}

/// Slow links explained, links covered, complexity.
type Fit = (usize, usize, usize);

fn best(slow: &[Link], fine: &[Link]) -> Option<Found> {
    let mut fits: Vec<(Fit, Cause)> = candidates(slow, fine)
        .into_iter()
        .filter_map(|cause| {
            let explained = slow.iter().filter(|link| cause.covers(link)).count();
            let covered = explained + fine.iter().filter(|link| cause.covers(link)).count();
            let fits = explained >= cause.least() && explained * 4 >= covered * 3;
            fits.then(|| ((explained, covered, cause.complexity()), cause))
        })
        .collect();
    fits.sort_by(|(a, x), (b, y)| (b.0, a.1, a.2, x).cmp(&(a.0, b.1, b.2, y)));
    let (fit, cause) = fits.first()?.clone();
    let same = |cause: &Cause| slow.iter().filter(|link| cause.covers(link)).copied().collect::<Vec<_>>();
    let explained = same(&cause);
    let equals = fits
        .iter()
        .filter(|(other, also)| *other == fit && *also != cause && same(also) == explained)
        .map(|(_, also)| also.clone())
        .collect();
    Some(Found { slow: explained, covered: fit.1, equals, cause })
}

fn candidates(slow: &[Link], fine: &[Link]) -> BTreeSet<Cause> {
    let mut causes = BTreeSet::new();
    for link in slow {
        causes.insert(Cause::Path(link.src, link.dst));
        causes.insert(Cause::Sender(link.src));
        causes.insert(Cause::Receiver(link.dst));
        causes.insert(Cause::Ends(link.src));
        causes.insert(Cause::Ends(link.dst));
        if !link.is_local() {
            causes.insert(Cause::NodeOut(link.src_node));
            causes.insert(Cause::NodeIn(link.dst_node));
            causes.insert(Cause::Node(link.src_node));
            causes.insert(Cause::Node(link.dst_node));
        }
    }
    let remote: Vec<&Link> = slow.iter().filter(|link| !link.is_local()).collect();
    let from: BTreeSet<usize> = remote.iter().map(|link| link.src_node).collect();
    let to: BTreeSet<usize> = remote.iter().map(|link| link.dst_node).collect();
    if from.len() > 1 || to.len() > 1 {
        causes.insert(Cause::Between(from, to));
    }
    let group = group(&remote, fine);
    if group.len() > 1 {
        // One link in or out that was not found slow hides an island, but not that those among its nodes are fine.
        let is_among = |link: &Link| {
            !link.is_local() && group.contains(&link.src_node) && group.contains(&link.dst_node)
        };
        if fine.iter().any(is_among) {
            causes.insert(Cause::Uplink(group.clone()));
        }
        causes.insert(Cause::Group(group));
    }
    causes.extend(islands(&remote, fine).into_iter().filter(|nodes| nodes.len() > 1).map(Cause::Uplink));
    causes
}

/// Nodes whose links to others are slow, three in four at least.
fn group(slow: &[&Link], fine: &[Link]) -> BTreeSet<usize> {
    let mut nodes: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for link in slow {
        for node in [link.src_node, link.dst_node] {
            nodes.entry(node).or_default().0 += 1;
        }
    }
    for link in fine.iter().filter(|link| !link.is_local()) {
        for node in [link.src_node, link.dst_node] {
            if let Some((_, fine)) = nodes.get_mut(&node) {
                *fine += 1;
            }
        }
    }
    nodes
        .into_iter()
        .filter(|(_, (slow, fine))| slow * 4 >= (slow + fine) * 3)
        .map(|(node, _)| node)
        .collect()
}

/// Groups of nodes that fine links connect, but for the largest: what is slow may be what connects them with the others.
fn islands(slow: &[&Link], fine: &[Link]) -> Vec<BTreeSet<usize>> {
    let mut island: BTreeMap<usize, usize> = BTreeMap::new();
    for link in slow.iter().copied().chain(fine) {
        island.entry(link.src_node).or_insert(link.src_node);
        island.entry(link.dst_node).or_insert(link.dst_node);
    }
    for link in fine {
        let (a, b) = (island[&link.src_node], island[&link.dst_node]);
        if a != b {
            island.values_mut().filter(|label| **label == a.max(b)).for_each(|label| *label = a.min(b));
        }
    }
    let mut islands: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (node, label) in island {
        islands.entry(label).or_default().insert(node);
    }
    let mut islands: Vec<BTreeSet<usize>> = islands.into_values().collect();
    islands.sort_by_key(BTreeSet::len);
    // Of two that are as large, either may be the one that is cut off.
    let largest = islands.last().map_or(0, BTreeSet::len);
    if islands.iter().filter(|nodes| nodes.len() == largest).count() == 1 {
        islands.pop();
    }
    islands
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks 0 to 31, four on a node.
    fn link(src: usize, dst: usize) -> Link {
        Link { src, dst, src_node: src / 4, dst_node: dst / 4 }
    }

    /// Everybody sends to everybody on other nodes; those that `is_slow` are slow.
    fn all_to_all(is_slow: impl Fn(&Link) -> bool) -> Vec<Found> {
        let pairs = (0..32).flat_map(|src| (0..32).map(move |dst| link(src, dst)));
        let (slow, fine): (Vec<_>, Vec<_>) = pairs.filter(|link| !link.is_local()).partition(is_slow);
        locate(&slow, &fine)
    }

    fn causes(found: &[Found]) -> Vec<Cause> {
        found.iter().map(|found| found.cause.clone()).collect()
    }

    /// A ring over all ranks.
    fn ring(slow: &[(usize, usize)]) -> Vec<Found> {
        let links = (0..32).map(|rank| link(rank, (rank + 1) % 32));
        let (slow, fine): (Vec<_>, Vec<_>) = links.partition(|link| slow.contains(&(link.src, link.dst)));
        locate(&slow, &fine)
    }

    #[test]
    fn cells_rows_and_columns_are_told_apart() {
        assert_eq!(causes(&all_to_all(|l| (l.src, l.dst) == (3, 9))), [Cause::Path(3, 9)]);
        assert_eq!(causes(&all_to_all(|l| l.src == 3)), [Cause::Sender(3)]);
        assert_eq!(causes(&all_to_all(|l| l.dst == 3)), [Cause::Receiver(3)]);
        assert_eq!(causes(&all_to_all(|l| l.src == 3 || l.dst == 3)), [Cause::Ends(3)]);
        assert_eq!(causes(&all_to_all(|l| l.src_node == 2)), [Cause::NodeOut(2)]);
        assert_eq!(causes(&all_to_all(|l| l.dst_node == 2)), [Cause::NodeIn(2)]);
        assert_eq!(causes(&all_to_all(|l| l.src_node == 2 || l.dst_node == 2)), [Cause::Node(2)]);
    }

    #[test]
    fn blocks_are_switches() {
        let left = BTreeSet::from([0, 1]);
        let right = BTreeSet::from([4, 5, 6]);
        let between = all_to_all(|l| left.contains(&l.src_node) && right.contains(&l.dst_node));
        assert_eq!(causes(&between), [Cause::Between(left.clone(), right)]);
        let group = all_to_all(|l| left.contains(&l.src_node) || left.contains(&l.dst_node));
        assert_eq!(causes(&group), [Cause::Group(left)]);
    }

    #[test]
    fn what_connects_a_switch_is_told_from_the_switch_itself() {
        let below = BTreeSet::from([2, 3]);
        let uplink = all_to_all(|l| below.contains(&l.src_node) != below.contains(&l.dst_node));
        assert_eq!(causes(&uplink), [Cause::Uplink(below.clone())]);
        let but_one = all_to_all(|l| {
            below.contains(&l.src_node) != below.contains(&l.dst_node) && (l.src, l.dst) != (8, 20)
        });
        assert_eq!(causes(&but_one), [Cause::Uplink(below)], "one was not found slow");
    }

    #[test]
    fn two_causes_are_two() {
        let two = all_to_all(|l| l.src == 3 || (l.src, l.dst) == (20, 9));
        assert_eq!(causes(&two), [Cause::Sender(3), Cause::Path(20, 9)]);
    }

    #[test]
    fn a_few_links_that_are_not_found_slow_do_not_hide_a_row() {
        assert_eq!(causes(&all_to_all(|l| l.src == 3 && l.dst != 9 && l.dst != 12)), [Cause::Sender(3)]);
    }

    #[test]
    fn in_a_ring_the_rank_that_two_slow_links_share_is_named() {
        assert_eq!(causes(&ring(&[(3, 4)])), [Cause::Path(3, 4)]);
        assert_eq!(causes(&ring(&[(3, 4), (4, 5)])), [Cause::Ends(4)]);
        // Nodes 2 and 3 hold ranks 8 to 15: in, between them, and out.
        assert_eq!(causes(&ring(&[(7, 8), (11, 12), (15, 16)])), [Cause::Group(BTreeSet::from([2, 3]))]);
    }

    #[test]
    fn what_cannot_be_told_apart_is_told_together() {
        let found = locate(&[link(0, 4), link(4, 0)], &[]);
        assert_eq!(found.len(), 1);
        let all: BTreeSet<Cause> = found[0].equals.iter().chain([&found[0].cause]).cloned().collect();
        assert_eq!(all, BTreeSet::from([Cause::Ends(0), Cause::Ends(4)]));
    }
}
