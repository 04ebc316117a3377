//! A node's agent is cut off for an hour, keeps what it has to say, and says all of it when it is back.

use super::*;

const SECOND_US: u64 = 1_000_000;
const HOUR: u64 = 3600;

/// Collectives completed after so many seconds, from where a healthy world is.
fn position(second: u64) -> u64 {
    120 + second * 10
}

/// Runs for an hour without hearing of node 1, whose rank 3 dies in the given second, if it does; then that node is back. Returns
/// the world, and the notices of before it was.
fn hour_apart(dies: Option<u64>) -> (World, usize) {
    let mut world = World::healthy(Mode::Observe);
    world.put(Input::Closed { stream: StreamId(1) });
    let began = world.now;
    let mut kept: Vec<(Timestamp, Body)> = Vec::new();
    for second in 1..=HOUR {
        world.pass(SECOND_US);
        let stuck_us = dies.map_or(0, |dies| second.saturating_sub(dies) * SECOND_US);
        let reached = position(dies.unwrap_or(second).min(second));
        for rank in 0..RANKS {
            let body = Body::Window(window(0, rank, reached, stuck_us));
            match rank {
                0 | 1 => world.say(0, body),
                3 if dies.is_some_and(|dies| second > dies) => {}
                _ => kept.push((world.now, body)),
            }
        }
        if dies == Some(second) {
            let end = ProcessEnd {
                found: false,
                process: process(0, 3),
                ago_us: 0,
                finalized: false,
                exit_code: None,
                signal: Some(9),
            };
            kept.push((world.now, Body::ProcessEnded(end)));
        }
    }
    assert!(world.now.micros_since(began) >= HOUR * SECOND_US);
    let before = world.notices().len();
    let hello = Hello {
        node: NodeName("n1".into()),
        agent_version: "1".into(),
        session: "s1".into(),
        next_sequence: world.sequences[1] + 1,
        sensors: Vec::new(),
        nic_class: None,
        kept: 0,
    };
    world.put(Input::Opened { stream: StreamId(1), hello });
    // As fast as it is taken: some hundred messages between two looks at the clock.
    for messages in kept.chunks(500) {
        for (taken, body) in messages {
            let age_us = world.now.micros_since(*taken);
            let mut body = body.clone();
            if let Body::ProcessEnded(end) = &mut body {
                end.ago_us = age_us;
            }
            world.say_late(1, body, age_us);
        }
        world.pass(STEP_US);
    }
    (world, before)
}

#[test]
fn an_hour_of_old_news_accuses_nobody() {
    let (mut world, before) = hour_apart(None);
    for second in HOUR + 1..HOUR + 30 {
        world.pass(SECOND_US);
        world.windows(0, position(second), None);
    }
    assert_eq!(before, 0, "who cannot be seen is not accused");
    assert_eq!(world.notices().len(), 0, "{:#?}", world.notices());
    assert_eq!(world.brain.findings().shown().count(), 0);
}

#[test]
fn a_death_within_the_hour_is_told_once_and_with_its_time() {
    let (mut world, before) = hour_apart(Some(1800));
    let died = world.now;
    world.pass(10 * SECOND_US);
    assert_eq!(before, 0, "who cannot be seen is not accused: {:#?}", world.notices());
    let findings: Vec<&Finding> = world.brain.findings().shown().map(|record| &record.finding).collect();
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let found = findings[0];
    assert_eq!((found.kind, found.suspects[0].rank, found.cleared), (Kind::ProcessDeath, Some(3), None));
    let ago_s = died.micros_since(found.since) / SECOND_US;
    assert!((1790..=1810).contains(&ago_s), "it died {ago_s} s before its node was back");
}
