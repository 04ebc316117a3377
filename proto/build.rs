//! Compiles the `.proto` files with protox, a protobuf compiler written in Rust: no `protoc` is needed.
//!
//! On the wire, packed numbers are bytes with a length before them, as bytes are. So `CommWindow.packed_blocks` is bytes to the
//! code: a controller reads some thousand of these numbers a second for each node, where they are, instead of from a list of them.

use std::{env, error::Error, path::PathBuf};

/// As `google.protobuf.FieldDescriptorProto` numbers them.
const OPTIONAL: i32 = 1;
const BYTES: i32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = ["telemetry", "operations", "pictures", "alerts", "steering", "backup"]
        .map(|name| format!("proto/c4/v1/{name}.proto"))
        .to_vec();
    files.push("proto/etcd/etcd.proto".to_owned());
    println!("cargo::rerun-if-changed=proto");
    let mut descriptors = protox::compile(files, ["proto"])?;
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    let windows = messages.filter(|message| message.name() == "CommWindow");
    let fields = windows.flat_map(|message| &mut message.field);
    for field in fields.filter(|field| field.name() == "packed_blocks") {
        (field.label, field.r#type) = (Some(OPTIONAL), Some(BYTES));
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    tonic_prost_build::configure().codec_path("crate::codec::Codec").out_dir(out).compile_fds(descriptors)?;
    Ok(())
}
