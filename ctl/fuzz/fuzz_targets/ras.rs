//! `cargo +nightly fuzz run ras` in `ctl`: see the body.

#![no_main]

#[path = "../bodies/ras.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
