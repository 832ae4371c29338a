//! Authentication and authorization of callers (Dapr 1.18, operator API).
use std::net::IpAddr;

use identity::SpiffeId;
use runtime::server::Outgoing;
use transport::Peer;

use crate::api::error::ApiError;

/// An authorized sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// Namespace of the sidecar, equal to that of the request.
    pub(crate) namespace: String,
    /// App id in the sidecar's certificate; scopes are evaluated for it.
    pub(crate) app_id: String,
    /// IP address of the sidecar; distinguishes replicas of an app.
    pub(crate) address: Option<IpAddr>,
    /// The connection of the sidecar.
    pub(crate) peer: Option<Peer>,
    /// Memory that the answer occupies until the sidecar has read it.
    pub(crate) outgoing: Outgoing,
}

#[cfg(test)]
impl Caller {
    /// A sidecar without address and connection.
    pub(crate) fn for_test(namespace: &str, app_id: &str) -> Self {
        let (namespace, app_id) = (namespace.to_owned(), app_id.to_owned());
        Self { namespace, app_id, address: None, peer: None, outgoing: Outgoing::default() }
    }
}

/// Authorizes the holder of `id` for `namespace`. Trust domains are not compared. The returned caller
/// has no address and no connection.
///
/// # Errors
/// [`ApiError::NoIdentity`] when the id contains no namespace and app id,
/// [`ApiError::WrongNamespace`] for any other namespace, including the empty one.
pub(crate) fn authorize(id: Option<&SpiffeId>, namespace: &str) -> Result<Caller, ApiError> {
    let own = |id: &SpiffeId| Some((id.namespace()?.to_owned(), id.app_id()?.to_owned()));
    let (own_namespace, app_id) = id.and_then(own).ok_or(ApiError::NoIdentity)?;
    if namespace.is_empty() || namespace != own_namespace {
        return Err(ApiError::WrongNamespace {
            requested: namespace.to_owned(),
            own: own_namespace,
        });
    }
    Ok(Caller {
        namespace: own_namespace,
        app_id,
        address: None,
        peer: None,
        outgoing: Outgoing::default(),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn outcome(id: Option<&str>, namespace: &str) -> Result<String, String> {
        let id = id.map(|text| SpiffeId::parse(text).unwrap());
        authorize(id.as_ref(), namespace).map(|c| c.app_id).map_err(|e| e.to_string())
    }

    #[rstest]
    #[case::own("spiffe://public/ns/shop/orders", "shop", "orders")]
    #[case::any_trust_domain("spiffe://other.example/ns/shop/orders", "shop", "orders")]
    #[case::more_segments("spiffe://public/ns/shop/orders/more/z", "shop", "orders")]
    fn authorizes(#[case] id: &str, #[case] namespace: &str, #[case] app: &str) {
        assert_eq!(outcome(Some(id), namespace), Ok(app.to_owned()));
    }

    #[rstest]
    #[case::no_certificate(None)]
    #[case::one_segment(Some("spiffe://public/ns/shop"))]
    #[case::other_path(Some("spiffe://public/xx/shop/orders"))]
    #[case::shifted(Some("spiffe://public/a/ns/shop/orders"))]
    fn rejects_ids_without_namespace_and_app(#[case] id: Option<&str>) {
        assert_eq!(outcome(id, "shop"), Err("failed to determine identity".to_owned()));
    }

    #[rstest]
    #[case::other("bank")]
    #[case::empty("")]
    #[case::other_case("Shop")]
    #[case::trailing_blank("shop ")]
    fn rejects_other_namespaces(#[case] namespace: &str) {
        assert_eq!(
            outcome(Some("spiffe://public/ns/shop/orders"), namespace),
            Err(format!("identity does not match requested namespace exp={namespace} got=shop"))
        );
    }
}
