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

/// What is said about `checked` beside `others`, with the app `orders` and the Secret `redis`.
fn said(checked: &Component, others: &[Component], seconds: i64) -> Vec<(Reason, String)> {
    let data = Arc::new([("password".to_owned(), b"hunter2".to_vec())].into());
    let secrets = [
        ("redis".to_owned(), Ok(data)),
        ("gone".to_owned(), Err(FetchError::NotFound("gone".to_owned()))),
        ("slow".to_owned(), Err(FetchError::Failed { name: "slow".into(), reason: "x".into() })),
    ];
    let created: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let around = Surroundings {
        components: std::iter::once(checked).chain(others).collect(),
        apps: ["orders".to_owned()].into(),
        secrets: &secrets.into(),
        now: created + jiff::SignedDuration::from_secs(seconds),
    };
    check(checked, &around).into_iter().map(|f| (f.reason, f.note)).collect()
}

const LATER: i64 = 3600;

#[rstest]
#[case::near(json!({"type": "state.rediss"}), UnknownType,
    "there is no official component \"state.rediss\"; did you mean state.redis?")]
#[case::far(json!({"type": "state.our-own-store"}), UnknownType,
    "there is no official component \"state.our-own-store\"; it works only if it is a pluggable component")]
#[case::category(json!({"type": "cache.something"}), UnknownType,
    "\"cache.something\" begins with none of the categories bindings, configuration, conversation, crypto, lock, middleware, pubsub, secretstores, state")]
#[case::version(json!({"version": "v7"}), UnknownVersion,
    "state.in-memory has no version \"v7\"; there is v1")]
#[case::missing(json!({"type": "state.redis"}), MissingMetadata,
    "state.redis needs metadata redisHost")]
#[case::empty(json!({"type": "bindings.cron", "metadata": [{"name": "schedule", "value": ""}]}),
    MissingMetadata, "bindings.cron needs metadata schedule")]
#[case::misspelt(json!({"type": "state.redis", "metadata": [{"name": "redisHots", "value": "a"}]}),
    UnknownMetadata, "state.redis knows no metadata \"redisHots\"; did you mean redisHost?")]
#[case::timeout(json!({"initTimeout": "5"}), InvalidDuration,
    "initTimeout \"5\" is no duration such as 30s; the default 5s is used")]
#[case::no_secret(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "gone", "key": "k"}}]}),
    SecretNotFound, "Secret \"gone\" not found")]
#[case::no_key(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "redis", "key": "pass"}}]}),
    SecretKeyNotFound, "Secret \"redis\" has no key \"pass\", which p refers to")]
#[case::key_of_same_name(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "redis"}}]}),
    SecretKeyNotFound, "Secret \"redis\" has no key \"redis\", which p refers to")]
fn says_one_thing(#[case] given: Value, #[case] reason: Reason, #[case] note: &str) {
    assert_eq!(said(&spec(&given), &[], LATER), [(reason, note.to_owned())]);
}

#[rstest]
#[case::plain(json!({}))]
#[case::first_version(json!({"version": ""}))]
#[case::case_of_letters(json!({"type": "state.redis", "metadata": [{"name": "RedisHost", "value": "a"}]}))]
#[case::from_environment(json!({"type": "state.redis", "metadata": [{"name": "redisHost", "envRef": "A"}]}))]
#[case::common(json!({"metadata": [{"name": "keyPrefix", "value": "name"}]}))]
#[case::unlisted(json!({"type": "state.redis", "metadata": [{"name": "something-new", "value": 1}]}))]
#[case::key(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "redis", "key": "password"}}]}))]
#[case::api_server_in_trouble(json!({"metadata": [{"name": "p", "secretKeyRef": {"name": "slow"}}]}))]
#[case::metadata_not_written_down(json!({"type": "state.cockroachdb", "version": "v2"}))]
fn says_nothing(#[case] given: Value) {
    assert_eq!(said(&spec(&given), &[], LATER), []);
}

#[test]
fn pluggable_component_is_left_alone() {
    let annotations = json!({ANNOTATION_COMPONENT_CONTAINER: "{}"});
    let own = json!({"metadata": {"annotations": annotations}, "spec": {"type": "state.mine"}});
    assert_eq!(said(&component("c", own), &[], LATER), []);
}

#[test]
fn secret_store_must_be_a_component_of_the_namespace() {
    let reference = json!({"auth": {"secretStore": "vault"},
        "spec": {"metadata": [{"name": "p", "secretKeyRef": {"name": "any", "key": "k"}}]}});
    let checked = component("c", reference);
    let note = "there is no secret store \"vault\" in this namespace".to_owned();
    assert_eq!(said(&checked, &[], LATER), [(SecretStoreNotFound, note.clone())]);
    let store = component("vault", json!({"spec": {"type": "secretstores.local.env"}}));
    assert_eq!(said(&checked, &[store], LATER), []);
    let no_store = component("vault", json!({}));
    assert_eq!(said(&checked, &[no_store], LATER), [(SecretStoreNotFound, note)]);
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
    let findings = said(&store("a", &own), &[store("b", &other)], 0);
    let note = "an app may have one actor state store; b is another one of the same apps";
    let want = clash.then(|| (DuplicateActorStateStore, note.to_owned()));
    assert_eq!(findings, Vec::from_iter(want));
}

#[test]
fn scope_without_app_is_said_after_a_while_with_the_nearest_app() {
    let checked = component("c", json!({"scopes": ["ordesr", "orders"]}));
    assert_eq!(said(&checked, &[], 119), [], "its app may be on its way");
    let note = "no pod of this namespace has app id \"ordesr\"; did you mean orders?".to_owned();
    assert_eq!(said(&checked, &[], 120), [(UnknownScope, note)]);
}

#[test]
fn name_of_the_built_in_store_is_taken() {
    let clash = said(&component("kubernetes", json!({})), &[], LATER);
    assert_eq!(clash.len(), 1);
    assert_eq!(clash[0].0, NameClash);
    let same = json!({"spec": {"type": "secretstores.kubernetes"}});
    assert_eq!(said(&component("kubernetes", same), &[], LATER), []);
}

/// What `dapr init -k --dev` makes (Dapr CLI 1.16).
#[rstest]
#[case("state.redis")]
#[case("pubsub.redis")]
fn components_of_the_cli_are_in_order(#[case] type_: &str) {
    let metadata = json!([{"name": "redisHost", "value": "dapr-dev-redis-master:6379"},
        {"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "password"}}]);
    assert_eq!(said(&spec(&json!({"type": type_, "metadata": metadata})), &[], LATER), []);
}
