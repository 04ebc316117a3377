//! `cargo +nightly fuzz run table` in `agent`: see the body.

#![no_main]

#[path = "../bodies/table.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
