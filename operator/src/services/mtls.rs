//! Whether mTLS between sidecars is enabled, from the control plane's Configuration.
use resources::Configuration;
use tokio::sync::watch;

use kubernetes::ObjectKey;

use crate::cache::store::Store;

/// Whether a Configuration enables mTLS; enabled is the default (Dapr 1.18).
pub(crate) fn is_enabled(configuration: &Configuration) -> bool {
    configuration.spec.mtls.as_ref().and_then(|mtls| mtls.enabled).unwrap_or(true)
}

/// Publishes changes of the switch in the Configuration `key`. Never returns. The last value
/// remains while the Configuration does not exist, or is in a namespace that is not watched.
pub(crate) async fn watch_switch(
    configurations: &Store<Configuration>,
    key: &ObjectKey,
    enabled: &watch::Sender<bool>,
) {
    let mut changes = configurations.changes();
    configurations.wait_synced().await;
    loop {
        if let Some(entry) = configurations.get(&key.namespace, &key.name) {
            let current = is_enabled(&entry.object);
            enabled.send_if_modified(|last| std::mem::replace(last, current) != current);
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await; // the process is ending
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use kubernetes::WatchEvent;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn configuration(version: &str, mtls: &Value) -> Value {
        json!({"metadata": {"name": "daprsystem", "namespace": "dapr-system",
            "resourceVersion": version}, "spec": {"mtls": mtls}})
    }

    #[rstest]
    #[case::on(json!({"enabled": true}), true)]
    #[case::off(json!({"enabled": false}), false)]
    #[case::unset(json!({}), true)]
    #[case::absent(json!(null), true)]
    fn mtls_is_enabled_by_default(#[case] mtls: Value, #[case] want: bool) {
        let configuration = serde_json::from_value(configuration("1", &mtls)).unwrap();
        assert_eq!(is_enabled(&configuration), want);
    }

    #[test]
    fn changes_of_the_switch_are_published() {
        let store = Store::<Configuration>::default();
        let apply = |version: &str, enabled: bool| {
            let object = configuration(version, &json!({ "enabled": enabled }));
            store.apply(WatchEvent::Apply(serde_json::from_value(object).unwrap())).unwrap();
        };
        let key = ObjectKey { namespace: "dapr-system".into(), name: "daprsystem".into() };
        let (sender, mut receiver) = watch::channel(true);
        let mut watch = std::pin::pin!(watch_switch(&store, &key, &sender));
        store.apply(WatchEvent::Init).unwrap();
        apply("1", true);
        store.apply(WatchEvent::InitDone).unwrap();
        assert!(watch.as_mut().now_or_never().is_none());
        assert!(!receiver.has_changed().unwrap(), "the value is the same");
        apply("2", false);
        assert!(watch.as_mut().now_or_never().is_none());
        assert!(!*receiver.borrow_and_update());
        let object = configuration("2", &json!({"enabled": false}));
        store.apply(WatchEvent::Delete(serde_json::from_value(object).unwrap())).unwrap();
        assert!(watch.as_mut().now_or_never().is_none());
        assert!(!receiver.has_changed().unwrap(), "the last value remains");
    }
}
