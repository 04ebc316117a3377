//! Links that die in a `what-if`.

use c4_traffic::{Topology, topology::State};

use crate::failure::Failure;

/// Takes down the links that `A-B` or `A-B:INDEX` names. Names may have dashes, so every way to read it is tried.
pub(super) fn down(topology: &mut Topology, text: &str) -> Result<(), Failure> {
    let bad = |what: String| Failure::Usage(format!("--down {text}: {what}"));
    let (ends, index) = match text.rsplit_once(':') {
        Some((ends, index)) => match index.parse::<u32>() {
            Ok(index) => (ends, Some(index)),
            Err(_) => return Err(bad(format!("{index:?} is not the index of a link"))),
        },
        None => (text, None),
    };
    let pairs = ends.match_indices('-').map(|(at, _)| (&ends[..at], &ends[at + 1..]));
    let mut found = pairs.filter_map(|(a, b)| Some((topology.find_switch(a)?, topology.find_switch(b)?)));
    let (a, b) = match (found.next(), found.next()) {
        (Some(ends), None) => ends,
        (Some(_), Some(_)) => return Err(bad("can be read in two ways".into())),
        (None, _) => return Err(bad("expected two switches of the topology, as A-B or A-B:INDEX".into())),
    };
    drop(found);
    match topology.set_link_state(a, b, index, State::Down) {
        0 => Err(bad("there is no such link".into())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        let text = "switches: [{name: leaf-0, tier: leaf}, {name: spine-0, tier: spine}, {name: spine-1, tier: spine}]
links: [{a: leaf-0, b: spine-0, gbps: 100, count: 2}]";
        c4_traffic::document::parse_topology(text).expect("fine")
    }

    #[test]
    fn one_link_or_all_between_two_switches_go_down() {
        let mut one = topology();
        down(&mut one, "spine-0-leaf-0:1").expect("there");
        let states: Vec<State> = one.links().iter().map(|link| link.state).collect();
        assert_eq!(states, [State::Up, State::Down]);
        let mut both = topology();
        down(&mut both, "leaf-0-spine-0").expect("there");
        assert!(both.links().iter().all(|link| link.state == State::Down));
    }

    #[test]
    fn what_is_not_there_is_a_usage_error() {
        for text in ["leaf-0", "leaf-0-spine-9", "leaf-0-spine-1", "leaf-0-spine-0:2", "leaf-0-spine-0:x", ""]
        {
            let failure = down(&mut topology(), text).expect_err("not there");
            assert_eq!(failure.code(), 2, "{text}: {failure}");
        }
    }
}
