//! The key set of the validator `jwks`: loaded before sentry serves, and refreshed. When a refresh
//! fails the previous set stays in use. Source: Dapr 1.18, sentry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use identity::{JwkSet, JwksError};
use runtime::{Scope, random};
use transport::fetch::{Fetcher, Roots};
use transport::file_watch::FileWatch;

use super::jwks_options::JwksOptions;

/// Maximum size of a key set; common ones have a few KiB.
const MAX_BYTES: usize = 1024 * 1024;
/// A file is read at least this often, even without an event.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Jitter, so that replicas that start together do not always fetch together.
const JITTER: f64 = 0.1;

const LOG: &str = "dapr.sentry.identity.jwks";

/// The current keys. Cheap to clone.
pub(crate) type Keys = Arc<ArcSwap<JwkSet>>;

/// Base64 of the standard alphabet, padded or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

enum Source {
    Url { address: String, fetcher: Fetcher, refresh: Duration },
    File(PathBuf),
    Inline(JwkSet),
}

/// Why a key set was not loaded. The text names the source and never its content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwksSourceError {
    /// The source cannot be read.
    #[error("read {0}: {1}")]
    Read(String, String),
    /// The content is not a key set.
    #[error("parse {0}")]
    Parse(String, #[source] JwksError),
    /// `source` has no known form.
    #[error("the option 'source' is neither a URL, nor a file, nor a key set in JSON or base64")]
    Unknown,
}

/// Loads the keys and refreshes them until the scope is cancelled. Health target:
/// `sentry-jwks-validator`.
///
/// # Errors
/// [`JwksSourceError`] if the keys cannot be loaded.
pub(crate) async fn start(options: &JwksOptions, scope: &Scope) -> Result<Keys, JwksSourceError> {
    let ready = scope.ready("sentry-jwks-validator");
    let source = Source::new(options)?;
    // Watch before reading, so that no change is missed.
    let watch = source.watch()?;
    let first = source.load().await?;
    tracing::info!(target: LOG, keys = first.len(), "key set loaded");
    let keys: Keys = Arc::new(ArcSwap::from_pointee(first));
    let (handle, token) = (keys.clone(), scope.token().clone());
    scope.spawn("jwks", async move {
        token.run_until_cancelled(source.refresh(&handle, watch)).await;
        Ok(())
    });
    ready.set_ready();
    Ok(keys)
}

impl Source {
    fn new(options: &JwksOptions) -> Result<Self, JwksSourceError> {
        let source = options.source.as_str();
        let secure = source.starts_with("https://");
        if secure || source.starts_with("http://") {
            if !secure {
                tracing::warn!(target: LOG, "the key set is fetched over http: an attacker on the network can forge identities; use https");
            }
            let roots = match &options.ca_certificate {
                None => Roots::System,
                Some(text) if text.contains("-----BEGIN") => Roots::Pem(text.clone().into_bytes()),
                Some(path) => {
                    let named = || format!("caCertificate {path:?}");
                    Roots::Pem(std::fs::read(path).map_err(|e| unreadable(named(), &e))?)
                }
            };
            let fetcher = Fetcher::new(&roots, options.timeout, MAX_BYTES).map_err(|e| {
                JwksSourceError::Read("caCertificate".to_owned(), runtime::chain(&e))
            })?;
            let address = source.to_owned();
            return Ok(Self::Url { address, fetcher, refresh: options.refresh });
        }
        if Path::new(source).is_file() {
            return Ok(Self::File(source.into()));
        }
        inline(source).map(Self::Inline)
    }

    async fn load(&self) -> Result<JwkSet, JwksSourceError> {
        match self {
            Self::Url { address, fetcher, .. } => {
                let text = fetcher.get(address).await;
                let text =
                    text.map_err(|e| JwksSourceError::Read(address.clone(), runtime::chain(&e)))?;
                JwkSet::parse(&text).map_err(|e| JwksSourceError::Parse(address.clone(), e))
            }
            Self::File(path) => {
                let named = || path.display().to_string();
                let text = std::fs::read(path).map_err(|e| unreadable(named(), &e))?;
                JwkSet::parse(&text).map_err(|e| JwksSourceError::Parse(named(), e))
            }
            Self::Inline(set) => Ok(set.clone()),
        }
    }

    /// Reloads periodically and whenever the file changes.
    async fn refresh(&self, keys: &Keys, watch: Option<FileWatch>) {
        match (self, watch) {
            (Self::Url { refresh: interval, .. }, _) => loop {
                tokio::time::sleep(random::jittered(*interval, JITTER).max(*interval)).await;
                self.reload(keys).await;
            },
            (Self::File(_), Some(mut watch)) => loop {
                watch.changed(POLL_INTERVAL).await;
                self.reload(keys).await;
            },
            (Self::File(_), None) | (Self::Inline(_), _) => std::future::pending().await,
        }
    }

    fn watch(&self) -> Result<Option<FileWatch>, JwksSourceError> {
        match self {
            Self::File(path) => {
                let watch = FileWatch::new([path.as_path()]).map_err(|e| {
                    JwksSourceError::Read(path.display().to_string(), runtime::chain(&e))
                })?;
                Ok(Some(watch))
            }
            Self::Url { .. } | Self::Inline(_) => Ok(None),
        }
    }

    async fn reload(&self, keys: &Keys) {
        match self.load().await {
            Ok(set) if set == **keys.load() => {}
            Ok(set) => {
                tracing::info!(target: LOG, keys = set.len(), "key set changed");
                keys.store(Arc::new(set));
            }
            Err(e) => {
                tracing::error!(target: LOG, "{}; the previous key set stays in use", runtime::chain(&e));
            }
        }
    }
}

fn unreadable(name: String, e: &std::io::Error) -> JwksSourceError {
    JwksSourceError::Read(name, e.to_string())
}

fn inline(source: &str) -> Result<JwkSet, JwksSourceError> {
    let text = source.trim();
    if text.starts_with('{') {
        return JwkSet::parse(text.as_bytes()).map_err(|_| JwksSourceError::Unknown);
    }
    let decoded = BASE64.decode(text).map_err(|_| JwksSourceError::Unknown)?;
    JwkSet::parse(&decoded).map_err(|_| JwksSourceError::Unknown)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SET: &str = r#"{"keys":[{"kty":"x","kid":"a"}]}"#;

    fn options(source: &str) -> JwksOptions {
        JwksOptions {
            source: source.to_owned(),
            ca_certificate: None,
            refresh: Duration::from_mins(10),
            timeout: Duration::from_secs(5),
        }
    }

    #[rstest]
    #[case::json(SET.to_owned())]
    #[case::white_space(format!("\n {SET} \n"))]
    #[case::base64(BASE64.encode(SET))]
    #[case::base64_without_padding(BASE64.encode(SET).trim_end_matches('=').to_owned())]
    #[tokio::test]
    async fn loads_an_inline_set(#[case] source: String) {
        let keys = start(&options(&source), &Scope::for_test()).await.unwrap();
        assert!(keys.load().names("a"));
    }

    #[rstest]
    #[case::missing_file("/no/such/file")]
    #[case::not_a_key_set("{}")]
    #[case::not_base64("hello!")]
    #[case::url("http://127.0.0.1:1/keys")]
    #[tokio::test]
    async fn does_not_start_without_keys(#[case] source: &str) {
        assert!(start(&options(source), &Scope::for_test()).await.is_err());
    }

    #[tokio::test]
    async fn reloads_a_file_and_keeps_the_last_valid_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        std::fs::write(&path, SET).unwrap();
        let scope = Scope::for_test();
        let keys = start(&options(path.to_str().unwrap()), &scope).await.unwrap();
        std::fs::write(&path, "not a key set").unwrap();
        std::fs::write(&path, SET.replace("\"a\"", "\"b\"")).unwrap();
        testkit::until("the new key is loaded", async || keys.load().names("b")).await;
        assert!(scope.shutdown().await.is_ok());
    }
}
