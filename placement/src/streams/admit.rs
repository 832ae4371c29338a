//! Which messages a stream may send. With mTLS the certificate decides.

use identity::SpiffeId;

use crate::rounds::message::{Host, Message, Operation};
use crate::streams::error::Refusal;
use crate::streams::limits::{MAX_NAME_BYTES, MAX_TYPES};

/// What the connection proves about its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// Plain text: the client's claims are accepted. Self-hosted mode relies on it.
    Unproven,
    /// mTLS, with a certificate whose SPIFFE id is not that of a workload.
    Unidentified,
    /// mTLS with the certificate of a workload.
    Workload {
        /// Namespace of the certificate's SPIFFE id.
        namespace: String,
        /// App id of the certificate's SPIFFE id.
        app_id: String,
    },
}

impl Access {
    /// What a verified certificate proves; trust domains are not compared (Dapr 1.18).
    pub(crate) fn of(id: Option<&SpiffeId>) -> Self {
        match id.and_then(|id| Some((id.namespace()?, id.app_id()?))) {
            Some((namespace, app_id)) => {
                Self::Workload { namespace: namespace.to_owned(), app_id: app_id.to_owned() }
            }
            None => Self::Unidentified,
        }
    }
}

/// The checks of one stream, over all of its messages.
#[derive(Debug)]
pub(crate) struct Admission {
    access: Access,
    /// Namespace and app id of the first message.
    first: Option<(String, String)>,
}

impl Admission {
    /// A stream without messages so far.
    pub(crate) fn new(access: Access) -> Self {
        Self { access, first: None }
    }

    /// Checks the next message, in the order of Dapr 1.18.
    ///
    /// # Errors
    /// The first check that fails.
    pub(crate) fn check(&mut self, message: &Message) -> Result<(), Refusal> {
        let host = &message.host;
        if self.access == Access::Unidentified {
            return Err(Refusal::NoIdentity);
        }
        if message.operation == Operation::Unsaid && message.version.is_some() {
            return Err(Refusal::VersionWithoutOperation);
        }
        if host.app_id.is_empty() || host.namespace.is_empty() {
            return Err(Refusal::Incomplete);
        }
        check_sizes(host)?;
        if let Access::Workload { namespace, app_id } = &self.access {
            let pair = |claimed: &String, proven: &String| (claimed.clone(), proven.clone());
            if host.app_id != *app_id {
                let (claimed, proven) = pair(&host.app_id, app_id);
                return Err(Refusal::OtherApp { claimed, proven });
            }
            if host.namespace != *namespace {
                let (claimed, proven) = pair(&host.namespace, namespace);
                return Err(Refusal::OtherNamespace { claimed, proven });
            }
        }
        if let Some(entity) =
            host.entities.iter().find(|e| !is_allowed(e, &host.namespace, &host.app_id))
        {
            let (app_id, namespace) = (host.app_id.clone(), host.namespace.clone());
            return Err(Refusal::ReservedEntity { entity: entity.clone(), app_id, namespace });
        }
        match &self.first {
            None => self.first = Some((host.namespace.clone(), host.app_id.clone())),
            Some((namespace, app_id)) if *namespace != host.namespace || *app_id != host.app_id => {
                return Err(Refusal::ChangedIdentity);
            }
            Some(_) => {}
        }
        Ok(())
    }
}

fn check_sizes(host: &Host) -> Result<(), Refusal> {
    let names = [
        ("name", &host.name),
        ("id", &host.app_id),
        ("namespace", &host.namespace),
        ("pod", &host.pod),
    ];
    let types = host.entities.iter().map(|entity| ("entity", entity));
    if let Some((field, name)) =
        names.into_iter().chain(types).find(|(_, n)| n.len() > MAX_NAME_BYTES)
    {
        return Err(Refusal::TooLong { field, bytes: name.len() });
    }
    let count = host.entities.len();
    if count > MAX_TYPES { Err(Refusal::TooManyTypes { count }) } else { Ok(()) }
}

/// `dapr.internal.<namespace>.<app id>.…` belongs to that app: these are its workflow actors.
fn is_allowed(entity: &str, namespace: &str, app_id: &str) -> bool {
    let mut parts = entity.split('.');
    if (parts.next(), parts.next()) != (Some("dapr"), Some("internal")) {
        return true;
    }
    (parts.next(), parts.next()) == (Some(namespace), Some(app_id))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use tonic::{Code, Status};

    use super::*;

    fn message(app_id: &str, namespace: &str, entity: &str) -> Message {
        let host = Host {
            app_id: app_id.into(),
            namespace: namespace.into(),
            entities: vec!["free".into(), entity.into()],
            ..Host::default()
        };
        Message { operation: Operation::Report, version: None, host }
    }

    fn workload() -> Access {
        Access::Workload { namespace: "default".into(), app_id: "app-1".into() }
    }

    #[rstest]
    #[case("dapr.internal.default.app-1", true)]
    #[case("dapr.internal.default.app-1.foo", true)]
    #[case("dapr.internal.default.app-1.bar.foo", true)]
    #[case("dapr", true)]
    #[case("dapr.external", true)]
    #[case("internal.dapr", true)]
    #[case("dapr.internal", false)]
    #[case("dapr.internal.", false)]
    #[case("dapr.internal.default.", false)]
    #[case("dapr.internal.default.app-2", false)]
    #[case("dapr.internal.foo.bar", false)]
    fn workflow_actors_belong_to_their_app(
        #[case] entity: &str,
        #[case] allowed: bool,
        #[values(Access::Unproven, workload())] access: Access,
    ) {
        let result = Admission::new(access).check(&message("app-1", "default", entity));
        assert_eq!(result.is_ok(), allowed, "{result:?}");
        if let Err(e) = result {
            let status = Status::from(&e);
            let text =
                format!("entity {entity} is not allowed for app ID app-1 in namespace default");
            assert_eq!((status.code(), status.message()), (Code::PermissionDenied, text.as_str()));
        }
    }

    #[rstest]
    #[case::unidentified(
        Access::Unidentified,
        "",
        "",
        Code::Unauthenticated,
        "failed to get client ID from context"
    )]
    #[case::no_id(
        workload(),
        "",
        "default",
        Code::InvalidArgument,
        "host ID and namespace must be provided"
    )]
    #[case::no_namespace(
        Access::Unproven,
        "app-1",
        "",
        Code::InvalidArgument,
        "host ID and namespace must be provided"
    )]
    #[case::other_app(
        workload(),
        "app-2",
        "other",
        Code::PermissionDenied,
        "provided app ID app-2 doesn't match the one in the SPIFFE ID (app-1)"
    )]
    #[case::other_namespace(
        workload(),
        "app-1",
        "other",
        Code::PermissionDenied,
        "provided client namespace other doesn't match the one in the SPIFFE ID (default)"
    )]
    fn refuses(
        #[case] access: Access,
        #[case] app_id: &str,
        #[case] namespace: &str,
        #[case] code: Code,
        #[case] text: &str,
    ) {
        let refusal =
            Admission::new(access).check(&message(app_id, namespace, "dapr.internal")).unwrap_err();
        let status = Status::from(&refusal);
        assert_eq!((status.code(), status.message()), (code, text));
    }

    #[test]
    fn a_version_needs_an_operation_but_not_the_reverse() {
        let mut bare = message("a", "ns", "t");
        bare.version = Some(0);
        assert!(Admission::new(Access::Unproven).check(&bare).is_ok());
        bare.operation = Operation::Unsaid;
        assert_eq!(
            Admission::new(Access::Unproven).check(&bare),
            Err(Refusal::VersionWithoutOperation)
        );
    }

    #[rstest]
    #[case(MAX_TYPES, true)]
    #[case(MAX_TYPES + 1, false)]
    fn a_host_has_as_many_types_as_it_may(#[case] count: usize, #[case] allowed: bool) {
        let mut report = message("app-1", "default", "t");
        report.host.entities = (0..count).map(|i| format!("type{i:05}")).collect();
        let result = Admission::new(workload()).check(&report);
        assert_eq!(result, if allowed { Ok(()) } else { Err(Refusal::TooManyTypes { count }) });
    }

    #[rstest]
    #[case::name(|host: &mut Host, name| host.name = name, "name")]
    #[case::pod(|host: &mut Host, name| host.pod = name, "pod")]
    #[case::entity(|host: &mut Host, name| host.entities = vec![name], "entity")]
    fn a_name_is_as_long_as_it_may_be(
        #[case] put: fn(&mut Host, String),
        #[case] field: &'static str,
    ) {
        for (bytes, want) in [
            (MAX_NAME_BYTES, Ok(())),
            (MAX_NAME_BYTES + 1, Err(Refusal::TooLong { field, bytes: MAX_NAME_BYTES + 1 })),
        ] {
            let mut report = message("app-1", "default", "t");
            put(&mut report.host, "x".repeat(bytes));
            assert_eq!(Admission::new(workload()).check(&report), want);
        }
    }

    #[rstest]
    #[case("app-2", "default", Refusal::ChangedIdentity)]
    #[case("app-1", "other", Refusal::ChangedIdentity)]
    #[case("", "other", Refusal::Incomplete)]
    fn a_stream_speaks_for_one_host(
        #[case] app_id: &str,
        #[case] namespace: &str,
        #[case] want: Refusal,
    ) {
        let mut admission = Admission::new(Access::Unproven);
        assert_eq!(admission.check(&message("app-1", "default", "t")), Ok(()));
        assert_eq!(admission.check(&message("app-1", "default", "u")), Ok(()));
        assert_eq!(admission.check(&message(app_id, namespace, "t")), Err(want));
    }
}
