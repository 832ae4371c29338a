//! The types, versions and metadata of the official components.
//!
//! The table is embedded text with one line per type and version, which each lookup scans. Its source
//! is documented in `data/component-types.txt`.

const TABLE: &str = include_str!("../../data/component-types.txt");

/// One version of a component type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ComponentType {
    pub(crate) version: &'static str,
    /// The metadata column of the table; `None` when it is unknown.
    metadata: Option<&'static str>,
}

/// A metadata field of a component type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The name; daprd ignores its case.
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    /// Whether the value is a secret.
    pub(crate) sensitive: bool,
}

impl ComponentType {
    /// The metadata fields; `None` when they are unknown.
    pub(crate) fn settings(&self) -> Option<impl Iterator<Item = Setting> + use<>> {
        Some(self.metadata?.split_whitespace().map(|word| {
            let name = word.trim_end_matches(['!', '*']);
            let marks = word.get(name.len()..).unwrap_or_default();
            Setting { name, required: marks.contains('!'), sensitive: marks.contains('*') }
        }))
    }
}

/// The lines of the table: the names of a type and one of its versions.
fn lines() -> impl Iterator<Item = (&'static str, ComponentType)> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (head, metadata) = match line.split_once(':') {
            Some((head, metadata)) => (head, Some(metadata)),
            None => (line, None),
        };
        let mut words = head.split_whitespace();
        let (names, version) = (words.next()?, words.next()?);
        Some((names, ComponentType { version, metadata }))
    })
}

/// The versions of a type, by any of its names; empty for an unknown type.
pub(crate) fn versions(type_: &str) -> Vec<ComponentType> {
    let named = |names: &str| names.split(',').any(|name| name.eq_ignore_ascii_case(type_));
    lines().filter(|(names, _)| named(names)).map(|(_, version)| version).collect()
}

/// The names of all types.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    lines().flat_map(|(names, _)| names.split(','))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_line_is_parsed() {
        let data = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert!(data > 100, "{data}");
        assert_eq!(lines().count(), data);
        let mut seen = BTreeSet::new();
        for (names, ComponentType { version, .. }) in lines() {
            assert!(version.starts_with('v'), "{names} {version}");
            for name in names.split(',') {
                assert!(name.split_once('.').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()));
                assert!(seen.insert((name, version)), "duplicate {name} {version}");
            }
        }
    }

    #[test]
    fn finds_types_by_each_name() {
        let redis = versions("state.redis");
        assert_eq!(redis.len(), 1);
        assert_eq!(redis[0].version, "v1");
        let settings: Vec<_> = redis[0].settings().unwrap().collect();
        let find = |name: &str| *settings.iter().find(|s| s.name == name).unwrap();
        assert!(find("redisHost").required && !find("redisHost").sensitive);
        assert!(find("redisPassword").sensitive && !find("redisPassword").required);
        assert_eq!(versions("state.postgresql").len(), 2);
        assert_eq!(versions("state.postgres").len(), 2, "an alias");
        assert!(versions("state.cockroachdb").iter().any(|v| v.settings().is_none()));
        assert!(versions("state.rediss").is_empty());
    }
}
