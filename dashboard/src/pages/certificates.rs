//! The certificates: roots from the published trust bundle, the expiry of the issuer and the stage of
//! a rotation from sentry's metrics.

use identity::{AnchorsError, TrustAnchors};
use jiff::Timestamp;
use resources::names;
use serde::Serialize;

use super::parts::{Level, badge, section, table};
use super::words;
use crate::html::{Html, el, leaf, text};
use crate::model::Snapshot;
use crate::peers::answers::{METRICS, metric};
use crate::peers::{Answer, Question};

/// Metrics port of the control plane (Dapr 1.18, chart).
const METRICS_PORT: u16 = 9090;
/// Gauge of the issuer's expiry in seconds since 1970 (Dapr 1.18).
const ISSUER_EXPIRY: &str = "dapr_sentry_issuercert_expiry_timestamp";
/// Gauge of the stage of a rotation, 0 without one; Dapr's sentry has none.
const ROTATION_STAGE: &str = "dapr_sentry_ca_rotation_stage";
/// Pods of sentry that are asked.
const MAX_ASKED: usize = 5;

/// A certificate, or several of a bundle.
#[derive(Debug, Serialize)]
pub(super) struct CertificateRow {
    what: &'static str,
    level: Level,
    /// Expiry in RFC 3339.
    expires: Option<String>,
    words: String,
}

impl CertificateRow {
    /// How it is: the time left.
    pub(super) fn badge(&self) -> Html {
        badge(self.level, &self.words)
    }
}

/// The stage of a rotation of the CA, by the names of the annotation `dapr.io/ca-rotation-stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Rotation {
    None,
    /// Both roots are published.
    Distribute,
    /// The new issuer signs.
    Sign,
}

impl Rotation {
    /// That of the replica that is farthest; the others have none.
    fn of(answers: &[Answer]) -> Option<Self> {
        let stages = answers.iter().flatten().filter_map(|body| metric(body, ROTATION_STAGE));
        Some(match stages.reduce(f64::max)? {
            ..1.0 => Self::None,
            ..2.0 => Self::Distribute,
            _ => Self::Sign,
        })
    }

    fn words(self) -> &'static str {
        match self {
            Self::None => "No rotation of the CA is running.",
            Self::Distribute => {
                "A rotation of the CA is running: both roots are published, and the old issuer signs until every sidecar trusts the new root. Restart workloads to go on sooner."
            }
            Self::Sign => {
                "A rotation of the CA is running: the new issuer signs, and the old root is removed when its last certificate has expired."
            }
        }
    }
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct TrustView {
    certificates: Vec<CertificateRow>,
    /// `None` if sentry does not say.
    rotation: Option<Rotation>,
    /// Number of roots that sidecars trust; more than one during a rotation.
    roots: usize,
    /// Trust anchors in PEM, as they are published.
    anchors: Option<String>,
}

/// The questions of this page.
pub(crate) fn questions(snapshot: &Snapshot) -> Vec<Question> {
    let replicas = snapshot.ready_addresses("dapr-sentry").take(MAX_ASKED);
    Question::to_each(replicas, METRICS_PORT, METRICS)
}

/// Builds the view model from the answers.
pub(crate) fn view(snapshot: &Snapshot, answers: &[Answer], now: Timestamp) -> TrustView {
    let missing = "ConfigMap dapr-trust-bundle does not exist: is sentry running?";
    let mut certificates =
        vec![root(snapshot, now).unwrap_or_else(|| broken("Root", missing.to_owned()))];
    let ends = answers.iter().flatten().filter_map(|body| metric(body, ISSUER_EXPIRY));
    #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
    let end = ends.reduce(f64::min).and_then(|at| Timestamp::from_second(at as i64).ok());
    certificates.push(match (end, answers.iter().find_map(|answer| answer.as_ref().err())) {
        (Some(end), _) => row("Issuer", end, now),
        (None, Some(error)) => broken("Issuer", format!("sentry cannot be asked: {error}")),
        (None, None) => broken(
            "Issuer",
            "no pod of sentry is ready, or its metrics are switched off".to_owned(),
        ),
    });
    let anchors = anchors(snapshot).and_then(Result::ok);
    TrustView {
        certificates,
        rotation: Rotation::of(answers),
        roots: anchors.as_ref().map_or(0, |anchors| anchors.certs().len()),
        anchors: anchors.map(|anchors| anchors.pem().to_owned()),
    }
}

/// The published trust anchors.
pub(super) fn anchors(snapshot: &Snapshot) -> Option<Result<TrustAnchors, AnchorsError>> {
    let pem = snapshot.anchors.find(&snapshot.namespace, names::TRUST_BUNDLE)?;
    Some(TrustAnchors::parse_pem(pem.as_bytes()))
}

/// The root that expires first; `None` without a trust bundle.
pub(super) fn root(snapshot: &Snapshot, now: Timestamp) -> Option<CertificateRow> {
    Some(match anchors(snapshot)? {
        Ok(anchors) => match anchors.first_to_end() {
            Some((_, end)) => row("Root", end, now),
            None => broken("Root", "the certificate has no dates".to_owned()),
        },
        Err(error) => broken("Root", format!("the bundle cannot be parsed: {error}")),
    })
}

fn row(what: &'static str, end: Timestamp, now: Timestamp) -> CertificateRow {
    const WARN_SECONDS: i64 = 30 * 24 * 3600;
    let left = now.duration_until(end).as_secs();
    let (level, words) = match left {
        ..=0 => (Level::Error, format!("expired {} ago", words::span(-left))),
        1..=WARN_SECONDS => (Level::Warning, format!("{} left", words::span(left))),
        _ => (Level::Ok, format!("{} left", words::span(left))),
    };
    CertificateRow { what, level, expires: Some(end.to_string()), words }
}

fn broken(what: &'static str, words: String) -> CertificateRow {
    CertificateRow { what, level: Level::Error, expires: None, words }
}

/// The page.
pub(crate) fn render(view: &TrustView) -> Html {
    let rows = view.certificates.iter().map(|row| {
        let expires = row.expires.as_deref().unwrap_or("unknown");
        vec![text(row.what), row.badge(), text(expires)]
    });
    let table = table("Certificates", &["Certificate", "State", "Expires"], rows, "");
    let roots = match (view.roots, view.rotation) {
        (0 | 1, _) => "Sidecars trust one root.".to_owned(),
        (number, None) => {
            format!("Sidecars trust {number} roots: a rotation is running, or was.")
        }
        (number, Some(_)) => format!("Sidecars trust {number} roots."),
    };
    let rotation = view.rotation.map(|stage| leaf("p", stage.words()));
    let anchors = view
        .anchors
        .as_ref()
        .map(|pem| section("Trust anchors", el("pre", &[("tabindex", "0")], [text(pem)])));
    let hint = "Sidecars renew their own certificates, which live a day by default, without a restart. Rotate the CA as docs/day-2.md says.";
    let parts = [Some(table), Some(leaf("p", roots)), rotation, Some(leaf("p", hint)), anchors];
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_stage_of_a_rotation_is_that_of_the_replica_that_runs_it() {
        let said = |stages: &[&str]| {
            let answers: Vec<Answer> = stages
                .iter()
                .map(|stage| Ok(format!("{ROTATION_STAGE} {stage}\n").into()))
                .collect();
            view(&Snapshot::default(), &answers, Timestamp::UNIX_EPOCH).rotation
        };
        assert_eq!(said(&["0"]), Some(Rotation::None));
        assert_eq!(said(&["0", "1", "0"]), Some(Rotation::Distribute));
        assert_eq!(said(&["2", "0"]), Some(Rotation::Sign));
        assert_eq!(said(&[]), None);
        let sign = Some(Rotation::Sign);
        let page = render(&TrustView {
            certificates: Vec::new(),
            rotation: sign,
            roots: 2,
            anchors: None,
        });
        assert!(page.into_document().contains("the new issuer signs"));
    }

    #[test]
    fn only_so_many_pods_of_sentry_are_asked() {
        let asked = |number: usize| {
            let pods = (0..number).map(|index| {
                json!({
                    "metadata": {"namespace": "dapr-system", "name": format!("sentry-{index}"),
                        "labels": {"app": "dapr-sentry"}},
                    "status": {"podIP": "10.0.0.1", "phase": "Running"},
                })
            });
            questions(&Snapshot::of_pods(pods)).len()
        };
        assert_eq!(asked(MAX_ASKED), MAX_ASKED);
        assert_eq!(asked(MAX_ASKED + 1), MAX_ASKED);
    }
}
