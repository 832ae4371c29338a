//! Topics: publishers, subscribers, routes, dead letters.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::Site;
use super::parts::{Filter, section, table};
use super::sidecars::{App, Coverage, coverage, coverage_notice};
use crate::html::{Html, text};
use crate::model::kind::Kind;
use crate::model::metadata::{LoadedSubscription, Metadata};
use crate::model::resource::Resource;
use crate::model::{Snapshot, string};
use crate::peers::Answer;
use crate::peers::answers::json;
use crate::peers::samples::samples;

/// Messages that a sidecar published (Dapr 1.18).
const PUBLISHED: &str = "dapr_component_pubsub_egress_count";
/// Messages that a sidecar received (Dapr 1.18).
const RECEIVED: &str = "dapr_component_pubsub_ingress_count";
/// Kind of a subscription that comes from an object.
const DECLARATIVE: &str = "declarative";

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Subscriber {
    namespace: String,
    pubsub: String,
    topic: String,
    /// App id; empty for a Subscription that no application that answered has loaded.
    app_id: String,
    /// `declarative`, `programmatic`, `streaming`.
    kind: String,
    routes: Vec<String>,
    dead_letter_topic: String,
    /// Name of the object, if there is one.
    object: Option<String>,
}

/// Messages of an application and a topic since its sidecar started.
#[derive(Debug, PartialEq, Serialize)]
struct Traffic {
    namespace: String,
    pubsub: String,
    topic: String,
    app_id: String,
    published: f64,
    failed_to_publish: f64,
    received: f64,
    failed: f64,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct Topics {
    filter: Filter,
    subscribers: Vec<Subscriber>,
    traffic: Vec<Traffic>,
    coverage: Coverage,
    #[serde(skip)]
    namespaces: BTreeSet<String>,
}

/// Builds the view model from the metadata and the metrics of sidecars.
pub(crate) fn view(
    snapshot: &Snapshot,
    metadata: &BTreeMap<App, Answer>,
    metrics: &BTreeMap<App, Answer>,
    filter: Filter,
) -> Topics {
    let declared = declared(snapshot);
    let mut subscribers = BTreeSet::new();
    let mut loaded = BTreeSet::new();
    for ((namespace, app_id), answer) in metadata {
        let said = answer.as_ref().ok().and_then(|body| json::<Metadata>(body));
        for subscription in said.map(|said| said.subscriptions).unwrap_or_default() {
            let own = Subscriber::loaded(namespace, app_id, subscription);
            let objects = own.objects(&declared);
            loaded.extend(objects.iter().map(|object| (namespace.as_str(), object.name.as_str())));
            if objects.is_empty() {
                subscribers.insert(own);
            } else {
                let named = objects.iter().map(|object| Some(object.name.clone()));
                subscribers.extend(named.map(|object| Subscriber { object, ..own.clone() }));
            }
        }
    }
    let unused = declared.iter().filter(|(resource, _)| {
        !loaded.contains(&(resource.namespace.as_str(), resource.name.as_str()))
    });
    subscribers.extend(unused.map(|(_, subscriber)| subscriber.clone()));
    let namespaces = snapshot.app_pods().map(|pod| pod.namespace.clone());
    let namespaces =
        namespaces.chain(subscribers.iter().map(|own| own.namespace.clone())).collect();
    let mut subscribers: Vec<_> = subscribers.into_iter().collect();
    subscribers
        .retain(|own| filter.admits(&own.namespace, &[&own.topic, &own.pubsub, &own.app_id]));
    let mut traffic = traffic(metrics);
    traffic.retain(|own| filter.admits(&own.namespace, &[&own.topic, &own.pubsub, &own.app_id]));
    let coverage = coverage(snapshot, &filter, metadata);
    Topics { filter, subscribers, traffic, coverage, namespaces }
}

impl Subscriber {
    /// A subscription that a sidecar reports.
    fn loaded(namespace: &str, app_id: &str, subscription: LoadedSubscription) -> Self {
        Self {
            namespace: namespace.to_owned(),
            pubsub: subscription.pubsubname,
            topic: subscription.topic,
            app_id: app_id.to_owned(),
            kind: subscription.type_.to_lowercase(),
            routes: subscription.rules.into_iter().map(|rule| rule.path).collect(),
            dead_letter_topic: subscription.dead_letter_topic,
            object: None,
        }
    }

    /// The objects that it may come from: a sidecar does not report their names. Objects of its
    /// topic that apply to the application and have the same routes and dead letters; without
    /// any, all of its topic that apply.
    fn objects<'a>(&self, declared: &[(&'a Resource, Self)]) -> Vec<&'a Resource> {
        fn place(own: &Subscriber) -> [&str; 3] {
            [&own.namespace, &own.pubsub, &own.topic]
        }
        let candidates = declared.iter().filter(|(resource, object)| {
            self.kind == DECLARATIVE
                && place(object) == place(self)
                && resource.applies_to(&self.app_id)
        });
        let is_same = |object: &Self| {
            object.routes == self.routes && object.dead_letter_topic == self.dead_letter_topic
        };
        let (same, other): (Vec<_>, Vec<_>) = candidates.partition(|(_, object)| is_same(object));
        let found = if same.is_empty() { other } else { same };
        found.into_iter().map(|(resource, _)| *resource).collect()
    }
}

/// Subscriptions of the API server.
fn declared(snapshot: &Snapshot) -> Vec<(&Resource, Subscriber)> {
    let objects = snapshot.kind(Kind::Subscription).map(|object| {
        let at = |path: &str| string(object.object.pointer(path));
        let rules = object.object.pointer("/spec/routes/rules").and_then(Value::as_array);
        let rules = rules.into_iter().flatten().map(|rule| string(rule.get("path")));
        let routes = rules.chain([at("/spec/routes/default")]).filter(|route| !route.is_empty());
        let subscriber = Subscriber {
            namespace: object.namespace.clone(),
            pubsub: at("/spec/pubsubname"),
            topic: at("/spec/topic"),
            app_id: String::new(),
            kind: DECLARATIVE.to_owned(),
            routes: routes.collect(),
            dead_letter_topic: at("/spec/deadLetterTopic"),
            object: Some(object.name.clone()),
        };
        (object.as_ref(), subscriber)
    });
    objects.collect()
}

fn traffic(metrics: &BTreeMap<App, Answer>) -> Vec<Traffic> {
    let mut all = BTreeMap::<(String, String, String, String), [f64; 4]>::new();
    for ((namespace, app_id), answer) in metrics {
        let Ok(body) = answer else { continue };
        for sample in samples(body, |name| [PUBLISHED, RECEIVED].contains(&name)) {
            let (pubsub, topic) = (sample.label("component"), sample.label("topic"));
            let key = (namespace.clone(), pubsub.to_owned(), topic.to_owned(), app_id.clone());
            let counts = all.entry(key).or_default();
            let [published, not_published, received, failed] = counts;
            let into = match (sample.name, sample.label("success"), sample.label("process_status"))
            {
                (PUBLISHED, "true", _) => published,
                (PUBLISHED, ..) => not_published,
                (_, _, "success") => received,
                _ => failed,
            };
            *into += sample.value;
        }
    }
    let rows = all.into_iter().map(|((namespace, pubsub, topic, app_id), counts)| {
        let [published, failed_to_publish, received, failed] = counts;
        Traffic { namespace, pubsub, topic, app_id, published, failed_to_publish, received, failed }
    });
    rows.collect()
}

/// The page.
pub(crate) fn render(site: &Site<'_>, view: &Topics) -> Html {
    let subscribers = view.subscribers.iter().map(|row| {
        let app = match (&row.object, row.app_id.as_str()) {
            (_, app) if !app.is_empty() => site.app(&row.namespace, app),
            _ => text("no application that answered"),
        };
        let object = row.object.as_ref().map_or_else(
            || text(&row.kind),
            |name| site.resource(Kind::Subscription, &row.namespace, name),
        );
        vec![
            text(&row.topic),
            text(&row.pubsub),
            text(&row.namespace),
            app,
            text(row.routes.join(", ")),
            text(if row.dead_letter_topic.is_empty() { "none" } else { &row.dead_letter_topic }),
            object,
        ]
    });
    let headings =
        ["Topic", "Pub/sub", "Namespace", "Subscriber", "Routes", "Dead letters", "Subscription"];
    let empty = "No subscription. An application subscribes by a Subscription object, by its answer to /dapr/subscribe, or by a stream.";
    let subscribers = table("Subscriptions", &headings, subscribers, empty);
    let traffic = view.traffic.iter().map(|row| {
        let number = |count: f64| text(format!("{count:.0}"));
        vec![
            text(&row.topic),
            text(&row.pubsub),
            site.app(&row.namespace, &row.app_id),
            number(row.published),
            number(row.failed_to_publish),
            number(row.received),
            number(row.failed),
        ]
    });
    let headings = [
        "Topic",
        "Pub/sub",
        "App id",
        "Published",
        "Not published",
        "Received",
        "Failed or dropped",
    ];
    let empty =
        "No messages since the sidecars started. Sidecars whose metrics are off report none.";
    let traffic = table("Messages", &headings, traffic, empty);
    let form = view.filter.form(view.namespaces.iter().map(String::as_str));
    let parts = [
        form,
        coverage_notice(&view.coverage),
        section("Subscriptions", subscribers),
        section("Messages since the sidecars started", traffic),
    ];
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::cluster::Cluster;

    fn answers(app: &str, body: &'static str) -> BTreeMap<App, Answer> {
        BTreeMap::from([(
            ("shop".to_owned(), app.to_owned()),
            Ok(Bytes::from_static(body.as_bytes())),
        )])
    }

    /// A Subscription of the topic `orders`.
    fn orders(namespace: &str, name: &str, route: &str, scopes: &[&str]) -> (Kind, Value) {
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "scopes": scopes,
            "spec": {"topic": "orders", "pubsubname": "bus", "routes": {"default": route}}});
        (Kind::Subscription, object)
    }

    /// App ids and objects, with these Subscriptions and metadata of the application `cart`.
    fn joined(objects: &[(Kind, Value)], metadata: &'static str) -> Vec<(String, String)> {
        let cluster = Cluster::new("dapr-system");
        cluster.fill(&[], objects, &[]);
        let metadata = answers("cart", metadata);
        let view = view(&cluster.snapshot(), &metadata, &BTreeMap::new(), Filter::default());
        let rows = view.subscribers.into_iter();
        rows.map(|row| (row.app_id, row.object.unwrap_or_default())).collect()
    }

    fn row(app_id: &str, object: &str) -> (String, String) {
        (app_id.to_owned(), object.to_owned())
    }

    #[test]
    fn several_subscriptions_of_a_topic_are_kept_apart() {
        let metadata = r#"{"subscriptions":[
            {"pubsubname":"bus","topic":"orders","type":"DECLARATIVE","rules":[{"path":"/a"}]},
            {"pubsubname":"bus","topic":"orders","type":"DECLARATIVE","rules":[{"path":"/b"}]}]}"#;
        let objects = [
            orders("shop", "a", "/a", &[]),
            orders("shop", "b", "/b", &["cart"]),
            orders("shop", "other", "/a", &["ledger"]),
        ];
        assert_eq!(
            joined(&objects, metadata),
            [row("", "other"), row("cart", "a"), row("cart", "b")]
        );
    }

    #[test]
    fn a_subscription_of_the_same_name_elsewhere_stays_unused() {
        let metadata = r#"{"subscriptions":[
            {"pubsubname":"bus","topic":"orders","type":"DECLARATIVE","rules":[{"path":"/a"}]}]}"#;
        let objects = [orders("bank", "a", "/a", &[]), orders("shop", "a", "/a", &[])];
        assert_eq!(joined(&objects, metadata), [row("", "a"), row("cart", "a")]);
    }

    #[test]
    fn an_object_that_changed_since_it_was_loaded_is_still_its_origin() {
        let metadata = r#"{"subscriptions":[
            {"pubsubname":"bus","topic":"orders","type":"DECLARATIVE","rules":[{"path":"/old"}]}]}"#;
        let objects = [orders("shop", "a", "/new", &[])];
        assert_eq!(joined(&objects, metadata), [row("cart", "a")]);
    }

    #[test]
    fn subscriptions_of_objects_and_of_applications_are_joined() {
        let object = |name: &str, topic: &str| {
            let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"topic": topic,
                "pubsubname": "bus", "deadLetterTopic": "dead", "routes": {"default": "/x"}}});
            (Kind::Subscription, object)
        };
        let cluster = Cluster::new("dapr-system");
        cluster.fill(&[], &[object("one", "orders"), object("two", "unused")], &[]);
        let metadata = r#"{"subscriptions":[
            {"pubsubname":"bus","topic":"orders","type":"DECLARATIVE","deadLetterTopic":"dead","rules":[{"path":"/x"}]},
            {"pubsubname":"bus","topic":"live","type":"STREAMING"}]}"#;
        // As daprd 1.18.3 has them.
        let metrics = "dapr_component_pubsub_egress_count{app_id=\"cart\",component=\"bus\",namespace=\"\",success=\"true\",topic=\"orders\"} 5\n\
            dapr_component_pubsub_egress_count{app_id=\"cart\",component=\"bus\",namespace=\"\",success=\"false\",topic=\"orders\"} 1\n\
            dapr_component_pubsub_ingress_count{app_id=\"cart\",component=\"bus\",namespace=\"\",process_status=\"success\",status=\"success\",topic=\"orders\"} 4\n\
            dapr_component_pubsub_ingress_count{app_id=\"cart\",component=\"bus\",namespace=\"\",process_status=\"drop\",status=\"drop\",topic=\"orders\"} 2\n";
        let view = view(
            &cluster.snapshot(),
            &answers("cart", metadata),
            &answers("cart", metrics),
            Filter::default(),
        );
        let rows: Vec<_> = view
            .subscribers
            .iter()
            .map(|row| (row.topic.as_str(), row.app_id.as_str(), row.object.as_deref()))
            .collect();
        let want =
            [("live", "cart", None), ("orders", "cart", Some("one")), ("unused", "", Some("two"))];
        assert_eq!(rows, want);
        let traffic = view.traffic.first().unwrap();
        let counts =
            [traffic.published, traffic.failed_to_publish, traffic.received, traffic.failed];
        assert_eq!(counts.map(|count| count.to_string()), ["5", "1", "4", "2"]);
    }
}
