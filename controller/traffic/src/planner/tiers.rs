//! A first plan, tier by tier: a spine for each flow and then, between pods, a core ([`super::colour`]).
//!
//! It covers the fabrics that are built: leaves under all spines of their pod, and each spine of a pod with its own
//! cores, which it shares with one spine of every other pod. Elsewhere, and for flows that may choose between ports,
//! flows find their places one by one.

use std::collections::BTreeMap;

use super::{
    colour::{Item, NO_SET, colour},
    fabric::{Fabric, Hop, Path},
    state::State,
};

/// Spines and cores that are joined without leaves, and leaves and spines that are joined without cores.
struct Shape {
    /// Of each switch.
    group: Vec<u32>,
    pod: Vec<u32>,
    groups: usize,
    /// The spine of a pod in a group.
    spine: BTreeMap<(u32, u32), u32>,
}

impl Shape {
    /// None when a pod has several spines in a group.
    fn of(fabric: &Fabric) -> Option<Self> {
        let switches = fabric.is_spine.len();
        let above_spine = |low: u32| fabric.is_spine[low as usize];
        let group = components(fabric, |low, _| above_spine(low));
        let pod = components(fabric, |low, high| !above_spine(low) && fabric.is_spine[high as usize]);
        let mut numbers: BTreeMap<u32, u32> = BTreeMap::new();
        let mut spine = BTreeMap::new();
        let mut of = vec![NO_SET; switches];
        for switch in (0..switches as u32).filter(|switch| fabric.is_spine[*switch as usize]) {
            let next = numbers.len() as u32;
            let number = *numbers.entry(group[switch as usize]).or_insert(next);
            of[switch as usize] = number;
            if spine.insert((pod[switch as usize], number), switch).is_some() {
                return None;
            }
        }
        Some(Self { group: of, pod, groups: numbers.len(), spine })
    }
}

/// Each switch's component over some lanes, named by its smallest switch.
fn components(fabric: &Fabric, joins: impl Fn(u32, u32) -> bool) -> Vec<u32> {
    let mut root: Vec<u32> = (0..fabric.is_spine.len() as u32).collect();
    fn find(root: &mut [u32], mut at: u32) -> u32 {
        while root[at as usize] != at {
            root[at as usize] = root[root[at as usize] as usize];
            at = root[at as usize];
        }
        at
    }
    for lane in fabric.lanes.iter().filter(|lane| joins(lane.low, lane.high)) {
        let (a, b) = (find(&mut root, lane.low), find(&mut root, lane.high));
        root[a.max(b) as usize] = a.min(b);
    }
    (0..root.len() as u32).map(|switch| find(&mut root, switch)).collect()
}

/// A flow to be placed.
#[derive(Clone, Copy)]
struct Job {
    flow: u32,
    units: u32,
    pair: (u32, u32),
    leaves: (u32, u32),
}

/// Places flows; returns those that it has no place for.
pub(crate) fn place(state: &mut State<'_>, homeless: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    let fabric = state.fabric;
    let Some(shape) = Shape::of(fabric) else { return homeless };
    let (mut jobs, mut rest) = (Vec::new(), Vec::new());
    for (flow, units) in homeless {
        let ports = &fabric.ports;
        match state.routes.pairs(flow as usize) {
            [pair] if !state.routes.lenient(flow as usize) => {
                let leaves = (ports[pair.0 as usize].leaf, ports[pair.1 as usize].leaf);
                match leaves.0 == leaves.1 {
                    true => rest.push((flow, units)),
                    false => jobs.push(Job { flow, units, pair: *pair, leaves }),
                }
            }
            _ => rest.push((flow, units)),
        }
    }
    let groups = group_of(state, &shape, &jobs);
    let mut by_group: BTreeMap<u32, Vec<Job>> = BTreeMap::new();
    for (job, group) in jobs.iter().zip(groups) {
        let pods = (shape.pod[job.leaves.0 as usize], shape.pod[job.leaves.1 as usize]);
        match group {
            None => rest.push((job.flow, job.units)),
            Some(group) if pods.0 == pods.1 => match over_spine(state, &shape, job, group) {
                Some(path) => _ = state.add(job.flow, job.units, path),
                None => rest.push((job.flow, job.units)),
            },
            Some(group) => by_group.entry(group).or_default().push(*job),
        }
    }
    for (group, jobs) in by_group {
        over_cores(state, &shape, group, &jobs, &mut rest);
    }
    rest
}

/// The group of spines for each flow.
fn group_of(state: &State<'_>, shape: &Shape, jobs: &[Job]) -> Vec<Option<u32>> {
    let (fabric, groups) = (state.fabric, shape.groups);
    let switches = fabric.is_spine.len();
    // Sets: leaves and pods, going up; then leaves and pods, coming down.
    let mut capacity = vec![0.0; 4 * switches * groups];
    for lane in fabric.lanes.iter().filter(|lane| !lane.avoid && lane.label.is_none_or(|_| lane.width == 1)) {
        for side in 0..2usize {
            let width =
                (0..usize::from(lane.width)).map(|n| fabric.capacity[lane.first as usize + 2 * n + side]);
            let width: f64 = width.sum();
            let (set, spine) = match fabric.is_spine[lane.low as usize] {
                true => (switches as u32 + shape.pod[lane.low as usize], lane.low),
                false if fabric.is_spine[lane.high as usize] => (lane.low, lane.high),
                false => continue,
            };
            let set = 2 * side * switches + set as usize;
            capacity[set * groups + shape.group[spine as usize] as usize] += width;
        }
    }
    let switches = switches as u32;
    let items: Vec<Item> = jobs
        .iter()
        .map(|job| {
            let pods = (shape.pod[job.leaves.0 as usize], shape.pod[job.leaves.1 as usize]);
            let outer = |pod: u32, base: u32| if pods.0 == pods.1 { NO_SET } else { base + pod };
            let sets = [
                job.leaves.0,
                outer(pods.0, switches),
                2 * switches + job.leaves.1,
                outer(pods.1, 3 * switches),
            ];
            Item { sets, demand: state.amount(job.flow, job.units) }
        })
        .collect();
    colour(&items, groups, &capacity)
}

/// The emptier of several lanes.
fn lane(state: &State<'_>, low: u32, high: u32, down: u32) -> Option<u32> {
    let lanes = state.fabric.strict.between(low, high).iter();
    let used = |first: u32| state.loads.used(first + down);
    lanes.min_by(|a, b| used(a.first).total_cmp(&used(b.first))).map(|up| up.lane)
}

fn over_spine(state: &State<'_>, shape: &Shape, job: &Job, group: u32) -> Option<Path> {
    let spine = *shape.spine.get(&(shape.pod[job.leaves.0 as usize], group))?;
    let up = lane(state, job.leaves.0, spine, 0)?;
    let down = lane(state, job.leaves.1, spine, 1)?;
    Some(Path::new(job.pair.0, job.pair.1, &[Hop::up(up), Hop::down(down)]))
}

/// The cores for the flows of one group.
fn over_cores(state: &mut State<'_>, shape: &Shape, group: u32, jobs: &[Job], rest: &mut Vec<(u32, u32)>) {
    let fabric = state.fabric;
    let spines: Vec<u32> =
        shape.spine.iter().filter(|((_, of), _)| *of == group).map(|(_, spine)| *spine).collect();
    let mut cores: Vec<u32> =
        spines.iter().flat_map(|spine| fabric.strict.of(*spine)).map(|up| up.high).collect();
    cores.sort_unstable();
    cores.dedup();
    let number = |spine: u32| spines.iter().position(|other| *other == spine).map(|at| at as u32);
    let mut capacity = vec![0.0; 2 * spines.len() * cores.len()];
    for (at, spine) in spines.iter().enumerate() {
        for up in fabric.strict.of(*spine) {
            let Ok(core) = cores.binary_search(&up.high) else { continue };
            for side in 0..2usize {
                let cell = (side * spines.len() + at) * cores.len() + core;
                capacity[cell] += fabric.capacity[up.first as usize + side];
            }
        }
    }
    let ends = |job: &Job| {
        let spine = |leaf: u32| shape.spine.get(&(shape.pod[leaf as usize], group)).copied();
        Some((spine(job.leaves.0)?, spine(job.leaves.1)?))
    };
    let items: Vec<Item> = jobs
        .iter()
        .map(|job| {
            let sets = ends(job).and_then(|(a, b)| Some((number(a)?, number(b)? + spines.len() as u32)));
            let (a, b) = sets.unwrap_or((NO_SET, NO_SET));
            Item { sets: [a, NO_SET, b, NO_SET], demand: state.amount(job.flow, job.units) }
        })
        .collect();
    for (job, core) in jobs.iter().zip(colour(&items, cores.len(), &capacity)) {
        let path = core.zip(ends(job)).and_then(|(core, (a, b))| {
            let core = cores[core as usize];
            let hops = [
                Hop::up(lane(state, job.leaves.0, a, 0)?),
                Hop::up(lane(state, a, core, 0)?),
                Hop::down(lane(state, b, core, 1)?),
                Hop::down(lane(state, job.leaves.1, b, 1)?),
            ];
            Some(Path::new(job.pair.0, job.pair.1, &hops))
        });
        match path {
            Some(path) => _ = state.add(job.flow, job.units, path),
            None => rest.push((job.flow, job.units)),
        }
    }
}
