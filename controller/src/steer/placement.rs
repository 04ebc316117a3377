//! Which node runs which ranks after a restart that leaves nodes out.
//!
//! A spare takes over the ranks of the node it replaces, so everybody else keeps theirs. Where no spare is left, a job
//! that says it can do with less goes on with fewer ranks, which are then numbered anew; any other is not moved.

use std::collections::BTreeSet;

use c4_detect::observation::NodeName;
use serde::{Deserialize, Serialize};

/// A node's part in a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeName,
    /// Its first rank.
    pub first_rank: u32,
    /// How many ranks it runs. 0 where the job's own launcher decides.
    pub ranks: u32,
}

/// Where a job runs and could run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// As it is, in the order of ranks.
    pub places: Vec<Place>,
    /// Nodes that stand by for it.
    pub spares: Vec<NodeName>,
    /// Ranks that the job needs at least; 0: all it has.
    pub least_ranks: u32,
}

/// Places everything that ran on `without` elsewhere; `unfit` spares are not taken.
///
/// # Errors
/// Why it cannot be: in words that follow "because" or a colon.
pub fn place(
    layout: &Layout,
    without: &BTreeSet<NodeName>,
    unfit: impl Fn(&NodeName) -> bool,
) -> Result<Vec<Place>, String> {
    let used: BTreeSet<&NodeName> = layout.places.iter().map(|place| &place.node).collect();
    if used.len() < layout.places.len() {
        return Err("one of its nodes runs several process groups of it".into());
    }
    let free = |node: &&NodeName| !without.contains(*node) && !used.contains(*node) && !unfit(node);
    let mut spares = layout.spares.iter().filter(free);
    let mut lacking = 0;
    let mut placed = Vec::new();
    for place in &layout.places {
        if !without.contains(&place.node) {
            placed.push(place.clone());
        } else if let Some(spare) = spares.next() {
            placed.push(Place { node: spare.clone(), ..place.clone() });
        } else {
            lacking += 1;
        }
    }
    if lacking == 0 {
        return Ok(placed);
    }
    let (ranks, all) = (total(&placed), total(&layout.places));
    if layout.least_ranks == 0 || ranks < layout.least_ranks.max(1) {
        let needs = if layout.least_ranks == 0 { all } else { layout.least_ranks };
        return Err(match all {
            0 => "no spare node stands by for it".into(),
            _ => format!("no spare node stands by for it, and it needs {needs} ranks"),
        });
    }
    let mut next = 0;
    for place in &mut placed {
        place.first_rank = next;
        next += place.ranks;
    }
    Ok(placed)
}

fn total(places: &[Place]) -> u32 {
    places.iter().map(|place| place.ranks).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName(name.into())
    }

    fn layout(spares: &[&str], least_ranks: u32) -> Layout {
        let place = |(index, name): (u32, &str)| Place { node: node(name), first_rank: index * 2, ranks: 2 };
        Layout {
            places: (0..).zip(["a", "b", "c"]).map(place).collect(),
            spares: spares.iter().map(|name| node(name)).collect(),
            least_ranks,
        }
    }

    fn shown(placed: Result<Vec<Place>, String>) -> Result<Vec<(String, u32)>, String> {
        placed.map(|places| places.into_iter().map(|place| (place.node.0, place.first_rank)).collect())
    }

    #[test]
    fn a_spare_takes_over_the_ranks_of_the_node_it_replaces() {
        let without = BTreeSet::from([node("b")]);
        let placed = place(&layout(&["x", "y"], 0), &without, |node| node.0 == "x");
        assert_eq!(shown(placed), Ok(vec![("a".into(), 0), ("y".into(), 2), ("c".into(), 4)]));
    }

    #[test]
    fn a_job_shrinks_to_its_minimum_and_not_below() {
        let without = BTreeSet::from([node("a")]);
        let placed = place(&layout(&[], 4), &without, |_| false);
        assert_eq!(shown(placed), Ok(vec![("b".into(), 0), ("c".into(), 2)]));
        for least in [0, 5] {
            let error = place(&layout(&["a"], least), &without, |_| false).expect_err("too few");
            assert!(error.contains("no spare node"), "{error}");
        }
    }
}
