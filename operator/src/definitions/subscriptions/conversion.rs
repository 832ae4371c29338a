//! Conversion of Subscriptions between `v1alpha1` and `v2alpha1`.
//!
//! `v1alpha1` has a single route. The rules of `v2alpha1` are kept in an annotation, so that a client
//! which reads and writes the older version does not delete them.
//!
//! The review is never expanded into a tree: members that the conversion does not need, unknown
//! ones included, are copied as text ([`raw_object`](super::raw_object)).
use resources::{CustomResource as _, RouteRule, Subscription, SubscriptionV1};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::raw_object::{RawObject, RawOutput, check_array, for_each, is_empty_array};

/// Contains the rules of a `v2alpha1` Subscription in its `v1alpha1` form.
pub(crate) const ANNOTATION_RULES: &str = "conversion.dapr.io/v2alpha1-routes-rules";
/// Contains the unknown members of `routes`, in the `v1alpha1` form.
const ANNOTATION_ROUTES: &str = "conversion.dapr.io/v2alpha1-routes";
/// Largest object: the API server's storage accepts requests of 1.5 MiB.
const MAX_OBJECT_BYTES: usize = 1_572_864;

/// Why an object cannot be converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConversionError {
    /// The object is not a Subscription of the other version.
    #[error("no conversion from {from:?} {kind:?} to {to:?}")]
    Unknown { kind: String, from: String, to: String },
    #[error("an object has {0} bytes; at most {MAX_OBJECT_BYTES} are converted")]
    TooLarge(usize),
    #[error("an element of objects is not an object: {0}")]
    NotAnObject(serde_json::Error),
    /// A member has the wrong type.
    #[error("decode {member} of Subscription {name:?}: {cause}")]
    Decode { name: String, member: &'static str, cause: serde_json::Error },
    #[error("serialize Subscription: {0}")]
    Serialize(#[from] serde_json::Error),
}

/// Responds to a `ConversionReview` (apiextensions.k8s.io/v1). `None` when it contains no request.
pub(crate) fn review(body: &[u8]) -> Option<Vec<u8>> {
    let review = RawObject::parse(std::str::from_utf8(body).ok()?).ok()?;
    let request = RawObject::parse(review.get("request")?.get()).ok()?;
    respond(&review, &request).ok()
}

fn respond(review: &RawObject<'_>, request: &RawObject<'_>) -> serde_json::Result<Vec<u8>> {
    let objects = request.get("objects").map_or("[]", RawValue::get);
    let converted = convert_all(objects, &request.string("desiredAPIVersion"));
    let result = match &converted {
        Ok(_) => json!({"status": "Success"}),
        Err(error) => json!({"status": "Failure", "message": error.to_string()}),
    };
    let converted = converted.ok().flatten().map(RawValue::from_string).transpose()?;
    let empty = serde_json::value::to_raw_value("")?;
    let uid = request.get("uid").unwrap_or(&empty);
    let response = ReviewResponse { uid, converted_objects: converted.as_deref(), result };
    let (kind, api_version) = (review.get("kind"), review.get("apiVersion"));
    serde_json::to_vec(&Review { kind, api_version, response })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'a RawValue>,
    response: ReviewResponse<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewResponse<'a> {
    uid: &'a RawValue,
    converted_objects: Option<&'a RawValue>,
    result: Value,
}

/// The converted objects as a JSON array; `None` for an empty list, and for anything but an array.
fn convert_all(objects: &str, to: &str) -> Result<Option<String>, ConversionError> {
    if !objects.starts_with('[') {
        return Ok(None);
    }
    let (mut out, mut failed) = (String::from("["), None);
    let outcome = for_each(objects, |object| {
        let text = convert(object.get(), to).and_then(|out| Ok(serde_json::to_string(&out)?));
        match text {
            Ok(text) => {
                out.push_str(if out.len() == 1 { "" } else { "," });
                out.push_str(&text);
                Ok(())
            }
            Err(error) => {
                failed = Some(error);
                Err(serde::de::Error::custom("not converted"))
            }
        }
    });
    match (outcome, failed) {
        (_, Some(error)) => Err(error),
        (Err(error), None) => Err(ConversionError::NotAnObject(error)),
        (Ok(()), None) => Ok((out.len() > 1).then(|| out + "]")),
    }
}

/// Converts one object to `to` (group and version).
///
/// # Errors
/// [`ConversionError`] unless the object is a valid Subscription of the other version.
fn convert<'a>(object: &'a str, to: &str) -> Result<RawOutput<'a>, ConversionError> {
    if object.len() > MAX_OBJECT_BYTES {
        return Err(ConversionError::TooLarge(object.len()));
    }
    let mut object = RawObject::parse(object).map_err(ConversionError::NotAnObject)?;
    let (old, new) = (api_version::<SubscriptionV1>(), api_version::<Subscription>());
    let (kind, from) = (object.string("kind"), object.string("apiVersion"));
    let upgrade = from == old && to == new;
    if kind != Subscription::KIND || !(upgrade || from == new && to == old) {
        return Err(ConversionError::Unknown { kind, from, to: to.to_owned() });
    }
    let metadata = object.take("metadata").map_or("{}", RawValue::get);
    let name = RawObject::parse(metadata).map(|metadata| metadata.string("name"));
    let at = Place { name: name.unwrap_or_default() };
    let mut metadata = Metadata::parse(metadata, &at)?;
    let spec = object.take("spec").map_or("{}", RawValue::get);
    let spec = at.decode("spec", RawObject::parse(spec))?;
    let spec = if upgrade {
        upgraded(spec, &mut metadata, &at)?
    } else {
        downgraded(spec, &mut metadata, &at)?
    };
    for member in ["kind", "apiVersion"] {
        object.take(member);
    }
    let mut out = RawOutput::default();
    out.push("kind", &Subscription::KIND)?;
    out.push("apiVersion", &to)?;
    out.push("metadata", &metadata.finish()?)?;
    out.push("spec", &spec)?;
    let empty_scopes =
        |name: &str, value: &RawValue| name == "scopes" && is_empty_array(value.get());
    out.extend(object.into_members().filter(|(name, value)| !empty_scopes(name, value)));
    Ok(out)
}

/// Names the object in errors.
struct Place {
    name: String,
}

impl Place {
    fn decode<T>(
        &self,
        member: &'static str,
        outcome: serde_json::Result<T>,
    ) -> Result<T, ConversionError> {
        outcome.map_err(|cause| {
            let name = self.name.clone();
            ConversionError::Decode { name, member, cause }
        })
    }

    /// A string member; empty when it is absent.
    fn string(
        &self,
        object: &mut RawObject<'_>,
        name: &str,
        member: &'static str,
    ) -> Result<String, ConversionError> {
        let raw = object.take(name).map_or("\"\"", RawValue::get);
        self.decode(member, serde_json::from_str(raw))
    }
}

fn api_version<K: kube::Resource<DynamicType = ()>>() -> String {
    K::api_version(&()).into_owned()
}

/// `metadata`, with access to the annotations of the conversion. Everything else is unchanged: the API
/// server rejects other changes.
struct Metadata<'a> {
    members: RawObject<'a>,
    annotations: RawObject<'a>,
    /// JSON texts in new annotations.
    added: Vec<(&'static str, String)>,
}

impl<'a> Metadata<'a> {
    fn parse(metadata: &'a str, at: &Place) -> Result<Self, ConversionError> {
        let mut members = at.decode("metadata", RawObject::parse(metadata))?;
        let annotations = match members.take("annotations").map_or("null", RawValue::get) {
            "null" => RawObject::default(),
            text => at.decode("metadata.annotations", RawObject::parse(text))?,
        };
        Ok(Self { members, annotations, added: Vec::new() })
    }

    /// Removes an annotation and decodes the JSON in its value. An invalid annotation is ignored:
    /// otherwise the API server could not read the object at all.
    fn take_json(&mut self, annotation: &str) -> Option<Box<RawValue>> {
        let value = self.annotations.take(annotation)?;
        RawValue::from_string(serde_json::from_str(value.get()).ok()?).ok()
    }

    fn finish(self) -> Result<RawOutput<'a>, ConversionError> {
        let mut out = RawOutput::default();
        out.extend(self.members.into_members());
        if !self.annotations.is_empty() || !self.added.is_empty() {
            let mut annotations = RawOutput::default();
            annotations.extend(self.annotations.into_members());
            for (name, value) in self.added {
                annotations.push(name, &value)?;
            }
            out.push("annotations", &annotations)?;
        }
        Ok(out)
    }
}

/// Starts a `spec` with the members that precede the routes; both versions have them.
fn begin_spec<'a>(spec: &mut RawObject<'a>, at: &Place) -> Result<RawOutput<'a>, ConversionError> {
    let mut out = RawOutput::default();
    out.push("pubsubname", &at.string(spec, "pubsubname", "spec.pubsubname")?)?;
    out.push("topic", &at.string(spec, "topic", "spec.topic")?)?;
    if let Some(metadata) = spec.take("metadata") {
        let entries = at.decode("spec.metadata", RawObject::parse(metadata.get()))?;
        for (_, value) in entries.into_members() {
            at.decode("spec.metadata", serde_json::from_str::<String>(value.get()))?;
        }
        out.push_raw("metadata", metadata);
    }
    Ok(out)
}

/// Completes a `spec` with the members that follow the routes, and unknown ones; `other` is the
/// member of the other version.
fn finish_spec<'a>(
    mut out: RawOutput<'a>,
    mut spec: RawObject<'a>,
    other: &str,
    at: &Place,
) -> Result<RawOutput<'a>, ConversionError> {
    let letter = at.string(&mut spec, "deadLetterTopic", "spec.deadLetterTopic")?;
    if !letter.is_empty() {
        out.push("deadLetterTopic", &letter)?;
    }
    let bulk = spec.take("bulkSubscribe").map_or("{}", RawValue::get);
    out.push("bulkSubscribe", &bulk_subscribe(bulk, at)?)?;
    out.extend(spec.into_members().filter(|(name, _)| name != other));
    Ok(out)
}

/// `bulkSubscribe` with `enabled`, which is always printed (Dapr 1.18).
fn bulk_subscribe<'a>(bulk: &'a str, at: &Place) -> Result<RawOutput<'a>, ConversionError> {
    let member = "spec.bulkSubscribe";
    let mut members = at.decode(member, RawObject::parse(bulk))?;
    let enabled = members.take("enabled").map_or("false", RawValue::get);
    let mut out = RawOutput::default();
    out.push("enabled", &at.decode(member, serde_json::from_str::<bool>(enabled))?)?;
    for name in ["maxMessagesCount", "maxAwaitDurationMs"] {
        let number = members.get(name).map_or("0", RawValue::get);
        at.decode(member, serde_json::from_str::<i32>(number))?;
    }
    out.extend(members.into_members());
    Ok(out)
}

fn upgraded<'a>(
    mut spec: RawObject<'a>,
    metadata: &mut Metadata<'a>,
    at: &Place,
) -> Result<RawOutput<'a>, ConversionError> {
    let rules = metadata.take_json(ANNOTATION_RULES);
    let rules = rules.filter(|rules| {
        check_array::<RouteRule>(rules.get()).is_ok() && !is_empty_array(rules.get())
    });
    let unknown = metadata.take_json(ANNOTATION_ROUTES);
    let unknown = unknown.as_ref().and_then(|text| RawObject::parse(text.get()).ok());
    let mut out = begin_spec(&mut spec, at)?;
    let mut routes = RawOutput::default();
    if let Some(rules) = rules {
        routes.push_owned("rules", rules);
    }
    let route = at.string(&mut spec, "route", "spec.route")?;
    if !route.is_empty() {
        routes.push("default", &route)?;
    }
    let unknown = unknown.into_iter().flat_map(RawObject::into_members);
    routes.extend(unknown.filter(|(name, _)| name != "rules" && name != "default"));
    out.push("routes", &routes)?;
    finish_spec(out, spec, "routes", at)
}

fn downgraded<'a>(
    mut spec: RawObject<'a>,
    metadata: &mut Metadata<'a>,
    at: &Place,
) -> Result<RawOutput<'a>, ConversionError> {
    for annotation in [ANNOTATION_RULES, ANNOTATION_ROUTES] {
        metadata.annotations.take(annotation);
    }
    let mut out = begin_spec(&mut spec, at)?;
    let routes = spec.take("routes").map_or("{}", RawValue::get);
    let mut routes = at.decode("spec.routes", RawObject::parse(routes))?;
    if let Some(rules) = routes.take("rules") {
        at.decode("spec.routes.rules", check_array::<RouteRule>(rules.get()))?;
        if !is_empty_array(rules.get()) {
            metadata.added.push((ANNOTATION_RULES, rules.get().to_owned()));
        }
    }
    out.push("route", &at.string(&mut routes, "default", "spec.routes.default")?)?;
    if !routes.is_empty() {
        let mut unknown = RawOutput::default();
        unknown.extend(routes.into_members());
        metadata.added.push((ANNOTATION_ROUTES, serde_json::to_string(&unknown)?));
    }
    finish_spec(out, spec, "route", at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn convert(object: &Value, to: &str) -> Result<Value, ConversionError> {
        let object = object.to_string();
        let converted = super::convert(&object, to)?;
        Ok(serde_json::to_value(&converted).unwrap())
    }

    #[expect(clippy::needless_pass_by_value, reason = "tables pass literals")]
    fn review(review: Value) -> Option<Value> {
        super::review(review.to_string().as_bytes())
            .map(|response| serde_json::from_slice(&response).unwrap())
    }

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
    fn unknown_members_survive_the_conversion() {
        let new = json!({"kind": "Subscription", "apiVersion": V2, "metadata": {"name": "s"},
            "spec": {"pubsubname": "p", "topic": "t",
                "routes": {"rules": [{"match": "", "path": "/b", "future": 1.50}], "default": "/a",
                    "future": [1]},
                "bulkSubscribe": {"enabled": true, "future": "x"}, "future": {"a": null}},
            "scopes": ["a"], "future": true});
        let old = convert(&new, V1).unwrap();
        assert_eq!(old["spec"]["future"], json!({"a": null}));
        assert_eq!(old["spec"]["bulkSubscribe"]["future"], "x");
        assert_eq!(old["future"], true);
        assert!(old["spec"].get("routes").is_none());
        assert_eq!(convert(&old, V2).unwrap(), new);

        let old = v1(json!({"pubsubname": "p", "topic": "t", "route": "/a",
            "bulkSubscribe": {"enabled": false}, "future": {"b": [0.1]}}));
        let new = convert(&old, V2).unwrap();
        assert_eq!(new["spec"]["future"], json!({"b": [0.1]}));
        assert_eq!(convert(&new, V1).unwrap(), old);
    }

    #[test]
    fn member_of_the_other_version_is_dropped() {
        let old = v1(json!({"route": "/a", "routes": {"default": "/b"}}));
        assert_eq!(convert(&old, V2).unwrap()["spec"]["routes"], json!({"default": "/a"}));
    }

    #[test]
    fn size_of_an_object_is_limited() {
        let object = |size: usize| {
            let object = v1(json!({"topic": "t"})).to_string();
            let padding = " ".repeat(size - object.len());
            object.replacen('{', &format!("{{{padding}"), 1)
        };
        assert!(super::convert(&object(MAX_OBJECT_BYTES), V2).is_ok());
        let error = super::convert(&object(MAX_OBJECT_BYTES + 1), V2).unwrap_err();
        assert_eq!(error.to_string(), "an object has 1572865 bytes; at most 1572864 are converted");
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
    #[case::wrong_type(v1(json!({"topic": 5})), V2, "decode spec.topic of Subscription \"s\": invalid type: integer `5`, expected a string at line 1 column 1")]
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
