//! The certificate authority.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use identity::stored::{Plan, Published, StoredCaError, plan};
use identity::{TrustAnchors, expiry_step, verify_issuer};
use jiff::Timestamp;
use serde_json::Value;

use crate::checks::finding::{Finding, Group, about};
use crate::facts::Facts;
use crate::output::words::count;

const GROUP: Group = Group::Identity;
const DAY: i64 = 24 * 3600;
const RENEW: &str = "run `dapr mtls renew-certificate`, or rotate the CA: kubectl annotate secret dapr-trust-bundle dapr.io/rotate-ca=now (docs/day-2.md)";

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = vec![bundle(facts), issuer(facts), root(facts), trust_domain(facts)];
    all.extend(rotation(facts));
    all
}

/// Evaluates Secret and `ConfigMap` with the code of sentry.
fn bundle(facts: &Facts) -> Finding {
    let id = "trust-bundle";
    let both = facts
        .trust
        .stored
        .as_ref()
        .and_then(|stored| facts.trust.published.as_ref().map(|published| (stored, published)));
    let both = both.map_err(Clone::clone);
    let sentry = "check the log of sentry and the Events of Secret dapr-trust-bundle (docs/troubleshooting.md)";
    about(GROUP, id, &both, |(stored, published)| {
        let (Some(stored), Some(published)) = (stored, published) else {
            let text = "Secret or ConfigMap dapr-trust-bundle does not exist";
            return Finding::error(
                GROUP,
                id,
                text,
                "upgrade or reinstall the chart: it creates both, and sentry fills them",
            );
        };
        let published = Published::ConfigMap(Some(published.clone()));
        match plan(stored, &published, facts.now()) {
            Ok(Plan::Use { publish: false, .. }) => {
                Finding::ok(GROUP, id, "the CA is complete and its trust anchors are published")
            }
            Ok(Plan::Use { publish: true, .. }) => Finding::error(
                GROUP,
                id,
                "Secret and ConfigMap dapr-trust-bundle contain different trust anchors",
                format!("sentry copies those of the Secret within a minute; otherwise {sentry}"),
            ),
            Ok(Plan::Generate) => Finding::error(
                GROUP,
                id,
                "there is no CA yet",
                format!("sentry creates it; otherwise {sentry}"),
            ),
            Err(StoredCaError::Invalid { part, error }) => {
                let text = format!("the stored CA is invalid: {part}: {}", runtime::chain(&error));
                Finding::error(GROUP, id, text, error.remedy())
            }
            Err(refused) => Finding::error(GROUP, id, runtime::chain(&refused), sentry),
        }
    })
}

fn issuer(facts: &Facts) -> Finding {
    let id = "issuer-expiry";
    about(GROUP, id, &facts.trust.stored, |stored| {
        let life = stored.as_ref().and_then(identity::stored::Stored::validity);
        life.map_or_else(
            || Finding::error(GROUP, id, "there is no issuer certificate", RENEW),
            |life| expiry(id, "the issuer certificate", life, facts.now()),
        )
    })
}

fn root(facts: &Facts) -> Finding {
    let id = "root-expiry";
    about(GROUP, id, &facts.trust.published, |published| {
        let text = published.as_deref().unwrap_or_default();
        match TrustAnchors::parse_pem(text.as_bytes()) {
            Ok(anchors) => match anchors.first_to_end() {
                Some(life) => expiry(id, "the root certificate", life, facts.now()),
                None => Finding::error(GROUP, id, "the root certificate has no dates", RENEW),
            },
            Err(error) => {
                let text = format!("the published trust anchors cannot be parsed: {error}");
                Finding::error(GROUP, id, text, RENEW)
            }
        }
    })
}

fn expiry(id: &'static str, what: &str, life: (Timestamp, Timestamp), now: Timestamp) -> Finding {
    let (start, end) = life;
    let days = usize::try_from(now.duration_until(end).as_secs() / DAY).unwrap_or_default();
    if now > end {
        return Finding::error(GROUP, id, format!("{what} expired on {end}"), RENEW);
    }
    if now < start {
        let remedy = "check the clocks of the nodes and of the machine that issued it";
        return Finding::error(GROUP, id, format!("{what} is not valid before {start}"), remedy);
    }
    match expiry_step(start, end, now) {
        None => Finding::ok(GROUP, id, format!("{what} is valid for {}", count(days, "more day"))),
        Some(percent) => Finding::warning(
            GROUP,
            id,
            format!(
                "{what} expires in {}: less than {percent} % of its lifetime is left",
                count(days, "day")
            ),
            RENEW,
        ),
    }
}

fn trust_domain(facts: &Facts) -> Finding {
    let id = "trust-domain";
    about(GROUP, id, &facts.own.configuration, |configuration| {
        let path = "/spec/mtls/controlPlaneTrustDomain";
        let configured =
            configuration.as_ref().and_then(|c| c.pointer(path)).and_then(Value::as_str);
        let signed = facts.argument("dapr-sentry", "--trust-domain");
        match (configured, signed) {
            (Some(configured), Some(signed)) if configured != signed => Finding::error(
                GROUP,
                id,
                format!(
                    "sentry signs for trust domain {signed}, but Configuration daprsystem has {configured}"
                ),
                "set the chart value global.mtls.controlPlaneTrustDomain, which sets both",
            ),
            (Some(configured), _) => {
                Finding::ok(GROUP, id, format!("the trust domain is {configured}"))
            }
            (None, _) => Finding::warning(
                GROUP,
                id,
                "the control plane's Configuration contains no trust domain",
                "set the chart value global.mtls.controlPlaneTrustDomain",
            ),
        }
    })
}

fn rotation(facts: &Facts) -> Option<Finding> {
    let stage = facts.trust.rotation.as_ref()?;
    let text = format!("a rotation of the CA is running, stage {stage}");
    Some(Finding::ok(GROUP, "rotation", text))
}

/// Whether a caBundle verifies certificates of sentry.
pub(super) enum BundleTrust {
    /// It contains the published trust anchors.
    Current,
    /// It contains others, with which the issuer verifies.
    Outdated,
    /// It does not; the text completes "the caBundle …".
    Untrusted(String),
}

/// Evaluates the caBundle (base64 of PEM) of a webhook whose certificate sentry signed.
pub(super) fn check_bundle(encoded: &str, facts: &Facts) -> BundleTrust {
    if encoded.is_empty() {
        return BundleTrust::Untrusted("is empty".to_owned());
    }
    let Ok(pem) = STANDARD.decode(encoded) else {
        return BundleTrust::Untrusted("is not base64".to_owned());
    };
    let bundle = match TrustAnchors::parse_pem(&pem) {
        Ok(bundle) => bundle,
        Err(error) => return BundleTrust::Untrusted(format!("cannot be parsed: {error}")),
    };
    let published = facts.trust.published.as_ref().ok().and_then(Option::as_ref);
    let published = published.and_then(|text| TrustAnchors::parse_pem(text.as_bytes()).ok());
    let same = published.as_ref().is_some_and(|published| {
        let holds = |cert| bundle.certs().contains(cert);
        published.certs().len() == bundle.certs().len() && published.certs().iter().all(holds)
    });
    let stored = facts.trust.stored.as_ref().ok().and_then(Option::as_ref);
    let chain = stored.and_then(identity::stored::Stored::chain);
    match chain.map(|chain| verify_issuer(&chain, &bundle, facts.now())) {
        Some(Err(error)) => BundleTrust::Untrusted(format!("does not verify the CA: {error}")),
        // Without the right to read the Secret, only the trust anchors are compared.
        Some(Ok(_)) | None if same => BundleTrust::Current,
        Some(Ok(_)) => BundleTrust::Outdated,
        None if published.is_some() => {
            BundleTrust::Untrusted("differs from the published trust anchors".to_owned())
        }
        None => {
            BundleTrust::Untrusted("cannot be compared: no trust anchors are published".to_owned())
        }
    }
}
