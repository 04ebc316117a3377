//! Any text as a configuration, and as a file of tokens: what is taken must be whole, and what is not, said with its place.
//!

use std::path::Path;

use c4_controller::{access::tokens::Tokens, config::Config};

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let _ = Tokens::parse(bytes, Path::new("tokens"));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text) {
        Ok(config) => {
            let _ = config.anonymous();
        }
        Err(mistakes) => assert!(!mistakes.is_empty(), "a refusal without a reason"),
    }
}
