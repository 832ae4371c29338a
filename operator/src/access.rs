//! Who calls, and what namespace they may ask about. Source: Dapr 1.18, operator API.
use std::net::IpAddr;

use identity::SpiffeId;

use crate::error::ApiError;

/// A sidecar whose certificate was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the sidecar, equal to the one it asked about.
    pub namespace: String,
    /// App id of the sidecar; scopes are decided by it, never by the request.
    pub app_id: String,
    /// Where it calls from, if that is known: replicas of an app differ in it.
    pub address: Option<IpAddr>,
}

/// Whether the owner of `id` may ask about `namespace`. Trust domains are not compared. The address
/// of the answer is left open.
///
/// # Errors
/// [`ApiError::NoIdentity`] for an id that names no namespace and app,
/// [`ApiError::WrongNamespace`] for any other namespace, the empty one included.
pub fn authorise(id: Option<&SpiffeId>, namespace: &str) -> Result<Caller, ApiError> {
    let own = |id: &SpiffeId| Some((id.namespace()?.to_owned(), id.app_id()?.to_owned()));
    let (own_namespace, app_id) = id.and_then(own).ok_or(ApiError::NoIdentity)?;
    if namespace.is_empty() || namespace != own_namespace {
        return Err(ApiError::WrongNamespace {
            requested: namespace.to_owned(),
            own: own_namespace,
        });
    }
    Ok(Caller { namespace: own_namespace, app_id, address: None })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn verdict(id: Option<&str>, namespace: &str) -> Result<String, String> {
        let id = id.map(|text| SpiffeId::parse(text).unwrap());
        authorise(id.as_ref(), namespace).map(|c| c.app_id).map_err(|e| e.to_string())
    }

    #[rstest]
    #[case::own("spiffe://public/ns/shop/orders", "shop", "orders")]
    #[case::any_trust_domain("spiffe://other.example/ns/shop/orders", "shop", "orders")]
    #[case::more_segments("spiffe://public/ns/shop/orders/more/z", "shop", "orders")]
    fn admits(#[case] id: &str, #[case] namespace: &str, #[case] app: &str) {
        assert_eq!(verdict(Some(id), namespace), Ok(app.to_owned()));
    }

    #[rstest]
    #[case::no_certificate(None)]
    #[case::one_segment(Some("spiffe://public/ns/shop"))]
    #[case::other_path(Some("spiffe://public/xx/shop/orders"))]
    #[case::shifted(Some("spiffe://public/a/ns/shop/orders"))]
    fn refuses_ids_without_namespace_and_app(#[case] id: Option<&str>) {
        assert_eq!(verdict(id, "shop"), Err("failed to determine identity".to_owned()));
    }

    #[rstest]
    #[case::other("bank")]
    #[case::empty("")]
    #[case::other_case("Shop")]
    #[case::trailing_blank("shop ")]
    fn refuses_other_namespaces(#[case] namespace: &str) {
        assert_eq!(
            verdict(Some("spiffe://public/ns/shop/orders"), namespace),
            Err(format!("identity does not match requested namespace exp={namespace} got=shop"))
        );
    }
}
