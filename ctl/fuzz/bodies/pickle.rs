//! Any bytes as a pickle: an error is fine; a panic, or a value that refers to one that is not there, is not.
//!

use c4ctl::analyze::pickle::{self, Node};

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let Ok(pickle) = pickle::parse(bytes) else { return };
    match pickle.node(pickle.root()) {
        Node::List(items) => items.iter().for_each(|item| drop(pickle.node(*item).clone())),
        Node::Dict(pairs) => pairs.iter().for_each(|(key, _)| drop(pickle.node(*key).clone())),
        _ => {}
    }
}
