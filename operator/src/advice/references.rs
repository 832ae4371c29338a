//! Checks of the names by which Configurations, Subscriptions and Resiliencies refer to Components, and
//! of the Configurations that pods name.
//!
//! Pure, and advice as [`checks`](crate::advice::checks). A name that resembles an existing one is
//! reported at once; another only after [`SCOPE_GRACE`], because the Component may be applied later.
use jiff::Timestamp;
use resources::{
    ApiAccess, Component, Configuration, Resiliency, SECRET_STORE_KUBERNETES, Subscription,
    component_types, spelling,
};

use crate::advice::checks::{Finding, Reason, is_old};

/// The name resolvers of daprd with all components (Dapr 1.18).
const RESOLVERS: [&str; 6] =
    ["kubernetes", "mdns", "consul", "sqlite", "aws.cloudmap", "nameformat"];

/// What the checks need from a namespace.
pub(crate) struct References<'a> {
    /// All Components of the namespace.
    pub(crate) components: &'a [&'a Component],
    pub(crate) now: Timestamp,
}

impl References<'_> {
    /// Names without an object in a Configuration: secret stores and HTTP middleware.
    pub(crate) fn check_configuration(&self, configuration: &Configuration) -> Vec<Finding> {
        let created = configuration.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let mut findings = Vec::new();
        let spec = &configuration.spec;
        let scopes = spec.secrets.iter().flat_map(|secrets| secrets.scopes.iter().flatten());
        for (i, scope) in scopes.enumerate() {
            let known = self.of_category("secretstores.").chain([SECRET_STORE_KUBERNETES]);
            let field = format!("spec.secrets.scopes[{i}].storeName");
            let what = "secret store";
            findings.extend(
                self.missing(created, &field, what, &scope.store_name, known).map(|note| {
                    finding(Reason::SecretStoreNotFound, note + ": it protects nothing")
                }),
            );
        }
        let pipelines =
            [("httpPipeline", &spec.http_pipeline), ("appHttpPipeline", &spec.app_http_pipeline)];
        for (name, pipeline) in pipelines {
            let handlers = pipeline.iter().flat_map(|pipeline| pipeline.handlers.iter().flatten());
            for (i, handler) in handlers.enumerate() {
                let field = format!("spec.{name}.handlers[{i}]");
                let given = handler.type_.as_str();
                let of_type = |component: &&&Component| component.spec.type_ == given;
                let official =
                    component_types::names().any(|known| known.eq_ignore_ascii_case(given));
                if !official && !self.components.iter().any(|c| of_type(&c)) {
                    findings.extend(self.unknown_middleware(created, &field, given));
                    continue;
                }
                let known = self.components.iter().filter(of_type).filter_map(|c| name_of(c));
                let what = format!("Component of type {given}");
                findings.extend(
                    self.missing(created, &(field + ".name"), &what, &handler.name, known)
                        .map(|note| finding(Reason::ComponentNotFound, note)),
                );
            }
        }
        findings.extend(check_alone(configuration));
        findings
    }

    /// The pub/sub Component of a Subscription.
    pub(crate) fn check_subscription(&self, subscription: &Subscription) -> Vec<Finding> {
        let created = subscription.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let given = &subscription.spec.pubsubname;
        let known = self.of_category("pubsub.");
        let note = self.missing(created, "spec.pubsubname", "pub/sub Component", given, known);
        note.map(|note| finding(Reason::ComponentNotFound, note)).into_iter().collect()
    }

    /// The Components that a Resiliency targets.
    pub(crate) fn check_resiliency(&self, resiliency: &Resiliency) -> Vec<Finding> {
        let created = resiliency.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let targets = resiliency.spec.targets.components.keys();
        let check = |given: &String| {
            let known = self.of_category("");
            let field = "spec.targets.components";
            let note = self.missing(created, field, "Component", given, known)?;
            Some(finding(Reason::ComponentNotFound, note))
        };
        targets.filter_map(check).collect()
    }

    fn unknown_middleware(
        &self,
        created: Option<Timestamp>,
        field: &str,
        given: &str,
    ) -> Option<Finding> {
        let known = component_types::names().filter(|name| name.starts_with("middleware.http."));
        let note = self.missing(created, &format!("{field}.type"), "middleware", given, known)?;
        Some(finding(Reason::UnknownType, note))
    }

    /// The names of the Components whose type begins with `category`.
    fn of_category<'a>(&'a self, category: &'a str) -> impl Iterator<Item = &'a str> {
        let of = move |component: &&&Component| component.spec.type_.starts_with(category);
        self.components.iter().filter(of).filter_map(|component| name_of(component))
    }

    /// The note about a name that is not among the known ones.
    fn missing<'a>(
        &self,
        created: Option<Timestamp>,
        field: &str,
        what: &str,
        given: &str,
        known: impl Iterator<Item = &'a str>,
    ) -> Option<String> {
        let known: Vec<&str> = known.collect();
        if known.contains(&given) {
            return None;
        }
        let near = spelling::nearest(given, known);
        if near.is_none() && !is_old(created, self.now) {
            return None;
        }
        let note = format!("{field}: {what} {given:?} does not exist in this namespace");
        Some(near.map_or(note.clone(), |near| format!("{note}; did you mean {near}?")))
    }
}

/// The finding about a name resolver that resembles a known one: an unknown one may be newer.
fn misspelt_resolver(given: &str) -> Option<Finding> {
    if given.is_empty() || RESOLVERS.contains(&given) {
        return None;
    }
    let near = spelling::nearest(given, RESOLVERS)?;
    let note = format!(
        "spec.nameResolution.component: name resolver {given:?} is unknown; did you mean {near}? \
         Sidecars go on without one"
    );
    Some(finding(Reason::UnknownType, note))
}

/// The finding about a pod whose annotation names a Configuration that does not exist; its sidecar does
/// not start.
pub(crate) fn missing_configuration<'a>(
    namespace: &str,
    given: &str,
    known: impl Iterator<Item = &'a str>,
) -> Finding {
    let near = spelling::nearest(given, known);
    let guess = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let note = format!(
        "Configuration {namespace}/{given} of annotation dapr.io/config does not exist{guess}"
    );
    finding(Reason::ConfigurationNotFound, note)
}

fn finding(reason: Reason, note: String) -> Finding {
    Finding { reason, note }
}

fn name_of(component: &Component) -> Option<&str> {
    component.metadata.name.as_deref()
}

/// Problems of a Configuration that no other object of its namespace explains.
pub(crate) fn check_alone(configuration: &Configuration) -> Vec<Finding> {
    let spec = &configuration.spec;
    let resolver = spec.name_resolution.as_ref().map(|resolution| resolution.component.as_str());
    let misspelt = resolver.and_then(misspelt_resolver);
    misspelt.into_iter().chain(spec.api.iter().flat_map(api_rules_without_effect)).collect()
}

/// Rules of the API lists that daprd 1.18 ignores in both protocols, so the API stays open.
fn api_rules_without_effect(api: &ApiAccess) -> impl Iterator<Item = Finding> {
    let lists = [("allowed", &api.allowed), ("denied", &api.denied)];
    lists.into_iter().flat_map(|(list, rules)| {
        let protocols = rules.iter().map(|rule| rule.protocol.as_str()).enumerate();
        let ignored = protocols.filter(|(_, protocol)| {
            !["http", "grpc"].iter().any(|known| known.eq_ignore_ascii_case(protocol))
        });
        ignored.map(move |(i, protocol)| {
            let note = format!(
                "spec.api.{list}[{i}].protocol is {protocol:?}, neither http nor grpc: the rule has no \
                 effect; one rule for each protocol restricts both"
            );
            finding(Reason::ApiRuleWithoutEffect, note)
        })
    })
}

#[cfg(test)]
#[expect(clippy::redundant_closure_for_method_calls, reason = "the method is not general enough")]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    const CREATED: &str = "2026-01-01T00:00:00Z";
    const TRACING: &str =
        include_str!("../../../tests/fixtures/cases/18-configurations-nobody-checks/all.yaml");

    fn object<T: serde::de::DeserializeOwned>(spec: &Value) -> T {
        let metadata = json!({"name": "o", "namespace": "n", "creationTimestamp": CREATED});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn components() -> Vec<Component> {
        let component = |name: &str, type_: &str| {
            let spec = json!({"type": type_, "version": "v1", "metadata": []});
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
        };
        vec![
            component("vault", "secretstores.hashicorp.vault"),
            component("post", "pubsub.redis"),
            component("limiter", "middleware.http.ratelimit"),
            component("own", "middleware.http.our-own"),
        ]
    }

    fn check<T>(
        object: &T,
        seconds: i64,
        check: impl Fn(&References<'_>, &T) -> Vec<Finding>,
    ) -> Vec<String> {
        let components = components();
        let components: Vec<_> = components.iter().collect();
        let created: Timestamp = CREATED.parse().unwrap();
        let now = created + jiff::SignedDuration::from_secs(seconds);
        let references = References { components: &components, now };
        let findings = check(&references, object);
        findings.into_iter().map(|f| format!("{}: {}", f.reason.text(), f.note)).collect()
    }

    #[test]
    fn case_18_names_that_lead_nowhere_are_reported_at_once() {
        let objects: Vec<Value> = serde_saphyr::from_multiple(TRACING).unwrap();
        let configuration: Configuration = serde_json::from_value(objects[1].clone()).unwrap();
        let found = check(&configuration, 0, |r, o| r.check_configuration(o));
        let want = [
            "SecretStoreNotFound: spec.secrets.scopes[0].storeName: secret store \"kubernets\" does not \
             exist in this namespace; did you mean kubernetes?: it protects nothing",
            "UnknownType: spec.httpPipeline.handlers[0].type: middleware \"middleware.http.ratelimt\" \
             does not exist in this namespace; did you mean middleware.http.ratelimit?",
        ];
        assert_eq!(found, want);
        let pod = missing_configuration("orchard", "tracng", ["tracing", "other"].into_iter());
        let want = "Configuration orchard/tracng of annotation dapr.io/config does not exist; did you \
                    mean tracing?";
        assert_eq!((pod.reason, pod.note.as_str()), (Reason::ConfigurationNotFound, want));
    }

    #[rstest]
    #[case::built_in_store(json!({"secrets": {"scopes": [{"storeName": "kubernetes"}]}}), 0)]
    #[case::store(json!({"secrets": {"scopes": [{"storeName": "vault"}]}}), 0)]
    #[case::pub_sub_is_no_store(json!({"secrets": {"scopes": [{"storeName": "post"}]}}), 1)]
    #[case::middleware(json!({"httpPipeline": {"handlers": [{"name": "limiter", "type": "middleware.http.ratelimit"}]}}), 0)]
    #[case::app_pipeline(json!({"appHttpPipeline": {"handlers": [{"name": "gone", "type": "middleware.http.ratelimit"}]}}), 1)]
    #[case::pluggable(json!({"httpPipeline": {"handlers": [{"name": "own", "type": "middleware.http.our-own"}]}}), 0)]
    #[case::other_type(json!({"httpPipeline": {"handlers": [{"name": "limiter", "type": "middleware.http.opa"}]}}), 1)]
    #[case::nothing(json!({}), 0)]
    fn names_of_configurations(#[case] spec: Value, #[case] want: usize) {
        let configuration: Configuration = object(&spec);
        assert_eq!(check(&configuration, 120, |r, o| r.check_configuration(o)).len(), want);
        let early = check(&configuration, 119, |r, o| r.check_configuration(o));
        assert_eq!(early, [""; 0], "the Component may be applied later");
    }

    /// Asked of daprd 1.18.3 with calls for its metadata in both protocols.
    #[rstest]
    #[case::http(json!({"denied": [{"name": "metadata", "version": "v1.0", "protocol": "http"}]}), "")]
    #[case::upper_case(json!({"denied": [{"name": "metadata", "version": "v1.0", "protocol": "HTTP"}]}), "")]
    #[case::grpc(json!({"allowed": [{"name": "state", "version": "v1", "protocol": "grpc"}]}), "")]
    #[case::no_protocol(json!({"denied": [{"name": "state", "version": "v1"}]}),
        "spec.api.denied[0].protocol is \"\"")]
    #[case::other_protocol(json!({"allowed": [{"protocol": "http"}, {"protocol": "tcp"}]}),
        "spec.api.allowed[1].protocol is \"tcp\"")]
    fn api_rules_that_daprd_ignores(#[case] api: Value, #[case] want: &str) {
        let configuration: Configuration = object(&json!({"api": api}));
        let found = check(&configuration, 0, |r, o| r.check_configuration(o));
        assert_eq!(found.len(), usize::from(!want.is_empty()), "{found:?}");
        assert!(found.join("").contains(want), "{found:?}");
    }

    #[rstest]
    #[case("kubernetes", 0)]
    #[case("consul", 0)]
    #[case("", 0)]
    #[case("our-own", 0)]
    #[case("kubernets", 1)]
    #[case("mdsn", 1)]
    fn names_of_resolvers(#[case] name: &str, #[case] want: usize) {
        let configuration: Configuration = object(&json!({"nameResolution": {"component": name}}));
        let found = check(&configuration, 0, |r, o| r.check_configuration(o));
        assert_eq!(found.len(), want, "{found:?}");
    }

    #[rstest]
    #[case("post", 0, 0)]
    #[case("pots", 0, 1)]
    #[case("elsewhere", 119, 0)]
    #[case("elsewhere", 120, 1)]
    #[case("vault", 120, 1)]
    fn names_of_subscriptions(#[case] name: &str, #[case] seconds: i64, #[case] want: usize) {
        let spec = json!({"pubsubname": name, "topic": "t", "routes": {"default": "a"}});
        let found = check(&object(&spec), seconds, |r, o| r.check_subscription(o));
        assert_eq!(found.len(), want, "{found:?}");
    }

    #[rstest]
    #[case("post", 0, 0)]
    #[case("limter", 0, 1)]
    #[case("elsewhere", 119, 0)]
    #[case("elsewhere", 120, 1)]
    fn names_of_resiliencies(#[case] name: &str, #[case] seconds: i64, #[case] want: usize) {
        let spec = json!({"policies": {}, "targets": {"components": {name: {}}}});
        let found = check(&object(&spec), seconds, |r, o| r.check_resiliency(o));
        assert_eq!(found.len(), want, "{found:?}");
    }
}
