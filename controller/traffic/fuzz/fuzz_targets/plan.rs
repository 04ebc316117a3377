//! `cargo +nightly fuzz run plan` in `controller/traffic`: see the body.

#![no_main]

#[path = "../bodies/plan.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| body::run(bytes));
