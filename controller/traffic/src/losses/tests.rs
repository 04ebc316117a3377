use super::*;

/// Hosts under leaves, each of which sends to the next ones under other leaves over all spines.
struct Fabric {
    leaves: u32,
    spines: u32,
    hosts: u32,
    seed: u64,
    losses: Losses,
    now_us: u64,
}

fn up(leaf: u32, spine: u32) -> Part {
    Part::Hop(SwitchId(leaf), SwitchId(100 + spine))
}

fn down(spine: u32, leaf: u32) -> Part {
    Part::Hop(SwitchId(100 + spine), SwitchId(leaf))
}

impl Fabric {
    fn new(leaves: u32, spines: u32, hosts: u32, seed: u64) -> Self {
        Self { leaves, spines, hosts, seed, losses: Losses::default(), now_us: 0 }
    }

    /// A number between 0 and 1, by SplitMix64.
    fn chance(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn paths(&self) -> Vec<Vec<Part>> {
        let mut paths = Vec::new();
        for (leaf, host) in (0..self.leaves).flat_map(|leaf| (0..self.hosts).map(move |host| (leaf, host))) {
            for step in 1..=2.min(self.leaves - 1) {
                let to = (leaf + step) % self.leaves;
                let nic = |leaf| NicId(leaf * self.hosts + host);
                paths.extend((0..self.spines).map(|spine| {
                    vec![Part::Out(nic(leaf), 0), up(leaf, spine), down(spine, to), Part::Into(nic(to), 0)]
                }));
            }
        }
        paths
    }

    /// A second: so many trains on each path, of packets that are lost as told.
    fn second(&mut self, trains: u64, loss: impl Fn(Part) -> f64) -> Vec<Verdict<Accused>> {
        for path in self.paths() {
            let through: f64 = path.iter().map(|part| 1.0 - loss(*part)).product();
            let bad = (0..trains).filter(|_| self.chance() > through.powi(6)).count() as u64;
            self.losses.observe(&path, Trains { good: trains - bad, bad });
        }
        self.now_us += 1_000_000;
        self.losses.judge(self.now_us, |_| false)
    }

    /// Seconds until something is said, and what.
    fn until(
        &mut self,
        most: u64,
        trains: u64,
        loss: impl Fn(Part) -> f64,
    ) -> (u64, Option<Verdict<Accused>>) {
        for second in 1..=most {
            if let Some(verdict) = self.second(trains, &loss).pop() {
                return (second, Some(verdict));
            }
        }
        (most, None)
    }
}

fn named(verdict: Option<Verdict<Accused>>) -> Vec<Part> {
    match verdict {
        Some(Verdict::Guilty(accused)) => accused.parts,
        other => panic!("nobody is accused: {other:?}"),
    }
}

#[test]
fn a_link_that_loses_one_in_a_hundred_is_named_and_only_it() {
    for seed in 0..40 {
        let mut fabric = Fabric::new(4, 4, 3, seed);
        let (seconds, verdict) = fabric.until(600, 1, |part| if part == up(1, 2) { 0.01 } else { 0.0 });
        assert_eq!(named(verdict), [up(1, 2)], "{seed}");
        // Six trains cross it in a second, and some 400 are needed.
        assert!((20..250).contains(&seconds), "{seed}: {seconds}");
    }
}

#[test]
fn good_links_are_never_accused() {
    // Twice what a good link loses is still no fault; ten thousand seconds of 32 links.
    for (seed, loss) in [(1, 0.0), (2, 0.001), (3, 0.001), (4, 0.002)] {
        let (_, verdict) = Fabric::new(4, 4, 2, seed).until(2_500, 2, |_| loss / 4.0);
        assert_eq!(verdict, None, "{loss}");
    }
}

#[test]
fn loss_of_any_size_is_named_in_either_direction_and_at_hosts() {
    for (seed, part) in
        [down(3, 0), up(2, 0), Part::Out(NicId(5), 0), Part::Into(NicId(0), 0)].into_iter().enumerate()
    {
        for loss in [0.02, 0.1, 0.5, 0.9] {
            let mut fabric = Fabric::new(3, 4, 2, seed as u64);
            let (_, verdict) = fabric.until(300, 2, |at| if at == part { loss } else { 0.0 });
            assert_eq!(named(verdict), [part], "{loss}");
        }
    }
}

#[test]
fn two_bad_links_are_named_one_after_the_other() {
    for seed in 0..10 {
        let mut fabric = Fabric::new(4, 4, 3, seed);
        let bad = [up(0, 1), down(2, 3)];
        let loss = |part| if bad.contains(&part) { 0.03 } else { 0.0005 };
        let (_, first) = fabric.until(300, 1, loss);
        let (_, second) = fabric.until(300, 1, loss);
        let both: BTreeSet<Part> = named(first).into_iter().chain(named(second)).collect();
        assert_eq!(both, BTreeSet::from(bad), "{seed}");
        assert_eq!(fabric.until(300, 1, loss).1, None, "{seed}");
    }
}

#[test]
fn links_that_nothing_tells_apart_are_named_together() {
    let mut fabric = Fabric::new(2, 3, 4, 1);
    let (_, verdict) = fabric.until(300, 1, |part| if part == up(0, 1) { 0.02 } else { 0.0 });
    assert_eq!(named(verdict), [up(0, 1), down(1, 1)]);
}

#[test]
fn an_accusation_is_taken_back_after_as_many_trains_as_agents_are_told() {
    let mut losses = Losses::default();
    let mut told = |good: u64, bad: u64, times: u64| {
        let verdicts = (0..times).map(|_| {
            losses.observe(&[up(0, 1)], Trains { good, bad });
            losses.judge(1, |_| false)
        });
        verdicts.flatten().collect::<Vec<_>>()
    };
    assert_eq!(told(0, 1, 300).len(), 1, "accused");
    let enough = u64::from(trusted_after());
    assert_eq!(told(1, 0, enough - 1), []);
    assert_eq!(told(1, 0, 1), [Verdict::Cleared(vec![up(0, 1)])]);
}

#[test]
fn what_is_mended_is_cleared_and_may_break_again() {
    let mut fabric = Fabric::new(4, 4, 3, 3);
    let bad = |part| if part == up(1, 2) { 0.02 } else { 0.0 };
    assert_eq!(named(fabric.until(300, 1, bad).1), [up(1, 2)]);
    assert_eq!(fabric.until(100, 1, bad).1, None, "it is told once");
    fabric.losses.forget();
    assert_eq!(fabric.until(100, 1, bad).1, None, "paths that changed mend nothing");
    let (seconds, verdict) = fabric.until(300, 1, |_| 0.0);
    assert_eq!(verdict, Some(Verdict::Cleared(vec![up(1, 2)])));
    assert!(seconds > 20, "{seconds}");
    assert_eq!(named(fabric.until(300, 1, bad).1), [up(1, 2)]);
}

#[test]
fn who_is_doubtful_is_not_accused() {
    let mut fabric = Fabric::new(4, 4, 3, 7);
    for _ in 0..100 {
        for path in fabric.paths() {
            let bad = u64::from(path.contains(&up(1, 2)));
            fabric.losses.observe(&path, Trains { good: 1 - bad, bad });
        }
        fabric.now_us += 1_000_000;
        assert_eq!(fabric.losses.judge(fabric.now_us, |part| *part == up(1, 2)), []);
    }
}

#[test]
fn two_on_the_same_paths_are_both_cleared() {
    let mut losses = Losses::default();
    let path = vec![Part::Out(NicId(0), 0), up(0, 1), down(1, 2), Part::Into(NicId(1), 0)];
    for part in [up(0, 1), down(1, 2)] {
        let trains = Trains { good: 0, bad: 99 };
        let (parts, others) = (vec![part], Trains::default());
        losses.accused.push(Accused { parts, trains, paths: 1, others, innocence: 0.0 });
    }
    let mut cleared = 0;
    for second in 1..=60 {
        losses.observe(&path, Trains { good: 20, bad: 0 });
        cleared += losses.judge(second * 1_000_000, |_| false).len();
    }
    assert_eq!((cleared, losses.accused.len()), (2, 0));
}

#[test]
fn an_outage_of_seconds_is_no_loss() {
    let mut fabric = Fabric::new(4, 4, 8, 5);
    for round in 0..20 {
        for second in 0..60 {
            let loss = |part| if second < 3 && (part == up(0, 0) || part == down(0, 0)) { 1.0 } else { 0.0 };
            assert_eq!(fabric.second(4, loss), [], "{round} {second}");
        }
    }
}
