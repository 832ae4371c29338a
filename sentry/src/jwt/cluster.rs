//! The calls to the Kubernetes API about the JWT key.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use zeroize::Zeroizing;

use super::plan::{GeneratedJwt, StoredJwt};
use super::svid::JwtConfig;
use crate::ca::cluster::objects::api;
use crate::ca::record::{BundleNames, NAME};
use crate::ca::store_error::StoreError;

pub(super) const SECRET: &str = "Secret";
const CONFIG_MAP: &str = "ConfigMap";

/// The stored keys with the resource version that was read.
pub(crate) struct Snapshot {
    /// The key and the key set.
    pub(crate) stored: StoredJwt,
    pub(super) secret: Option<Secret>,
}

/// Access to the Secret and the `ConfigMap` of the CA.
pub(crate) struct JwtObjects {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    /// Key of the Secret that holds the signing key.
    key: String,
    /// Key of both objects that holds the key set.
    jwks: String,
}

impl JwtObjects {
    pub(crate) fn new(
        secrets: Api<Secret>,
        config_maps: Api<ConfigMap>,
        config: &JwtConfig,
    ) -> Self {
        let (key, jwks) = (BundleNames::key(&config.key), BundleNames::key(&config.jwks));
        Self { secrets, config_maps, key, jwks }
    }

    pub(super) async fn read(&self) -> Result<Snapshot, StoreError> {
        let secret = self.secrets.get_opt(NAME).await.map_err(|e| api("get", SECRET, &e))?;
        let secret = secret.ok_or(StoreError::Missing(SECRET))?;
        let value = |name: &str| {
            let value = &secret.data.as_ref()?.get(name)?.0;
            (!value.trim_ascii().is_empty()).then(|| value.clone())
        };
        let key = value(&self.key).map(Zeroizing::new);
        let stored = StoredJwt { key, jwks: value(&self.jwks) };
        Ok(Snapshot { stored, secret: Some(secret) })
    }

    pub(super) async fn write(
        &self,
        mut secret: Secret,
        made: &GeneratedJwt,
    ) -> Result<(), StoreError> {
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        data.insert(self.key.clone(), ByteString(made.key.as_bytes().to_vec()));
        data.insert(self.jwks.clone(), ByteString(made.jwks.clone().into_bytes()));
        let written = self.secrets.replace(NAME, &PostParams::default(), &secret).await;
        written.map(drop).map_err(|e| api("update", SECRET, &e))
    }

    pub(super) async fn publish(&self, text: &[u8]) -> Result<(), StoreError> {
        let text = str::from_utf8(text).map_err(|_| StoreError::NotText("the JWKS".to_owned()))?;
        let found = self.config_maps.get_opt(NAME).await.map_err(|e| api("get", CONFIG_MAP, &e))?;
        let mut config_map = found.ok_or(StoreError::Missing(CONFIG_MAP))?;
        let data = config_map.data.get_or_insert_with(BTreeMap::new);
        if data.get(&self.jwks).is_some_and(|published| published == text) {
            return Ok(());
        }
        data.insert(self.jwks.clone(), text.to_owned());
        let written = self.config_maps.replace(NAME, &PostParams::default(), &config_map).await;
        written.map(drop).map_err(|e| api("update", CONFIG_MAP, &e))
    }
}
