//! Compiles the `.proto` files with protox, a protobuf compiler written in Rust: no `protoc` is needed.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = ["telemetry", "operations", "pictures", "alerts", "steering", "backup"]
        .map(|name| format!("proto/c4/v1/{name}.proto"))
        .to_vec();
    files.push("proto/etcd/etcd.proto".to_owned());
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure().out_dir(out).compile_fds(descriptors)?;
    Ok(())
}
