//! Wire messages of the control plane, compiled from our own `.proto` files; only [`codec`],
//! [`job_file`] and [`job_metadata`] are written by hand. Names, numbers and types are fixed by the
//! peers (Dapr 1.18).
#![allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic)]

pub mod codec;
pub mod job_file;
pub mod job_metadata;

/// `cron.stored`: the records of the scheduler's store.
pub mod cron {
    tonic::include_proto!("cron.stored");
}

/// `dapr.proto.operator.v1`: custom resources for sidecars.
pub mod operator {
    tonic::include_proto!("dapr.proto.operator.v1");
}

/// `dapr.proto.placement.v1`: tables of actor hosts.
pub mod placement {
    tonic::include_proto!("dapr.proto.placement.v1");
}

/// The etcd v3 API, which the scheduler's client port serves.
pub mod etcd {
    /// `mvccpb`: keys with their revisions.
    pub mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
    /// `etcdserverpb`: calls and their messages.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
}

/// Packages that refer to each other, at the paths that the generated code expects.
mod packages {
    pub mod common {
        pub mod v1 {
            tonic::include_proto!("dapr.proto.common.v1");
        }
    }
    pub mod scheduler {
        pub mod v1 {
            pub use crate::job_metadata::{JobMetadata, KnownMetadata};
            tonic::include_proto!("dapr.proto.scheduler.v1");
        }
    }
}

/// `dapr.proto.common.v1`: the failure policy of jobs.
pub use packages::common::v1 as common;
/// `dapr.proto.scheduler.v1`: jobs and actor reminders.
pub use packages::scheduler::v1 as scheduler;

/// `dapr.proto.sentry.v1`: certificate signing.
pub mod sentry {
    tonic::include_proto!("dapr.proto.sentry.v1");
}

/// The compiled descriptors of every file, as a serialised `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
