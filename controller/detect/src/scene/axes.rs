//! Parallel coordinates of ranks, read from their communicators.
//!
//! Nobody tells us which rank is which in tensor, pipeline and data parallelism, but communicators show it: frameworks lay
//! ranks out as a dense grid, and the members of a communicator along one axis of it are equally far apart. So all
//! communicators of one size whose members have one distance are one axis, and the place in the communicator is the
//! coordinate on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Job;

/// Axes that a grid can have; more are no picture.
const MOST: usize = 6;

/// One axis of the grid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What its communicators are called; empty where their names differ.
    pub name: String,
    /// Ranks along it.
    pub size: u32,
    /// How far neighbours along it are apart, in ranks.
    pub stride: u32,
}

impl Axis {
    /// The coordinate of a rank on it.
    #[must_use]
    pub fn coordinate(&self, rank: u32) -> u32 {
        rank / self.stride.max(1) % self.size.max(1)
    }
}

/// The axes, the innermost first; none where communicators do not make a dense grid of all ranks.
pub(super) fn of(job: &Job) -> Vec<Axis> {
    let Some(world) = job.world_size.filter(|size| *size > 1) else { return Vec::new() };
    let mut found: BTreeMap<(u32, u32), Vec<&str>> = BTreeMap::new();
    for comm in job.comms.values().filter(|comm| comm.size > 1 && comm.size < world) {
        if comm.members.len() as u64 != u64::from(comm.size) {
            continue;
        }
        let ranks = comm.members.values().map(|member| job.process(member.process)?.info.rank);
        let Some(ranks) = ranks.collect::<Option<Vec<u32>>>() else { continue };
        if let Some(stride) = stride(&ranks) {
            let names = found.entry((stride, comm.size)).or_default();
            // One that differs is enough to know that they do.
            if names.len() < 2 && !names.contains(&comm.name.as_str()) {
                names.push(&comm.name);
            }
        }
    }
    let axes = found.into_iter().map(|((stride, size), names)| Axis {
        name: if names.len() == 1 { names[0].to_owned() } else { String::new() },
        size,
        stride,
    });
    dense(axes.collect(), world)
}

/// The distance of neighbours, if all are equally far apart.
fn stride(ranks: &[u32]) -> Option<u32> {
    let stride = ranks.get(1)?.checked_sub(ranks[0]).filter(|stride| *stride > 0)?;
    ranks.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(stride)).then_some(stride)
}

/// Of all axes those that make a grid: each begins where the one before ends. The rest of the ranks is an axis without
/// communicators.
fn dense(mut candidates: Vec<Axis>, world: u32) -> Vec<Axis> {
    // Groups of several axes at once, such as data and context parallelism together, are as far apart as their parts.
    candidates.sort_by_key(|axis| (axis.stride, axis.size));
    let mut axes: Vec<Axis> = Vec::new();
    let mut extent: u32 = 1;
    let unnamed = |from: u32, to: u32| Axis { name: String::new(), size: to / from, stride: from };
    for axis in candidates {
        let fits = axis.stride >= extent && axis.stride.is_multiple_of(extent);
        let Some(end) = axis.stride.checked_mul(axis.size).filter(|end| fits && world.is_multiple_of(*end))
        else {
            continue;
        };
        if axis.stride > extent {
            axes.push(unnamed(extent, axis.stride));
        }
        axes.push(axis);
        extent = end;
    }
    if axes.is_empty() || axes.len() > MOST {
        return Vec::new();
    }
    if extent < world {
        axes.push(unnamed(extent, world));
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(name: &str, size: u32, stride: u32) -> Axis {
        Axis { name: name.into(), size, stride }
    }

    #[test]
    fn the_innermost_axis_is_first_and_gaps_are_filled() {
        let axes = dense(vec![axis("pp", 4, 16), axis("tp", 8, 1)], 128);
        assert_eq!(axes, [axis("tp", 8, 1), axis("", 2, 8), axis("pp", 4, 16), axis("", 2, 64)]);
        let at: Vec<u32> = axes.iter().map(|axis| axis.coordinate(123)).collect();
        assert_eq!(at, [3, 1, 3, 1]);
    }

    #[test]
    fn groups_of_several_axes_and_groups_that_do_not_divide_are_no_axes() {
        let axes =
            dense(vec![axis("tp", 2, 1), axis("dp", 4, 2), axis("dp-cp", 8, 2), axis("odd", 5, 2)], 16);
        assert_eq!(axes, [axis("tp", 2, 1), axis("dp", 4, 2), axis("", 2, 8)]);
        assert_eq!(dense(vec![axis("odd", 5, 1)], 16), []);
    }

    #[test]
    fn members_at_uneven_distances_have_no_stride() {
        assert_eq!(stride(&[0, 4, 8]), Some(4));
        for uneven in [&[0, 4, 9][..], &[4, 0], &[3], &[2, 2]] {
            assert_eq!(stride(uneven), None);
        }
    }
}
