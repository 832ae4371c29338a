//! The common part of all custom resources, and the macro that defines one.
use kube_core::{NamespaceResourceScope, ObjectMeta, Resource};
use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// API group of all kinds (Dapr 1.18).
pub const GROUP: &str = "dapr.io";

/// A kind of the group `dapr.io`.
///
/// `Serialize` prints the form that sidecars get (Dapr 1.18, the JSON of Go's encoder):
/// absent members are left out or printed with their zero value, per member.
pub trait CustomResource:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + PartialEq
    + Default
    + Send
    + Sync
    + 'static
{
    /// Kind, as in `kind:`.
    const KIND: &'static str;
    /// Version, as after the slash of `apiVersion:`.
    const VERSION: &'static str;
    /// Plural, as in URLs.
    const PLURAL: &'static str;

    /// Apps that may see the object; empty means all of its namespace.
    fn scopes(&self) -> &[String] {
        &[]
    }

    /// Whether `app_id` may see the object.
    fn in_scope(&self, app_id: &str) -> bool {
        let scopes = self.scopes();
        scopes.is_empty() || scopes.iter().any(|s| s == app_id)
    }
}

/// Annotation in which kubectl keeps the object as it was applied (kubectl 1.34).
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Removes members that no sidecar reads and that can double the size of an object.
pub fn trim_metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = metadata.annotations.as_mut() {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
}

/// Prints `creationTimestamp` always, `null` when unset (Dapr 1.18).
pub(crate) fn metadata<S: Serializer>(metadata: &ObjectMeta, to: S) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(metadata).map_err(S::Error::custom)?;
    if let Some(members) = value.as_object_mut() {
        members.entry("creationTimestamp").or_insert(Value::Null);
    }
    value.serialize(to)
}

/// Defines a root object: `kind`, `apiVersion` and `metadata` before the given members, `scopes`
/// (unless `unscoped`) and unknown members after them. The derive of `kube` supports `spec` and
/// `status` only.
macro_rules! custom_resource {
    ($(#[$doc:meta])* scoped $name:ident as $kind:literal $version:literal $plural:literal {
        $($members:tt)*
    }) => {
        $crate::crd::custom_resource!(@define $(#[$doc])* $name $kind $version $plural {
            $($members)*
            /// Apps that may see the object; empty means all of its namespace.
            #[serde(skip_serializing_if = "crate::shared::is_default")]
            pub scopes: Vec<String>,
        } { fn scopes(&self) -> &[String] { &self.scopes } });
    };
    ($(#[$doc:meta])* scoped $name:ident $version:literal $plural:literal { $($members:tt)* }) => {
        $crate::crd::custom_resource!(@define $(#[$doc])* $name (stringify!($name)) $version $plural {
            $($members)*
            /// Apps that may see the object; empty means all of its namespace.
            #[serde(skip_serializing_if = "crate::shared::is_default")]
            pub scopes: Vec<String>,
        } { fn scopes(&self) -> &[String] { &self.scopes } });
    };
    ($(#[$doc:meta])* unscoped $name:ident $version:literal $plural:literal { $($members:tt)* }) => {
        $crate::crd::custom_resource!(
            @define $(#[$doc])* $name (stringify!($name)) $version $plural { $($members)* } {}
        );
    };
    (@define $(#[$doc:meta])* $name:ident $kind:tt $version:literal $plural:literal {
        $($(#[$attr:meta])* pub $member:ident: $type:ty,)*
    } { $($scopes:tt)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            /// Kind of the object.
            pub kind: String,
            /// Group and version of the object.
            pub api_version: String,
            /// Name, namespace and so on.
            #[serde(serialize_with = "crate::crd::metadata")]
            #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
            pub metadata: kube_core::ObjectMeta,
            $($(#[$attr])* pub $member: $type,)*
            /// Unknown members; they pass through unchanged.
            #[serde(flatten)]
            pub rest: $crate::shared::Rest,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    kind: <Self as $crate::crd::CustomResource>::KIND.to_owned(),
                    api_version: concat!("dapr.io/", $version).to_owned(),
                    metadata: kube_core::ObjectMeta::default(),
                    $($member: Default::default(),)*
                    rest: $crate::shared::Rest::default(),
                }
            }
        }

        impl kube_core::Resource for $name {
            type DynamicType = ();
            type Scope = kube_core::NamespaceResourceScope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                <Self as $crate::crd::CustomResource>::KIND.into()
            }
            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $crate::crd::GROUP.into()
            }
            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &kube_core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube_core::ObjectMeta {
                &mut self.metadata
            }
        }

        impl $crate::crd::CustomResource for $name {
            const KIND: &'static str = $kind;
            const VERSION: &'static str = $version;
            const PLURAL: &'static str = $plural;
            $($scopes)*
        }
    };
}
pub(crate) use custom_resource;
