//! `cargo +nightly fuzz run reader` in `agent/recorder`: see the body.

#![no_main]

#[path = "../bodies/reader.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
