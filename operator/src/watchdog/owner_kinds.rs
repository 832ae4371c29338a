//! The kinds of controllers that replace a deleted pod without loss.
//!
//! Pure. A Job may count the deletion as a failure, and a controller such as that of a `TaskRun` or
//! a workflow creates no second pod: the work of the first is lost.
use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The built-in kinds (Kubernetes): group, which is empty for the core group, and kind.
const BUILT_IN: [(&str, &str); 4] = [
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("apps", "DaemonSet"),
    ("", "ReplicationController"),
];
/// Kinds that a flag may add: more than any cluster has; bounds each lookup.
const MAX_KINDS: usize = 64;

/// Why a list of kinds is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerKindsError {
    /// An entry is not `Kind.group`.
    #[error("--watchdog-owner-kinds: {0:?} is not Kind.group, such as CloneSet.apps.kruise.io")]
    NotAKind(String),
    /// More entries than allowed.
    #[error("--watchdog-owner-kinds has {0} entries; {MAX_KINDS} are allowed")]
    TooMany(usize),
}

/// Controllers whose pods may be deleted: the built-in ones and those of a flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnerKinds(BTreeSet<(String, String)>);

impl OwnerKinds {
    /// Parses `Kind.group` entries separated by commas; blanks around an entry are ignored.
    ///
    /// # Errors
    /// [`OwnerKindsError`]: an entry without kind or group, more than 64 entries.
    pub(crate) fn parse(text: &str) -> Result<Self, OwnerKindsError> {
        let entries: Vec<_> = text.split(',').map(str::trim).filter(|e| !e.is_empty()).collect();
        if entries.len() > MAX_KINDS {
            return Err(OwnerKindsError::TooMany(entries.len()));
        }
        let parse = |entry: &&str| match entry.split_once('.') {
            Some((kind, group))
                if kind.starts_with(|c: char| c.is_ascii_uppercase()) && !group.is_empty() =>
            {
                Ok((group.to_owned(), kind.to_owned()))
            }
            _ => Err(OwnerKindsError::NotAKind((*entry).to_owned())),
        };
        entries.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether this controller creates another pod when one is deleted.
    pub(crate) fn replace_pods(&self, owner: &OwnerReference) -> bool {
        let (group, kind) = (group(owner), owner.kind.as_str());
        BUILT_IN.contains(&(group, kind))
            || self.0.iter().any(|known| known.0 == group && known.1 == kind)
    }

    /// `Kind.group` of a controller; only the kind in the core group.
    pub(crate) fn name_of(owner: &OwnerReference) -> String {
        match group(owner) {
            "" => owner.kind.clone(),
            group => format!("{}.{group}", owner.kind),
        }
    }
}

fn group(owner: &OwnerReference) -> &str {
    owner.api_version.split_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_kinds_with_their_group() {
        let kinds = OwnerKinds::parse(" CloneSet.apps.kruise.io, Rollout.argoproj.io,").unwrap();
        assert_eq!(kinds.0.len(), 2);
        assert_eq!(OwnerKinds::parse("").unwrap(), OwnerKinds::default());
        for wrong in ["CloneSet", "cloneset.apps", "CloneSet."] {
            assert_eq!(OwnerKinds::parse(wrong), Err(OwnerKindsError::NotAKind(wrong.to_owned())));
        }
    }

    #[test]
    fn the_number_of_entries_is_limited() {
        let list = |n: usize| (0..n).map(|i| format!("K{i}.g")).collect::<Vec<_>>().join(",");
        assert_eq!(OwnerKinds::parse(&list(64)).unwrap().0.len(), 64);
        assert_eq!(OwnerKinds::parse(&list(65)), Err(OwnerKindsError::TooMany(65)));
    }
}
