use std::sync::Arc;

use rstest::rstest;
use serde_json::json;

use super::*;
use Reason::{
    DuplicateActorStateStore, InvalidDuration, MissingMetadata, NameClash, SecretKeyNotFound,
    SecretNotFound, SecretStoreNotFound, UnknownMetadata, UnknownScope, UnknownType,
    UnknownVersion,
};

#[expect(clippy::needless_pass_by_value, reason = "tables hand over literals")]
fn component(name: &str, more: Value) -> Component {
    let mut object = json!({"metadata": {"name": name, "namespace": "n",
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "state.in-memory", "version": "v1", "metadata": []}});
    json_patch::merge(&mut object, &more);
    serde_json::from_value(object).unwrap()
}

fn spec(spec: &Value) -> Component {
    component("c", json!({ "spec": spec }))
}

/// The findings for `checked` in a namespace with `others`, the app `orders` and the Secret `redis`.
fn findings_of(checked: &Component, others: &[Component], seconds: i64) -> Vec<(Reason, String)> {
    let data = Arc::new([("password".to_owned(), b"hunter2".to_vec())].into());
    let secrets = [
        ("redis".to_owned(), Ok(data)),
        ("gone".to_owned(), Err(FetchError::NotFound("gone".to_owned()))),
        ("slow".to_owned(), Err(FetchError::Failed { name: "slow".into(), reason: "x".into() })),
    ];
    let created: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let context = CheckContext {
        components: std::iter::once(checked).chain(others).collect(),
        apps: Some(["orders".to_owned()].into()),
        secrets: &secrets.into(),
        now: created + jiff::SignedDuration::from_secs(seconds),
    };
    check(checked, &context).into_iter().map(|f| (f.reason, f.note)).collect()
}

const LATER: i64 = 3600;

#[rstest]
#[case::near(json!({"type": "state.rediss"}), UnknownType,
    "unknown component type \"state.rediss\"; did you mean state.redis?")]
#[case::far(json!({"type": "state.our-own-store"}), UnknownType,
    "unknown component type \"state.our-own-store\"; it is valid only for a pluggable component")]
#[case::category(json!({"type": "cache.something"}), UnknownType,
    "unknown component category in type \"cache.something\"; known categories: bindings, configuration, conversation, crypto, lock, middleware, pubsub, secretstores, state")]
#[case::version(json!({"version": "v7"}), UnknownVersion,
    "state.in-memory has no version \"v7\"; available: v1")]
#[case::missing(json!({"type": "state.memcached"}), MissingMetadata,
    "state.memcached requires metadata hosts")]
#[case::empty(json!({"type": "bindings.cron", "metadata": [{"name": "schedule", "value": ""}]}),
    MissingMetadata, "bindings.cron requires metadata schedule")]
#[case::misspelt(json!({"type": "state.redis", "metadata": [{"name": "redisHots", "value": "a"}]}),
    UnknownMetadata, "state.redis has no metadata field \"redisHots\"; did you mean redisHost?")]
#[case::timeout(json!({"initTimeout": "5"}), InvalidDuration,
    "initTimeout \"5\" is not a duration such as 30s; sidecars use the default of 5s")]
#[case::no_secret(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "gone", "key": "k"}}]}),
    SecretNotFound, "Secret \"gone\" not found")]
#[case::no_key(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "redis", "key": "pass"}}]}),
    SecretKeyNotFound, "Secret \"redis\" has no key \"pass\", which metadata p references")]
#[case::key_of_same_name(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "redis"}}]}),
    SecretKeyNotFound, "Secret \"redis\" has no key \"redis\", which metadata p references")]
fn reports_one_finding(#[case] given: Value, #[case] reason: Reason, #[case] note: &str) {
    assert_eq!(findings_of(&spec(&given), &[], LATER), [(reason, note.to_owned())]);
}

#[rstest]
#[case::plain(json!({}))]
#[case::first_version(json!({"version": ""}))]
#[case::case_of_letters(json!({"type": "state.redis", "metadata": [{"name": "RedisHost", "value": "a"}]}))]
#[case::from_environment(json!({"type": "state.redis", "metadata": [{"name": "redisHost", "envRef": "A"}]}))]
#[case::common(json!({"metadata": [{"name": "keyPrefix", "value": "name"}]}))]
#[case::unlisted(json!({"type": "state.redis", "metadata": [{"name": "something-new", "value": 1}]}))]
#[case::key(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "redis", "key": "password"}}]}))]
#[case::secret_not_read(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "slow"}}]}))]
#[case::metadata_not_in_the_data(json!({"type": "state.cockroachdb", "version": "v2"}))]
fn reports_nothing(#[case] given: Value) {
    assert_eq!(findings_of(&spec(&given), &[], LATER), []);
}

#[test]
fn pluggable_component_is_not_checked() {
    let annotations = json!({ANNOTATION_COMPONENT_CONTAINER: "{}"});
    let own = json!({"metadata": {"annotations": annotations}, "spec": {"type": "state.mine"}});
    assert_eq!(findings_of(&component("c", own), &[], LATER), []);
}

#[test]
fn secret_store_must_be_a_component_of_the_namespace() {
    let reference = json!({"auth": {"secretStore": "vault"},
        "spec": {"metadata": [{"name": "p", "secretKeyRef": {"name": "any", "key": "k"}}]}});
    let checked = component("c", reference);
    let note = "secret store \"vault\" does not exist in this namespace".to_owned();
    assert_eq!(findings_of(&checked, &[], LATER), [(SecretStoreNotFound, note.clone())]);
    let store = component("vault", json!({"spec": {"type": "secretstores.local.env"}}));
    assert_eq!(findings_of(&checked, &[store], LATER), []);
    let no_store = component("vault", json!({}));
    assert_eq!(findings_of(&checked, &[no_store], LATER), [(SecretStoreNotFound, note)]);
}

#[rstest]
#[case::both_for_all(json!([]), json!([]), true)]
#[case::one_for_all(json!(["orders"]), json!([]), true)]
#[case::same_app(json!(["orders"]), json!(["bills", "orders"]), true)]
#[case::other_app(json!(["orders"]), json!(["bills"]), false)]
fn two_actor_stores_of_one_app(#[case] own: Value, #[case] other: Value, #[case] clash: bool) {
    let store = |name: &str, scopes: &Value| {
        let actors = json!([{"name": "ActorStateStore", "value": true}]);
        component(name, json!({"spec": {"metadata": actors}, "scopes": scopes}))
    };
    let findings = findings_of(&store("a", &own), &[store("b", &other)], 0);
    let note = "an app can use one actor state store; b is also one for the same apps";
    let want = clash.then(|| (DuplicateActorStateStore, note.to_owned()));
    assert_eq!(findings, Vec::from_iter(want));
}

#[test]
fn scope_without_app_is_reported_after_the_grace_period() {
    let checked = component("c", json!({"scopes": ["ordesr", "orders"]}));
    assert_eq!(findings_of(&checked, &[], 119), [], "the app may be deployed later");
    let note = "no pod or workload in this namespace has app id \"ordesr\"; did you mean orders?"
        .to_owned();
    assert_eq!(findings_of(&checked, &[], 120), [(UnknownScope, note)]);
}

#[test]
fn name_of_the_built_in_store_is_reserved() {
    let clash = findings_of(&component("kubernetes", json!({})), &[], LATER);
    assert_eq!(clash.len(), 1);
    assert_eq!(clash[0].0, NameClash);
    let same = json!({"spec": {"type": "secretstores.kubernetes"}});
    assert_eq!(findings_of(&component("kubernetes", same), &[], LATER), []);
}

/// The Components that `dapr init -k --dev` creates (Dapr CLI 1.16).
#[rstest]
#[case("state.redis")]
#[case("pubsub.redis")]
fn components_of_the_cli_have_no_findings(#[case] type_: &str) {
    let metadata = json!([{"name": "redisHost", "value": "dapr-dev-redis-master:6379"},
        {"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "password"}}]);
    assert_eq!(findings_of(&spec(&json!({"type": type_, "metadata": metadata})), &[], LATER), []);
}

/// Cases 01, 09 and 10: Components that every daprd 1.18 starts.
#[rstest]
#[case::vault(include_str!("../../../../tests/fixtures/cases/01-advice-vault/components.yaml"), 2)]
#[case::metadata(include_str!("../../../../tests/fixtures/cases/09-advice-required-metadata/components.yaml"), 4)]
#[case::types(include_str!("../../../../tests/fixtures/cases/10-advice-unknown-types/components.yaml"), 3)]
fn working_components_of_public_reports_have_no_findings(#[case] text: &str, #[case] count: usize) {
    let objects: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let components = objects.into_iter().filter(|object| object["kind"] == "Component");
    let components: Vec<Component> =
        components.map(|object| serde_json::from_value(object).unwrap()).collect();
    assert_eq!(components.len(), count);
    for component in components {
        assert_eq!(findings_of(&component, &[], LATER), [], "{:?}", component.metadata.name);
    }
}

/// Case 01: sidecars refuse a Vault store with both (experiment with daprd 1.18).
#[rstest]
#[case::both(json!([{"name": "vaultToken", "value": "t"}, {"name": "vaultTokenMountPath", "value": "/t"}]), 1)]
#[case::neither(json!([{"name": "vaultAddr", "value": "a"}]), 1)]
#[case::token(json!([{"name": "vaultToken", "envRef": "VAULT_TOKEN"}]), 0)]
#[case::path(json!([{"name": "VAULTTOKENMOUNTPATH", "value": "/t"}]), 0)]
#[case::misspelt(json!([{"name": "vaultTokn", "value": "t"}]), 1)]
fn vault_stores_have_one_token(#[case] metadata: Value, #[case] want: usize) {
    for type_ in ["secretstores.hashicorp.vault", "secretstores.vault"] {
        let findings =
            findings_of(&spec(&json!({"type": type_, "metadata": metadata})), &[], LATER);
        assert_eq!(findings.len(), want, "{findings:?}");
    }
}

/// A binding that is used in one direction needs the metadata of this direction only.
#[test]
fn bindings_with_a_direction_are_not_checked_for_missing_metadata() {
    let of = |direction: Value| spec(&json!({"type": "bindings.mqtt3", "metadata": direction}));
    assert_eq!(findings_of(&of(json!([])), &[], LATER)[0].0, MissingMetadata);
    let direction = json!([{"name": "direction", "value": "output"}]);
    assert_eq!(findings_of(&of(direction), &[], LATER), []);
}
