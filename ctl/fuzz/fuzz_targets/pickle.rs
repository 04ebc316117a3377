//! `cargo +nightly fuzz run pickle` in `ctl`: see the body.

#![no_main]

#[path = "../bodies/pickle.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
