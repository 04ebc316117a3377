use std::net::Ipv4Addr;

use super::*;

/// A fabric of spines that answer as told.
struct Fabric {
    spines: u16,
    /// Answers as long as it has any left, then none: a rate limit. So many come back each millisecond.
    tokens: f64,
    per_ms: f64,
    seed: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn address(spine: u64) -> IpAddr {
    IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + spine as u32))
}

impl Fabric {
    fn new(spines: u16) -> Self {
        Self { spines, tokens: 6.0, per_ms: 1000.0, seed: 5 }
    }

    fn spine(&self, probe: Probe) -> u64 {
        mix(self.seed ^ u64::from(probe.port) << 8 ^ u64::from(probe.ttl)) % u64::from(self.spines)
    }

    /// Runs discovery to its end; says how long it took.
    fn run(
        &mut self,
        discovery: &mut Discovery,
        answer: impl Fn(&Self, Probe, u64) -> Option<Answer>,
    ) -> u64 {
        let mut now = 1_000_000;
        for _ in 0..100_000 {
            match discovery.next(now) {
                Step::Send(probe) => {
                    if self.tokens >= 1.0
                        && let Some(answer) = answer(self, probe, now)
                    {
                        self.tokens -= 1.0;
                        discovery.answer(probe, answer);
                    }
                }
                Step::Wait(until) => {
                    assert!(until > now, "waits for the past");
                    let step = (until - now).min(1000);
                    self.tokens = (self.tokens + self.per_ms * step as f64 / 1000.0).min(6.0);
                    now += step;
                }
                Step::Done => return now - 1_000_000,
            }
        }
        panic!("never ends: {:?}", discovery.report());
    }
}

fn honest(fabric: &Fabric, probe: Probe, _: u64) -> Option<Answer> {
    Some(Answer::Hop(address(fabric.spine(probe))))
}

fn settings(paths: Option<usize>) -> Settings {
    Settings { paths, depth: 2, ..Settings::default() }
}

#[test]
fn all_paths_are_found_with_as_many_ports_as_wanted() {
    for (spines, known) in [(1, false), (4, true), (8, false), (64, true)] {
        let mut fabric = Fabric::new(spines);
        let mut discovery = Discovery::new(settings(known.then_some(usize::from(spines))));
        fabric.run(&mut discovery, honest);
        assert_eq!(discovery.paths().len(), usize::from(spines));
        for (hops, ports) in discovery.paths() {
            assert!(ports.len() >= 2);
            assert!(ports.iter().all(|port| address(fabric.spine(Probe { port: *port, ttl: 2 })) == hops[0]));
        }
    }
}

#[test]
fn a_path_over_cores_is_told_by_two_hops() {
    let mut fabric = Fabric::new(3);
    let settings = Settings { ttls: vec![2, 3], paths: Some(9), depth: 1, ..Settings::default() };
    let mut discovery = Discovery::new(settings);
    fabric.run(&mut discovery, honest);
    assert_eq!(discovery.paths().len(), 9);
    assert!(discovery.paths().keys().all(|hops| hops.len() == 2));
}

#[test]
fn rate_limits_slow_it_down_and_no_more() {
    let mut fabric = Fabric { per_ms: 0.02, ..Fabric::new(4) };
    let mut discovery = Discovery::new(settings(Some(4)));
    let took = fabric.run(&mut discovery, honest);
    assert_eq!(discovery.paths().len(), 4);
    assert_eq!(discovery.report().silent, 0, "{:?}", discovery.report());
    assert!(took < 10_000_000, "{took}");
}

#[test]
fn silence_ends_it_soon() {
    let mut fabric = Fabric::new(4);
    let mut discovery = Discovery::new(settings(Some(4)));
    fabric.run(&mut discovery, |_, _, _| None);
    assert!(discovery.paths().is_empty());
    assert!(discovery.report().ports <= 80, "{:?}", discovery.report());
    let mut discovery = Discovery::new(settings(None));
    fabric.run(&mut discovery, |_, _, _| Some(Answer::Unreachable));
    assert_eq!(discovery.report().lost, 8);
}

#[test]
fn one_silent_spine_leaves_the_others() {
    let mut fabric = Fabric::new(4);
    let mut discovery = Discovery::new(Settings { ports: 20_000..20_200, ..settings(Some(4)) });
    fabric.run(&mut discovery, |fabric, probe, now| {
        honest(fabric, probe, now).filter(|answer| *answer != Answer::Hop(address(2)))
    });
    assert_eq!(discovery.paths().len(), 3);
    assert!(discovery.report().silent > 20);
}

#[test]
fn a_spine_that_answers_now_so_now_so_is_not_believed() {
    let mut fabric = Fabric::new(4);
    let mut discovery = Discovery::new(Settings { ports: 20_000..20_200, ..settings(Some(4)) });
    let lies = std::cell::Cell::new(0u64);
    fabric.run(&mut discovery, |fabric, probe, _| {
        let spine = fabric.spine(probe);
        // Spine 3 names a different switch each time.
        lies.set(lies.get() + 1);
        Some(Answer::Hop(if spine == 3 { address(100 + lies.get()) } else { address(spine) }))
    });
    assert_eq!(discovery.paths().keys().flatten().copied().collect::<Vec<_>>(), [0, 1, 2].map(address));
    assert!(discovery.report().unsteady > 20);
}

#[test]
fn ports_in_use_are_passed_over() {
    let mut fabric = Fabric::new(4);
    let mut discovery = Discovery::new(settings(Some(4)));
    fabric.run(&mut discovery, |fabric, probe, now| match probe.port % 2 {
        0 => Some(Answer::Busy),
        _ => honest(fabric, probe, now),
    });
    assert!(discovery.paths().values().flatten().all(|port| port % 2 == 1));
    assert_eq!(discovery.paths().len(), 4);
}

#[test]
fn a_rate_limit_does_not_hold_up_what_it_lets_through() {
    for (spines, per_ms) in [(3u16, 0.06), (3, 0.03), (7, 0.14), (4, 0.02)] {
        let mut fabric = Fabric { per_ms, ..Fabric::new(spines) };
        let wanted = vec![Route { units: 1, bond: 0, via: vec![vec![address(99)]] }];
        let mut absent = Discovery::new(Settings { wanted, ..settings(None) });
        let took_ms = fabric.run(&mut absent, honest) as f64 / 1e3;
        let least_ms = absent.found() as f64 / per_ms;
        assert!(took_ms < 2.0 * least_ms + 1e3, "{took_ms} ms instead of {least_ms}: {:?}", absent.report());
        assert!(absent.report().silent == 0 && absent.report().probes < 4 * absent.report().ports);
    }
}

#[test]
fn paths_that_are_not_wanted_are_asked_for_once_and_their_ports_are_tried_first_later() {
    let mut fabric = Fabric::new(4);
    let wanted = |spine| vec![Route { units: 1, bond: 0, via: vec![vec![address(spine)]] }];
    let mut discovery = Discovery::new(Settings { wanted: wanted(1), ..settings(None) });
    fabric.run(&mut discovery, honest);
    assert_eq!(discovery.paths().keys().collect::<Vec<_>>(), [&vec![address(1)]]);
    let glimpsed: usize = discovery.glimpsed().values().map(Vec::len).sum();
    let report = discovery.report();
    assert!(report.probes as usize <= glimpsed + 2 * 2 + CANDIDATES, "{report:?}");
    // A path that is not there costs an answer for each port that takes another.
    let mut absent = Discovery::new(Settings { wanted: wanted(9), ..settings(None) });
    fabric.run(&mut absent, honest);
    assert!(absent.paths().is_empty() && absent.report().paths == 4);
    let report = absent.report();
    assert!((ABSENT * 5..ABSENT * 6 + CANDIDATES).contains(&(report.probes as usize)), "{report:?}");
    // What one looked for the other has met.
    let likely = absent.glimpsed()[&vec![address(2)]].iter().copied().collect();
    let mut next = Discovery::new(Settings { wanted: wanted(2), likely, ..settings(None) });
    fabric.run(&mut next, honest);
    assert_eq!(next.paths()[&vec![address(2)]].len(), 2);
    assert!(
        next.glimpsed().is_empty() && next.report().probes <= 2 * 2 + CANDIDATES as u32,
        "{:?}",
        next.report()
    );
}

#[test]
fn a_link_event_makes_everything_unknown() {
    let mut fabric = Fabric::new(4);
    let mut discovery = Discovery::new(settings(Some(4)));
    fabric.run(&mut discovery, honest);
    let before = discovery.paths().clone();
    discovery.invalidate();
    assert!(discovery.paths().is_empty());
    // What is on its way from before says nothing.
    discovery.answer(Probe { port: 20_000, ttl: 2 }, Answer::Hop(address(1)));
    fabric.seed = 77;
    fabric.run(&mut discovery, honest);
    assert_eq!(discovery.paths().len(), 4);
    assert_ne!(*discovery.paths(), before);
}
