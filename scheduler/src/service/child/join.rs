//! How a member without files starts: with the first members of a cluster, or added to one that
//! runs. One that the others have known with data must not start: etcd would use its id again
//! without what it has promised the others. Pure.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::Peer;

/// The value of `--initial-cluster-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClusterState {
    New,
    Existing,
}

impl ClusterState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Existing => "existing",
        }
    }
}

/// Why a member without files does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DataLost {
    #[error(
        "{} holds no data of member {name} of the etcd, and the other members know it with data: \
         they have all jobs and fire them. {NOTHING}. At the client port of another member, run \
         `etcdctl member remove {id:x}` and then `etcdctl member add {name} --peer-urls={url}`: \
         this member then joins by itself", .directory.display()
    )]
    Known { directory: PathBuf, name: String, url: String, id: u64 },
    #[error(
        "{} holds no data of member {name} of the etcd, and the other members do not know it: \
         they have all jobs and fire them. {NOTHING}. At the client port of another member, run \
         `etcdctl member add {name} --peer-urls={url}`: this member then joins by itself",
        .directory.display()
    )]
    Removed { directory: PathBuf, name: String, url: String },
}

const NOTHING: &str = "Here no job is written, fired or deleted";

/// A member of a cluster that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    id: u64,
    /// Empty until a member that was added by hand has started.
    name: String,
    peer_urls: Vec<String>,
    /// Whether it has been a member with data.
    started: bool,
}

/// Parses the members that etcd lists on the peer port, at `/members`. Source: etcd 3.5.
pub(super) fn parse(body: &[u8]) -> Option<Vec<Listed>> {
    let members: Vec<Value> = serde_json::from_slice(body).ok()?;
    members.iter().map(listed).collect()
}

fn listed(member: &Value) -> Option<Listed> {
    let urls = |key: &str| member.get(key).and_then(Value::as_array).into_iter().flatten();
    Some(Listed {
        id: member.get("id")?.as_u64()?,
        name: member.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        peer_urls: urls("peerURLs").filter_map(Value::as_str).map(str::to_owned).collect(),
        started: urls("clientURLs").next().is_some(),
    })
}

/// How the own member starts without files, beside members that list these.
///
/// # Errors
/// [`DataLost`]
pub(super) fn judge(
    listed: &[Listed],
    own: &Peer,
    directory: &Path,
) -> Result<ClusterState, DataLost> {
    let (directory, name, url) = (directory.to_owned(), own.id.clone(), own.url.clone());
    match listed.iter().find(|member| member.peer_urls.contains(&url)) {
        None => Err(DataLost::Removed { directory, name, url }),
        Some(member) if member.started => {
            Err(DataLost::Known { directory, name, url, id: member.id })
        }
        Some(member) if member.name.is_empty() => Ok(ClusterState::Existing),
        // It is one of the first members, and the others have started before it.
        Some(_) => Ok(ClusterState::New),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const OTHER: &str =
        r#"{"id":1,"peerURLs":["http://a:1"],"name":"a","clientURLs":["http://c"]}"#;

    fn judge_with(own: &str) -> Result<ClusterState, String> {
        let listed = parse(format!("[{OTHER}{own}]").as_bytes()).unwrap();
        let peer = Peer { id: "b".into(), url: "http://b:2".into() };
        judge(&listed, &peer, Path::new("/data")).map_err(|lost| lost.to_string())
    }

    #[rstest]
    #[case::first(r#",{"id":2,"peerURLs":["http://b:2"],"name":"b"}"#, ClusterState::New)]
    #[case::added(r#",{"id":3,"peerURLs":["http://b:2"],"name":""}"#, ClusterState::Existing)]
    #[case::added_nameless(r#",{"id":3,"peerURLs":["http://b:2"]}"#, ClusterState::Existing)]
    fn a_member_without_data_starts(#[case] own: &str, #[case] want: ClusterState) {
        assert_eq!(judge_with(own), Ok(want));
    }

    #[test]
    fn a_member_that_others_know_with_data_names_the_steps() {
        let own = r#",{"id":255,"peerURLs":["http://b:2"],"name":"b","clientURLs":["http://d"]}"#;
        let sentence = judge_with(own).unwrap_err();
        for step in ["member remove ff`", "`etcdctl member add b --peer-urls=http://b:2`"] {
            assert!(sentence.contains(step), "{sentence}");
        }
    }

    #[test]
    fn a_member_that_was_removed_is_not_started_before_it_is_added() {
        let sentence = judge_with("").unwrap_err();
        assert!(!sentence.contains("member remove"), "{sentence}");
        assert!(sentence.contains("`etcdctl member add b --peer-urls=http://b:2`"), "{sentence}");
    }

    #[rstest]
    #[case("")]
    #[case("{}")]
    #[case(r#"[{"name":"a"}]"#)]
    fn other_answers_are_no_list(#[case] body: &str) {
        assert_eq!(parse(body.as_bytes()), None);
    }
}
