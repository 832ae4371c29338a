//! The types, versions and metadata of the official components.
//!
//! The table is embedded text with one line per type and version, which each lookup scans. Its source
//! is documented in `data/component-types.txt`. What is missing there is unknown, not invalid.

const TABLE: &str = include_str!("../data/component-types.txt");

/// One version of a component type.
#[derive(Clone, Copy, Debug)]
pub struct ComponentType {
    /// Version as in a Component's `spec.version`, such as `v1`.
    pub version: &'static str,
    /// The metadata column of the table; `None` when it is unknown.
    metadata: Option<&'static str>,
}

/// A metadata field of a component type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the field; daprd ignores its case.
    pub name: &'static str,
    /// Whether daprd refuses a Component without it.
    pub required: bool,
    /// Whether the value is a secret.
    pub sensitive: bool,
}

impl ComponentType {
    /// The metadata fields; `None` when they are unknown.
    pub fn settings(&self) -> Option<impl Iterator<Item = Setting> + use<>> {
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
pub fn versions(type_: &str) -> Vec<ComponentType> {
    let named = |names: &str| names.split(',').any(|name| name.eq_ignore_ascii_case(type_));
    lines().filter(|(names, _)| named(names)).map(|(_, version)| version).collect()
}

/// The names of all types.
pub fn names() -> impl Iterator<Item = &'static str> {
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

    const RECORDED: &str = include_str!("../../../tests/fixtures/components/daprd-1.18.3.txt");

    /// The lines of the recording: types with versions, and those that begin with "required".
    fn recorded() -> (Vec<Vec<&'static str>>, Vec<Vec<&'static str>>) {
        let lines = RECORDED.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.partition(|line| line[0] != "required")
    }

    #[test]
    fn every_type_and_version_that_daprd_registers_is_known() {
        let (types, _) = recorded();
        assert!(types.len() > 140, "{}", types.len());
        for line in types {
            let known: Vec<_> = versions(line[0]).iter().map(|known| known.version).collect();
            for version in &line[1..] {
                assert!(known.contains(version), "{} {version} is not in the table", line[0]);
            }
        }
    }

    #[test]
    fn only_what_daprd_refuses_to_load_without_is_required() {
        let (_, required) = recorded();
        let mut marks = 0;
        for (names, type_) in lines() {
            let settings = type_.settings().into_iter().flatten().filter(|s| s.required);
            for setting in settings {
                let refused = required.iter().any(|line| {
                    names.split(',').any(|name| name == line[1])
                        && type_.version == line[2]
                        && setting.name == line[3]
                });
                assert!(refused, "{names} {}: {} is not confirmed", type_.version, setting.name);
                marks += 1;
            }
        }
        assert_eq!(marks, required.len(), "each confirmed mark is in the table");
    }

    #[test]
    fn finds_types_by_each_name() {
        let redis = versions("state.redis");
        assert_eq!(redis.len(), 1);
        assert_eq!(redis[0].version, "v1");
        let settings: Vec<_> = redis[0].settings().unwrap().collect();
        let find = |name: &str| *settings.iter().find(|s| s.name == name).unwrap();
        assert!(!find("redisHost").required, "sidecars try port 6379 of the pod without it");
        assert!(find("redisPassword").sensitive && !find("redisPassword").required);
        let etcd: Vec<_> = versions("state.etcd")[0].settings().unwrap().collect();
        assert!(etcd.iter().any(|s| s.name == "endpoints" && s.required && !s.sensitive));
        assert_eq!(versions("state.postgresql").len(), 2);
        assert_eq!(versions("state.postgres").len(), 2, "an alias");
        assert!(versions("state.cockroachdb").iter().any(|v| v.settings().is_none()));
        assert!(versions("state.rediss").is_empty());
    }
}
