//! Decodes a pod from JSON within a bounded amount of memory.
//!
//! A JSON value takes about 72 bytes in memory, but as few as two in a body: `[0,0,…`. This decoder
//! stores only the members that [`super::PodView`] reads, skips all others without allocation, and
//! stops at [`MAX_VALUES`].

use std::cell::Cell;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Values of one pod, about 9 MiB of memory. A pod of 1.5 MiB, the most that the API server stores,
/// reaches this with one environment variable per 24 bytes.
pub(crate) const MAX_VALUES: usize = 128 * 1024;
/// Marks the error, because `serde_json` has no error of its own for a limit.
const TOO_MANY_VALUES: &str = "more JSON values than the limit";

/// The part of a JSON value to store.
enum Shape {
    /// A scalar. Of a collection, only its type is stored.
    Scalar,
    /// A map of scalars with all its members.
    Scalars,
    /// An object with these members.
    Object(&'static [(&'static str, Shape)]),
    List(&'static Shape),
}

const NAME: &[(&str, Shape)] = &[("name", Shape::Scalar)];
const CONTAINER: Shape = Shape::Object(&[
    ("name", Shape::Scalar),
    ("restartPolicy", Shape::Scalar),
    ("env", Shape::List(&Shape::Object(NAME))),
    (
        "volumeMounts",
        Shape::List(&Shape::Object(&[("name", Shape::Scalar), ("mountPath", Shape::Scalar)])),
    ),
    (
        "ports",
        Shape::List(&Shape::Object(&[
            ("containerPort", Shape::Scalar),
            ("hostPort", Shape::Scalar),
            ("protocol", Shape::Scalar),
        ])),
    ),
]);
const POD: Shape = Shape::Object(&[
    (
        "metadata",
        Shape::Object(&[
            ("name", Shape::Scalar),
            ("generateName", Shape::Scalar),
            ("labels", Shape::Scalars),
            ("annotations", Shape::Scalars),
            (
                "ownerReferences",
                Shape::List(&Shape::Object(&[
                    ("apiVersion", Shape::Scalar),
                    ("kind", Shape::Scalar),
                    ("name", Shape::Scalar),
                    ("uid", Shape::Scalar),
                    ("controller", Shape::Scalar),
                ])),
            ),
        ]),
    ),
    (
        "spec",
        Shape::Object(&[
            ("containers", Shape::List(&CONTAINER)),
            ("initContainers", Shape::List(&CONTAINER)),
            ("volumes", Shape::List(&Shape::Object(NAME))),
            ("tolerations", Shape::List(&Shape::Scalars)),
            ("nodeSelector", Shape::Scalars),
            ("os", Shape::Object(NAME)),
            ("hostNetwork", Shape::Scalar),
            ("dnsPolicy", Shape::Scalar),
            ("terminationGracePeriodSeconds", Shape::Scalar),
            ("automountServiceAccountToken", Shape::Scalar),
            ("serviceAccountName", Shape::Scalar),
        ]),
    ),
]);

/// Decodes the members of a pod that [`super::PodView`] reads.
///
/// # Errors
/// Invalid JSON, or more than [`MAX_VALUES`] values; see [`has_too_many_values`].
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(json: D) -> Result<Value, D::Error> {
    let budget = Cell::new(MAX_VALUES);
    Pruned { shape: &POD, budget: &budget }.deserialize(json)
}

/// Whether decoding stopped at [`MAX_VALUES`].
pub(crate) fn has_too_many_values(error: &serde_json::Error) -> bool {
    error.to_string().starts_with(TOO_MANY_VALUES)
}

struct Pruned<'a> {
    shape: &'a Shape,
    budget: &'a Cell<usize>,
}

impl Pruned<'_> {
    fn count<E: Error>(&self) -> Result<(), E> {
        let left = self.budget.get().checked_sub(1);
        self.budget.set(left.ok_or_else(|| E::custom(TOO_MANY_VALUES))?);
        Ok(())
    }

    fn member(&self, key: &str) -> Option<&'static Shape> {
        match self.shape {
            Shape::Object(members) => {
                members.iter().find(|(name, _)| *name == key).map(|(_, shape)| shape)
            }
            Shape::Scalars => Some(&Shape::Scalar),
            Shape::Scalar | Shape::List(_) => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Pruned<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        self.count()?;
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pruned<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        if let Shape::List(shape) = self.shape {
            while let Some(item) = items.next_element_seed(Pruned { shape, budget: self.budget })? {
                list.push(item);
            }
        } else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            match self.member(&key) {
                Some(shape) => {
                    let value = members.next_value_seed(Pruned { shape, budget: self.budget })?;
                    map.insert(key, value);
                }
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::pod::PodView;

    fn decode(text: &str) -> serde_json::Result<Value> {
        deserialize(&mut serde_json::Deserializer::from_str(text))
    }

    #[test]
    fn stores_only_the_members_that_are_read() {
        let pod = json!({
            "metadata": {"name": "p", "managedFields": [{"x": 1}], "annotations": {"a": "b"}},
            "spec": {
                "containers": [{"name": "c", "env": [{"name": "E", "value": "v"}], "image": "i"}],
                "affinity": {"deep": [[[]]]},
            },
            "status": {"phase": "Pending"},
        });
        let want = json!({
            "metadata": {"name": "p", "annotations": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "env": [{"name": "E"}]}]},
        });
        assert_eq!(decode(&pod.to_string()).unwrap(), want);
    }

    #[rstest]
    #[case::list(json!([1, [2]]))]
    #[case::text(json!("pod"))]
    #[case::annotation(json!({"metadata": {"annotations": {"a": {"b": 1}}}, "spec": {}}))]
    #[case::containers(json!({"spec": {"containers": {"name": "c"}}}))]
    #[case::container(json!({"spec": {"containers": [null]}}))]
    #[case::mount(json!({"spec": {"containers": [{"volumeMounts": [{"mountPath": [1]}]}]}}))]
    #[case::volume(json!({"spec": {"volumes": [{"name": 7}]}}))]
    #[case::toleration(json!({"spec": {"tolerations": [1]}}))]
    fn a_member_of_the_wrong_type_yields_the_same_error(#[case] pod: Value) {
        let pruned = decode(&pod.to_string()).unwrap();
        assert_eq!(PodView::parse(&pruned).unwrap_err(), PodView::parse(&pod).unwrap_err());
    }

    /// The root, `spec`, `volumes` and its items.
    #[rstest]
    #[case(MAX_VALUES - 3, true)]
    #[case(MAX_VALUES - 2, false)]
    fn bounds_the_number_of_values(#[case] volumes: usize, #[case] accepted: bool) {
        let list = vec!["0"; volumes].join(",");
        let decoded = decode(&format!(r#"{{"spec": {{"volumes": [{list}]}}}}"#));
        assert_eq!(decoded.is_ok(), accepted);
        assert!(decoded.err().is_none_or(|error| has_too_many_values(&error)));
    }

    #[test]
    fn skipped_members_are_not_counted() {
        let list = vec!["0"; MAX_VALUES * 2].join(",");
        let pod = decode(&format!(r#"{{"status": [{list}], "spec": {{}}}}"#)).unwrap();
        assert_eq!(pod, json!({"spec": {}}));
    }
}
