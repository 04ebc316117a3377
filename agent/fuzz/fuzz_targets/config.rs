//! Any text as a configuration: what is taken must be whole, and what is not, said with its place.
//! `cargo +nightly fuzz run config` in `agent`.

#![no_main]

use c4_agent::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(error) = Config::parse(text) {
        assert!(!error.to_string().is_empty(), "a refusal without a reason");
    }
});
