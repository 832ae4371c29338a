//! Which host owns an actor, as each sidecar computes it from placement's table. Placement does not
//! need it to serve; the dashboard and the tests do. Source: Dapr 1.18, actor routing.
//!
//! The package is pure: values in, values out.

use std::collections::BTreeMap;

use blake2::{Blake2b512, Digest as _};

/// Virtual nodes of a host where placement says nothing else (Dapr 1.18, `--replicationFactor`).
pub const VIRTUAL_NODES: u32 = 100;

/// Number of values of a hash, 2^64.
const VALUES: f64 = 18_446_744_073_709_551_616.0;

/// The consistent-hash ring of one actor type in one namespace.
#[derive(Debug, Clone)]
pub struct Ring<'a> {
    /// Virtual nodes by value, each with its host.
    nodes: Vec<(u64, &'a str)>,
}

impl<'a> Ring<'a> {
    /// The ring of these hosts with `replicas` virtual nodes each; an actor has no owner if it is
    /// empty. Takes 24 bytes and a hash for each virtual node.
    pub fn new(hosts: impl IntoIterator<Item = &'a str>, replicas: u32) -> Self {
        let mut nodes: Vec<(u64, &str)> = hosts
            .into_iter()
            .flat_map(|host| (0..replicas).map(move |i| (hash(&format!("{host}{i}")), host)))
            .collect();
        nodes.sort_unstable();
        Self { nodes }
    }

    /// The host that owns an actor: that of the first node at or after the hash of its id, wrapping
    /// around. The actor's type is not part of the hash.
    pub fn owner(&self, actor_id: &str) -> Option<&'a str> {
        let value = hash(actor_id);
        let at = self.nodes.partition_point(|(node, _)| *node < value);
        self.nodes.get(at).or_else(|| self.nodes.first()).map(|(_, host)| *host)
    }

    /// The hashes of the virtual nodes, ascending.
    pub fn nodes(&self) -> &[(u64, &'a str)] {
        &self.nodes
    }

    /// The part of all actor ids that each host owns, of 1 together: for each node the values after
    /// the node before it, up to its own. A host without nodes is left out.
    pub fn shares(&self) -> BTreeMap<&'a str, f64> {
        let mut shares = BTreeMap::new();
        let Some((mut before, _)) = self.nodes.last().copied() else { return shares };
        let only = self.nodes.len() == 1;
        for (node, host) in &self.nodes {
            #[expect(clippy::cast_precision_loss, reason = "a share is an approximation")]
            let values = if only { VALUES } else { node.wrapping_sub(before) as f64 };
            *shares.entry(*host).or_default() += values / VALUES;
            before = *node;
        }
        shares
    }
}

/// The first eight bytes of BLAKE2b-512 (RFC 7693) of the text, little-endian.
pub fn hash(text: &str) -> u64 {
    let digest = Blake2b512::digest(text.as_bytes());
    let mut first = [0; 8];
    first.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    u64::from_le_bytes(first)
}
