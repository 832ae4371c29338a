//! Versions of the API server and of the nodes, which decide on native sidecars.

use std::fmt;

/// A version of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

/// First version with restartable init containers enabled by default.
const NATIVE_SINCE: Version = Version { major: 1, minor: 29 };

impl Version {
    /// Parses `v1.29.3`, `1.30+`, `v1.31.0-eks-7f9249a` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('v').unwrap_or(text).split('.');
        let number = |part: &str| {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part.get(..end)?.parse().ok()
        };
        Some(Self { major: number(parts.next()?)?, minor: number(parts.next()?)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Versions of the cluster; `None` if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Platform {
    /// Version of the API server.
    pub server: Option<Version>,
    /// Oldest kubelet of the nodes that are ready.
    pub oldest_node: Option<Version>,
}

impl Platform {
    /// The version of the API server if it drops the restart policy of init containers. A pod with
    /// a native sidecar would not start there.
    pub(crate) fn server_too_old(self) -> Option<Version> {
        self.server.filter(|version| *version < NATIVE_SINCE)
    }

    /// Whether API server and all nodes support native sidecars; false if unknown.
    pub(crate) fn runs_native(self) -> bool {
        let new = |version: Option<Version>| version.is_some_and(|v| v >= NATIVE_SINCE);
        new(self.server) && new(self.oldest_node)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("v1.34.4", Some((1, 34)))]
    #[case("1.29+", Some((1, 29)))]
    #[case("v1.31.0-eks-7f9249a", Some((1, 31)))]
    #[case("v1", None)]
    #[case("v1.x", None)]
    #[case("", None)]
    fn parses_versions(#[case] text: &str, #[case] want: Option<(u32, u32)>) {
        assert_eq!(Version::parse(text).map(|v| (v.major, v.minor)), want);
    }

    #[rstest]
    #[case(None, None, false, false)]
    #[case(Some("1.29"), None, false, false)]
    #[case(Some("1.29"), Some("1.28"), false, false)]
    #[case(Some("1.29"), Some("1.29"), false, true)]
    #[case(Some("1.28"), Some("1.29"), true, false)]
    fn native_sidecars_need_api_server_and_nodes(
        #[case] server: Option<&str>,
        #[case] node: Option<&str>,
        #[case] too_old: bool,
        #[case] native: bool,
    ) {
        let parse = |text: Option<&str>| text.and_then(Version::parse);
        let platform = Platform { server: parse(server), oldest_node: parse(node) };
        assert_eq!(platform.server_too_old().is_some(), too_old);
        assert_eq!(platform.runs_native(), native);
    }
}
