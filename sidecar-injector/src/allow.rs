//! Who may have sidecars injected: the creators of pods that the administrator trusts.

use crate::glob::Glob;

/// Controllers that create pods; always allowed. Source: Dapr 1.18.3, injector.
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
/// Cluster administrators. Source: Kubernetes, RBAC default bindings.
const ADMINS: &str = "system:masters";
/// How the API server names a ServiceAccount. Source: Kubernetes, authentication.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Who asks to create a pod, from the AdmissionReview.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default)]
pub struct UserInfo {
    /// `system:serviceaccount:<namespace>:<name>`, or a person's name.
    pub username: String,
    /// The identity provider's id of the user; a ServiceAccount's UID.
    pub uid: String,
    /// The user's groups; `null` counts as none.
    pub groups: Option<Vec<String>>,
}

/// The allowed creators.
#[derive(Debug, Clone)]
pub struct AllowList {
    patterns: Vec<(Glob, Glob)>,
}

/// An entry of the allow-list that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "allowed service account {entry:?}: {why}; write namespace:name, each with the wildcards * ? [a-z]"
)]
pub struct BadPattern {
    entry: String,
    why: &'static str,
}

impl AllowList {
    /// Reads comma lists of `namespace:name` patterns; the built-in controllers come on top.
    ///
    /// # Errors
    /// An entry has not exactly one `:`, is empty on both sides, or is a malformed pattern.
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
    pub fn admits(&self, user: &UserInfo, known_uids: &[String]) -> bool {
        let groups = user.groups.as_deref().unwrap_or_default();
        groups.iter().any(|group| group == ADMINS)
            || (!user.uid.is_empty() && known_uids.contains(&user.uid))
            || self.admits_name(&user.username)
    }

    fn admits_name(&self, username: &str) -> bool {
        let Some(account) = username.strip_prefix(SERVICE_ACCOUNT) else { return false };
        let mut parts = account.split(':');
        let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { return false };
        self.patterns.iter().any(|(ns, n)| ns.matches(namespace) && n.matches(name))
    }

    /// The listed accounts without wildcards, as namespace and name.
    pub fn exact_accounts(&self) -> Vec<(String, String)> {
        self.patterns.iter().filter_map(|(ns, n)| Some((ns.literal()?, n.literal()?))).collect()
    }
}

fn pattern(entry: &str) -> Result<(Glob, Glob), BadPattern> {
    let bad = |why| BadPattern { entry: entry.to_owned(), why };
    let (namespace, name) = entry.split_once(':').ok_or_else(|| bad("no ':' in it"))?;
    if name.contains(':') {
        return Err(bad("more than one ':' in it"));
    }
    let (namespace, name) = (namespace.trim(), name.trim());
    if namespace.is_empty() && name.is_empty() {
        return Err(bad("namespace and name are both empty"));
    }
    let glob = |half| Glob::parse(half).map_err(|_| bad("a wildcard is not finished"));
    Ok((glob(namespace)?, glob(name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

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
    fn groups_and_known_uids_admit_too() {
        let allow = AllowList::parse([]).unwrap();
        let mut user = UserInfo { username: "jane".into(), ..UserInfo::default() };
        assert!(!allow.admits(&user, &[String::new()]));
        user.uid = "u1".into();
        assert!(allow.admits(&user, &["u1".into()]));
        assert!(!allow.admits(&user, &["u2".into()]));
        user.groups = Some(vec!["system:authenticated".into(), ADMINS.into()]);
        assert!(allow.admits(&user, &[]));
    }

    #[test]
    fn only_the_first_two_parts_of_a_username_count() {
        let allow = AllowList::parse(["a:b"]).unwrap();
        assert!(allow.admits(&account("a", "b:c"), &[]));
        assert!(!allow.admits(&account("a", "c:b"), &[]));
    }

    #[rstest]
    #[case("nocolon", "no ':' in it")]
    #[case("a:b:c", "more than one ':' in it")]
    #[case(" : ", "namespace and name are both empty")]
    #[case("a:[", "a wildcard is not finished")]
    fn names_the_bad_entry(#[case] entry: &str, #[case] why: &str) {
        let error = AllowList::parse([entry]).unwrap_err();
        assert_eq!((error.entry.as_str(), error.why), (entry.trim(), why));
    }

    #[test]
    fn exact_accounts_leave_out_wildcards() {
        let allow = AllowList::parse(["a:b,x*:y"]).unwrap();
        let exact = allow.exact_accounts();
        assert_eq!(exact.len(), BUILT_IN.len() + 1);
        assert!(exact.contains(&("a".into(), "b".into())));
    }
}
