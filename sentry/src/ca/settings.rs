//! The certificate settings of the control plane's Configuration, `spec.mtls`.
//! Source: Dapr 1.18, sentry.

use std::time::Duration;

use resources::{Mtls, go_duration};

const DEFAULT_TTL: Duration = Duration::from_hours(24);
const DEFAULT_CLOCK_SKEW: Duration = Duration::from_mins(15);

/// Settings of issued certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Lifetime of a leaf; 24 hours by default.
    pub(crate) ttl: Duration,
    /// How far a certificate is back-dated; 15 minutes by default.
    pub(crate) clock_skew: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ttl: DEFAULT_TTL, clock_skew: DEFAULT_CLOCK_SKEW }
    }
}

/// Why the Configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// A field is not a duration.
    #[error("spec.mtls.{field}")]
    Duration {
        /// Path of the field below `spec.mtls`.
        field: &'static str,
        /// Why it does not parse.
        source: go_duration::GoDurationError,
    },
    /// The lifetime is zero.
    #[error("spec.mtls.workloadCertTTL must be longer than zero")]
    ZeroTtl,
    /// `spec.mtls` has a member of another type.
    #[error("parse spec.mtls")]
    Mtls(#[source] serde_json::Error),
    /// The file is not a Configuration in YAML.
    #[error("parse the configuration file")]
    Yaml(#[source] serde_saphyr::Error),
}

impl Settings {
    /// Parses `spec.mtls`. Its trust domain is ignored: the flag decides.
    ///
    /// # Errors
    /// [`SettingsError`] names the field.
    pub(crate) fn from_mtls(mtls: &Mtls) -> Result<Self, SettingsError> {
        let settings = Self {
            ttl: duration("workloadCertTTL", &mtls.workload_cert_ttl, DEFAULT_TTL)?,
            clock_skew: duration("allowedClockSkew", &mtls.allowed_clock_skew, DEFAULT_CLOCK_SKEW)?,
        };
        if settings.ttl.is_zero() { Err(SettingsError::ZeroTtl) } else { Ok(settings) }
    }
}

/// Parses `spec.mtls` of a file. Environment variables are expanded first, unknown keys are ignored,
/// and an empty file means the defaults.
///
/// # Errors
/// [`SettingsError::Yaml`] if the file is not a Configuration in YAML.
pub(crate) fn mtls_from_yaml(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Mtls, SettingsError> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct File {
        spec: Option<Spec>,
    }
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Spec {
        mtls: Option<Mtls>,
    }
    let file: Option<File> =
        serde_saphyr::from_str(&expand(text, variable)).map_err(SettingsError::Yaml)?;
    Ok(file.and_then(|file| file.spec).and_then(|spec| spec.mtls).unwrap_or_default())
}

fn duration(field: &'static str, text: &str, default: Duration) -> Result<Duration, SettingsError> {
    if text.is_empty() {
        return Ok(default);
    }
    go_duration::parse(text).map_err(|source| SettingsError::Duration { field, source })
}

/// Replaces `$NAME` and `${NAME}`; an unset variable is empty, a lone `$` stays.
fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, behind) = braced.unwrap_or_else(|| {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            after.split_at(end.unwrap_or(after.len()))
        });
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(&variable(name).unwrap_or_default());
        }
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(text: &str) -> Result<Settings, String> {
        let variable = |name: &str| (name == "TTL").then(|| "10m".to_owned());
        let mtls = mtls_from_yaml(text, variable);
        mtls.and_then(|mtls| Settings::from_mtls(&mtls)).map_err(|e| runtime::chain(&e))
    }

    #[rstest]
    #[case::empty("", 24 * 60, 15)]
    #[case::comment_only("# nothing\n", 24 * 60, 15)]
    #[case::no_mtls("spec: {tracing: {samplingRate: '1'}}", 24 * 60, 15)]
    #[case::both("spec: {mtls: {workloadCertTTL: 1h30m, allowedClockSkew: 20m}}", 90, 20)]
    #[case::variable("spec: {mtls: {workloadCertTTL: '${TTL}'}}", 10, 15)]
    #[case::unset_variable("spec: {mtls: {workloadCertTTL: \"$NONE\"}}", 24 * 60, 15)]
    #[case::whole_object("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: x}\nspec: {mtls: {enabled: true, unknown: 1}}", 24 * 60, 15)]
    fn parses_the_file(#[case] text: &str, #[case] ttl: u64, #[case] skew: u64) {
        let want =
            Settings { ttl: Duration::from_mins(ttl), clock_skew: Duration::from_mins(skew) };
        assert_eq!(read(text), Ok(want));
    }

    #[rstest]
    #[case::ttl(
        "spec: {mtls: {workloadCertTTL: '5'}}",
        "spec.mtls.workloadCertTTL: \"5\" has no unit"
    )]
    #[case::zero("spec: {mtls: {workloadCertTTL: 0s}}", "spec.mtls.workloadCertTTL must be longer")]
    #[case::yaml("spec: [", "parse the configuration file")]
    fn rejects_invalid_files(#[case] text: &str, #[case] want: &str) {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(want), "{error}");
    }
}
