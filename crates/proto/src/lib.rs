//! Wire messages of the control plane, compiled from our own `.proto` files; only [`codec`] is
//! written by hand. Names, numbers and types are fixed by the peers (Dapr 1.18).
#![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic)]

pub mod codec;

/// `dapr.proto.operator.v1`: custom resources for sidecars.
pub mod operator {
    tonic::include_proto!("dapr.proto.operator.v1");
}

/// `dapr.proto.placement.v1`: where actors live.
pub mod placement {
    tonic::include_proto!("dapr.proto.placement.v1");
}

/// `dapr.proto.sentry.v1`: certificate signing.
pub mod sentry {
    tonic::include_proto!("dapr.proto.sentry.v1");
}

/// The compiled descriptors of every file, as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
