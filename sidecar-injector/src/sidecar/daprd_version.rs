//! Flags that a version of daprd supports.
//!
//! daprd exits with code 2 on an unknown flag, so a pod that pins an older sidecar must not get
//! newer flags. Source: experiments with daprd 1.14 to 1.18.3.

use resources::images;

/// A release of daprd, parsed from the tag of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DaprdVersion {
    major: u32,
    minor: u32,
    /// `u32::MAX` for a tag such as `1.17`, which refers to the newest patch.
    patch: u32,
}

/// A flag that daprd 1.14 does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LateFlag {
    JwtAudiences,
    DisableInitEndpoints,
    BindingOptionsTimeout,
    DisseminateTimeout,
}

impl LateFlag {
    /// The first release of each minor version that has the flag; later minor versions have it.
    fn since(self) -> &'static [(u32, u32, u32)] {
        match self {
            Self::JwtAudiences => &[(1, 16, 0)],
            Self::DisableInitEndpoints => &[(1, 17, 0)],
            Self::BindingOptionsTimeout => &[(1, 16, 18), (1, 17, 12), (1, 18, 3)],
            Self::DisseminateTimeout => &[(1, 18, 0)],
        }
    }
}

impl DaprdVersion {
    /// Parses the tag of an image; `None` for `latest`, `edge` or a digest without tag.
    pub(crate) fn of_image(image: &str) -> Option<Self> {
        let tag = images::tag(image);
        let tag = tag.strip_prefix('v').unwrap_or(tag);
        let number = tag.split(['-', '+']).next().unwrap_or_default();
        let mut parts = number.split('.').map(str::parse);
        let major = parts.next()?.ok()?;
        let minor = parts.next()?.ok()?;
        let patch = parts.next().unwrap_or(Ok(u32::MAX)).ok()?;
        parts.next().is_none().then_some(Self { major, minor, patch })
    }

    /// Whether this release needs the address of each scheduler pod, because it does not discover
    /// them. Source: daprd 1.14 and 1.15.
    pub(crate) fn needs_each_scheduler(self) -> bool {
        self < Self { major: 1, minor: 15, patch: 0 }
    }

    /// Whether this release supports the flag.
    pub(crate) fn accepts(self, flag: LateFlag) -> bool {
        let first = |(major, minor, patch): (u32, u32, u32)| Self { major, minor, patch };
        let since = flag.since();
        let own_line = since.iter().find(|(a, b, _)| (*a, *b) == (self.major, self.minor));
        match (own_line, since.last()) {
            (Some(line), _) => self >= first(*line),
            (None, Some(last)) => self >= first(*last),
            (None, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("ghcr.io/dapr/daprd:1.18.3", Some((1, 18, 3)))]
    #[case("localhost:5000/daprd:1.16.0-rc.1", Some((1, 16, 0)))]
    #[case("daprd:1.17.2-mariner@sha256:00", Some((1, 17, 2)))]
    #[case("daprd:v1.15.14", Some((1, 15, 14)))]
    #[case("daprd:1.17", Some((1, 17, u32::MAX)))]
    #[case("daprd:latest", None)]
    #[case("daprd", None)]
    #[case("localhost:5000/daprd", None)]
    #[case("daprd@sha256:00", None)]
    #[case("daprd:1.2.3.4", None)]
    #[case("", None)]
    fn parses_the_tag(#[case] image: &str, #[case] want: Option<(u32, u32, u32)>) {
        let got = DaprdVersion::of_image(image);
        assert_eq!(got.map(|v| (v.major, v.minor, v.patch)), want);
    }

    #[rstest]
    #[case(LateFlag::BindingOptionsTimeout, &["1.16.18", "1.16", "1.17.12", "1.18.3", "1.19.0", "2.0.0"], &["1.14.5", "1.15.14", "1.16.17", "1.17.11", "1.18.2"])]
    #[case(LateFlag::JwtAudiences, &["1.16.0", "1.17.0", "1.18.3"], &["1.15.14"])]
    #[case(LateFlag::DisableInitEndpoints, &["1.17.0"], &["1.16.19"])]
    #[case(LateFlag::DisseminateTimeout, &["1.18.0"], &["1.17.13", "1.17"])]
    fn knows_the_first_release_with_a_flag(
        #[case] flag: LateFlag,
        #[case] with: &[&str],
        #[case] without: &[&str],
    ) {
        let accepts =
            |tag: &&str| DaprdVersion::of_image(&format!("daprd:{tag}")).unwrap().accepts(flag);
        assert!(with.iter().all(accepts));
        assert!(!without.iter().any(accepts));
    }
}
