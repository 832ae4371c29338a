//! What the official components are called and which metadata they take.
//!
//! The data is text in the program, one line for each type and version; a look-up reads it and
//! keeps nothing. Where it comes from is said in `data/component-types.txt`.

const TABLE: &str = include_str!("../data/component-types.txt");

/// One version of a type of component.
#[derive(Clone, Copy, Debug)]
pub struct ComponentType {
    /// Its version.
    pub version: &'static str,
    /// The metadata it takes, as in the table; `None` where that is not written down.
    metadata: Option<&'static str>,
}

/// A name of metadata that a type takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name; daprd compares without regard to case.
    pub name: &'static str,
    /// It must be given.
    pub required: bool,
    /// Its value is a secret.
    pub sensitive: bool,
}

impl ComponentType {
    /// What it takes; `None` where that is not known.
    pub fn settings(&self) -> Option<impl Iterator<Item = Setting> + use<>> {
        Some(self.metadata?.split_whitespace().map(|word| {
            let name = word.trim_end_matches(['!', '*']);
            let marks = word.get(name.len()..).unwrap_or_default();
            Setting { name, required: marks.contains('!'), sensitive: marks.contains('*') }
        }))
    }
}

/// Each line: the names of a type, and one version of it.
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

/// The versions of a type, by any of its names; empty for a type that is not official.
pub fn versions(type_: &str) -> Vec<ComponentType> {
    let named = |names: &str| names.split(',').any(|name| name.eq_ignore_ascii_case(type_));
    lines().filter(|(names, _)| named(names)).map(|(_, version)| version).collect()
}

/// All names of all types.
pub fn names() -> impl Iterator<Item = &'static str> {
    lines().flat_map(|(names, _)| names.split(','))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_line_is_understood() {
        let data = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert!(data > 100, "{data}");
        assert_eq!(lines().count(), data);
        let mut seen = BTreeSet::new();
        for (names, ComponentType { version, .. }) in lines() {
            assert!(version.starts_with('v'), "{names} {version}");
            for name in names.split(',') {
                assert!(name.split_once('.').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()));
                assert!(seen.insert((name, version)), "{name} {version} twice");
            }
        }
    }

    #[test]
    fn types_are_found_by_each_name_with_what_they_take() {
        let redis = versions("state.redis");
        assert_eq!(redis.len(), 1);
        assert_eq!(redis[0].version, "v1");
        let settings: Vec<_> = redis[0].settings().unwrap().collect();
        let find = |name: &str| *settings.iter().find(|s| s.name == name).unwrap();
        assert!(find("redisHost").required && !find("redisHost").sensitive);
        assert!(find("redisPassword").sensitive && !find("redisPassword").required);
        assert_eq!(versions("state.postgresql").len(), 2);
        assert_eq!(versions("state.postgres").len(), 2, "another name of the same");
        assert!(versions("state.cockroachdb").iter().any(|v| v.settings().is_none()));
        assert!(versions("state.rediss").is_empty());
    }
}
