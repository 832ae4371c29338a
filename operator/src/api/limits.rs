//! What the sidecars of a namespace, and of an app, may occupy.
use std::time::Duration;

/// Replicas of an app that one operator serves: two connections each are as many as the port accepts
/// from one identity.
const REPLICAS: usize = 2_560;

/// How much of the operator's memory and time the sidecars of a namespace may occupy. The replicas of
/// an app share its identity, so that limits of a connection do not limit the app.
#[derive(Clone, Copy, Debug)]
pub struct ApiLimits {
    /// Bytes of unread messages of one namespace; 32 MiB by default: eight of the largest lists, or
    /// an object of 3 KiB to 10,000 sidecars.
    pub namespace_bytes: usize,
    /// Bytes of unread messages of one app; 16 MiB by default: half of the namespace's, so that
    /// replicas that do not read leave room for other apps.
    pub app_bytes: usize,
    /// Lists and gets of one app that are open, until their answers are read; 2,560 by default: one of
    /// each replica, which makes one after the other when it starts.
    pub app_requests: usize,
    /// Open update streams of one app; 17,920 by default: seven of each replica.
    pub app_streams: usize,
    /// How long a list waits for its share; 2 s by default. A sidecar waits 5 s for a response and
    /// retries (Dapr 1.18).
    pub wait: Duration,
    /// How long a client may leave a message unread; 30 s by default.
    pub unread: Duration,
}

impl ApiLimits {
    /// The limits of the operator.
    pub const DEFAULT: Self = Self {
        namespace_bytes: 32 * 1024 * 1024,
        app_bytes: 16 * 1024 * 1024,
        app_requests: REPLICAS,
        app_streams: 7 * REPLICAS,
        wait: Duration::from_secs(2),
        unread: Duration::from_secs(30),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_an_app_are_those_of_two_thousand_replicas() {
        let (limits, replicas) = (ApiLimits::DEFAULT, 2_000);
        assert!(limits.app_requests >= replicas && limits.app_streams >= 7 * replicas);
        assert_eq!(transport::Limits::default().connections_per_identity, 2 * REPLICAS);
        assert!(limits.app_bytes * 2 <= limits.namespace_bytes);
        let all = limits.app_requests + limits.app_streams;
        assert!(all <= transport::Limits::default().requests_per_peer, "the port takes them");
    }
}
