//! `cargo +nightly fuzz run messages` in `controller`: see the body.

#![no_main]

#[path = "../bodies/messages.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
