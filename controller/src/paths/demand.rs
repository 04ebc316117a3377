//! Streams of jobs as flows between NICs: which NIC a process uses, and how much of it a stream wants.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
};

use c4_detect::observation::Timestamp;
use c4_traffic::{
    Flow, Flows, Topology,
    flows::default_demand,
    topology::{Gbps, HostId, NicId},
};

use super::evidence::{Place, Stream};

/// What could not be planned, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unplanned {
    /// Nodes of running jobs that the topology does not name.
    pub nodes: BTreeSet<String>,
}

/// All streams of a job from one NIC to another.
#[derive(Default)]
struct Sum {
    weight: f64,
    channels: u32,
    since: Option<Timestamp>,
}

/// What is to be planned.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Flows.
    pub flows: Flows,
    /// Since when those flows run that do, by their ids.
    pub running: BTreeMap<String, Timestamp>,
    /// What is left out.
    pub unplanned: Unplanned,
}

/// The flows of all streams. A NIC's rate is shared among its streams as their traffic is; steps of a factor of √2 keep
/// noise out of plans.
#[must_use]
pub fn flows(topology: &Topology, streams: &[Stream]) -> Demand {
    let nics = Nics::new(topology, streams);
    let mut unplanned = Unplanned::default();
    let mut sums: BTreeMap<(&str, NicId, NicId), Sum> = BTreeMap::new();
    for stream in streams {
        let mut nic = |place: &Place| {
            let nic = nics.of(topology, place);
            if nic.is_none() {
                unplanned.nodes.insert(place.node.0.clone());
            }
            nic
        };
        let (Some(src), Some(dst)) = (nic(&stream.from), nic(&stream.to)) else { continue };
        if src == dst {
            continue;
        }
        let sum = sums.entry((&stream.job.0, src, dst)).or_default();
        sum.since = [sum.since, stream.since].into_iter().flatten().min();
        sum.weight += stream.weight;
        sum.channels = sum.channels.saturating_add(stream.channels);
    }
    let (mut sent, mut received): (HashMap<NicId, f64>, HashMap<NicId, f64>) = Default::default();
    for ((_, src, dst), sum) in &sums {
        *sent.entry(*src).or_default() += sum.weight;
        *received.entry(*dst).or_default() += sum.weight;
    }
    let (mut flows, mut running) = (Flows::new(), BTreeMap::new());
    for ((job, src, dst), sum) in sums {
        let share = (sum.weight / sent[&src]).min(sum.weight / received[&dst]);
        let rate = default_demand(topology, src, dst).get() * coarse(share);
        let Some(demand) = Gbps::new(rate) else { continue };
        let id = format!("{job}: {}→{}", name(topology, src), name(topology, dst));
        let max_pieces = NonZeroU32::new(sum.channels).unwrap_or(NonZeroU32::MIN);
        running.extend(sum.since.map(|since| (id.clone(), since)));
        let flow = Flow { id, job: job.to_owned(), src, dst, demand, max_pieces };
        if flows.push(flow).is_err() {
            // Keys are distinct, so ids are, unless a name looks like another with its parts moved.
            tracing::debug!(job, "two flows look alike");
        }
    }
    Demand { flows, running, unplanned }
}

/// Host and NIC, as written in ids and for people.
#[must_use]
pub fn name(topology: &Topology, nic: NicId) -> String {
    let at = topology.nic(nic);
    format!("{}/{}", topology.host_name(at.host), at.name)
}

fn coarse(share: f64) -> f64 {
    ((share.log2() * 2.0).round() / 2.0).exp2().min(1.0)
}

/// Which NIC a GPU uses.
struct Nics {
    by_host: HashMap<HostId, Vec<NicId>>,
    /// GPUs of a host: as many as any has shown, since a job may use a few of them and hosts are alike.
    gpus: u32,
}

impl Nics {
    fn new(topology: &Topology, streams: &[Stream]) -> Self {
        let mut by_host: HashMap<HostId, Vec<NicId>> = HashMap::new();
        for nic in topology.nics() {
            by_host.entry(nic.host).or_default().extend(topology.find_nic(nic.host, &nic.name));
        }
        let places = streams.iter().flat_map(|stream| [&stream.from, &stream.to]);
        let gpus = places.filter_map(|place| place.gpu).max().map_or(1, |gpu| gpu.saturating_add(1));
        Self { by_host, gpus }
    }

    /// GPUs and NICs of a host are numbered alike, by their place on the bus, and NCCL gives a GPU the nearest, of those that the job
    /// allows.
    fn of(&self, topology: &Topology, place: &Place) -> Option<NicId> {
        let host = topology.find_host(&place.node.0)?;
        let all = self.by_host.get(&host)?;
        let allowed = |id: &&NicId| {
            let nic = topology.nic(**id);
            let ports = 0..nic.ports.len() as u32;
            let has = |own| ports.clone().any(|port| topology.port_address(**id, port) == Some(own));
            place.nics.iter().any(|own| own.address.is_some_and(has) || own.name == nic.name)
        };
        let allowed: Vec<NicId> = all.iter().filter(allowed).copied().collect();
        // What the topology does not name says nothing.
        let nics = if allowed.is_empty() { all } else { &allowed };
        let gpus = self.gpus.max(nics.len() as u32);
        let index = u64::from(place.gpu.unwrap_or(0)) * nics.len() as u64 / u64::from(gpus);
        nics.get(index as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use c4_detect::observation::{JobId, NodeName};
    use c4_traffic::document::parse_topology;

    use crate::convert::OwnNic;

    use super::*;

    fn topology() -> Topology {
        let nic = |n: usize| format!("{{name: n{n}, ports: [{{switch: l0, gbps: 100}}]}}");
        let host = |h: &str| {
            format!("  - {{name: {h}, nics: [{}]}}\n", (0..4).map(nic).collect::<Vec<_>>().join(", "))
        };
        let text = format!(
            "switches: [{{name: l0, tier: leaf}}]\nlinks: []\nhosts:\n{}",
            ["a", "b", "c"].map(host).concat()
        );
        parse_topology(&text).expect("sound")
    }

    fn stream(from: (&str, u32), to: (&str, u32), weight: f64) -> Stream {
        let place =
            |(node, gpu): (&str, u32)| Place { node: NodeName(node.into()), gpu: Some(gpu), nics: [].into() };
        Stream {
            job: JobId("j".into()),
            from: place(from),
            to: place(to),
            weight,
            channels: 2,
            since: Some(Timestamp(weight as u64)),
        }
    }

    #[test]
    fn gpus_share_nics_in_order_and_streams_share_a_nic_by_what_they_send() {
        let streams = [
            stream(("a", 0), ("b", 0), 300.0),
            stream(("a", 1), ("c", 1), 100.0),
            stream(("a", 7), ("b", 7), 1.0),
            stream(("a", 0), ("nowhere", 0), 1.0),
        ];
        let Demand { flows, running, unplanned } = flows(&topology(), &streams);
        assert_eq!(running["j: a/n0→c/n0"], Timestamp(100));
        let found: Vec<_> =
            flows.as_slice().iter().map(|flow| (flow.id.as_str(), flow.demand.get().round())).collect();
        assert_eq!(found, [("j: a/n0→b/n0", 71.0), ("j: a/n0→c/n0", 25.0), ("j: a/n3→b/n3", 100.0)]);
        assert_eq!(unplanned.nodes, BTreeSet::from(["nowhere".to_owned()]));
    }

    #[test]
    fn the_nics_that_a_job_allows_are_shared_by_its_gpus() {
        let port = |n: usize| format!("{{switch: l0, gbps: 100, address: 10.0.0.{n}}}");
        let host = |name: &str, first: usize| {
            let nic = |n: usize| format!("{{name: n{n}, ports: [{}]}}", port(first + n));
            format!("  - {{name: {name}, nics: [{}]}}\n", (0..4).map(nic).collect::<Vec<_>>().join(", "))
        };
        let hosts = host("a", 1) + &host("b", 11);
        let text = format!("switches: [{{name: l0, tier: leaf}}]\nlinks: []\nhosts:\n{hosts}");
        let topology = parse_topology(&text).expect("sound");
        let own = |name: &str, address: Option<&str>| OwnNic {
            name: name.into(),
            address: address.map(|text| text.parse().expect("an address")),
        };
        let ids = |nics: &[OwnNic], gpu: u32| {
            let mut stream = stream(("a", gpu), ("b", 0), 1.0);
            stream.from.nics = nics.into();
            let eighth = self::stream(("b", 7), ("a", 7), 1.0);
            flows(&topology, &[stream, eighth]).flows.as_slice()[0].id.clone()
        };
        assert_eq!(ids(&[], 0), "j: a/n0→b/n0");
        let two = [own("mlx5_1", Some("10.0.0.2")), own("mlx5_1", Some("fd00::2")), own("n3", None)];
        assert_eq!(ids(&two, 0), "j: a/n1→b/n0", "by its address");
        assert_eq!(ids(&two, 7), "j: a/n3→b/n0", "by its name");
        assert_eq!(ids(&two[..1], 7), "j: a/n1→b/n0", "there is no other");
        let elsewhere = [own("mlx5_9", Some("10.0.0.12")), own("eth0", None)];
        assert_eq!(ids(&elsewhere, 7), "j: a/n3→b/n0", "that is another host's, and this no NIC of the file");
    }
}
