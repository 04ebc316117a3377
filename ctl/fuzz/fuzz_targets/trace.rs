//! `cargo +nightly fuzz run trace` in `ctl`: see the body.

#![no_main]

#[path = "../bodies/trace.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
