//! `cargo +nightly fuzz run dump` in `ctl`: see the body.

#![no_main]

#[path = "../bodies/dump.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
