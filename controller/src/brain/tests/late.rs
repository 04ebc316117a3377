//! News that is held up on its way, and news of ends that nobody saw.

use super::*;

fn failed(rank: u32, ago_us: u64) -> Body {
    let process = process(0, rank);
    let (finalized, exit_code, signal) = (false, Some(1), None);
    Body::ProcessEnded(ProcessEnd { process, ago_us, finalized, exit_code, signal, found: false })
}

/// Who was named first in each of the notices.
fn named(world: &World) -> Vec<Option<u32>> {
    world.notices().iter().map(|notice| notice.finding.suspects[0].rank).collect()
}

#[test]
fn who_died_first_is_right_though_the_news_of_it_came_last() {
    let mut world = World::healthy(Mode::Observe);
    // Rank 3 fails now, the others 180 ms later; but what node 1 has to say is 300 ms on its way.
    world.pass(2 * STEP_US);
    world.say(0, failed(0, 20_000));
    world.say(0, failed(1, 20_000));
    world.pass(STEP_US);
    world.held_us = 300_000;
    world.say(1, failed(3, 0));
    world.held_us = 110_000;
    world.say(1, failed(2, 0));
    world.pass(20 * STEP_US);
    let named = named(&world);
    assert!(!named.is_empty() && named.iter().all(|rank| *rank == Some(3)), "{named:?}");
}

#[test]
fn nobody_is_named_while_a_node_is_cut_off() {
    let mut world = World::healthy(Mode::Observe);
    world.put(Input::Closed { stream: StreamId(1) });
    world.pass(STEP_US);
    world.say(0, failed(0, 20_000));
    world.say(0, failed(1, 20_000));
    world.pass(10 * STEP_US);
    assert_eq!(world.notices().len(), 0, "{:?}", named(&world));
    // The agent of node 1 is back, another one, and has found its ranks ended. Rank 2 was killed.
    let hello = Hello {
        node: NodeName("n1".into()),
        agent_version: "1".into(),
        session: "another".into(),
        next_sequence: 1,
        sensors: Vec::new(),
        nic_class: None,
        kept: 0,
    };
    world.put(Input::Opened { stream: StreamId(9), hello });
    let mut sequence = 0;
    for (rank, signal) in [(3, None), (2, Some(9))] {
        let end = ProcessEnd {
            process: process(0, rank),
            ago_us: 1_000_000,
            finalized: false,
            exit_code: None,
            signal,
            found: true,
        };
        let shown = Window { state: ProcessState::Zombie, ..window(0, rank, 120, 0) };
        // A second time, as by one more agent, it is no news and no offence.
        for body in [Body::Window(shown.clone()), Body::ProcessEnded(end), Body::Window(shown)] {
            sequence += 1;
            let message = Incoming { sequence, age_us: 0, sent_us: 0, body };
            world.put(Input::Message { stream: StreamId(9), message });
        }
    }
    world.pass(20 * STEP_US);
    let named = named(&world);
    assert!(!named.is_empty() && named.iter().all(|rank| *rank == Some(2)), "{named:?}");
    let refused = world.effects.iter().any(|effect| matches!(effect, Effect::Refuse(..)));
    assert!(!refused, "nothing was refused");
}
