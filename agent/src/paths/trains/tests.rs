use super::*;
use crate::paths::echo::{Receiver, Sent, decode};

/// A path with a queue, over which trains go at 5 ms.
struct Road {
    trains: Trains,
    receiver: Receiver,
    now_us: u64,
    seed: u64,
    /// What a probe waits for in the host's own queue, by a chance between 0 and 1; none if there was no room. Without this, the kernel
    /// does not tell when probes leave.
    own_queue: Option<fn(f64) -> Option<i64>>,
}

impl Road {
    fn new() -> Self {
        Self {
            trains: Trains::new(1, 5_000),
            receiver: Receiver::default(),
            now_us: 1,
            seed: 9,
            own_queue: None,
        }
    }

    fn chance(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Sends so many trains. `road` says of each probe, by its time and a chance between 0 and 1, how long it takes, or
    /// that it is lost; one answer in `answers_lost` does not come back.
    fn run(&mut self, count: u64, answers_lost: f64, road: impl Fn(u64, f64) -> Option<i64>) -> Tally {
        for _ in 0..count * LENGTH {
            let sequence = loop {
                match self.trains.next(self.now_us) {
                    Step::Send(0, sequence) => break sequence,
                    Step::Send(other, _) => panic!("there is no path {other}"),
                    Step::Wait(until) => self.now_us = until,
                }
            };
            let (fate, back) = (self.chance(), self.chance());
            let sent_ns = (self.now_us * 1000).cast_signed();
            let waited = match self.own_queue {
                Some(queue) => {
                    let chance = self.chance();
                    let Some(waited) = queue(chance) else { continue };
                    self.trains.left(0, sequence, sent_ns + waited);
                    waited
                }
                None => 0,
            };
            // The receiver's clock goes five minutes before.
            let Some(delay) = road(self.now_us, fate) else { continue };
            let received_ns = sent_ns + waited + delay + 300_000_000_000;
            let sent = Sent { session: 1, sequence, sent_ns };
            let from = ([10, 0, 0, 1], 20_000).into();
            let answer = self.receiver.came(from, &sent, received_ns, 0, self.now_us).expect("room");
            if back >= answers_lost {
                self.trains.heard(0, &decode(&answer, 1).expect("an answer"), self.now_us);
            }
        }
        self.trains.tallies().next().expect("a path")
    }
}

const BASE: i64 = 40_000;

#[test]
fn loss_is_counted_by_trains() {
    let clean = Road::new().run(2_000, 0.0, |_, _| Some(BASE));
    assert_eq!((clean.bad, clean.busy), (0, 0));
    assert!(clean.good >= 1_990, "{clean:?}");
    let lossy = Road::new().run(10_000, 0.0, |_, chance| (chance > 0.01).then_some(BASE));
    // 1 - 0.99^6 is 5.9 %; three standard deviations are 0.7 %.
    assert!((500..660).contains(&lossy.bad), "{lossy:?}");
    assert!(lossy.unknown < 300, "{lossy:?}");
}

#[test]
fn lost_answers_are_no_loss() {
    let tally = Road::new().run(2_000, 0.3, |_, _| Some(BASE));
    assert_eq!(tally.bad, 0);
    assert!(tally.good > 1_900, "{tally:?}");
}

/// A sawtooth as congestion control makes it: the queue fills to 40 ms, loses for a moment, and falls back.
fn sawtooth(now_us: u64, bottom: f64) -> (f64, bool) {
    let phase = (now_us % 700_000) as f64 / 700_000.0;
    (bottom + (1.0 - bottom) * phase, phase > 0.99)
}

#[test]
fn full_queues_that_lose_accuse_nobody() {
    for bottom in [0.0, 0.7] {
        let tally = Road::new().run(20_000, 0.0, |now, _| {
            let (queue, full) = sawtooth(now, bottom);
            (!full).then_some(BASE + (queue * 40e6) as i64)
        });
        assert_eq!(tally.bad, 0, "{bottom}: {tally:?}");
        assert!(tally.busy > 5_000, "{bottom}: {tally:?}");
    }
}

#[test]
fn loss_on_a_used_link_shows_when_its_queue_is_short() {
    let tally = Road::new().run(10_000, 0.0, |now, chance| {
        (chance > 0.01).then_some(BASE + (sawtooth(now, 0.0).0 * 6e6) as i64)
    });
    let judged = tally.good + tally.bad;
    let rate = tally.bad as f64 / judged as f64;
    assert!(judged > 2_000 && (0.04..0.08).contains(&rate), "{tally:?}");
}

#[test]
fn an_idle_receiver_and_a_liar_say_nothing() {
    let dead = Road::new().run(1_000, 0.0, |_, _| None);
    assert_eq!((dead.good, dead.bad), (0, 0));
    let mut trains = Trains::new(1, 1_000);
    assert_eq!(trains.next(5), Step::Send(0, 0));
    let lie = Heard { sequence: 7, sent_ns: 0, received_ns: 0, newest: 7, arrived: u64::MAX, overflow: 0 };
    trains.heard(0, &lie, 6);
    assert_eq!(trains.tallies().next(), Some(Tally::default()));
    assert_eq!(Trains::new(0, 1_000).next(5), Step::Wait(u64::MAX));
}

#[test]
fn what_the_receiver_had_no_room_for_is_not_the_networks_fault() {
    let mut trains = Trains::new(1, 1_000);
    let (mut now, mut overflow) = (0, 0);
    for train in 0..100 {
        for _ in 0..LENGTH {
            let Step::Send(0, sequence) = trains.next(now) else { panic!("it is time") };
            now += 1_000;
            if sequence % LENGTH == 3 {
                overflow += 1;
                continue;
            }
            let arrived = !(1 << (sequence % LENGTH).saturating_sub(3)) & 0xff;
            let heard =
                Heard { sequence, sent_ns: 0, received_ns: BASE, newest: sequence, arrived, overflow };
            trains.heard(0, &heard, now);
        }
        assert_eq!(trains.tallies().next().expect("a path").bad, 0, "{train}");
    }
}

#[test]
fn what_waits_in_the_hosts_own_queue_shows_what_the_network_loses() {
    let road = |_, chance: f64| (chance > 0.01).then_some(BASE);
    let mut own = Road { own_queue: Some(|chance| Some((chance * 9e6) as i64)), ..Road::new() };
    let tally = own.run(10_000, 0.0, road);
    assert_eq!(tally.busy, 0, "{tally:?}");
    assert!((500..660).contains(&tally.bad), "{tally:?}");
    // Where the kernel does not tell when probes leave, it looks like a queue of the network.
    let mut seed = 5u64;
    let mut road = Road::new();
    let delays: Vec<i64> = (0..65_536)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as i64 % 9_000_000
        })
        .collect();
    let tally = road.run(10_000, 0.0, |now, _| Some(BASE + delays[(now / 5_000 % 65_536) as usize]));
    assert!(tally.busy > 9_000, "{tally:?}");
}

#[test]
fn what_never_left_was_not_lost_by_the_network() {
    let own_queue: fn(f64) -> Option<i64> = |chance| (chance > 0.02).then_some(1_000);
    let mut road = Road { own_queue: Some(own_queue), ..Road::new() };
    let tally = road.run(5_000, 0.0, |_, _| Some(BASE));
    assert_eq!(tally.bad, 0, "{tally:?}");
    assert!(tally.unknown > 400 && tally.good > 3_500, "{tally:?}");
}

/// Which part of a second's trains each of three paths gets; one of them loses so much.
fn shares(
    trains: &mut Trains,
    now_us: &mut u64,
    seconds: u64,
    lost: impl Fn(usize, u64) -> bool,
) -> [f64; 3] {
    let (mut arrived, mut sent) = ([0u64; 3], [0u64; 3]);
    let until = *now_us + seconds * 1_000_000;
    while *now_us < until {
        match trains.next(*now_us) {
            Step::Wait(at) => *now_us = at,
            Step::Send(path, sequence) => {
                sent[path] += 1;
                arrived[path] <<= 1;
                if !lost(path, sequence) {
                    arrived[path] |= 1;
                    let (received_ns, arrived) = (BASE, arrived[path]);
                    let heard =
                        Heard { sequence, sent_ns: 0, received_ns, newest: sequence, arrived, overflow: 0 };
                    trains.heard(path, &heard, *now_us);
                }
            }
        }
    }
    let all: u64 = sent.iter().sum();
    sent.map(|own| own as f64 / all as f64)
}

#[test]
fn a_path_that_has_lost_something_is_looked_at_closely_until_it_loses_no_more() {
    let (mut trains, mut now) = (Trains::new(3, 5_000).trusting_after(256), 0);
    let near = |shares: [f64; 3], expected: [f64; 3]| {
        let off = shares.iter().zip(expected).map(|(own, at)| (own - at).abs()).fold(0.0, f64::max);
        assert!(off < 0.05, "{shares:?}");
    };
    near(shares(&mut trains, &mut now, 30, |_, _| false), [1.0 / 3.0; 3]);
    let loses = |path: usize, sequence: u64| path == 1 && sequence % 96 == 3;
    near(shares(&mut trains, &mut now, 30, loses), [1.0 / 6.0, 2.0 / 3.0, 1.0 / 6.0]);
    // 256 trains at two thirds of 25 in a second.
    shares(&mut trains, &mut now, 16, |_, _| false);
    near(shares(&mut trains, &mut now, 30, |_, _| false), [1.0 / 3.0; 3]);
}
