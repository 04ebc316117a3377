//! Policy routes as `c4ctl plan --routes` writes them, given to a real kernel: a fabric of network namespaces, in which packets
//! of each flow are counted on the spine that was planned for it. Needs `ip` and `unshare`, and root or user namespaces.

use std::{fs, path::Path, process::Command};

mod support;

use serde_json::{Value, json};
use support::{command, json as document, text};

const LEAVES: usize = 2;
const SPINES: usize = 2;
const HOSTS: usize = 4;

/// Host `h` under a leaf.
fn host(leaf: usize, h: usize) -> String {
    format!("10.{leaf}.{h}.2")
}

/// The leaf's (0) and the spine's (1) address on the link between them.
fn link(leaf: usize, spine: usize, end: usize) -> String {
    format!("172.16.{}.{}", leaf * 16 + spine, 1 + end)
}

fn topology() -> String {
    let mut text = "switches:\n".to_owned();
    for leaf in 0..LEAVES {
        text += &format!("  - {{name: leaf{leaf}, tier: leaf}}\n");
    }
    for spine in 0..SPINES {
        text += &format!("  - {{name: spine{spine}, tier: spine}}\n");
    }
    text += "links:\n";
    for leaf in 0..LEAVES {
        for spine in 0..SPINES {
            let (a, b) = (link(leaf, spine, 0), link(leaf, spine, 1));
            text += &format!(
                "  - {{a: leaf{leaf}, b: spine{spine}, gbps: 100, a_address: {a}, b_address: {b}}}\n"
            );
        }
    }
    text += "hosts:\n";
    for leaf in 0..LEAVES {
        for h in 0..HOSTS {
            text += &format!(
                "  - {{name: h{leaf}{h}, nics: [{{name: n, ports: [{{switch: leaf{leaf}, gbps: 50, address: {}}}]}}]}}\n",
                host(leaf, h)
            );
        }
    }
    text
}

/// Each host sends to the one across the fabric that has its number, and hears from it.
fn flows() -> Value {
    let end = |leaf: usize, h: usize| json!({"host": format!("h{leaf}{h}"), "nic": "n"});
    let flow = |n: usize| {
        let (from, h) = (n / HOSTS, n % HOSTS);
        json!({"id": format!("f{n}"), "job": "j", "src": end(from, h), "dst": end(1 - from, h), "gbps": 50.0})
    };
    json!({"flows": (0..LEAVES * HOSTS).map(flow).collect::<Vec<_>>()})
}

fn planned(dir: &Path, more: &[&str]) -> Value {
    fs::write(dir.join("f.json"), flows().to_string()).expect("written");
    let mut args = vec!["plan", "--json", "--topology", "t.yaml", "--flows", "f.json", "--routes", "routes"];
    args.extend(more);
    let output = command(&args).current_dir(dir).output().expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    document(&output)
}

/// The fabric: leaves, spines, and the hosts of each leaf in one namespace, each host an interface of its own.
fn fabric() -> String {
    let mut script = String::from("set -e\nmount -t tmpfs none /run\nip link set lo up\n");
    let mut add = |line: String| script += &format!("{line}\n");
    let names = (0..LEAVES).map(|n| format!("leaf{n}")).chain((0..SPINES).map(|n| format!("spine{n}")));
    for name in names {
        add(format!("ip netns add {name}"));
        add(format!("ip -n {name} link set lo up"));
        add(format!("ip netns exec {name} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'"));
        // Hashing by ports too, so that what stays in place does so by rule, not by luck.
        add(format!("ip netns exec {name} sh -c 'echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy'"));
    }
    for leaf in 0..LEAVES {
        for spine in 0..SPINES {
            let (here, there) = (format!("s{spine}"), format!("l{leaf}"));
            add(format!(
                "ip link add {here} netns leaf{leaf} type veth peer name {there} netns spine{spine}"
            ));
            add(format!("ip -n leaf{leaf} addr add {}/30 dev {here}", link(leaf, spine, 0)));
            add(format!("ip -n spine{spine} addr add {}/30 dev {there}", link(leaf, spine, 1)));
            add(format!("ip -n leaf{leaf} link set {here} up"));
            add(format!("ip -n spine{spine} link set {there} up"));
            add(format!("ip -n spine{spine} route add 10.{leaf}.0.0/16 via {}", link(leaf, spine, 0)));
        }
        for h in 0..HOSTS {
            let name = format!("h{leaf}{h}");
            add(format!("ip netns add {name}"));
            add(format!("ip link add h{h} netns leaf{leaf} type veth peer name eth0 netns {name}"));
            add(format!("ip -n leaf{leaf} addr add 10.{leaf}.{h}.1/24 dev h{h}"));
            add(format!("ip -n leaf{leaf} link set h{h} up"));
            add(format!("ip -n {name} addr add {}/24 dev eth0", host(leaf, h)));
            add(format!("ip -n {name} link set eth0 up"));
            add(format!("ip -n {name} route add default via 10.{leaf}.{h}.1"));
        }
        let hops: Vec<String> =
            (0..SPINES).map(|spine| format!("nexthop via {}", link(leaf, spine, 1))).collect();
        add(format!("ip -n leaf{leaf} route add 10.{}.0.0/16 {}", 1 - leaf, hops.join(" ")));
    }
    script
}

/// Sends packets of each flow from many ports, and says how many of them each spine has forwarded.
fn count() -> String {
    let mut script = String::new();
    for n in 0..LEAVES * HOSTS {
        let (from, h) = (n / HOSTS, n % HOSTS);
        let counted = |spine: usize| {
            format!("$(ip netns exec spine{spine} cat /sys/class/net/l{from}/statistics/rx_packets)")
        };
        let before: Vec<String> = (0..SPINES).map(|spine| format!("b{spine}={}", counted(spine))).collect();
        // Each redirection is a socket of its own, with a source port of its own.
        let send = format!(
            "ip netns exec h{from}{h} bash -c 'for i in $(seq 20); do echo x > /dev/udp/{}/9 || true; done' 2>/dev/null",
            host(1 - from, h)
        );
        let after: Vec<String> =
            (0..SPINES).map(|spine| format!("$(({} - b{spine}))", counted(spine))).collect();
        script += &format!("{}\n{send}\necho f{n} {}\n", before.join("; "), after.join(" "));
    }
    script
}

/// Runs a script in namespaces of its own; none when there are none to be had here.
fn run(dir: &Path, script: &str) -> Option<Vec<(String, Vec<u64>)>> {
    let able =
        |args: &[&str]| Command::new(args[0]).args(&args[1..]).output().is_ok_and(|o| o.status.success());
    if !able(&["ip", "-V"]) || !able(&["bash", "--version"]) {
        println!("not tried: there is no ip or no bash here");
        return None;
    }
    let unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private"];
    let mut probe = unshare.to_vec();
    probe.extend(["sh", "-c", "mount -t tmpfs none /run && ip netns add probe"]);
    if !able(&probe) {
        println!("not tried: no network namespaces (needs root or user namespaces)");
        return None;
    }
    fs::write(dir.join("script"), script).expect("written");
    let output = Command::new(unshare[0])
        .args(&unshare[1..])
        .args(["sh", "script"])
        .current_dir(dir)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let name = words.next().expect("a name");
        (name, words.map(|word| word.parse().expect("a number")).collect())
    };
    Some(text(&output.stdout).lines().map(line).collect())
}

/// The number of the spine that a flow was planned over.
fn spine(plan: &Value, flow: usize) -> usize {
    let name = plan["flows"][flow]["pieces"][0]["path"][1].as_str().expect("a name");
    name.trim_start_matches("spine").parse().expect("a number")
}

#[test]
fn packets_of_each_flow_cross_the_planned_spine_and_another_one_if_that_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("t.yaml"), topology()).expect("written");
    let plan = planned(dir.path(), &[]);
    let apply = "ip -n leaf0 -4 -batch routes/leaf0.ip4\nip -n leaf1 -4 -batch routes/leaf1.ip4\n";
    // Twice: a plan replaces the one before.
    let script = format!("{}{apply}{apply}{}", fabric(), count());
    let Some(counted) = run(dir.path(), &script) else { return };
    assert_eq!(counted.len(), LEAVES * HOSTS);
    for (flow, (name, packets)) in counted.iter().enumerate() {
        let planned = spine(&plan, flow);
        assert!(packets[planned] >= 20, "{name}: planned over {planned}, counted {packets:?}");
        // Neighbours ask for each other's addresses now and then.
        assert!(packets[1 - planned] < 10, "{name}: planned over {planned}, counted {packets:?}");
    }
    // Without a link, what was planned over it is routed as if there were no plan.
    let gone = format!("{}{apply}ip -n leaf0 link set s0 down\n{}", fabric(), count());
    let counted = run(dir.path(), &gone).expect("as before");
    for (name, packets) in &counted[..HOSTS] {
        assert!(packets[1] >= 20, "{name}: {packets:?}");
    }
}

#[test]
fn flows_that_are_cut_are_weighted_and_frr_is_told_the_same() {
    let dir = tempfile::tempdir().expect("a directory");
    // One spine has a thinner link: 2 of 3 queue pairs go over the other.
    let thin = topology().replace("b: spine1, gbps: 100", "b: spine1, gbps: 50");
    fs::write(dir.path().join("t.yaml"), thin).expect("written");
    let mut flows = flows();
    for flow in flows["flows"].as_array_mut().expect("flows") {
        flow["max_pieces"] = json!(3);
        flow["gbps"] = json!(37.5);
    }
    fs::write(dir.path().join("f.json"), flows.to_string()).expect("written");
    let plan = |words: &str| {
        let args = [
            "plan",
            "--topology",
            "t.yaml",
            "--flows",
            "f.json",
            "--routes",
            "routes",
            "--routes-for",
            words,
        ];
        let output = command(&args).current_dir(dir.path()).output().expect("runs");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    };
    plan("iproute");
    plan("frr");
    let routes = fs::read_to_string(dir.path().join("routes/leaf0.ip4")).expect("written");
    assert_eq!(routes.matches("rule add priority 20400 from 10.0.").count(), HOSTS, "{routes}");
    let frr = fs::read_to_string(dir.path().join("routes/leaf0.frr")).expect("written");
    assert_eq!(frr.matches("match src-ip 10.0.").count(), HOSTS, "{frr}");
    // The same groups of next hops in both.
    let hops = |text: &str, word: &str| {
        let hops = text.split_whitespace().zip(text.split_whitespace().skip(1));
        let mut hops: Vec<String> =
            hops.filter(|(before, _)| *before == word).map(|(_, hop)| hop.to_owned()).collect();
        hops.sort();
        hops
    };
    assert_eq!(hops(&routes, "via"), hops(&frr, "nexthop"), "{routes}\n{frr}");
    assert!(routes.contains("weight 2"), "{routes}");
}

#[test]
fn addresses_that_are_missing_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("t.yaml"), topology().replace(&format!(", b_address: {}", link(0, 1, 1)), ""))
        .expect("written");
    fs::write(dir.path().join("f.json"), flows().to_string()).expect("written");
    let args = ["plan", "--topology", "t.yaml", "--flows", "f.json", "--routes", "routes"];
    let output = command(&args).current_dir(dir.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("spine1 on its link 0 to leaf0"), "{}", text(&output.stderr));
    // Parallel links cannot share an address, nor two switches one.
    let twice = topology().replace(&link(1, 1, 1), &link(1, 0, 1));
    let twice = twice.replacen("gbps: 100, a_address", "gbps: 100, count: 2, a_address", 1);
    fs::write(dir.path().join("t.yaml"), twice).expect("written");
    let output = command(&args).current_dir(dir.path()).output().expect("runs");
    assert_eq!(output.status.code(), Some(64));
    let said = text(&output.stderr);
    assert!(said.contains("t.yaml:7: links[0].a_address") && said.contains("one by one"), "{said}");
    assert!(said.contains("t.yaml:10: links[3].b_address"), "{said}");
}
