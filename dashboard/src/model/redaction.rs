//! Redaction of objects: everything that is or may be a secret is hidden.
//!
//! The rules prefer to hide: a value is shown if the data about official components knows its field
//! and does not mark it, and neither its name nor its text looks like a secret.

use std::collections::BTreeMap;

use resources::annotations::{ANNOTATION_APPLIED_DEFAULTS, ANNOTATION_ENV};
use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::public_metadata;

/// Replacement of a hidden value.
pub(crate) const HIDDEN: &str = "(hidden)";

/// Deepest nesting that is shown; the API server's schemas need less than half.
const MAX_DEPTH: usize = 32;

/// Parts of names of members whose values are hidden, in lower case.
const SECRET_NAMES: [&str; 14] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "key",
    "credential",
    "certificate",
    "cert",
    "connectionstring",
    "dsn",
    "sas",
    "authorization",
    "signature",
];

/// Parts of texts that hold a secret, in lower case.
const SECRET_TEXTS: [&str; 4] = ["bearer ", "basic ", "-----begin", "eyj"];

/// Words that a secret follows after `=` or `:`, in lower case.
const SECRET_WORDS: [&str; 27] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "authorization",
    "credential",
    "credentials",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "access-key",
    "accountkey",
    "secretkey",
    "secret_key",
    "secret-key",
    "privatekey",
    "private_key",
    "private-key",
    "masterkey",
    "master_key",
    "sharedkey",
    "connectionstring",
    "connection_string",
];

/// The same, but a colon without quotes is likely to be the punctuation of a sentence.
const SECRET_MEMBERS: [&str; 3] = ["key", "sig", "signature"];

/// Members that name a secret and hold none.
const REFERENCES: [&str; 10] = [
    "secretKeyRef",
    "envRef",
    "secretStore",
    "allowedSecrets",
    "deniedSecrets",
    "scopes",
    "secrets",
    "keyPrefix",
    "partitionKey",
    "workloadCertTTL",
];

/// The object as pages may show it: names, references and settings. Annotations, `managedFields`
/// and the status are left out: they hold copies of what is hidden.
pub(crate) fn object(kind: Kind, object: &Value) -> Value {
    let mut shown = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let value = match name.as_str() {
            "metadata" => metadata(value),
            "apiVersion" | "kind" | "scopes" | "auth" => value.clone(),
            "spec" if kind == Kind::Component => component_spec(value),
            "spec" => member("spec", value, 0),
            _ => continue,
        };
        shown.insert(name.clone(), value);
    }
    Value::Object(shown)
}

fn metadata(metadata: &Value) -> Value {
    let mut shown = Map::new();
    for name in ["name", "namespace", "labels", "creationTimestamp", "generation"] {
        if let Some(value) = metadata.get(name) {
            shown.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(shown)
}

fn component_spec(spec: &Value) -> Value {
    let type_ = spec.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut shown = Map::new();
    for (name, value) in spec.as_object().into_iter().flatten() {
        let value = match (name.as_str(), value) {
            ("metadata", Value::Array(items)) => {
                Value::Array(items.iter().map(|item| metadata_item(type_, item)).collect())
            }
            ("metadata", _) => json!(HIDDEN),
            _ => member(name, value, 0),
        };
        shown.insert(name.clone(), value);
    }
    Value::Object(shown)
}

/// An item of a Component's metadata: its name, its reference, and its value if that is public.
fn metadata_item(type_: &str, item: &Value) -> Value {
    let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
    let mut shown = Map::new();
    for (member, value) in item.as_object().into_iter().flatten() {
        let value = match member.as_str() {
            "name" | "secretKeyRef" | "envRef" => value.clone(),
            "value" if is_public_item(type_, name, value) => value.clone(),
            _ => json!(HIDDEN),
        };
        shown.insert(member.clone(), value);
    }
    Value::Object(shown)
}

fn is_public_item(type_: &str, name: &str, value: &Value) -> bool {
    let plain = match value {
        Value::String(text) => !is_secret_text(text),
        Value::Bool(_) | Value::Number(_) | Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    };
    plain && !is_secret_name(name) && public_metadata::is_public(type_, name)
}

/// A member of any other object: strings are hidden by name and by text, and so is every `value`
/// beside a `name`, as headers and environment variables have it, and arguments of programs.
fn member(name: &str, value: &Value, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return json!(HIDDEN);
    }
    match value {
        // References hold names only.
        _ if matches!(name, "secretKeyRef" | "envRef") => value.clone(),
        _ if matches!(name, "value" | "args") => json!(HIDDEN),
        Value::Object(members) => {
            let shown = members.iter().map(|(n, v)| (n.clone(), member(n, v, depth + 1)));
            Value::Object(shown.collect())
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| member(name, item, depth + 1)).collect())
        }
        Value::String(text) if is_secret_name(name) || is_secret_text(text) => json!(HIDDEN),
        other => other.clone(),
    }
}

fn is_secret_name(name: &str) -> bool {
    if REFERENCES.iter().any(|reference| reference.eq_ignore_ascii_case(name)) {
        return false;
    }
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

/// Whether a text looks as if it held a secret: a URL with user info, a `password=` or
/// `"password":`, a token.
pub fn is_secret_text(text: &str) -> bool {
    // The digest of an image is not a host behind an account.
    let text = text.replace("@sha256:", " ");
    let user_info = text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.contains('@')
    });
    // `user:password@tcp(host)/db`, as Go's MySQL driver takes it.
    let account = text.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    let lower = text.to_ascii_lowercase();
    user_info
        || account
        || SECRET_TEXTS.iter().any(|part| lower.contains(part))
        || SECRET_WORDS.iter().any(|word| is_assigned(&lower, word, Colon::Counts))
        || SECRET_MEMBERS.iter().any(|word| is_assigned(&lower, word, Colon::AfterQuote))
}

/// Whether a colon assigns a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colon {
    Counts,
    AfterQuote,
}

/// Whether `=` or a colon follows the word, behind quotes, their escapes and spaces.
fn is_assigned(text: &str, word: &str, colon: Colon) -> bool {
    const QUOTES: [char; 3] = ['"', '\'', '\\'];
    text.split(word).skip(1).any(|rest| {
        let quoted = rest.starts_with(QUOTES);
        let rest = rest.trim_start_matches(QUOTES).trim_start();
        rest.starts_with('=') || rest.starts_with(':') && (quoted || colon == Colon::Counts)
    })
}

/// A Pod's annotation as pages may show it: of `dapr.io/env` only the names, also where the
/// injector recorded it among applied defaults.
pub(crate) fn annotation(name: &str, value: &str) -> String {
    if name == ANNOTATION_APPLIED_DEFAULTS {
        return applied_defaults(value).unwrap_or_else(|| HIDDEN.to_owned());
    }
    if name == ANNOTATION_ENV {
        let names = value.split(',').filter_map(|pair| pair.split('=').next());
        let names: Vec<_> = names.map(|name| format!("{}={HIDDEN}", name.trim())).collect();
        return names.join(",");
    }
    if is_secret_text(value) { HIDDEN.to_owned() } else { value.to_owned() }
}

/// For each origin the annotations that it gave; `None` if the text is anything else.
fn applied_defaults(text: &str) -> Option<String> {
    let origins: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(text).ok()?;
    let shown = origins.into_iter().map(|(origin, given)| {
        let given = given.into_iter().map(|(name, value)| {
            let value = annotation(&name, &value);
            (name, value)
        });
        (origin, given.collect())
    });
    serde_json::to_string(&shown.collect::<BTreeMap<String, BTreeMap<String, String>>>()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const PLANTED: &str = "pl4nted-s3cret";

    /// Places where people put secrets.
    #[rstest]
    #[case::marked(Kind::Component, json!({"spec": {"type": "state.redis", "version": "v1",
        "metadata": [{"name": "redisPassword", "value": PLANTED}]}}))]
    #[case::unknown_field(Kind::Component, json!({"spec": {"type": "state.redis", "version": "v1",
        "metadata": [{"name": "extra", "value": PLANTED}]}}))]
    #[case::unknown_type(Kind::Component, json!({"spec": {"type": "state.mine", "version": "v1",
        "metadata": [{"name": "redisHost", "value": PLANTED}]}}))]
    #[case::in_an_address(Kind::Component, json!({"spec": {"type": "state.redis", "version": "v1",
        "metadata": [{"name": "redisHost", "value": format!("redis://u:{PLANTED}@host:6379")}]}}))]
    #[case::nested_value(Kind::Component, json!({"spec": {"type": "state.redis", "version": "v1",
        "metadata": [{"name": "redisHost", "value": {"a": PLANTED}}]}}))]
    #[case::unknown_member(Kind::Component, json!({"spec": {"type": "state.redis", "version": "v1",
        "metadata": [{"name": "redisHost", "text": PLANTED}]}}))]
    #[case::no_list(Kind::Component, json!({"spec": {"type": "state.redis", "version": "v1",
        "metadata": {"redisHost": PLANTED}}}))]
    #[case::last_applied(Kind::Component, json!({"metadata": {"name": "a", "annotations":
        {"kubectl.kubernetes.io/last-applied-configuration": PLANTED}}}))]
    #[case::managed_fields(Kind::Component, json!({"metadata": {"managedFields": [PLANTED]}}))]
    #[case::status(Kind::Component, json!({"status": {"message": PLANTED}}))]
    #[case::header(Kind::HttpEndpoint, json!({"spec": {"baseUrl": "https://a", "headers":
        [{"name": "X-Api", "value": PLANTED}]}}))]
    #[case::private_key(Kind::HttpEndpoint, json!({"spec": {"clientTLS": {"privateKey":
        {"value": PLANTED}}}}))]
    #[case::base_url(Kind::HttpEndpoint, json!({"spec":
        {"baseUrl": format!("https://u:{PLANTED}@host/")}}))]
    #[case::environment(Kind::McpServer, json!({"spec": {"endpoint": {"stdio": {"command": "x",
        "env": [{"name": "A", "value": PLANTED}], "args": ["--pass", PLANTED]}}}}))]
    #[case::otel_header(Kind::Configuration, json!({"spec": {"tracing": {"otel": {"headers":
        [{"name": "auth", "value": PLANTED}]}}}}))]
    #[case::handler(Kind::Configuration, json!({"spec": {"httpPipeline": {"handlers":
        [{"name": "oauth2", "type": "middleware.http.oauth2", "clientSecret": PLANTED}]}}}))]
    #[case::subscription(Kind::Subscription, json!({"spec": {"topic": "t",
        "metadata": {"accessToken": PLANTED}}}))]
    #[case::anything(Kind::Configuration, json!({"data": PLANTED}))]
    fn a_planted_secret_is_hidden(#[case] kind: Kind, #[case] value: Value) {
        let shown = object(kind, &value).to_string();
        assert!(!shown.contains(PLANTED), "{shown}");
    }

    #[rstest]
    #[case("password=x")]
    #[case("PASSWORD = x")]
    #[case("password: x")]
    #[case(r#"{"password":"x"}"#)]
    #[case(r#"{"password" : "x"}"#)]
    #[case(r#"{\"password\": \"x\"}"#)]
    #[case(r#"{\\\"dbPassword\\\":\\\"x\\\"}"#)]
    #[case("{'password': 'x'}")]
    #[case("map[password:x]")]
    #[case("passwd: x")]
    #[case("passphrase: x")]
    #[case("pwd:x")]
    #[case("client_secret: x")]
    #[case(r#""clientSecret":"x""#)]
    #[case("token:x")]
    #[case(r#""access_token": "x""#)]
    #[case("Authorization: x")]
    #[case(r#""authorization":["x"]"#)]
    #[case("credentials: x")]
    #[case("X-Api-Key: x")]
    #[case(r#""apiKey":"x""#)]
    #[case("AccountKey=x")]
    #[case("map[accessKeyID:a secretKey:x]")]
    #[case("private_key: x")]
    #[case("master-key=x")]
    #[case("mail a@b.example, http://a.example/ then redis://x@host:6379")]
    #[case("from me@a.example: user:x@tcp(host)/db")]
    #[case("aws_access_key: x")]
    #[case("connectionString: x")]
    #[case(r#""key":"x""#)]
    #[case("https://host/?sig=x")]
    #[case(r#""signature": "x""#)]
    #[case("redis://user:x@host:6379")]
    #[case("user:x@tcp(host)/db")]
    #[case("registry:5000/daprd@sha256:0a1b connects to user:x@tcp(host)/db")]
    #[case("Bearer x")]
    #[case("-----BEGIN PRIVATE KEY-----")]
    #[case("eyJhbGciOiJSUzI1NiJ9.e30.x")]
    fn a_text_with_a_secret(#[case] text: &str) {
        assert!(is_secret_text(text), "{text}");
    }

    #[rstest]
    #[case("the password is missing: set it in a Secret")]
    #[case("Secret dapr-system/dapr-trust-bundle is missing")]
    #[case("cannot get secret dapr-trust-bundle: you lack the right")]
    #[case("secretKeyRef: redis")]
    #[case(r#""secretStore":"vault""#)]
    #[case("secretstores.kubernetes: loaded")]
    #[case("the token has expired: log in again")]
    #[case("tokens: 5")]
    #[case("tokenreviews.authentication.k8s.io: forbidden")]
    #[case("passwordless: true")]
    #[case("authorizationPolicy: strict")]
    #[case("monkey: banana")]
    #[case("invalid key: app||shop||cart")]
    #[case("the signature: RSA")]
    #[case(r#""keyPrefix":"name""#)]
    #[case("http://redis.shop:6379/0")]
    #[case("10:42:07 started")]
    #[case("registry:5000/dapr/daprd:1.18.3@sha256:0a1b")]
    fn a_harmless_text(#[case] text: &str) {
        assert!(!is_secret_text(text), "{text}");
    }

    #[test]
    fn settings_and_references_are_shown() {
        let value = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "state", "namespace": "shop"},
            "spec": {"type": "state.redis", "version": "v1", "metadata": [
                {"name": "redisHost", "value": "redis:6379"},
                {"name": "actorStateStore", "value": "true"},
                {"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "password"}}]},
            "scopes": ["cart"], "auth": {"secretStore": "vault"}});
        assert_eq!(object(Kind::Component, &value), value);
    }

    #[test]
    fn deep_nesting_ends() {
        let mut value = json!("deep-word");
        for _ in 0..MAX_DEPTH {
            value = json!({ "a": value });
        }
        let at = object(Kind::Configuration, &json!({ "spec": value })).to_string();
        assert!(at.contains("deep-word"), "{at}");
        let past = object(Kind::Configuration, &json!({ "spec": {"a": value} })).to_string();
        assert!(!past.contains("deep-word"), "{past}");
    }

    #[test]
    fn environment_variables_of_an_annotation_lose_their_values() {
        let shown = annotation("dapr.io/env", "A=1, B=x=y");
        assert_eq!(shown, "A=(hidden),B=(hidden)");
        assert_eq!(annotation("dapr.io/app-port", "80"), "80");
        assert_eq!(annotation("dapr.io/x", "postgres://u:p@h/"), HIDDEN);
        let defaults = r#"{"namespace":{"dapr.io/env":"A=1","dapr.io/log-level":"debug"}}"#;
        assert_eq!(
            annotation("dapr.io/applied-defaults", defaults),
            r#"{"namespace":{"dapr.io/env":"A=(hidden)","dapr.io/log-level":"debug"}}"#
        );
        assert_eq!(annotation("dapr.io/applied-defaults", "A=1"), HIDDEN);
    }

    proptest! {
        /// Only names and references of an unknown type are shown.
        #[test]
        fn no_value_of_an_unknown_type_is_shown(name in "[a-z]{1,12}", value in "[0-9]{24}") {
            let component = json!({"spec": {"type": "state.mine", "version": "v1",
                "metadata": [{"name": name, "value": value}]}});
            let shown = object(Kind::Component, &component).to_string();
            prop_assert!(!shown.contains(&value));
        }
    }
}
