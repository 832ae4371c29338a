//! JSON objects whose members stay text.
//!
//! A tree of [`serde_json::Value`] takes up to forty times the memory of its text. Here an object is
//! a list of slices of the text, of which the caller decodes the members that it needs.
use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Most members of one object. Annotations have the most: the API server limits them to 256 KiB.
const MAX_MEMBERS: usize = 65_536;

/// The members of a JSON object, in their order, as slices of its text.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawObject<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> RawObject<'a> {
    /// # Errors
    /// `text` is not a JSON object, or has too many members.
    pub(crate) fn parse(text: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// The JSON of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// Removes a member and returns its JSON.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.0.iter().position(|(member, _)| member == name)?;
        Some(self.0.remove(index).1)
    }

    /// A member as a string; empty when it is absent or not a string.
    pub(crate) fn string(&self, name: &str) -> String {
        self.get(name).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_members(self) -> impl Iterator<Item = (Cow<'a, str>, &'a RawValue)> {
        self.0.into_iter()
    }
}

/// A JSON object that is written: slices of the input and text of our own.
#[derive(Debug, Default)]
pub(crate) struct RawOutput<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> RawOutput<'a> {
    /// Adds a member with the JSON of `value`.
    ///
    /// # Errors
    /// `value` cannot be serialized.
    pub(crate) fn push(
        &mut self,
        name: &'static str,
        value: &impl Serialize,
    ) -> serde_json::Result<()> {
        self.push_owned(name, serde_json::value::to_raw_value(value)?);
        Ok(())
    }

    pub(crate) fn push_owned(&mut self, name: &'static str, value: Box<RawValue>) {
        self.0.push((Cow::Borrowed(name), Cow::Owned(value)));
    }

    pub(crate) fn push_raw(&mut self, name: &'static str, value: &'a RawValue) {
        self.0.push((Cow::Borrowed(name), Cow::Borrowed(value)));
    }

    /// Copies members of the input.
    pub(crate) fn extend(&mut self, members: impl Iterator<Item = (Cow<'a, str>, &'a RawValue)>) {
        self.0.extend(members.map(|(name, value)| (name, Cow::Borrowed(value))));
    }
}

impl Serialize for RawOutput<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawObject<'de>;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom(format!("more than {MAX_MEMBERS} members")));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(RawObject(members))
            }
        }
        from.deserialize_map(Members)
    }
}

/// Checks that `text` is an array of `T` without keeping its elements.
///
/// # Errors
/// `text` is not such an array.
pub(crate) fn check_array<T: DeserializeOwned>(text: &str) -> serde_json::Result<()> {
    for_each(text, |element| serde_json::from_str::<T>(element.get()).map(drop))
}

/// Calls `visit` for each element of an array, one at a time; stops at the first error.
///
/// # Errors
/// `text` is not an array, or the first error of `visit`.
pub(crate) fn for_each<'a>(
    text: &'a str,
    visit: impl FnMut(&'a RawValue) -> serde_json::Result<()>,
) -> serde_json::Result<()> {
    struct Elements<F>(F);
    impl<'de, F: FnMut(&'de RawValue) -> serde_json::Result<()>> Visitor<'de> for Elements<F> {
        type Value = ();

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
            while let Some(element) = elements.next_element()? {
                (self.0)(element).map_err(A::Error::custom)?;
            }
            Ok(())
        }
    }
    let mut from = serde_json::Deserializer::from_str(text);
    from.deserialize_seq(Elements(visit))
}

/// Whether `text` is an array without elements.
pub(crate) fn is_empty_array(text: &str) -> bool {
    matches!(serde_json::from_str::<[IgnoredAny; 0]>(text), Ok([]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_text() {
        let text = r#"{"b":1.50,"a\n":{"x":[ 1 ]},"b2":null}"#;
        let object = RawObject::parse(text).unwrap();
        assert_eq!(object.get("b").unwrap().get(), "1.50");
        assert!(object.get("x").is_none());
        let mut out = RawOutput::default();
        out.extend(object.into_members());
        assert_eq!(serde_json::to_string(&out).unwrap(), text);
        assert!(RawObject::parse("[]").is_err());
    }

    #[test]
    fn number_of_members_is_limited() {
        let members = |count: usize| format!("{{{}}}", vec!["\"\":0"; count].join(","));
        assert!(RawObject::parse(&members(MAX_MEMBERS)).is_ok());
        assert!(RawObject::parse(&members(MAX_MEMBERS + 1)).is_err());
    }

    #[test]
    fn arrays_are_checked_element_by_element() {
        assert!(check_array::<u8>("[1,2]").is_ok());
        assert!(check_array::<u8>("[1,\"x\"]").is_err());
        assert!(check_array::<u8>("5").is_err());
        assert!(is_empty_array(" [ ] ") && !is_empty_array("[0]") && !is_empty_array("{}"));
    }
}
