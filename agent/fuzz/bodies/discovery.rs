//! Any answers to probes, of switches that lie, repeat themselves, answer late or not at all: what is learned is of ports that were
//! tried, each on one path, and there is an end. The first byte says how the probing is set up; then each byte is what happens next.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
};

use c4_agent::paths::discovery::{Answer, Discovery, Probe, Settings, Step};

/// Far more than any input of this length needs.
const STEPS: usize = 200_000;

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let Some((first, answers)) = bytes.split_first() else { return };
    let ttls: Vec<u8> = if first & 1 == 0 { vec![2] } else { vec![2, 3] };
    let ports = 20_000..20_000 + 8 * (u16::from(first >> 5) + 1);
    let settings = Settings {
        ports: ports.clone(),
        ttls: ttls.clone(),
        tries: u32::from(first >> 3 & 3),
        paths: (first & 2 != 0).then_some(usize::from(first >> 2 & 7)),
        ..Settings::default()
    };
    let mut discovery = Discovery::new(settings);
    let (mut now, mut flying) = (0_u64, Vec::<Probe>::new());
    let mut answers = answers.iter();
    for step in 0.. {
        assert!(step < STEPS, "it does not end");
        match discovery.next(now) {
            Step::Done => break,
            Step::Wait(until) => {
                assert!(until > now, "waits for what is over");
                now = until;
            }
            Step::Send(probe) => {
                assert!(ports.contains(&probe.port) && ttls.contains(&probe.ttl));
                flying.push(probe);
            }
        }
        // Nobody says anything any more once the input is at its end.
        let Some(&byte) = answers.next() else { continue };
        let asked = flying.get(usize::from(byte >> 4) % flying.len().max(1)).copied();
        let probe = match byte & 0xf {
            0xe => Probe { port: u16::from(byte), ttl: 2 },
            _ => asked.unwrap_or(Probe { port: 20_000, ttl: 0 }),
        };
        match byte & 0xf {
            0..=7 => discovery.answer(probe, Answer::Hop(IpAddr::V4(Ipv4Addr::new(10, 0, 0, byte & 7)))),
            8 => discovery.answer(probe, Answer::Reached),
            9 => discovery.answer(probe, Answer::Busy),
            0xa => discovery.answer(probe, Answer::Unreachable),
            0xb => discovery.invalidate(),
            0xc => now += u64::from(byte) << 12,
            0xe => discovery.answer(probe, Answer::Hop(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
            _ => {}
        }
    }
    let mut seen = HashSet::new();
    for (hops, found) in discovery.paths() {
        assert_eq!(hops.len(), ttls.len());
        assert!(found.iter().all(|port| ports.contains(port) && seen.insert(*port)), "a port on two paths");
    }
    let report = discovery.report();
    assert!(report.paths as usize == discovery.paths().len() && report.ports as usize <= ports.len());
}
