//! An independent reading of the rules: it knows the topology and the plan, and nothing of how the planner works.
#![allow(dead_code, unreachable_pub, reason = "each test is a crate of its own, and uses a part")]

use std::collections::{BTreeMap, HashSet};

use c4_traffic::{
    Flows, Plan, Topology,
    plan::Piece,
    topology::{Link, State, SwitchId, Tier},
};

/// Links between two switches, by index.
fn trunk(topology: &Topology, a: SwitchId, b: SwitchId) -> Vec<Link> {
    let mut links: Vec<Link> = topology
        .links()
        .iter()
        .filter(|l| (l.a == a && l.b == b) || (l.a == b && l.b == a))
        .copied()
        .collect();
    links.sort_by_key(|link| link.index);
    links
}

/// One direction of something that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Out(usize, u32),
    Into(usize, u32),
    Link(SwitchId, SwitchId, u32),
}

/// What one piece loads, with the part that each bears and the capacity. Says what is wrong with the path.
fn ways(
    topology: &Topology,
    src: usize,
    dst: usize,
    piece: &Piece,
) -> Result<Vec<(Way, f64, f64, State)>, String> {
    let (from, to) = (&topology.nics()[src], &topology.nics()[dst]);
    let out = from.ports.get(piece.src_port as usize).ok_or("no such source port")?;
    let into = to.ports.get(piece.dst_port as usize).ok_or("no such destination port")?;
    if piece.path.first() != Some(&out.switch) || piece.path.last() != Some(&into.switch) {
        return Err("the path does not join the ports' leaves".into());
    }
    if piece.path.iter().collect::<HashSet<_>>().len() != piece.path.len() {
        return Err("a switch twice".into());
    }
    let mut ways = vec![
        (Way::Out(src, piece.src_port), 1.0, out.rate.get(), out.state),
        (Way::Into(dst, piece.dst_port), 1.0, into.rate.get(), into.state),
    ];
    let tiers: Vec<Tier> = piece.path.iter().map(|id| topology.switch(*id).tier).collect();
    let peak = tiers.iter().position(|tier| Some(tier) == tiers.iter().max()).expect("a switch");
    let rises = tiers[..=peak].windows(2).all(|pair| pair[0] < pair[1]);
    let falls = tiers[peak..].windows(2).all(|pair| pair[0] > pair[1]);
    if !rises || !falls {
        return Err(format!("not up, then down: {tiers:?}"));
    }
    let link = piece.link.as_ref().ok_or("no links named")?;
    if link.len() + 1 != piece.path.len() {
        return Err("not one link a hop".into());
    }
    for (ends, index) in piece.path.windows(2).zip(link) {
        let all = trunk(topology, ends[0], ends[1]);
        if all.is_empty() {
            return Err("no link there".into());
        }
        match index {
            Some(index) => {
                let link = all.iter().find(|link| link.index == *index).ok_or("no such index")?;
                ways.push((Way::Link(ends[0], ends[1], *index), 1.0, link.rate.get(), link.state));
            }
            None => {
                if all.iter().any(|link| link.rate != all[0].rate) {
                    return Err("spread over unequal links".into());
                }
                for link in &all {
                    let part = 1.0 / all.len() as f64;
                    ways.push((Way::Link(ends[0], ends[1], link.index), part, link.rate.get(), link.state));
                }
            }
        }
    }
    Ok(ways)
}

/// Whether leaves are joined over what may be used.
fn joined(topology: &Topology, a: SwitchId, b: SwitchId, avoid: bool) -> bool {
    let climb = |leaf: SwitchId| {
        let mut seen = HashSet::from([leaf]);
        let mut list = vec![leaf];
        while let Some(at) = list.pop() {
            for link in topology.links() {
                let usable = link.state == State::Up || (avoid && link.state == State::Avoid);
                let other = if link.a == at {
                    link.b
                } else if link.b == at {
                    link.a
                } else {
                    continue;
                };
                if usable && topology.switch(other).tier > topology.switch(at).tier && seen.insert(other) {
                    list.push(other);
                }
            }
        }
        seen
    };
    a == b || climb(a).intersection(&climb(b)).any(|id| topology.switch(*id).tier != Tier::Leaf)
}

/// Checks everything a plan claims; returns what each way bears, relative to its capacity.
pub fn check(topology: &Topology, flows: &Flows, plan: &Plan) -> BTreeMap<Way, f64> {
    let mut loads: BTreeMap<Way, f64> = BTreeMap::new();
    assert_eq!(flows.len(), plan.flows.len());
    for (flow, planned) in flows.as_slice().iter().zip(&plan.flows) {
        let (src, dst) = (flow.src.index(), flow.dst.index());
        let port_ok = |state: State, avoid: bool| state == State::Up || (avoid && state == State::Avoid);
        let possible = |avoid: bool, cross: bool| {
            let (from, to) = (&topology.nics()[src].ports, &topology.nics()[dst].ports);
            from.iter().enumerate().any(|(i, a)| {
                to.iter().enumerate().any(|(j, b)| {
                    (i != j) == cross
                        && port_ok(a.state, avoid)
                        && port_ok(b.state, avoid)
                        && joined(topology, a.switch, b.switch, avoid)
                })
            })
        };
        let rules = [(false, false), (false, true), (true, false), (true, true)];
        let Some((avoid, cross)) = rules.into_iter().find(|(avoid, cross)| possible(*avoid, *cross)) else {
            assert!(planned.unplaced.is_some() && planned.pieces.is_empty(), "{} has no path", flow.id);
            continue;
        };
        assert!(planned.unplaced.is_none(), "{} has a path", flow.id);
        let share: f64 = planned.pieces.iter().map(Piece::share).sum();
        assert!((share - 1.0).abs() < 1e-9, "{}: shares add up to {share}", flow.id);
        let mut paths = HashSet::new();
        for piece in &planned.pieces {
            assert!(piece.units > 0 && piece.of <= flow.max_pieces.get(), "{}: {piece:?}", flow.id);
            assert_eq!(piece.of, planned.pieces[0].of);
            let key = (piece.src_port, piece.dst_port, piece.path.clone(), piece.link.clone());
            assert!(paths.insert(key), "{}: two pieces on one path", flow.id);
            assert_eq!(piece.src_port != piece.dst_port, cross, "{}: planes", flow.id);
            let ways = ways(topology, src, dst, piece)
                .unwrap_or_else(|wrong| panic!("{}: {wrong}: {piece:?}", flow.id));
            for (way, part, capacity, state) in ways {
                assert!(port_ok(state, avoid), "{}: {way:?} is {state:?}", flow.id);
                *loads.entry(way).or_default() += flow.demand.get() * piece.share() * part / capacity;
            }
        }
    }
    let max = |fabric: bool| {
        let counted = loads.iter().filter(|(way, _)| !fabric || matches!(way, Way::Link(..)));
        counted.map(|(_, load)| *load).fold(0.0, f64::max)
    };
    for (claimed, true_) in
        [(plan.max_link_utilisation, max(false)), (plan.max_fabric_utilisation, max(true))]
    {
        assert!((claimed - true_).abs() <= 1e-6 * true_.max(1.0), "claimed {claimed}, is {true_}");
    }
    assert!(
        plan.lower_bound <= plan.max_link_utilisation,
        "{} {}",
        plan.lower_bound,
        plan.max_link_utilisation
    );
    assert!(plan.fabric_lower_bound <= plan.max_fabric_utilisation);
    loads
}

/// How many pieces of known flows are where none of theirs was.
pub fn moves(before: (&Flows, &Plan), after: (&Flows, &Plan)) -> usize {
    let known: BTreeMap<&str, &[Piece]> = before
        .0
        .as_slice()
        .iter()
        .zip(&before.1.flows)
        .map(|(flow, planned)| (flow.id.as_str(), planned.pieces.as_slice()))
        .collect();
    let place = |piece: &Piece| (piece.src_port, piece.dst_port, piece.path.clone(), piece.link.clone());
    let mut moves = 0;
    for (flow, planned) in after.0.as_slice().iter().zip(&after.1.flows) {
        let Some(old) = known.get(flow.id.as_str()) else { continue };
        moves +=
            planned.pieces.iter().filter(|piece| !old.iter().any(|old| place(old) == place(piece))).count();
    }
    moves
}
