//! C4's wire protocol: what agents stream to the controller ([`v1::telemetry_server`]) and what operators ask of
//! it ([`v1::operations_server`] and others). Generated code, and how it is read and written ([`codec`]); the
//! crates that use it turn messages into domain types in their own `convert.rs`.

pub mod codec;

/// Protocol version 1. Fields are only ever added; an unknown field is ignored by both sides.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("c4.v1");
}

/// What a controller asks of etcd, where several controllers share one: see `proto/etcd/etcd.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}
