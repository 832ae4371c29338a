//! What sidecars say: the certificates that they present, and their connections to the control plane.

use std::collections::BTreeMap;

use identity::{TrustAnchors, verify_svid};

use crate::checks::finding::{Finding, Group, about, some_of};
use crate::facts::answers::{self, Answers, Presented};
use crate::facts::{Fact, Facts, ReadError};
use crate::output::words;
use crate::pods::Pod;

const GROUP: Group = Group::DataPlane;
const CERTIFICATES: &str = "workload-certificates";
const CONNECTIONS: &str = "sidecar-connections";

/// No findings if no sidecar was to be asked.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(answers) = &facts.answers else { return Vec::new() };
    vec![certificates(facts, answers), connections(facts, answers)]
}

/// The state of a sidecar's certificate.
enum Validity {
    Valid,
    /// It should have been renewed; the text is about the time left.
    Late(String),
    /// Other sidecars reject it, with the reason.
    Rejected(String),
}

fn validity(pod: &Pod, own: &Presented, anchors: Option<&TrustAnchors>, facts: &Facts) -> Validity {
    let now = facts.now();
    let path = format!("/ns/{}/{}", pod.namespace, pod.app_id());
    if own.not_after <= now {
        return Validity::Rejected(format!("expired on {}", own.not_after));
    }
    if !own.id.as_deref().is_some_and(|id| id.ends_with(&path)) {
        let id = own.id.as_deref().unwrap_or("no SPIFFE id");
        return Validity::Rejected(format!("is that of another app, {id}"));
    }
    match anchors.map(|anchors| verify_svid(&own.chain, anchors, now)) {
        Some(Err(error)) => Validity::Rejected(runtime::chain(&error)),
        Some(Ok(_)) | None if own.is_late(now) => {
            Validity::Late(format!("expires in {}", words::span(own.seconds_left(now))))
        }
        Some(Ok(_)) | None => Validity::Valid,
    }
}

/// The certificates end at the published trust anchors, and sidecars renew them in time.
fn certificates(facts: &Facts, answers: &Answers) -> Finding {
    let id = CERTIFICATES;
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let published = &facts.trust.published;
        let anchors = published.as_ref().ok().and_then(Option::as_ref);
        let anchors = anchors.and_then(|pem| TrustAnchors::parse_pem(pem.as_bytes()).ok());
        let (mut rejected, mut late, mut valid) = (Vec::new(), Vec::new(), 0);
        let asked = answered(pods, &answers.certificates);
        for (pod, own) in &asked.answers {
            let with = |why: String| format!("{}: {why}", pod.id());
            match validity(pod, own, anchors.as_ref(), facts) {
                Validity::Valid => valid += 1,
                Validity::Late(why) => late.push(with(why)),
                Validity::Rejected(why) => rejected.push(with(why)),
            }
        }
        let number = asked.number(pods.iter().filter(|pod| has_mtls(pod)));
        if !rejected.is_empty() {
            rejected.append(&mut late);
            return Finding::error(
                GROUP,
                id,
                format!("other sidecars reject certificates{number}: {}", some_of(&rejected)),
                "check the log of the sidecar and of sentry; then restart the app with kubectl rollout \
                 restart, which requests a new certificate",
            );
        }
        if !late.is_empty() {
            return Finding::warning(
                GROUP,
                id,
                format!("sidecars did not renew their certificates{number}: {}", some_of(&late)),
                "check the log of the sidecar, which renews its certificate long before this, and that it \
                 reaches sentry",
            );
        }
        let unread = published.as_ref().err().filter(|_| valid > 0);
        if let Some(error) = asked.errors.first().copied().or(unread) {
            return Finding::unknown(GROUP, id, error);
        }
        match valid {
            0 => Finding::ok(GROUP, id, "no sidecar that is ready uses mTLS"),
            _ if anchors.is_none() => {
                let text = format!(
                    "certificates of sidecars are valid{number}; no trust anchors are published to verify them"
                );
                Finding::ok(GROUP, id, text)
            }
            _ => {
                let text = format!("certificates of sidecars are valid and trusted{number}");
                Finding::ok(GROUP, id, text)
            }
        }
    })
}

fn has_mtls(pod: &Pod) -> bool {
    pod.sidecar().is_some_and(|sidecar| sidecar.arguments.has_mtls)
}

/// Sidecars are connected to placement and the scheduler, unless they have no address of it.
fn connections(facts: &Facts, answers: &Answers) -> Finding {
    let id = CONNECTIONS;
    about(GROUP, id, &facts.cluster.pods, |pods| {
        let asked = answered(pods, &answers.metadata);
        let lost = asked.answers.iter().filter_map(|(pod, metadata)| {
            let lost = answers::disconnected(metadata, pod.sidecar()?.arguments);
            (!lost.is_empty()).then(|| format!("{} to {}", pod.id(), lost.join(" and ")))
        });
        let lost: Vec<_> = lost.collect();
        let number = asked.number(pods.iter());
        if !lost.is_empty() {
            return Finding::warning(
                GROUP,
                id,
                format!("sidecars are not connected{number}: {}", some_of(&lost)),
                "they connect again by themselves; otherwise check the log of the sidecar, and that network \
                 policies allow TCP 50005 to dapr-placement-server and 50006 to dapr-scheduler-server",
            );
        }
        if let Some(error) = asked.errors.first() {
            return Finding::unknown(GROUP, id, error);
        }
        match asked.answers.len() {
            0 => Finding::ok(GROUP, id, "no sidecar is ready"),
            _ => Finding::ok(
                GROUP,
                id,
                format!("no sidecar lacks a connection to placement or the scheduler{number}"),
            ),
        }
    })
}

/// What the sidecars of some pods answered to one question.
struct Answered<'a, T> {
    answers: Vec<(&'a Pod, &'a T)>,
    /// Of those that did not answer.
    errors: Vec<&'a ReadError>,
}

fn answered<'a, T>(pods: &'a [Pod], all: &'a BTreeMap<String, Fact<T>>) -> Answered<'a, T> {
    let mut answered = Answered { answers: Vec::new(), errors: Vec::new() };
    for pod in pods {
        match all.get(&pod.id()) {
            Some(Ok(answer)) => answered.answers.push((pod, answer)),
            Some(Err(error)) => answered.errors.push(error),
            None => {}
        }
    }
    answered
}

impl<T> Answered<'_, T> {
    /// How many of these sidecars answered.
    fn number<'p>(&self, of: impl Iterator<Item = &'p Pod>) -> String {
        let total = of.filter(|pod| answers::is_ready(pod)).count();
        format!(" ({} of {total} answered)", self.answers.len())
    }
}
