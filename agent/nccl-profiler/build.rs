//! The library pins itself: NCCL closes it with the last communicator and opens it again with the next, while its
//! callbacks may still run and thread-local destructors of the Rust runtime would keep it half mapped anyway.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
