//! Which definition `apply-crds` leaves in the cluster. Definitions only grow: a version, member,
//! enum value or rule that the cluster's definition has stays, because the API server no longer
//! returns what a smaller schema prunes, and a policy without a member that it was written with
//! grants more than its author allowed. Pure; the caller reads and writes.
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

#[cfg(test)]
mod tests;

/// The member that the operator adds to the definition of Components with
/// `dapr_operator.componentStatus.enabled`; it does not depend on the release.
const STATUS: &str = ".status";
const SCHEMA: &str = "/schema/openAPIV3Schema";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const RULES: &str = "x-kubernetes-validations";

/// The plan for a definition of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// The cluster's has nothing that ours lacks: apply ours, with the status that the operator
    /// added.
    Apply(Value),
    /// The cluster's has all of ours and more: leave it unchanged.
    Keep {
        /// A part that ours lacks, for the log.
        newer: String,
    },
    /// Each has something that the other lacks: apply every member of either, with the cluster's
    /// constraints where both have a member.
    Union {
        /// The merged definition.
        definition: Value,
        /// A part that ours lacks, for the log.
        newer: String,
    },
}

/// Two definitions that cannot be merged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{place} is {live} in the cluster and {ours} in this release; replace the definition by hand \
     once no object needs the other form"
)]
pub(crate) struct MergeConflict {
    place: String,
    live: String,
    ours: String,
}

impl MergeConflict {
    fn new(place: impl Into<String>, live: &Value, ours: &Value) -> Self {
        Self { place: place.into(), live: live.to_string(), ours: ours.to_string() }
    }
}

/// Compares the cluster's definition with ours.
///
/// # Errors
/// They name different kinds, or a member has different types.
pub(crate) fn plan(live: &Value, ours: &Value) -> Result<Plan, MergeConflict> {
    for place in ["/spec/group", "/spec/scope", "/spec/names/kind", "/spec/names/plural"] {
        let (theirs, wanted) = (at(live, place), at(ours, place));
        if theirs != wanted {
            return Err(MergeConflict::new(place.replace('/', "."), theirs, wanted));
        }
    }
    let mut differences = Differences::default();
    let grown = with_versions(live, ours, Constraints::Ours, &mut differences)?;
    let Some(newer) = differences.live_only.into_iter().next() else {
        return Ok(Plan::Apply(grown));
    };
    if differences.ours_only.is_empty() {
        return Ok(Plan::Keep { newer });
    }
    let mut ignored = Differences::default();
    let definition = with_versions(live, ours, Constraints::Live, &mut ignored)?;
    Ok(Plan::Union { definition, newer })
}

/// The side whose constraints apply to members that both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Constraints {
    Live,
    Ours,
}

impl Constraints {
    fn choose<T>(self, live: T, ours: T) -> (T, T) {
        match self {
            Self::Live => (live, ours),
            Self::Ours => (ours, live),
        }
    }
}

/// The parts that one side has and the other lacks, as paths.
#[derive(Debug, Default)]
struct Differences {
    live_only: BTreeSet<String>,
    ours_only: BTreeSet<String>,
}

fn with_versions(
    live: &Value,
    ours: &Value,
    constraints: Constraints,
    differences: &mut Differences,
) -> Result<Value, MergeConflict> {
    let mut versions = Vec::new();
    for wanted in list(ours, "/spec/versions") {
        let name = text(wanted, "name");
        let merged = if let Some(found) = version(live, name) {
            union_version(found, wanted, constraints, differences)?
        } else {
            differences.ours_only.insert(format!("version {name}"));
            let mut added = wanted.clone();
            if constraints == Constraints::Live {
                set(&mut added, "storage", json!(false)); // exactly one version is stored
            }
            added
        };
        versions.push(merged);
    }
    for found in list(live, "/spec/versions") {
        let name = text(found, "name");
        if version(ours, name).is_none() {
            differences.live_only.insert(format!("version {name}"));
            versions.push(found.clone());
        }
    }
    let mut definition = ours.clone();
    if let Some(place) = definition.pointer_mut("/spec/versions") {
        *place = Value::Array(versions);
    }
    Ok(definition)
}

fn union_version(
    live: &Value,
    ours: &Value,
    constraints: Constraints,
    differences: &mut Differences,
) -> Result<Value, MergeConflict> {
    let (first, second) = constraints.choose(live, ours);
    // Columns, subresources and so on of either side.
    let mut version = first.clone();
    for (key, value) in second.as_object().into_iter().flatten() {
        if version.get(key).is_none() {
            set(&mut version, key, value.clone());
        }
    }
    let mut walk = Walk { version: text(ours, "name"), constraints, differences };
    let schema = walk.union("", at(live, SCHEMA), at(ours, SCHEMA))?;
    if let Some(place) = version.pointer_mut(SCHEMA) {
        *place = schema;
    }
    Ok(version)
}

/// The position in the two schema trees of one version.
struct Walk<'a> {
    version: &'a str,
    constraints: Constraints,
    differences: &'a mut Differences,
}

impl Walk<'_> {
    fn union(&mut self, path: &str, live: &Value, ours: &Value) -> Result<Value, MergeConflict> {
        let (Some(live_node), Some(our_node)) = (live.as_object(), ours.as_object()) else {
            return Ok(self.constraints.choose(live, ours).0.clone());
        };
        let mut out = self.constraints.choose(live_node, our_node).0.clone();
        self.types(path, live_node, our_node, &mut out)?;
        self.enums(path, live_node, our_node, &mut out);
        self.rules(path, live_node, our_node);
        for (key, below) in [("items", "[]"), ("additionalProperties", ".*")] {
            let merged =
                self.child(&format!("{path}{below}"), live_node.get(key), our_node.get(key))?;
            replace(&mut out, key, merged);
        }
        let properties = self.properties(path, live_node, our_node)?;
        replace(&mut out, "properties", properties);
        Ok(Value::Object(out))
    }

    fn child(
        &mut self,
        path: &str,
        live: Option<&Value>,
        ours: Option<&Value>,
    ) -> Result<Option<Value>, MergeConflict> {
        match (live, ours) {
            (Some(live), Some(ours)) if live.is_object() == ours.is_object() => {
                self.union(path, live, ours).map(Some)
            }
            (Some(live), Some(ours)) => Err(MergeConflict::new(self.place(path), live, ours)),
            (Some(live), None) => {
                if path != STATUS {
                    self.only_live(path);
                }
                Ok(Some(live.clone()))
            }
            (None, Some(ours)) => {
                self.only_ours(path);
                Ok(Some(ours.clone()))
            }
            (None, None) => Ok(None),
        }
    }

    fn properties(
        &mut self,
        path: &str,
        live: &Map<String, Value>,
        ours: &Map<String, Value>,
    ) -> Result<Option<Value>, MergeConflict> {
        let members = |node: &Map<String, Value>| node.get("properties")?.as_object().cloned();
        let (live, ours) = (members(live), members(ours));
        if live.is_none() && ours.is_none() {
            return Ok(None);
        }
        let (live, ours) = (live.unwrap_or_default(), ours.unwrap_or_default());
        let names: BTreeSet<&String> = live.keys().chain(ours.keys()).collect();
        let mut out = Map::new();
        for name in names {
            let merged = self.child(&format!("{path}.{name}"), live.get(name), ours.get(name))?;
            out.extend(merged.map(|member| (name.clone(), member)));
        }
        Ok(Some(Value::Object(out)))
    }

    /// A member without type that preserves unknown fields accepts every value; it wins.
    fn types(
        &mut self,
        path: &str,
        live: &Map<String, Value>,
        ours: &Map<String, Value>,
        out: &mut Map<String, Value>,
    ) -> Result<(), MergeConflict> {
        match (preserves(live), preserves(ours)) {
            (true, false) => self.only_live(&format!("{path} ({PRESERVE})")),
            (false, true) => self.only_ours(&format!("{path} ({PRESERVE})")),
            _ => {}
        }
        if preserves(live) || preserves(ours) {
            out.insert(PRESERVE.to_owned(), json!(true));
        }
        let null = Value::Null;
        let (theirs, wanted) =
            (live.get("type").unwrap_or(&null), ours.get("type").unwrap_or(&null));
        let free = |node, kind: &Value| preserves(node) && kind.is_null();
        if theirs == wanted {
            return Ok(());
        }
        if free(live, theirs) || free(ours, wanted) {
            out.remove("type");
            return Ok(());
        }
        Err(MergeConflict::new(self.place(path), theirs, wanted))
    }

    /// Without an enum every value is allowed.
    fn enums(
        &mut self,
        path: &str,
        live: &Map<String, Value>,
        ours: &Map<String, Value>,
        out: &mut Map<String, Value>,
    ) {
        let values =
            |node: &Map<String, Value>| node.get("enum").and_then(Value::as_array).cloned();
        match (values(live), values(ours)) {
            (Some(live), Some(ours)) => {
                for value in live.iter().filter(|value| !ours.contains(value)) {
                    self.only_live(&format!("{path} (value {value})"));
                }
                for value in ours.iter().filter(|value| !live.contains(value)) {
                    self.only_ours(&format!("{path} (value {value})"));
                }
                let (mut all, more) = self.constraints.choose(live, ours);
                let more: Vec<_> = more.into_iter().filter(|value| !all.contains(value)).collect();
                all.extend(more);
                out.insert("enum".to_owned(), Value::Array(all));
            }
            (None, Some(_)) => {
                self.only_live(&format!("{path} (any value)"));
                out.remove("enum");
            }
            (Some(_), None) => {
                self.only_ours(&format!("{path} (any value)"));
                out.remove("enum");
            }
            (None, None) => {}
        }
    }

    /// Rules are constraints: they are compared, and those of one side apply.
    fn rules(&mut self, path: &str, live: &Map<String, Value>, ours: &Map<String, Value>) {
        let rules = |node: &Map<String, Value>| -> BTreeSet<String> {
            let list = node.get(RULES).and_then(Value::as_array);
            list.into_iter().flatten().map(|rule| text(rule, "rule").to_owned()).collect()
        };
        let (live, ours) = (rules(live), rules(ours));
        for rule in live.difference(&ours) {
            self.only_live(&format!("{path} (rule {rule})"));
        }
        for rule in ours.difference(&live) {
            self.only_ours(&format!("{path} (rule {rule})"));
        }
    }

    fn place(&self, path: &str) -> String {
        format!("{}{path}", self.version)
    }

    fn only_live(&mut self, path: &str) {
        self.differences.live_only.insert(self.place(path));
    }

    fn only_ours(&mut self, path: &str) {
        self.differences.ours_only.insert(self.place(path));
    }
}

fn preserves(node: &Map<String, Value>) -> bool {
    node.get(PRESERVE) == Some(&Value::Bool(true))
}

fn replace(node: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    node.extend(value.map(|value| (key.to_owned(), value)));
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn version<'a>(definition: &'a Value, name: &str) -> Option<&'a Value> {
    list(definition, "/spec/versions").iter().find(|version| text(version, "name") == name)
}
