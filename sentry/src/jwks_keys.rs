//! The key set that the validator `jwks` checks tokens with: loaded before anything is served, and
//! kept fresh. A set that cannot be read any more leaves the former one in use.
//! Source: Dapr 1.18, sentry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use identity::JwkSet;
use runtime::{Scope, random};
use transport::fetch::{Fetcher, Roots};
use transport::file_watch::FileWatch;

use crate::token_validators::JwksOptions;

/// Key sets are a few KiB.
const MAX_BYTES: usize = 1024 * 1024;
/// A file is read again this often even without an event.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// Replicas that start together must not fetch together for ever.
const JITTER: f64 = 0.1;

const TARGET: &str = "dapr.sentry.identity.jwks";

/// The keys of the moment. Cheap to clone.
pub type Keys = Arc<ArcSwap<JwkSet>>;

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

/// Loads the keys and follows their source for as long as the scope lives. Health target:
/// `sentry-jwks-validator`.
///
/// # Errors
/// The keys cannot be loaded; the text names the source, never its content.
pub async fn start(options: &JwksOptions, scope: &Scope) -> anyhow::Result<Keys> {
    let ready = scope.ready("sentry-jwks-validator");
    let source = Source::new(options)?;
    // Before the file is read: no change is missed.
    let watch = source.watch()?;
    let first = source.load().await.context("load the key set of the token validator 'jwks'")?;
    tracing::info!(target: TARGET, keys = first.len(), "key set loaded");
    let keys: Keys = Arc::new(ArcSwap::from_pointee(first));
    let (handle, token) = (keys.clone(), scope.token().clone());
    scope.spawn("jwks", async move {
        token.run_until_cancelled(source.follow(&handle, watch)).await;
        Ok(())
    });
    ready.set_ready();
    Ok(keys)
}

impl Source {
    fn new(options: &JwksOptions) -> anyhow::Result<Self> {
        let source = options.source.as_str();
        let secure = source.starts_with("https://");
        if secure || source.starts_with("http://") {
            if !secure {
                tracing::warn!(target: TARGET, "the key set is fetched over http: whoever controls the network can forge identities; use https");
            }
            let roots = match &options.ca_certificate {
                None => Roots::System,
                Some(text) if text.contains("-----BEGIN") => Roots::Pem(text.clone().into_bytes()),
                Some(path) => {
                    let text = std::fs::read(path);
                    Roots::Pem(text.with_context(|| format!("read caCertificate {path:?}"))?)
                }
            };
            let fetcher = Fetcher::new(&roots, options.timeout, MAX_BYTES)?;
            let address = source.to_owned();
            return Ok(Self::Url { address, fetcher, refresh: options.refresh });
        }
        if Path::new(source).is_file() {
            return Ok(Self::File(source.into()));
        }
        inline(source).map(Self::Inline)
    }

    async fn load(&self) -> anyhow::Result<JwkSet> {
        match self {
            Self::Url { address, fetcher, .. } => {
                let text = fetcher.get(address).await;
                let named = || format!("fetch {address}");
                JwkSet::parse(&text.with_context(named)?).with_context(named)
            }
            Self::File(path) => {
                let named = || format!("read {}", path.display());
                let text = std::fs::read(path).with_context(named)?;
                JwkSet::parse(&text).with_context(named)
            }
            Self::Inline(set) => Ok(set.clone()),
        }
    }

    /// Loads again from time to time and whenever the file changes.
    async fn follow(&self, keys: &Keys, watch: Option<FileWatch>) {
        match (self, watch) {
            (Self::Url { refresh, .. }, _) => loop {
                tokio::time::sleep(random::jittered(*refresh, JITTER).max(*refresh)).await;
                self.load_again(keys).await;
            },
            (Self::File(_), Some(mut watch)) => loop {
                watch.changed(SLOW_POLL).await;
                self.load_again(keys).await;
            },
            (Self::File(_), None) | (Self::Inline(_), _) => std::future::pending().await,
        }
    }

    fn watch(&self) -> anyhow::Result<Option<FileWatch>> {
        match self {
            Self::File(path) => FileWatch::new([path.as_path()]).map(Some),
            Self::Url { .. } | Self::Inline(_) => Ok(None),
        }
    }

    async fn load_again(&self, keys: &Keys) {
        match self.load().await {
            Ok(set) if set == **keys.load() => {}
            Ok(set) => {
                tracing::info!(target: TARGET, keys = set.len(), "key set changed");
                keys.store(Arc::new(set));
            }
            Err(e) => {
                tracing::error!(target: TARGET, "the key set cannot be loaded: {e:#}; the former one stays in use");
            }
        }
    }
}

fn inline(source: &str) -> anyhow::Result<JwkSet> {
    let text = source.trim();
    let said = "the option 'source' is neither a URL, nor a file, nor a key set in JSON or base64";
    if text.starts_with('{') {
        return JwkSet::parse(text.as_bytes()).context(said);
    }
    let decoded = BASE64.decode(text).context(said)?;
    JwkSet::parse(&decoded).context(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

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
    async fn reads_a_set_that_is_given(#[case] source: String) {
        let keys = start(&options(&source), &Scope::for_test()).await.unwrap();
        assert!(keys.load().names("a"));
    }

    #[rstest]
    #[case::nothing_there("/no/such/file")]
    #[case::no_set("{}")]
    #[case::no_base64("hello!")]
    #[case::url("http://127.0.0.1:1/keys")]
    #[tokio::test]
    async fn refuses_to_start_without_keys(#[case] source: &str) {
        assert!(start(&options(source), &Scope::for_test()).await.is_err());
    }

    #[tokio::test]
    async fn follows_a_file_and_keeps_the_last_good_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        std::fs::write(&path, SET).unwrap();
        let scope = Scope::for_test();
        let keys = start(&options(path.to_str().unwrap()), &scope).await.unwrap();
        std::fs::write(&path, "not a key set").unwrap();
        std::fs::write(&path, SET.replace("\"a\"", "\"b\"")).unwrap();
        testkit::until("the new key is known", async || keys.load().names("b")).await;
        assert!(scope.shutdown().await.is_ok());
    }
}
