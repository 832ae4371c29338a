//! Name constraints of a user's CA, applied to the names of an SVID: URIs and DNS names.
//! Source: RFC 5280 §4.2.1.10, as in Go 1.26.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, GeneralSubtree, ParsedExtension};

use crate::x509;

/// Whether the constraints of `issuer` permit the names of `leaf`. An unsupported kind of constraint
/// or name is rejected.
pub(crate) fn permit(issuer: &X509Certificate<'_>, leaf: &X509Certificate<'_>) -> bool {
    let Some(constraints) =
        issuer.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::NameConstraints(constraints) => Some(constraints),
            _ => None,
        })
    else {
        return true;
    };
    let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
    let excluded = constraints.excluded_subtrees.as_deref().unwrap_or_default();
    let comparable = |subtree: &GeneralSubtree<'_>| {
        matches!(
            subtree.base,
            GeneralName::DNSName(_)
                | GeneralName::URI(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RFC822Name(_)
        )
    };
    permitted.iter().chain(excluded).all(comparable)
        && x509::alternative_names(leaf).iter().all(|name| allowed(name, permitted, excluded))
}

fn allowed(
    name: &GeneralName<'_>,
    permitted: &[GeneralSubtree<'_>],
    excluded: &[GeneralSubtree<'_>],
) -> bool {
    match name {
        GeneralName::URI(uri) => {
            let host = uri_host(uri);
            let pick = |base: &GeneralName<'_>| match base {
                GeneralName::URI(domain) => Some(host.is_some_and(|host| matches(host, domain))),
                _ => None,
            };
            host_allowed(host, pick, permitted, excluded)
        }
        GeneralName::DNSName(dns) => {
            let pick = |base: &GeneralName<'_>| match base {
                GeneralName::DNSName(domain) => Some(matches(dns, domain)),
                _ => None,
            };
            host_allowed(Some(dns), pick, permitted, excluded)
        }
        // Sentry issues no other names; under a constrained CA they are rejected.
        _ => false,
    }
}

/// `pick` returns whether the name matches a constraint; `None` for one of another kind.
fn host_allowed(
    host: Option<&str>,
    pick: impl Fn(&GeneralName<'_>) -> Option<bool>,
    permitted: &[GeneralSubtree<'_>],
    excluded: &[GeneralSubtree<'_>],
) -> bool {
    let verdicts = |subtrees: &[GeneralSubtree<'_>]| -> Vec<bool> {
        subtrees.iter().filter_map(|subtree| pick(&subtree.base)).collect()
    };
    let (permitted, excluded) = (verdicts(permitted), verdicts(excluded));
    if permitted.is_empty() && excluded.is_empty() {
        return true;
    }
    host.is_some()
        && !excluded.contains(&true)
        && (permitted.is_empty() || permitted.contains(&true))
}

/// The host of a `spiffe://` URI, which is its trust domain.
fn uri_host(uri: &str) -> Option<&str> {
    let rest = uri.split_once("://")?.1;
    rest.split(['/', '?', '#']).next().filter(|host| !host.is_empty())
}

/// A leading dot requires at least one more label; otherwise the name and all its subdomains match.
fn matches(host: &str, domain: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let domain = domain.to_ascii_lowercase();
    if domain.is_empty() {
        return true;
    }
    if let Some(suffix) = domain.strip_prefix('.') {
        return host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'));
    }
    host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("example.com", "example.com", true)]
    #[case("a.example.com", "example.com", true)]
    #[case("badexample.com", "example.com", false)]
    #[case("example.com", ".example.com", false)]
    #[case("a.example.com", ".example.com", true)]
    #[case("Example.COM", "example.com", true)]
    #[case("anything", "", true)]
    fn compares_domains(#[case] host: &str, #[case] domain: &str, #[case] want: bool) {
        assert_eq!(matches(host, domain), want);
    }

    #[test]
    fn reads_the_host_of_an_id() {
        assert_eq!(uri_host("spiffe://td.example/ns/a/b"), Some("td.example"));
        assert_eq!(uri_host("spiffe:///ns"), None);
        assert_eq!(uri_host("nonsense"), None);
    }
}
