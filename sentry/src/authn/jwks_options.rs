//! Options of the validator `jwks` in the control plane's Configuration, `spec.mtls.tokenValidators`.
//! Source: Dapr 1.18, sentry.

use std::time::Duration;

use resources::{Mtls, go_duration};
use serde_json::Value;

/// Default interval at which a key set is fetched from a URL.
const DEFAULT_REFRESH: Duration = Duration::from_mins(10);
/// Intervals up to this one are ignored.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
/// Default timeout of a fetch.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeouts up to this one are ignored.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// The options of the validator `jwks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JwksOptions {
    /// A URL, a file path, or the key set itself, in JSON or base64.
    pub(crate) source: String,
    /// CA certificates for an `https` URL, as PEM or file path; the system's store if `None`.
    pub(crate) ca_certificate: Option<String>,
    /// Interval at which a key set is fetched from a URL; 10 minutes by default.
    pub(crate) refresh: Duration,
    /// Timeout of a fetch; 30 seconds by default.
    pub(crate) timeout: Duration,
}

/// Why `tokenValidators` is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwksOptionsError {
    /// A built-in validator is configured.
    #[error("the built-in {0} validators cannot be configured manually")]
    BuiltIn(String),
    /// The validator does not exist.
    #[error("invalid token validator name: '{0}'; supported values: 'jwks'")]
    Unknown(String),
    /// The validator is configured twice.
    #[error("the token validator 'jwks' is configured more than once")]
    Twice,
    /// The option `source` is missing.
    #[error("the token validator 'jwks' requires the option 'source'")]
    NoSource,
    /// An option is not a string.
    #[error("option '{0}' of the token validator 'jwks' is not a string")]
    NoText(String),
    /// An option is not a duration.
    #[error("option '{name}' of the token validator 'jwks'")]
    Duration {
        /// The option.
        name: &'static str,
        /// Why it does not parse.
        source: go_duration::GoDurationError,
    },
}

/// Parses the options of the validator `jwks`; `None` if it is not configured.
///
/// # Errors
/// [`JwksOptionsError`] names the invalid option.
pub(crate) fn jwks(mtls: &Mtls) -> Result<Option<JwksOptions>, JwksOptionsError> {
    let mut found = None;
    for validator in &mtls.token_validators {
        match validator.name.to_ascii_lowercase().as_str() {
            "jwks" if found.is_some() => return Err(JwksOptionsError::Twice),
            "jwks" => found = Some(options(validator.options.as_ref())?),
            "kubernetes" | "insecure" => {
                return Err(JwksOptionsError::BuiltIn(validator.name.clone()));
            }
            _ => return Err(JwksOptionsError::Unknown(validator.name.clone())),
        }
    }
    Ok(found)
}

fn options(given: Option<&Value>) -> Result<JwksOptions, JwksOptionsError> {
    let refresh = duration(given, "minRefreshInterval")?;
    let timeout = duration(given, "requestTimeout")?;
    Ok(JwksOptions {
        source: option(given, "source")?.ok_or(JwksOptionsError::NoSource)?,
        ca_certificate: option(given, "caCertificate")?,
        refresh: refresh.filter(|d| *d > SHORTEST_REFRESH).unwrap_or(DEFAULT_REFRESH),
        timeout: timeout.filter(|d| *d > SHORTEST_TIMEOUT).unwrap_or(DEFAULT_TIMEOUT),
    })
}

/// An option by its name, in any case. A number counts as a string, an empty string as missing.
fn option(given: Option<&Value>, name: &str) -> Result<Option<String>, JwksOptionsError> {
    let found = given.and_then(Value::as_object).and_then(|options| {
        options.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    });
    match found {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(JwksOptionsError::NoText(name.to_owned())),
    }
}

/// Parses a Go duration or a number of seconds.
fn duration(
    given: Option<&Value>,
    name: &'static str,
) -> Result<Option<Duration>, JwksOptionsError> {
    let Some(text) = option(given, name)? else { return Ok(None) };
    if let Ok(seconds) = text.parse() {
        return Ok(Some(Duration::from_secs(seconds)));
    }
    let parsed = go_duration::parse(&text);
    parsed.map(Some).map_err(|source| JwksOptionsError::Duration { name, source })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn read(validators: &Value) -> Result<Option<JwksOptions>, String> {
        let mtls: Mtls = serde_json::from_value(json!({"tokenValidators": validators})).unwrap();
        jwks(&mtls).map_err(|e| runtime::chain(&e))
    }

    #[test]
    fn is_disabled_by_default() {
        assert_eq!(read(&json!([])), Ok(None));
    }

    #[rstest]
    #[case::defaults(json!({"source": "/keys"}), None, 600, 30)]
    #[case::all(
        json!({"SOURCE": "/keys", "cacertificate": "/ca", "minRefreshInterval": "2m", "RequestTimeout": "5s"}),
        Some("/ca"), 120, 5
    )]
    #[case::seconds(json!({"source": "/keys", "minRefreshInterval": "90", "requestTimeout": 7}), None, 90, 7)]
    #[case::too_short(json!({"source": "/keys", "minRefreshInterval": "1s", "requestTimeout": "1ms"}), None, 600, 30)]
    fn parses_options(
        #[case] options: Value,
        #[case] ca: Option<&str>,
        #[case] refresh: u64,
        #[case] timeout: u64,
    ) {
        let want = JwksOptions {
            source: "/keys".to_owned(),
            ca_certificate: ca.map(str::to_owned),
            refresh: Duration::from_secs(refresh),
            timeout: Duration::from_secs(timeout),
        };
        assert_eq!(read(&json!([{"name": "JWKS", "options": options}])), Ok(Some(want)));
    }

    #[rstest]
    #[case::built_in(json!([{"name": "Kubernetes"}]), "the built-in Kubernetes validators cannot be configured manually")]
    #[case::unknown(json!([{"name": "x"}]), "invalid token validator name: 'x'; supported values: 'jwks'")]
    #[case::no_source(json!([{"name": "jwks"}]), "the token validator 'jwks' requires the option 'source'")]
    #[case::list(json!([{"name": "jwks", "options": {"source": []}}]), "option 'source' of the token validator 'jwks' is not a string")]
    #[case::twice(
        json!([{"name": "jwks", "options": {"source": "a"}}, {"name": "jwks", "options": {"source": "a"}}]),
        "the token validator 'jwks' is configured more than once"
    )]
    #[case::interval(
        json!([{"name": "jwks", "options": {"source": "a", "minRefreshInterval": "often"}}]),
        "option 'minRefreshInterval' of the token validator 'jwks': "
    )]
    fn rejects(#[case] validators: Value, #[case] want: &str) {
        let error = read(&validators).unwrap_err();
        assert!(error.starts_with(want), "{error}");
    }
}
