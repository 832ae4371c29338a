//! What the control plane's Configuration says about further ways to prove an identity:
//! `spec.mtls.tokenValidators`. Source: Dapr 1.18, sentry.

use std::time::Duration;

use resources::{Mtls, go_duration};
use serde_json::Value;

/// How often a key set at a URL is fetched again, unless said otherwise.
const DEFAULT_REFRESH: Duration = Duration::from_mins(10);
/// Shorter intervals are not taken seriously.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
/// How long a fetch may take, unless said otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Shorter limits are not taken seriously.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(1);

/// The options of the validator `jwks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksOptions {
    /// A URL, the path of a file, or the key set itself, plain or in base64.
    pub source: String,
    /// Whom to trust at an `https` URL: PEM text or the path of a file; the system's store if none.
    pub ca_certificate: Option<String>,
    /// How often a key set at a URL is fetched.
    pub refresh: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
}

/// Why the validators cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValidatorsError {
    /// A built-in validator in the list.
    #[error("the built-in {0} validators cannot be configured manually")]
    BuiltIn(String),
    /// A validator that does not exist.
    #[error("invalid token validator name: '{0}'; supported values: 'jwks'")]
    Unknown(String),
    /// The same validator more than once.
    #[error("the token validator 'jwks' is configured more than once")]
    Twice,
    /// No key set is named.
    #[error("the token validator 'jwks' needs the option 'source'")]
    NoSource,
    /// An option is no text.
    #[error("option '{0}' of the token validator 'jwks' is no text")]
    NoText(String),
    /// An option is no duration.
    #[error("option '{name}' of the token validator 'jwks'")]
    Duration {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        source: go_duration::GoDurationError,
    },
}

/// The options of the validator `jwks`, if it is configured.
///
/// # Errors
/// [`ValidatorsError`] says what cannot be.
pub fn jwks(mtls: &Mtls) -> Result<Option<JwksOptions>, ValidatorsError> {
    let mut found = None;
    for validator in &mtls.token_validators {
        match validator.name.to_ascii_lowercase().as_str() {
            "jwks" if found.is_some() => return Err(ValidatorsError::Twice),
            "jwks" => found = Some(options(validator.options.as_ref())?),
            "kubernetes" | "insecure" => {
                return Err(ValidatorsError::BuiltIn(validator.name.clone()));
            }
            _ => return Err(ValidatorsError::Unknown(validator.name.clone())),
        }
    }
    Ok(found)
}

fn options(given: Option<&Value>) -> Result<JwksOptions, ValidatorsError> {
    let refresh = duration(given, "minRefreshInterval")?;
    let timeout = duration(given, "requestTimeout")?;
    Ok(JwksOptions {
        source: option(given, "source")?.ok_or(ValidatorsError::NoSource)?,
        ca_certificate: option(given, "caCertificate")?,
        refresh: refresh.filter(|d| *d > SHORTEST_REFRESH).unwrap_or(DEFAULT_REFRESH),
        timeout: timeout.filter(|d| *d > SHORTEST_TIMEOUT).unwrap_or(DEFAULT_TIMEOUT),
    })
}

/// One option by its name in any case; numbers are taken as text, empty text as none.
fn option(given: Option<&Value>, name: &str) -> Result<Option<String>, ValidatorsError> {
    let found = given.and_then(Value::as_object).and_then(|options| {
        options.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    });
    match found {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(ValidatorsError::NoText(name.to_owned())),
    }
}

/// A Go duration, or a number of seconds.
fn duration(
    given: Option<&Value>,
    name: &'static str,
) -> Result<Option<Duration>, ValidatorsError> {
    let Some(text) = option(given, name)? else { return Ok(None) };
    if let Ok(seconds) = text.parse() {
        return Ok(Some(Duration::from_secs(seconds)));
    }
    let parsed = go_duration::parse(&text);
    parsed.map(Some).map_err(|source| ValidatorsError::Duration { name, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    fn read(validators: &Value) -> Result<Option<JwksOptions>, String> {
        let mtls: Mtls = serde_json::from_value(json!({"tokenValidators": validators})).unwrap();
        jwks(&mtls).map_err(|e| runtime::chain(&e))
    }

    #[test]
    fn none_is_configured_by_default() {
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
    fn reads_options(
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
    #[case::no_source(json!([{"name": "jwks"}]), "the token validator 'jwks' needs the option 'source'")]
    #[case::list(json!([{"name": "jwks", "options": {"source": []}}]), "option 'source' of the token validator 'jwks' is no text")]
    #[case::twice(
        json!([{"name": "jwks", "options": {"source": "a"}}, {"name": "jwks", "options": {"source": "a"}}]),
        "the token validator 'jwks' is configured more than once"
    )]
    #[case::interval(
        json!([{"name": "jwks", "options": {"source": "a", "minRefreshInterval": "often"}}]),
        "option 'minRefreshInterval' of the token validator 'jwks': "
    )]
    fn refuses(#[case] validators: Value, #[case] want: &str) {
        let error = read(&validators).unwrap_err();
        assert!(error.starts_with(want), "{error}");
    }
}
