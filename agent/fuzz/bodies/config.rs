//! Any text as a configuration: what is taken must be whole, and what is not, said with its place.

use c4_agent::config::Config;

/// Plays one input.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse(text) {
        assert!(!error.to_string().is_empty(), "a refusal without a reason");
    }
}
