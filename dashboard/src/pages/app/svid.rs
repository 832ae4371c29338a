//! The SVID that a sidecar presents to others: whose it is, and until when. Pure.

use identity::{CertChain, SpiffeId, expiry_step, verify_svid};
use jiff::Timestamp;
use serde::Serialize;

use crate::html::{Html, text};
use crate::model::Snapshot;
use crate::model::pod::Pod;
use crate::pages::parts::{Level, badge};
use crate::pages::{certificates, words};
use crate::peers::{Answer, Question, Wanted};

/// The SVID of one pod's sidecar.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Svid {
    level: Level,
    /// SPIFFE id; absent if the sidecar presented none.
    id: Option<String>,
    /// Expiry in RFC 3339.
    expires: Option<String>,
    /// The time left, or what is wrong.
    words: String,
}

/// The question to a sidecar; `None` without mTLS.
pub(super) fn question(pod: &Pod) -> Option<Question> {
    let port = pod.ports.internal.filter(|_| pod.arguments.has_mtls)?;
    Some(Question { address: pod.address?, port, wanted: Wanted::Svid })
}

impl Svid {
    /// Reads the chain that the sidecar of an application presented. It counts as signed by the CA
    /// where the user may not see the trust bundle.
    pub(super) fn read(
        snapshot: &Snapshot,
        (namespace, app_id): (&str, &str),
        answer: &Answer,
        now: Timestamp,
    ) -> Self {
        let wrong = |words: String| Self { level: Level::Error, id: None, expires: None, words };
        let chain = match answer.as_ref().map(|pem| CertChain::parse_pem(pem)) {
            Ok(Ok(chain)) => chain,
            Ok(Err(error)) => return wrong(format!("the certificate cannot be read: {error}")),
            Err(error) => return wrong(error.to_string()),
        };
        let (id, end) = (chain.leaf_id().ok(), chain.not_after());
        let left = now.duration_until(end).as_secs();
        let is_own =
            |id: &SpiffeId| id.namespace() == Some(namespace) && id.app_id() == Some(app_id);
        let refused = certificates::anchors(snapshot)
            .and_then(Result::ok)
            .and_then(|anchors| verify_svid(chain.certs(), &anchors, now).err());
        let (level, words) = match refused {
            _ if left <= 0 => (Level::Error, format!("expired {} ago", words::span(-left))),
            _ if !id.as_ref().is_some_and(is_own) => {
                (Level::Error, "it is that of another application".to_owned())
            }
            Some(error) => (Level::Error, format!("other sidecars refuse it: {error}")),
            None => {
                let is_late = expiry_step(chain.not_before(), end, now).is_some();
                let level = if is_late { Level::Warning } else { Level::Ok };
                (level, format!("{} left", words::span(left)))
            }
        };
        let id = id.map(|id| id.to_string());
        Self { level, id, expires: Some(end.to_string()), words }
    }

    /// How it is, and whose.
    pub(super) fn render(&self) -> Html {
        let id = self.id.as_ref().map(|id| text(format!(" {id}")));
        std::iter::once(badge(self.level, &self.words)).chain(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use resources::names;
    use rstest::rstest;
    use testkit::ca::Ca;

    use super::*;
    use crate::model::Watched;

    /// A cluster with the trust bundle of this CA.
    fn cluster(ca: &Ca) -> Snapshot {
        let key = ("dapr-system".to_owned(), names::TRUST_BUNDLE.to_owned());
        let anchors = Watched::of([(key, ca.anchors().pem().to_owned())], None);
        Snapshot { anchors, ..Snapshot::of_pods([]) }
    }

    /// How the SVID of `shop/cart` is this many hours after now.
    fn after(ca: &Ca, trusted: &Ca, hours: i64) -> Svid {
        let pem = ca.svid("shop", "cart").chain.to_pem();
        let now = runtime::clock::now().checked_add(hours.hours()).unwrap();
        Svid::read(&cluster(trusted), ("shop", "cart"), &Ok(pem.into()), now)
    }

    #[test]
    fn the_time_left_is_said_and_the_end_is_an_error() {
        let ca = Ca::new();
        let now = after(&ca, &ca, 0);
        assert_eq!((now.level, now.id.as_deref()), (Level::Ok, Some(ID)), "{now:?}");
        assert!(now.words.ends_with(" left"), "{now:?}");
        let ended = after(&ca, &ca, 24 * 3650);
        assert_eq!(ended.level, Level::Error);
        assert!(ended.words.starts_with("expired "), "{ended:?}");
    }

    const ID: &str = "spiffe://cluster.local/ns/shop/cart";

    #[test]
    fn a_certificate_of_another_ca_is_an_error() {
        let (ca, other) = (Ca::new(), Ca::new());
        let found = after(&ca, &other, 0);
        assert_eq!(found.level, Level::Error);
        assert!(found.words.starts_with("other sidecars refuse it"), "{found:?}");
    }

    #[rstest]
    #[case("bank", "cart")]
    #[case("shop", "other")]
    fn the_certificate_of_another_application_is_an_error(
        #[case] namespace: &str,
        #[case] app_id: &str,
    ) {
        let ca = Ca::new();
        let pem = ca.svid("shop", "cart").chain.to_pem();
        let answer = Ok(pem.into());
        let now = runtime::clock::now();
        let found = Svid::read(&cluster(&ca), (namespace, app_id), &answer, now);
        assert_eq!(found.level, Level::Error);
        assert!(found.words.contains("another application"), "{found:?}");
    }

    #[test]
    fn what_is_no_certificate_is_said() {
        let now = runtime::clock::now();
        let of = |answer: &Answer| Svid::read(&Snapshot::default(), ("a", "b"), answer, now).words;
        assert!(of(&Ok("no PEM".into())).starts_with("the certificate cannot be read"));
        let refused = Err(crate::peers::AskError::Address([127, 0, 0, 1].into()));
        assert!(of(&refused).contains("no address of a sidecar"));
    }
}
