//! The wait-for graph: from who is in what, and who is missing there, to whoever nobody else is holding up.
//!
//! It knows nothing of traces, clocks or communicators. Its input is facts, "these ranks are in this operation, those
//! have not come to it", which any source can give: collectives of any communicator, sends and receives, files or
//! agents. Ranks and operations are both nodes (a rank waits in an operation, an operation waits for ranks), so a
//! collective of thousands with thousands missing costs what it has members, not their product.
//!
//! Where everything that waits leads to, nothing more leads away from: the roots.

use std::collections::BTreeSet;

/// One operation that has not ended.
#[derive(Clone, Debug, Default)]
pub struct Meeting {
    /// Who is in it, and whether they stand still until it ends (or have left it running in the background).
    pub inside: Vec<(usize, bool)>,
    /// Who has not come.
    pub missing: Vec<usize>,
    /// Members of which it cannot be said.
    pub unseen: usize,
}

/// Where waiting ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A rank that others wait for and that waits for nobody.
    Rank(usize),
    /// An operation that all have come to and that does not end.
    Meeting(usize),
    /// An operation that waits only for ranks of which nothing is known.
    Unseen(usize),
    /// Ranks and meetings that wait for each other.
    Cycle {
        /// The ranks.
        ranks: Vec<usize>,
        /// The operations in which they wait.
        meetings: Vec<usize>,
    },
}

/// A root and whom it holds up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Where waiting ends.
    pub root: Root,
    /// Ranks that wait for it, at however many removes.
    pub dependents: Vec<usize>,
}

/// Follows all waits of `ranks` ranks to their roots; the one with most dependents comes first.
#[must_use]
pub fn causes(ranks: usize, meetings: &[Meeting]) -> Vec<Cause> {
    let graph = Graph::new(ranks, meetings);
    let components = graph.components();
    let mut leads_away = vec![false; components.number];
    for node in 0..graph.forward.len() {
        for next in &graph.forward[node] {
            leads_away[components.of[node]] |= components.of[node] != components.of[*next];
        }
    }
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); components.number];
    for (node, component) in components.of.iter().enumerate() {
        if !leads_away[*component] {
            members[*component].push(node);
        }
    }
    let mut causes = Vec::new();
    for members in members.into_iter().filter(|members| !members.is_empty()) {
        for (root, nodes) in graph.roots(&members, meetings) {
            let dependents = graph.dependents(&nodes);
            // A rank for whom nobody waits holds nothing up.
            if !dependents.is_empty() {
                causes.push(Cause { root, dependents });
            }
        }
    }
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.dependents.len()));
    causes
}

struct Graph {
    ranks: usize,
    /// Ranks first, then meetings.
    forward: Vec<Vec<usize>>,
    backward: Vec<Vec<usize>>,
    /// By rank: whether it stands still in any meeting.
    stands: Vec<bool>,
}

struct Components {
    of: Vec<usize>,
    number: usize,
}

impl Graph {
    fn new(ranks: usize, meetings: &[Meeting]) -> Self {
        let nodes = ranks + meetings.len();
        let mut graph = Self {
            ranks,
            forward: vec![Vec::new(); nodes],
            backward: vec![Vec::new(); nodes],
            stands: vec![false; ranks],
        };
        let known = |rank: &usize| *rank < ranks;
        for (rank, stands) in meetings.iter().flat_map(|meeting| &meeting.inside) {
            if known(rank) {
                graph.stands[*rank] |= stands;
            }
        }
        for (number, meeting) in meetings.iter().enumerate() {
            for (rank, stands) in meeting.inside.iter().filter(|(rank, _)| known(rank)) {
                // Whoever stands still somewhere is not held up by what it has left in the background.
                if *stands || !graph.stands[*rank] {
                    graph.link(*rank, ranks + number);
                }
            }
            for rank in meeting.missing.iter().filter(|rank| known(rank)) {
                graph.link(ranks + number, *rank);
            }
        }
        graph
    }

    fn link(&mut self, from: usize, to: usize) {
        self.forward[from].push(to);
        self.backward[to].push(from);
    }

    /// What the members of a component that leads nowhere are to those who wait for them, and the nodes of each root.
    fn roots(&self, members: &[usize], meetings: &[Meeting]) -> Vec<(Root, Vec<usize>)> {
        if let [node] = members {
            let root = match node.checked_sub(self.ranks) {
                None => Root::Rank(*node),
                Some(number) if meetings[number].unseen > 0 => Root::Unseen(number),
                Some(number) => Root::Meeting(number),
            };
            return vec![(root, vec![*node])];
        }
        let (ranks, others): (Vec<usize>, Vec<usize>) = members.iter().partition(|node| **node < self.ranks);
        // A rank in the cycle that stands still nowhere could have gone on: it is what the others wait for.
        let moving: Vec<usize> = ranks.iter().copied().filter(|rank| !self.stands[*rank]).collect();
        if !moving.is_empty() {
            return moving.into_iter().map(|rank| (Root::Rank(rank), vec![rank])).collect();
        }
        let meetings = others.iter().map(|node| node - self.ranks).collect();
        vec![(Root::Cycle { ranks, meetings }, members.to_vec())]
    }

    /// Ranks that lead to these nodes, themselves left out.
    fn dependents(&self, nodes: &[usize]) -> Vec<usize> {
        let roots: BTreeSet<usize> = nodes.iter().copied().collect();
        let mut seen = vec![false; self.forward.len()];
        let mut left = nodes.to_vec();
        let mut found = Vec::new();
        while let Some(node) = left.pop() {
            if std::mem::replace(&mut seen[node], true) {
                continue;
            }
            if node < self.ranks && (!roots.contains(&node) || nodes.len() > 1) {
                found.push(node);
            }
            left.extend(self.backward[node].iter().copied());
        }
        found.sort_unstable();
        found
    }

    /// Strongly connected components (Tarjan's, with a stack of its own: a chain of 100,000 must not overflow ours).
    fn components(&self) -> Components {
        let nodes = self.forward.len();
        let mut state = Tarjan {
            index: vec![usize::MAX; nodes],
            low: vec![0; nodes],
            on_stack: vec![false; nodes],
            stack: Vec::new(),
            next: 0,
            components: Components { of: vec![0; nodes], number: 0 },
        };
        let mut path: Vec<(usize, usize)> = Vec::new();
        for start in 0..nodes {
            if state.index[start] != usize::MAX {
                continue;
            }
            state.enter(start);
            path.push((start, 0));
            while let Some((node, edge)) = path.pop() {
                match self.forward[node].get(edge) {
                    Some(next) => {
                        path.push((node, edge + 1));
                        if state.index[*next] == usize::MAX {
                            state.enter(*next);
                            path.push((*next, 0));
                        } else if state.on_stack[*next] {
                            state.low[node] = state.low[node].min(state.index[*next]);
                        }
                    }
                    None => {
                        state.leave(node);
                        if let Some((parent, _)) = path.last() {
                            state.low[*parent] = state.low[*parent].min(state.low[node]);
                        }
                    }
                }
            }
        }
        state.components
    }
}

struct Tarjan {
    index: Vec<usize>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    next: usize,
    components: Components,
}

impl Tarjan {
    fn enter(&mut self, node: usize) {
        self.index[node] = self.next;
        self.low[node] = self.next;
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node] = true;
    }

    fn leave(&mut self, node: usize) {
        if self.low[node] != self.index[node] {
            return;
        }
        while let Some(member) = self.stack.pop() {
            self.on_stack[member] = false;
            self.components.of[member] = self.components.number;
            if member == node {
                break;
            }
        }
        self.components.number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting(inside: &[usize], missing: &[usize]) -> Meeting {
        Meeting {
            inside: inside.iter().map(|rank| (*rank, true)).collect(),
            missing: missing.to_vec(),
            unseen: 0,
        }
    }

    fn only(causes: Vec<Cause>) -> Cause {
        assert_eq!(causes.len(), 1, "{causes:?}");
        causes.into_iter().next().expect("one")
    }

    #[test]
    fn a_chain_leads_to_its_end() {
        // 0 waits for 1 in a receive, 1 for 2 in a collective in which 3 waits too, 2 for nobody.
        let cause = only(causes(4, &[meeting(&[0], &[1]), meeting(&[1, 3], &[2])]));
        assert_eq!(cause, Cause { root: Root::Rank(2), dependents: vec![0, 1, 3] });
    }

    #[test]
    fn a_meeting_that_all_have_come_to_is_a_root_unless_one_of_them_waits_elsewhere() {
        let all_in = meeting(&[0, 1], &[]);
        assert_eq!(only(causes(3, std::slice::from_ref(&all_in))).root, Root::Meeting(0));
        let causes = causes(3, &[Meeting { missing: vec![1], ..meeting(&[0], &[]) }, meeting(&[1], &[2])]);
        assert_eq!(only(causes).root, Root::Rank(2));
    }

    #[test]
    fn two_orders_are_a_cycle() {
        let cause = only(causes(3, &[meeting(&[0], &[1]), meeting(&[1], &[0]), meeting(&[2], &[0])]));
        assert_eq!(cause.root, Root::Cycle { ranks: vec![0, 1], meetings: vec![0, 1] });
        assert_eq!(cause.dependents, vec![0, 1, 2]);
    }

    #[test]
    fn who_left_it_in_the_background_is_not_held_up() {
        // 0 has launched an overlapped collective, for which 1 is missing; 1 waits for 0.
        let background = Meeting { inside: vec![(0, false)], missing: vec![1], unseen: 0 };
        let cause = only(causes(2, &[background.clone(), meeting(&[1], &[0])]));
        assert_eq!(cause, Cause { root: Root::Rank(0), dependents: vec![1] });
        // Where nothing else holds it up, it does wait there.
        assert_eq!(only(causes(2, &[background])).root, Root::Rank(1));
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let unseen = Meeting { unseen: 1, ..meeting(&[0, 1], &[]) };
        assert_eq!(only(causes(2, &[unseen])).root, Root::Unseen(0));
    }

    #[test]
    fn a_long_chain_does_not_overflow() {
        let meetings: Vec<Meeting> = (0..200_000).map(|rank| meeting(&[rank], &[rank + 1])).collect();
        let cause = only(causes(200_001, &meetings));
        assert_eq!(cause.root, Root::Rank(200_000));
        assert_eq!(cause.dependents.len(), 200_000);
    }
}
