//! Names of container images.

/// The tag of an image; empty without one. It is the version of Dapr's images (Dapr 1.18, CLI).
#[must_use]
pub fn tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split_once(':').map_or("", |(_, tag)| tag)
}

/// Major and minor of a version such as `1.18.3`, `1.19.0-rc.1` or `v1.34.4-eks-1`; `None` for
/// `edge`.
#[must_use]
pub fn minor(version: &str) -> Option<(u32, u32)> {
    let numbers = version.strip_prefix('v').unwrap_or(version);
    let mut parts = numbers.split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("ghcr.io/dapr/daprd:1.18.3", "1.18.3")]
    #[case::port("localhost:5000/daprd", "")]
    #[case::port_and_tag("localhost:5000/daprd:1", "1")]
    #[case::digest("r/daprd:1.18.3@sha256:ab", "1.18.3")]
    fn parses_tags(#[case] image: &str, #[case] want: &str) {
        assert_eq!(tag(image), want);
    }

    #[rstest]
    #[case("1.18.3", Some((1, 18)))]
    #[case("v1.34.4-eks-4f35f", Some((1, 34)))]
    #[case("1.30+", Some((1, 30)))]
    #[case("edge", None)]
    fn parses_minor_versions(#[case] version: &str, #[case] want: Option<(u32, u32)>) {
        assert_eq!(minor(version), want);
    }
}
