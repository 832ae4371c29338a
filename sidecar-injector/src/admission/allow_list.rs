//! The users whose pods get sidecars.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer;
use serde::de::{SeqAccess, Visitor};

use super::glob::Glob;

/// Controllers that create pods. Always allowed. Source: Dapr 1.18.3, injector.
const BUILT_IN: [(&str, &str); 10] = [
    ("kube-system", "replicaset-controller"),
    ("kube-system", "replication-controller"),
    ("kube-system", "deployment-controller"),
    ("kube-system", "cronjob-controller"),
    ("kube-system", "job-controller"),
    ("kube-system", "statefulset-controller"),
    ("kube-system", "daemon-set-controller"),
    ("openshift-operator-lifecycle-manager", "olm-operator-serviceaccount"),
    ("tekton-pipelines", "tekton-pipelines-controller"),
    ("mirrord", "mirrord-operator"),
];
/// Group of cluster administrators. Source: Kubernetes, RBAC default bindings.
const ADMINS: &str = "system:masters";
/// Prefix of the user name of a ServiceAccount. Source: Kubernetes, authentication.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The user of an AdmissionReview.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub(crate) struct UserInfo {
    /// `system:serviceaccount:<namespace>:<name>` for a ServiceAccount.
    pub(crate) username: String,
    /// For a ServiceAccount its UID.
    pub(crate) uid: String,
    /// Whether the user is in the group of administrators. Other groups are not stored: a request
    /// can contain any number.
    #[serde(rename = "groups", deserialize_with = "contains_administrators")]
    pub(crate) is_administrator: bool,
}

/// Patterns of service accounts that are allowed to inject.
#[derive(Debug, Clone)]
pub struct AllowList {
    patterns: Vec<(Glob, Glob)>,
}

/// An entry that is not a valid pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed service account {entry:?}: {why}; use namespace:name, where * ? [a-z] are wildcards"
)]
pub struct BadPattern {
    entry: String,
    why: &'static str,
}

impl AllowList {
    /// Parses comma-separated lists of `namespace:name` patterns. The built-in controllers are added.
    ///
    /// # Errors
    /// An entry does not contain exactly one `:`, is empty on both sides, or is not a valid pattern.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        let mut patterns = Vec::new();
        for (namespace, name) in BUILT_IN {
            patterns.push(pattern(&format!("{namespace}:{name}"))?);
        }
        for list in lists {
            for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                patterns.push(pattern(entry)?);
            }
        }
        Ok(Self { patterns })
    }

    /// Whether this user's pods get sidecars. `known_uids` are those of listed accounts.
    pub(crate) fn admits(&self, user: &UserInfo, known_uids: &[String]) -> bool {
        user.is_administrator
            || (!user.uid.is_empty() && known_uids.contains(&user.uid))
            || self.admits_name(&user.username)
    }

    fn admits_name(&self, username: &str) -> bool {
        let Some(account) = username.strip_prefix(SERVICE_ACCOUNT) else { return false };
        let mut parts = account.split(':');
        let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { return false };
        self.patterns.iter().any(|(ns, n)| ns.matches(namespace) && n.matches(name))
    }

    /// Namespace and name of the service accounts without wildcards.
    pub(crate) fn exact_accounts(&self) -> Vec<(String, String)> {
        self.patterns.iter().filter_map(|(ns, n)| Some((ns.literal()?, n.literal()?))).collect()
    }
}

/// Scans a list of groups without storing it; `null` counts as empty.
fn contains_administrators<'de, D: Deserializer<'de>>(groups: D) -> Result<bool, D::Error> {
    struct Groups;

    impl<'de> Visitor<'de> for Groups {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of strings")
        }

        fn visit_unit<E>(self) -> Result<bool, E> {
            Ok(false)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut groups: A) -> Result<bool, A::Error> {
            let mut found = false;
            while let Some(group) = groups.next_element::<Cow<'de, str>>()? {
                found |= group == ADMINS;
            }
            Ok(found)
        }
    }

    groups.deserialize_any(Groups)
}

fn pattern(entry: &str) -> Result<(Glob, Glob), BadPattern> {
    let bad = |why| BadPattern { entry: entry.to_owned(), why };
    let (namespace, name) = entry.split_once(':').ok_or_else(|| bad("it contains no ':'"))?;
    if name.contains(':') {
        return Err(bad("it contains more than one ':'"));
    }
    let (namespace, name) = (namespace.trim(), name.trim());
    if namespace.is_empty() && name.is_empty() {
        return Err(bad("namespace and name are both empty"));
    }
    let glob = |half| Glob::parse(half).map_err(|_| bad("a wildcard is incomplete"));
    Ok((glob(namespace)?, glob(name)?))
}

/// The users that are allowed to inject.
#[derive(Debug, Clone, Copy)]
pub struct AllowedUsers<'a> {
    /// Patterns of service accounts.
    pub allowed: &'a AllowList,
    /// UIDs of service accounts on the list, if they were read.
    pub uids: &'a [String],
    /// Whether pods that are deliberately not injected get `dapr.io/injection-skipped`.
    pub mark_skipped: bool,
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn account(namespace: &str, name: &str) -> UserInfo {
        UserInfo { username: format!("{SERVICE_ACCOUNT}{namespace}:{name}"), ..UserInfo::default() }
    }

    #[rstest]
    #[case::exact("ci:runner", "ci", "runner", true)]
    #[case::wrong_name("ci:runner", "ci", "runner2", false)]
    #[case::wrong_namespace("ci:runner", "cd", "runner", false)]
    #[case::globs("proj-*:sa-*", "proj-a", "sa-1", true)]
    #[case::globs_no("proj-*:sa-*", "project", "sa-1", false)]
    #[case::one_char("staging-?:deploy", "staging-A", "deploy", true)]
    #[case::two_chars("staging-?:deploy", "staging-10", "deploy", false)]
    #[case::anyone("*:*", "any", "one", true)]
    #[case::blanks(" a : b , c:d", "a", "b", true)]
    #[case::second(" a : b , c:d", "c", "d", true)]
    #[case::built_in("ci:runner", "kube-system", "replicaset-controller", true)]
    #[case::empty_half(":b", "a", "b", false)]
    #[case::case_sensitive("ci:runner", "CI", "runner", false)]
    fn patterns_select_accounts(
        #[case] list: &str,
        #[case] namespace: &str,
        #[case] name: &str,
        #[case] want: bool,
    ) {
        let allow = AllowList::parse([list]).unwrap();
        assert_eq!(allow.admits(&account(namespace, name), &[]), want);
    }

    #[test]
    fn administrators_and_known_uids_are_admitted() {
        let allow = AllowList::parse([]).unwrap();
        let mut user = UserInfo { username: "jane".into(), ..UserInfo::default() };
        assert!(!allow.admits(&user, &[String::new()]));
        user.uid = "u1".into();
        assert!(allow.admits(&user, &["u1".into()]));
        assert!(!allow.admits(&user, &["u2".into()]));
        user.is_administrator = true;
        assert!(allow.admits(&user, &[]));
    }

    #[rstest]
    #[case("{}", false)]
    #[case(r#"{"groups": null}"#, false)]
    #[case(r#"{"groups": ["system:authenticated"]}"#, false)]
    #[case(r#"{"groups": ["system:authenticated", "system:masters"]}"#, true)]
    fn finds_administrators_by_group(#[case] user: &str, #[case] want: bool) {
        assert_eq!(serde_json::from_str::<UserInfo>(user).unwrap().is_administrator, want);
    }

    #[test]
    fn only_the_first_two_parts_of_a_username_count() {
        let allow = AllowList::parse(["a:b"]).unwrap();
        assert!(allow.admits(&account("a", "b:c"), &[]));
        assert!(!allow.admits(&account("a", "c:b"), &[]));
    }

    #[rstest]
    #[case("nocolon", "it contains no ':'")]
    #[case("a:b:c", "it contains more than one ':'")]
    #[case(" : ", "namespace and name are both empty")]
    #[case("a:[", "a wildcard is incomplete")]
    fn names_the_invalid_entry(#[case] entry: &str, #[case] why: &str) {
        let error = AllowList::parse([entry]).unwrap_err();
        assert_eq!((error.entry.as_str(), error.why), (entry.trim(), why));
    }

    #[test]
    fn exact_accounts_exclude_wildcards() {
        let allow = AllowList::parse(["a:b,x*:y"]).unwrap();
        let exact = allow.exact_accounts();
        assert_eq!(exact.len(), BUILT_IN.len() + 1);
        assert!(exact.contains(&("a".into(), "b".into())));
    }
}
