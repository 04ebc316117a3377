//! What is wrong with C4 itself, as the controller knows it: `c4ctl doctor --cluster`, from any machine.

use std::collections::BTreeMap;

use c4_proto::v1;

use super::Check;
use crate::words::printable;

/// Names told of one check.
const NAMES: usize = 5;

/// Checks everything that can be seen in two answers.
pub(super) fn checks(status: &v1::Status, steering: &v1::ListActionsResponse) -> Vec<Check> {
    let mut checks = vec![agents(status), versions(status), spools(status)];
    checks.extend(sensors(status));
    checks.extend(others(status));
    checks.extend([store(steering), acts(steering)]);
    checks
}

/// The first of some names, and how many there are.
fn some<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let first: Vec<String> = names.iter().take(NAMES).map(|name| printable(name).to_string()).collect();
    let more = names.len().saturating_sub(NAMES);
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

fn agents(status: &v1::Status) -> Check {
    let all = status.nodes.len();
    let lost: Vec<&str> =
        status.nodes.iter().filter(|node| !node.connected).map(|node| node.name.as_str()).collect();
    if all == 0 {
        let advice = "start c4-agent on the nodes, with this controller in its configuration";
        return Check::doubtful("agents", "no agent was ever seen", advice);
    }
    if lost.is_empty() {
        return Check::good("agents", format!("all {all} are connected"));
    }
    let found = format!("{} of {all} out of sight: {}", lost.len(), some(lost.iter().copied()));
    Check::bad(
        "agents",
        found,
        "see `systemctl status c4-agent` there; what their ranks do is unknown until then",
    )
}

fn versions(status: &v1::Status) -> Check {
    let ours = printable(&status.version);
    let mut other = BTreeMap::<&str, Vec<&str>>::new();
    for node in status.nodes.iter().filter(|node| node.connected && node.agent_version != status.version) {
        other.entry(&node.agent_version).or_default().push(&node.name);
    }
    if other.is_empty() {
        return Check::good("versions", format!("controller and agents are of {ours}"));
    }
    let told: Vec<String> = other
        .iter()
        .map(|(version, nodes)| format!("{} on {}", printable(version), some(nodes.iter().copied())))
        .collect();
    let found = format!("the controller is of {ours}, agents of {}", told.join("; "));
    Check::doubtful("versions", found, "fine during an upgrade; finish it")
}

fn spools(status: &v1::Status) -> Check {
    let dropped: Vec<&v1::Node> = status.nodes.iter().filter(|node| node.spool_dropped > 0).collect();
    if dropped.is_empty() {
        return Check::good("spools", "no agent had to drop anything");
    }
    let windows: u64 = dropped.iter().map(|node| node.spool_dropped).sum();
    Check::doubtful(
        "spools",
        format!("{windows} windows were dropped on {}", some(dropped.iter().map(|node| node.name.as_str()))),
        "the controller was away for longer than their spool holds, or is too slow; see `spool` in agent.yaml",
    )
}

/// A sensor that some nodes have and others lack is broken there; one that no node has is not to be had.
fn sensors(status: &v1::Status) -> Option<Check> {
    let mut by_name = BTreeMap::<&str, (usize, Vec<&str>)>::new();
    for node in status.nodes.iter().filter(|node| node.connected) {
        for sensor in &node.sensors {
            let (present, lacking) = by_name.entry(&sensor.name).or_default();
            if sensor.present {
                *present += 1;
            } else {
                lacking.push(&node.name);
            }
        }
    }
    if by_name.is_empty() {
        return None;
    }
    let partly = by_name.iter().filter(|(_, (present, lacking))| *present > 0 && !lacking.is_empty());
    let told: Vec<String> = partly
        .map(|(sensor, (_, lacking))| format!("{} on {}", printable(sensor), some(lacking.iter().copied())))
        .collect();
    Some(if told.is_empty() {
        Check::good("sensors", "what one node has, all have")
    } else {
        let advice = "`c4ctl status -o wide` says why; other nodes have them";
        Check::doubtful("sensors", format!("missing: {}", told.join("; ")), advice)
    })
}

/// Of several controllers.
fn others(status: &v1::Status) -> Option<Check> {
    if status.controller.is_empty() {
        return None;
    }
    let (leader, term) = (printable(&status.controller), status.term);
    Some(if status.standbys.is_empty() {
        let found = format!("{leader} leads (term {term}), and nobody stands by");
        Check::bad("standbys", found, "start the other controllers, or see why they cannot reach etcd")
    } else {
        let by = some(status.standbys.iter().map(String::as_str));
        Check::good("standbys", format!("{leader} leads (term {term}); {by} would take over"))
    })
}

fn store(steering: &v1::ListActionsResponse) -> Check {
    if steering.store_ok {
        return Check::good("store", "what is decided is written down");
    }
    let advice =
        "see the controller's log: disk, permissions or etcd; nothing is done until it can be written";
    Check::bad("store", "what is decided cannot be written down", advice)
}

fn acts(steering: &v1::ListActionsResponse) -> Check {
    if !steering.breaker.is_empty() {
        let found = format!("the circuit breaker is open: {}", printable(&steering.breaker));
        return Check::bad("actions", found, "see whether the network or C4 is what fails");
    }
    if let Some(pause) = &steering.pause {
        let found = format!("paused by {}: {}", printable(&pause.by), printable(&pause.why));
        return Check::doubtful("actions", found, "`c4ctl resume` when that is over");
    }
    Check::good("actions", format!("mode {}", printable(&steering.mode)))
}

#[cfg(test)]
mod tests {
    use super::{super::Grade, *};

    fn node(name: &str, connected: bool) -> v1::Node {
        let sensor = v1::NodeSensor { name: "nvml".into(), present: true, detail: String::new() };
        let (name, agent_version) = (name.into(), "1.0".into());
        v1::Node { name, connected, agent_version, sensors: vec![sensor], ..Default::default() }
    }

    fn sound() -> (v1::Status, v1::ListActionsResponse) {
        let nodes = (0..3).map(|index| node(&format!("n{index}"), true)).collect();
        let status = v1::Status { version: "1.0".into(), nodes, ..Default::default() };
        (status, v1::ListActionsResponse { store_ok: true, mode: "auto".into(), ..Default::default() })
    }

    /// The checks that are not good.
    fn wrong(status: &v1::Status, steering: &v1::ListActionsResponse) -> Vec<(&'static str, Grade, String)> {
        let wrong = checks(status, steering).into_iter().filter(|check| check.grade != Grade::Good);
        wrong.map(|check| (check.name, check.grade, check.found)).collect()
    }

    #[test]
    fn what_is_well_is_said_to_be() {
        let (mut status, steering) = sound();
        assert_eq!(wrong(&status, &steering), []);
        (status.controller, status.standbys) = ("c4-0".into(), vec!["c4-1 (https://c4-1:4400)".into()]);
        assert_eq!(wrong(&status, &steering), []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_named_with_its_nodes() {
        let one = |change: &dyn Fn(&mut v1::Status, &mut v1::ListActionsResponse)| {
            let (mut status, mut steering) = sound();
            change(&mut status, &mut steering);
            let mut wrong = wrong(&status, &steering);
            assert_eq!(wrong.len(), 1, "{wrong:?}");
            wrong.remove(0)
        };
        let (name, grade, found) = one(&|status, _| {
            status.nodes = (0..9).map(|index| node(&format!("n{index}"), index == 0)).collect();
        });
        assert_eq!((name, grade), ("agents", Grade::Bad));
        assert_eq!(found, "8 of 9 out of sight: n1, n2, n3, n4, n5 and 3 more");
        assert_eq!(one(&|status, _| status.nodes.clear()).1, Grade::Doubtful);
        let (name, _, found) = one(&|status, _| status.nodes[1].agent_version = "0.9".into());
        assert_eq!((name, found.as_str()), ("versions", "the controller is of 1.0, agents of 0.9 on n1"));
        let (name, _, found) = one(&|status, _| status.nodes[2].spool_dropped = 7);
        assert_eq!((name, found.as_str()), ("spools", "7 windows were dropped on n2"));
        let (name, _, found) = one(&|status, _| status.nodes[0].sensors[0].present = false);
        assert_eq!((name, found.as_str()), ("sensors", "missing: nvml on n0"));
        assert_eq!(one(&|status, _| status.controller = "c4-0".into()).0, "standbys");
        assert_eq!(one(&|_, steering| steering.store_ok = false).0, "store");
        assert_eq!(one(&|_, steering| steering.breaker = "4 nodes".into()).0, "actions");
        assert_eq!(one(&|_, steering| steering.pause = Some(v1::Pause::default())).1, Grade::Doubtful);
    }
}
