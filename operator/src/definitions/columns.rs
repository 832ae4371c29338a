//! Printer columns of the CRDs, which `kubectl get` shows; added if enabled.
//!
//! Start at [`CrdColumns::patch`]; [`controller`] applies it. Pure, except the controller. The
//! upstream CRDs have no columns, and applying an upstream file removes ours until the next check by
//! the leader. Columns are only added: a version with a column that is not ours keeps exactly its
//! own, and no column is removed when a feature is disabled.
pub(crate) mod controller;

use serde_json::{Value, json};

/// Which columns are enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EnabledColumns {
    /// Those of the spec, for every kind.
    pub(crate) every_kind: bool,
    /// Those of the status, with those of the spec of the same kind.
    pub(crate) status: bool,
}

impl EnabledColumns {
    /// The CRDs that have enabled columns.
    pub(crate) fn crds(self) -> impl Iterator<Item = &'static CrdColumns> {
        let enabled = move |crd: &&CrdColumns| crd.columns.iter().any(|c| crd.wants(c, self));
        CRDS.iter().filter(enabled)
    }
}

/// The columns of a CRD.
#[derive(Debug)]
pub(crate) struct CrdColumns {
    /// Name of the CRD.
    pub(crate) name: &'static str,
    /// Versions whose schema has the paths of the columns.
    versions: &'static [&'static str],
    columns: &'static [Column],
}

impl CrdColumns {
    /// The JSON Patch (RFC 6902) that adds the enabled columns to the served versions; empty when `crd`
    /// has them.
    pub(crate) fn patch(&self, crd: &Value, enabled: EnabledColumns) -> Vec<Value> {
        let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
        let mut operations = Vec::new();
        for (index, version) in versions.into_iter().flatten().enumerate() {
            if let Some(columns) = self.extended(version, enabled) {
                let path = format!("/spec/versions/{index}/additionalPrinterColumns");
                operations.push(json!({"op": "add", "path": path, "value": columns}));
            }
        }
        if !operations.is_empty() {
            // Columns and versions may change before the patch is applied.
            let version = crd.pointer("/metadata/resourceVersion");
            let unchanged =
                json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
            operations.insert(0, unchanged);
        }
        operations
    }

    /// The columns of a version with those that it lacks; `None` when it lacks none, or when they are
    /// not ours to change.
    fn extended(&self, version: &Value, enabled: EnabledColumns) -> Option<Vec<Value>> {
        let name = version.get("name").and_then(Value::as_str)?;
        let is_served = version.get("served").and_then(Value::as_bool)?;
        if !is_served || !self.versions.contains(&name) {
            return None;
        }
        let present = version.get("additionalPrinterColumns").and_then(Value::as_array);
        let present = present.map_or(&[][..], Vec::as_slice);
        let ours: Vec<(bool, Value)> =
            self.columns.iter().map(|c| (self.wants(c, enabled), c.definition())).collect();
        let is_ours = |column: &Value| ours.iter().any(|(_, known)| known == column);
        let lacks_one = ours.iter().any(|(wanted, column)| *wanted && !present.contains(column));
        if !lacks_one || !present.iter().all(is_ours) {
            return None;
        }
        let kept = ours.into_iter().filter(|(wanted, column)| *wanted || present.contains(column));
        Some(kept.map(|(_, column)| column).collect())
    }

    fn wants(&self, column: &Column, enabled: EnabledColumns) -> bool {
        let shows_status = enabled.status && self.columns.iter().any(Column::is_of_status);
        shows_status || (enabled.every_kind && !column.is_of_status())
    }
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    /// `type` of the column (Kubernetes).
    type_: &'static str,
    /// `jsonPath` of the column (Kubernetes).
    path: &'static str,
}

impl Column {
    const fn text(name: &'static str, path: &'static str) -> Self {
        Self { name, type_: "string", path }
    }

    fn is_of_status(&self) -> bool {
        self.path.starts_with(".status.")
    }

    /// The column as the API server returns it.
    fn definition(&self) -> Value {
        json!({"name": self.name, "type": self.type_, "jsonPath": self.path})
    }
}

/// The API server shows it only for a version without columns.
const AGE: Column = Column { name: "Age", type_: "date", path: ".metadata.creationTimestamp" };

static CRDS: [CrdColumns; 7] = [
    CrdColumns {
        name: "components.dapr.io",
        versions: &["v1alpha1"],
        columns: &[
            Column::text("Type", ".spec.type"),
            Column::text("Version", ".spec.version"),
            Column::text("Scopes", ".scopes"),
            Column::text("Ready", r#".status.conditions[?(@.type=="Ready")].status"#),
            Column::text("Reason", r#".status.conditions[?(@.type=="Ready")].reason"#),
            AGE,
        ],
    },
    CrdColumns {
        name: "configurations.dapr.io",
        versions: &["v1alpha1"],
        columns: &[
            Column::text("Tracing", ".spec.tracing.samplingRate"),
            Column { name: "Metrics", type_: "boolean", path: ".spec.metrics.enabled" },
            AGE,
        ],
    },
    CrdColumns {
        name: "httpendpoints.dapr.io",
        versions: &["v1alpha1"],
        columns: &[Column::text("URL", ".spec.baseUrl"), AGE],
    },
    CrdColumns {
        name: "mcpservers.dapr.io",
        versions: &["v1alpha1"],
        // An endpoint has exactly one transport; stdio has no URL.
        columns: &[Column::text("URL", ".spec.endpoint.*.url"), AGE],
    },
    CrdColumns { name: "resiliencies.dapr.io", versions: &["v1alpha1"], columns: &[AGE] },
    CrdColumns {
        name: "subscriptions.dapr.io",
        versions: &["v1alpha1", "v2alpha1"],
        columns: &[
            Column::text("PubSub", ".spec.pubsubname"),
            Column::text("Topic", ".spec.topic"),
            Column::text("DeadLetter", ".spec.deadLetterTopic"),
            AGE,
        ],
    },
    CrdColumns { name: "workflowaccesspolicies.dapr.io", versions: &["v1alpha1"], columns: &[AGE] },
];

#[cfg(test)]
mod tests;
