//! The limits of one listener.

use std::time::Duration;

/// Descriptors that a process keeps for everything but the connections of its main listeners:
/// health and metrics ports, connections to the API server and to other services, files.
const RESERVED_DESCRIPTORS: u64 = 512;

/// A service has two main listeners at most (for example gRPC and webhook); each may use this part of
/// the descriptors that are not reserved.
const LISTENERS: u64 = 2;

/// A listener accepts at least this many connections, however few descriptors there are.
const FEWEST_CONNECTIONS: usize = 64;

/// Bytes before each gRPC message: a flag and the length (gRPC over HTTP/2, "Length-Prefixed-Message").
pub const GRPC_HEADER_BYTES: usize = 5;

/// All limits of one listener. A service takes [`Limits::default`] and overrides fields.
///
/// A connection over a limit of number is closed at once. When [`Limits::connections`] or
/// [`Limits::handshakes`] is reached, a peer address with fewer connections takes the place of the
/// oldest idle connection of the address that has the most. Each limit that is hit is counted in
/// `trilby_server_limit_hits_total`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; 16,384 by default, fewer where the process has few descriptors. Sidecars are
    /// spread over the replicas of a service. Where every sidecar connects to every replica, or to
    /// their leader, it is [`Limits::CONNECTIONS_OF_ALL_SIDECARS`].
    pub connections: usize,
    /// Open connections of one peer address; 5,120 by default. Behind a NAT gateway or a service
    /// mesh many sidecars share an address: 2,000 that start at once open two connections each at
    /// most, with a quarter for retries.
    pub connections_per_address: usize,
    /// Open connections of one SPIFFE id; 5,120 by default. All replicas of an application share
    /// its id.
    pub connections_per_identity: usize,
    /// TLS handshakes under way; 4,096 by default. One takes about 20 KiB.
    pub handshakes: usize,
    /// TLS handshakes under way of one peer address; 2,560 by default: 2,000 sidecars that start
    /// at once behind one address, with a quarter for retries.
    pub handshakes_per_address: usize,
    /// Open requests of one SPIFFE id over all its connections, or of one peer address where peers have
    /// none; 20,480 by default: eight of each of 2,560 replicas of an application. Each takes some KiB.
    pub requests_per_peer: usize,
    /// Bytes of the headers of one request; 16 KiB by default. The peers send less than 1 KiB. Counted
    /// when it is hit in HTTP/1.1; HTTP/2 answers 431 below our code.
    pub header_bytes: u32,
    /// Bytes of the body of one request, streams excepted; 4 MiB by default. Services with smaller
    /// requests should lower it.
    pub body_bytes: usize,
    /// Bytes of bodies that have not ended, over all connections, streams excepted; 64 MiB by default.
    /// A body counts in steps of 16 KiB, so that 4,096 requests can be on their way at once. Beyond
    /// it the oldest such body of the address that sends most is refused for one of an address that
    /// sends less, and others wait. One body may exceed it.
    pub unfinished_bytes: usize,
    /// The same of one peer address, whose further bodies are not read until others have ended; 32 MiB
    /// by default.
    pub unfinished_bytes_per_address: usize,
    /// Refusals of one peer address that are answered in a second: 256 by default, and 4 seconds of
    /// them at once. Further ones wait, at most [`Limits::request`]. Refused are requests that are too
    /// large, malformed, unknown or not permitted; a failure of the service is no refusal.
    pub refusals_per_second: u32,
    /// Open requests of an HTTP/2 connection whose peer has proved its identity by a certificate;
    /// 256 by default. Sidecars hold a handful.
    pub streams: u32,
    /// The same for a peer without certificate; 16 by default, so that one connection of an unknown
    /// peer holds little memory. Clients open another connection when they need more.
    pub streams_unauthenticated: u32,
    /// HTTP/2 flow control window of one stream, in bytes; 64 KiB by default: what a peer can send
    /// before the service has read any of it.
    pub stream_window_bytes: u32,
    /// HTTP/2 flow control window of one connection, in bytes; 256 KiB by default.
    pub connection_window_bytes: u32,
    /// Bytes of answers that wait on one stream for a peer that does not read; 64 KiB by default.
    pub send_buffer_bytes: usize,
    /// From the accept to the end of the TLS handshake; 10 s by default.
    pub handshake: Duration,
    /// From the accept to the first request, the HTTP/2 preface included; 30 s by default.
    pub first_request: Duration,
    /// From the end of the last open request to the end of the connection; 2 min by default.
    /// Clients connect again when they need to.
    pub idle: Duration,
    /// From the headers of a request to the last byte of its answer; 30 s by default. The service
    /// stops working on a request at this time; a peer that has not read its answer
    /// [`Limits::GRACE`] later is disconnected. Does not apply to [`Limits::streaming_paths`].
    pub request: Duration,
    /// How long a peer may accept no bytes of its answers; 30 s by default.
    pub write_stall: Duration,
    /// Paths of requests whose body stays open by design, for example `/package.Service/Talk`:
    /// neither [`Limits::request`] nor [`Limits::body_bytes`] apply. None by default.
    pub streaming_paths: &'static [&'static str],
    /// Paths of requests whose answer alone stays open by design, for example
    /// `/package.Service/Watch`: the limits of other requests apply until it begins. None by default.
    pub streaming_answers: &'static [&'static str],
}

impl Limits {
    /// Open connections of a service to which all sidecars of an installation connect, however many
    /// replicas it has: 25,000. Ten thousand sidecars hold one each; when all of them are rolled out
    /// at once, ten thousand new ones connect before the old ones end; a quarter is for those that
    /// connect again before their old connection is found dead.
    pub const CONNECTIONS_OF_ALL_SIDECARS: usize = 25_000;

    /// How long a connection may take to close gracefully.
    pub const GRACE: Duration = Duration::from_secs(5);

    /// The limits of the health and metrics ports. 64 connections are more than probes and
    /// scrapers open; their requests have no body and are answered at once.
    pub const PROBES: Self = Self {
        connections: 64,
        connections_per_address: 64,
        connections_per_identity: 64,
        handshakes: 64,
        handshakes_per_address: 64,
        body_bytes: 64 * 1024,
        unfinished_bytes: 1024 * 1024,
        unfinished_bytes_per_address: 512 * 1024,
        streams: 16,
        handshake: Duration::from_secs(5),
        first_request: Duration::from_secs(5),
        idle: Duration::from_mins(2),
        ..Self::DEFAULT
    };

    const DEFAULT: Self = Self {
        connections: 16_384,
        connections_per_address: 5_120,
        connections_per_identity: 5_120,
        handshakes: 4_096,
        handshakes_per_address: 2_560,
        requests_per_peer: 20_480,
        header_bytes: 16 * 1024,
        body_bytes: 4 * 1024 * 1024,
        unfinished_bytes: 64 * 1024 * 1024,
        unfinished_bytes_per_address: 32 * 1024 * 1024,
        refusals_per_second: 256,
        streams: 256,
        streams_unauthenticated: 16,
        stream_window_bytes: 64 * 1024,
        connection_window_bytes: 256 * 1024,
        send_buffer_bytes: 64 * 1024,
        handshake: Duration::from_secs(10),
        first_request: Duration::from_secs(30),
        idle: Duration::from_mins(2),
        request: Duration::from_secs(30),
        write_stall: Duration::from_secs(30),
        streaming_paths: &[],
        streaming_answers: &[],
    };

    /// The same limits, with as many connections and handshakes as the descriptors allow.
    #[must_use]
    pub(super) fn for_descriptors(self, descriptors: u64) -> Self {
        let share = descriptors.saturating_sub(RESERVED_DESCRIPTORS) / LISTENERS;
        let share = usize::try_from(share).unwrap_or(usize::MAX).max(FEWEST_CONNECTIONS);
        Self {
            connections: self.connections.min(share),
            handshakes: self.handshakes.min(share),
            ..self
        }
    }

    /// Whether bodies of requests of this path stay open by design.
    pub(super) fn is_streaming(&self, path: &str) -> bool {
        self.streaming_paths.contains(&path)
    }

    /// Whether answers to requests of this path stay open by design.
    pub(super) fn has_streaming_answer(&self, path: &str) -> bool {
        self.is_streaming(path) || self.streaming_answers.contains(&path)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_sidecars_behind_one_address_fit_with_two_connections_each() {
        let limits = Limits::default();
        assert!(
            limits.connections_per_address >= 2 * 2_000 && limits.handshakes_per_address >= 2_000
        );
        assert!(limits.connections_per_address < limits.connections / 3);
    }

    #[test]
    fn connections_are_sized_by_the_descriptors() {
        for (descriptors, want) in [
            (0, FEWEST_CONNECTIONS),
            (RESERVED_DESCRIPTORS + 2 * 64 + 1, 64),
            (RESERVED_DESCRIPTORS + 2 * 65, 65),
            (1_024, 256),
            (RESERVED_DESCRIPTORS + 2 * 16_384 - 1, 16_383),
            (RESERVED_DESCRIPTORS + 2 * 16_384, 16_384),
            (u64::MAX, 16_384),
        ] {
            assert_eq!(
                Limits::default().for_descriptors(descriptors).connections,
                want,
                "{descriptors}"
            );
        }
        assert_eq!(Limits::default().for_descriptors(1_024).handshakes, 256);
    }

    #[test]
    fn ten_thousand_sidecars_and_their_successors_fit_into_the_descriptors() {
        let connections = Limits::CONNECTIONS_OF_ALL_SIDECARS;
        assert!(connections >= 2 * 10_000 * 5 / 4);
        let limits = Limits { connections, ..Limits::default() };
        let with = |descriptors| limits.for_descriptors(descriptors).connections;
        let enough = RESERVED_DESCRIPTORS + LISTENERS * 25_000;
        assert_eq!([enough - 1, enough, u64::MAX].map(with), [24_999, 25_000, 25_000]);
        assert_eq!(with(crate::descriptors::WANTED), connections);
    }
}
