//! The Kubernetes layer of all services. It contains no knowledge about Dapr's resources.
//!
//! ```text
//!  client ──► watch ──► WatchEvent ──► ListDiff, Store        which objects changed, which are gone
//!    │          └─ WatchState: when to retry, when to list again
//!    ├──► Recorder     Events on objects, rate limited
//!    └──► lease        leader election
//! ```
//! Start reading at [`watch`], then [`list_diff`]. [`client`] makes the `kube::Client` that all of
//! them take.
//!
//! Invariants: a watch ends only when it is dropped; after an outage of the API server, after `410
//! Gone` and after a history that was restored from a backup it lists again. Every call has a time
//! limit. An Event is best effort: no caller fails because an Event was not recorded. Losing a
//! lease is reported before another candidate can acquire it.

mod client;
pub mod events;
pub mod lease;
pub mod list_diff;
mod object_key;
mod trust_bundle;
mod wait;
pub mod watch;

pub use client::{
    ClientError, KubeFlags, Precedence, api_text, client, client_for_short_calls,
    client_without_credentials, user_client,
};
pub use events::{Event, EventType, Recorder, Repeat};
pub use list_diff::{ListChange, ListDiff, Store};
pub use object_key::ObjectKey;
pub use trust_bundle::{BundleReader, trust_bundle};
pub use wait::{wait_until_allowed, wait_until_found};
pub use watch::{FailureKind, Verb, WatchEvent, WatchFailure, WatchOptions, Watcher};

/// The field manager of server-side apply requests of the services. One name for all of them:
/// no two services apply the same object.
pub const FIELD_MANAGER: &str = "dapr-operator";
