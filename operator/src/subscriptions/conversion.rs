//! Conversion of Subscriptions between `v1alpha1` and `v2alpha1`.
//!
//! `v1alpha1` has a single route. The rules of `v2alpha1` are kept in an annotation, so that a client
//! which reads and writes the older version does not delete them.
use resources::{
    CustomResource as _, RouteRule, Routes, Subscription, SubscriptionSpec, SubscriptionV1,
    SubscriptionV1Spec,
};
use serde_json::{Map, Value, json};

/// Contains the rules of a `v2alpha1` Subscription in its `v1alpha1` form.
pub(crate) const ANNOTATION_RULES: &str = "conversion.dapr.io/v2alpha1-routes-rules";

/// Why an object cannot be converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConversionError {
    /// The object is not a Subscription of the other version.
    #[error("no conversion from {from:?} {kind:?} to {to:?}")]
    Unknown { kind: String, from: String, to: String },
    /// A member has the wrong type.
    #[error("decode Subscription {name:?}")]
    Decode { name: String, source: serde_json::Error },
}

/// Answers a `ConversionReview` (apiextensions.k8s.io/v1). `None` when it holds no request.
pub(crate) fn review(mut review: Value) -> Option<Value> {
    let members = review.as_object_mut()?;
    let request = members.remove("request").filter(Value::is_object)?;
    let to = request.get("desiredAPIVersion").and_then(Value::as_str).unwrap_or_default();
    let objects = request.get("objects").and_then(Value::as_array).map(Vec::as_slice);
    let converted: Result<Vec<Value>, _> =
        objects.unwrap_or_default().iter().map(|object| convert(object, to)).collect();
    let (objects, result) = match converted {
        Ok(objects) if objects.is_empty() => (Value::Null, json!({"status": "Success"})),
        Ok(objects) => (Value::Array(objects), json!({"status": "Success"})),
        Err(error) => {
            let message = runtime::chain(&error);
            (Value::Null, json!({"status": "Failure", "message": message}))
        }
    };
    let uid = request.get("uid").cloned().unwrap_or_else(|| json!(""));
    let response = json!({"uid": uid, "convertedObjects": objects, "result": result});
    members.insert("response".to_owned(), response);
    Some(review)
}

/// Converts one object to `to` (group and version).
///
/// # Errors
/// [`ConversionError`] unless the object is a Subscription of the other version.
pub(crate) fn convert(object: &Value, to: &str) -> Result<Value, ConversionError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (old, new) = (api_version::<SubscriptionV1>(), api_version::<Subscription>());
    let known = text("kind") == Subscription::KIND;
    let from = text("apiVersion");
    let converted = if known && from == old && to == new {
        decode::<SubscriptionV1>(object).map(|v1| with_spec(object, to, &upgrade(v1, object)))?
    } else if known && from == new && to == old {
        decode::<Subscription>(object).map(|v2| downgrade(object, to, v2))?
    } else {
        return Err(ConversionError::Unknown {
            kind: text("kind").to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
        });
    };
    Ok(converted)
}

fn api_version<K: kube::Resource<DynamicType = ()>>() -> String {
    K::api_version(&()).into_owned()
}

fn decode<K: serde::de::DeserializeOwned>(object: &Value) -> Result<K, ConversionError> {
    serde_json::from_value(object.clone()).map_err(|source| {
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        ConversionError::Decode { name: name.to_owned(), source }
    })
}

fn upgrade(v1: SubscriptionV1, object: &Value) -> SubscriptionSpec {
    let SubscriptionV1Spec {
        pubsubname,
        topic,
        metadata,
        route,
        dead_letter_topic,
        bulk_subscribe,
        rest: _,
    } = v1.spec;
    let routes = Routes { rules: kept_rules(object), default: route, ..Routes::default() };
    SubscriptionSpec {
        pubsubname,
        topic,
        metadata,
        routes,
        dead_letter_topic,
        bulk_subscribe,
        ..SubscriptionSpec::default()
    }
}

/// The rules in the annotation. An invalid annotation is ignored: otherwise the API server could not
/// read the object at all.
fn kept_rules(object: &Value) -> Vec<RouteRule> {
    let annotation = object
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(ANNOTATION_RULES))
        .and_then(Value::as_str);
    annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn downgrade(object: &Value, to: &str, v2: Subscription) -> Value {
    let SubscriptionSpec {
        pubsubname,
        topic,
        metadata,
        routes,
        dead_letter_topic,
        bulk_subscribe,
        rest: _,
    } = v2.spec;
    let spec = SubscriptionV1Spec {
        pubsubname,
        topic,
        metadata,
        route: routes.default,
        dead_letter_topic,
        bulk_subscribe,
        ..SubscriptionV1Spec::default()
    };
    let mut converted = with_spec(object, to, &spec);
    if !routes.rules.is_empty() {
        keep_rules(&mut converted, &routes.rules);
    }
    converted
}

fn keep_rules(object: &mut Value, rules: &[RouteRule]) {
    let (Ok(text), Some(metadata)) =
        (serde_json::to_string(rules), object.get_mut("metadata").and_then(Value::as_object_mut))
    else {
        return;
    };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(ANNOTATION_RULES.to_owned(), Value::String(text));
    }
}

/// The object with another version and `spec`. Metadata is unchanged except for our annotation: the API
/// server rejects any other change.
fn with_spec(object: &Value, to: &str, spec: &impl serde::Serialize) -> Value {
    let mut out = Map::new();
    out.insert("kind".to_owned(), json!(Subscription::KIND));
    out.insert("apiVersion".to_owned(), json!(to));
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION_RULES);
        if annotations.is_empty()
            && let Some(members) = metadata.as_object_mut()
        {
            members.remove("annotations");
        }
    }
    out.insert("metadata".to_owned(), metadata);
    out.insert("spec".to_owned(), serde_json::to_value(spec).unwrap_or(Value::Null));
    let scopes = object.get("scopes").filter(|s| s.as_array().is_some_and(|s| !s.is_empty()));
    if let Some(scopes) = scopes {
        out.insert("scopes".to_owned(), scopes.clone());
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V1: &str = "dapr.io/v1alpha1";
    const V2: &str = "dapr.io/v2alpha1";

    #[expect(clippy::needless_pass_by_value, reason = "tables hand over literals")]
    fn v1(spec: Value) -> Value {
        json!({"kind": "Subscription", "apiVersion": V1,
            "metadata": {"name": "s", "namespace": "n", "uid": "u", "managedFields": [{}]},
            "spec": spec, "scopes": ["a"]})
    }

    #[test]
    fn old_route_becomes_the_default() {
        let old =
            v1(json!({"pubsubname": "p", "topic": "t", "route": "/r", "deadLetterTopic": "d"}));
        let new = convert(&old, V2).unwrap();
        assert_eq!(
            new,
            json!({"kind": "Subscription", "apiVersion": V2,
                "metadata": {"name": "s", "namespace": "n", "uid": "u", "managedFields": [{}]},
                "spec": {"pubsubname": "p", "topic": "t", "routes": {"default": "/r"},
                         "deadLetterTopic": "d", "bulkSubscribe": {"enabled": false}},
                "scopes": ["a"]})
        );
    }

    #[test]
    fn object_without_spec_gets_an_empty_one() {
        let bare = json!({"kind": "Subscription", "apiVersion": V1, "metadata": {"name": "s"}});
        assert_eq!(
            convert(&bare, V2).unwrap()["spec"],
            json!({"pubsubname": "", "topic": "", "routes": {}, "bulkSubscribe": {"enabled": false}})
        );
        let bare = json!({"kind": "Subscription", "apiVersion": V2, "metadata": {"name": "s"}});
        assert_eq!(convert(&bare, V1).unwrap()["spec"]["route"], "");
    }

    #[test]
    fn tampered_annotation_is_dropped() {
        let mut old = v1(json!({"route": "/r"}));
        old["metadata"]["annotations"] = json!({ANNOTATION_RULES: "no json", "team": "a"});
        let new = convert(&old, V2).unwrap();
        assert_eq!(new["spec"]["routes"], json!({"default": "/r"}));
        assert_eq!(new["metadata"]["annotations"], json!({"team": "a"}));
    }

    #[test]
    fn review_keeps_uid_and_order() {
        let request = json!({"uid": "42", "desiredAPIVersion": V2, "objects": [
            v1(json!({"topic": "1"})), v1(json!({"topic": "2"}))]});
        let answer = review(json!({"kind": "ConversionReview",
            "apiVersion": "apiextensions.k8s.io/v1", "request": request}))
        .unwrap();
        assert_eq!(answer["kind"], "ConversionReview");
        assert!(answer.get("request").is_none());
        assert_eq!(answer["response"]["uid"], "42");
        assert_eq!(answer["response"]["result"], json!({"status": "Success"}));
        assert_eq!(answer["response"]["convertedObjects"][0]["spec"]["topic"], "1");
        assert_eq!(answer["response"]["convertedObjects"][1]["spec"]["topic"], "2");
    }

    #[rstest::rstest]
    #[case::same_version(v1(json!({})), V1, "no conversion from \"dapr.io/v1alpha1\" \"Subscription\" to \"dapr.io/v1alpha1\"")]
    #[case::other_kind(json!({"kind": "Component", "apiVersion": V1}), V2, "no conversion from \"dapr.io/v1alpha1\" \"Component\" to \"dapr.io/v2alpha1\"")]
    #[case::wrong_type(v1(json!({"topic": 5})), V2, "decode Subscription \"s\": invalid type: integer `5`, expected a string")]
    fn one_bad_object_fails_the_review(
        #[case] object: Value,
        #[case] to: &str,
        #[case] want: &str,
    ) {
        let request = json!({"uid": "1", "desiredAPIVersion": to, "objects": [object]});
        let answer = review(json!({ "request": request })).unwrap();
        let result = &answer["response"]["result"];
        assert_eq!(result["status"], "Failure");
        assert_eq!(result["message"], want);
        assert_eq!(answer["response"]["convertedObjects"], Value::Null);
    }

    #[test]
    fn empty_request_succeeds_and_no_request_is_none() {
        let answer = review(json!({"request": {"uid": "1", "desiredAPIVersion": V2}})).unwrap();
        assert_eq!(answer["response"]["result"]["status"], "Success");
        assert!(review(json!({})).is_none());
        assert!(review(json!({"request": 5})).is_none());
        assert!(review(json!([])).is_none());
    }

    proptest! {
        #[test]
        fn round_trip_through_the_old_version_loses_nothing(
            rules in prop::collection::vec((".*", ".*"), 0..4), default in ".*", count in 0i32..100,
        ) {
            let rules: Vec<_> =
                rules.into_iter().map(|(m, p)| json!({"match": m, "path": p})).collect();
            let mut routes = json!({});
            if !rules.is_empty() { routes["rules"] = json!(rules); }
            if !default.is_empty() { routes["default"] = json!(default); }
            let mut bulk = json!({"enabled": true});
            if count > 0 { bulk["maxMessagesCount"] = json!(count); }
            let new = json!({"kind": "Subscription", "apiVersion": V2, "metadata": {"name": "s"},
                "spec": {"pubsubname": "p", "topic": "t", "routes": routes, "bulkSubscribe": bulk}});
            let back = convert(&convert(&new, V1).unwrap(), V2).unwrap();
            prop_assert_eq!(back, new);
        }

        #[test]
        fn round_trip_through_the_new_version_loses_nothing(
            route in ".*", topic in ".*", letter in ".*", team in ".*",
            scopes in prop::collection::vec("[a-z]{1,8}", 0..3),
            metadata in prop::collection::btree_map("[a-z]{1,4}", ".*", 0..3),
        ) {
            let mut old = json!({"kind": "Subscription", "apiVersion": V1,
                "metadata": {"name": "s", "annotations": {"team": team}},
                "spec": {"pubsubname": "p", "topic": topic, "route": route,
                         "bulkSubscribe": {"enabled": false}}});
            if !letter.is_empty() { old["spec"]["deadLetterTopic"] = json!(letter); }
            if !metadata.is_empty() { old["spec"]["metadata"] = json!(metadata); }
            if !scopes.is_empty() { old["scopes"] = json!(scopes); }
            let back = convert(&convert(&old, V2).unwrap(), V1).unwrap();
            prop_assert_eq!(back, old);
        }
    }
}
