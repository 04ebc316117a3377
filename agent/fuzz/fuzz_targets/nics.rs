//! `cargo +nightly fuzz run nics` in `agent`: see the body.

#![no_main]

#[path = "../bodies/nics.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
