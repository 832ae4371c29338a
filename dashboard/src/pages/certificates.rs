//! The certificates: roots from the published trust bundle, the expiry of the issuer from sentry's
//! metrics.

use identity::TrustAnchors;
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
/// Pods of sentry that are asked.
const MAX_ASKED: usize = 5;

/// A certificate, or several of a bundle.
#[derive(Debug, Serialize)]
struct CertificateRow {
    what: &'static str,
    level: Level,
    /// Expiry in RFC 3339.
    expires: Option<String>,
    words: String,
}

/// The view model.
#[derive(Debug, Serialize)]
pub(crate) struct TrustView {
    certificates: Vec<CertificateRow>,
    /// Number of roots that sidecars trust; more than one during a rotation.
    roots: usize,
    /// Trust anchors in PEM, as they are published.
    anchors: Option<String>,
}

/// The questions of this page.
pub(crate) fn questions(snapshot: &Snapshot) -> Vec<Question> {
    let ask = |address| Question { address, port: METRICS_PORT, path: METRICS };
    snapshot.ready_addresses("dapr-sentry").take(MAX_ASKED).map(ask).collect()
}

/// Builds the view model from the answers.
pub(crate) fn view(snapshot: &Snapshot, answers: &[Answer], now: Timestamp) -> TrustView {
    let pem = snapshot.anchors.find(&snapshot.namespace, names::TRUST_BUNDLE);
    let anchors = pem.map(|pem| TrustAnchors::parse_pem(pem.as_bytes()));
    let mut certificates = vec![match &anchors {
        Some(Ok(anchors)) => match anchors.first_to_end() {
            Some((_, end)) => row("Root", end, now),
            None => broken("Root", "the certificate has no dates".to_owned()),
        },
        Some(Err(error)) => broken("Root", format!("the bundle cannot be parsed: {error}")),
        None => broken(
            "Root",
            "ConfigMap dapr-trust-bundle does not exist: is sentry running?".to_owned(),
        ),
    }];
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
    let anchors = anchors.and_then(Result::ok);
    TrustView {
        certificates,
        roots: anchors.as_ref().map_or(0, |anchors| anchors.certs().len()),
        anchors: anchors.map(|anchors| anchors.pem().to_owned()),
    }
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
        vec![text(row.what), badge(row.level, &row.words), text(expires)]
    });
    let table = table("Certificates", &["Certificate", "State", "Expires"], rows, "");
    let roots = match view.roots {
        0 | 1 => "Sidecars trust one root.".to_owned(),
        number => format!("Sidecars trust {number} roots: a rotation is running, or was."),
    };
    let anchors = view
        .anchors
        .as_ref()
        .map(|pem| section("Trust anchors", el("pre", &[("tabindex", "0")], [text(pem)])));
    let hint = "Sidecars renew their own certificates, which live a day by default, without a restart. Rotate the CA as docs/day-2.md says.";
    let parts = [Some(table), Some(leaf("p", roots)), Some(leaf("p", hint)), anchors];
    parts.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
