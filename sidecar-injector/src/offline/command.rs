//! `injector inject` and `injector lint`.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::Parser as _;
use runtime::printable;
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::{BadDocument, Offline, Outcome, PodResult, Remark, Source, documents, emit};
use crate::config::{Config, ConfigError, Flags, HostEnvironment};

/// Default namespace of the control plane.
const NAMESPACE: &str = "dapr-system";
/// Default image of the sidecar.
const SIDECAR_IMAGE: &str = "ghcr.io/dapr/daprd:1.18.5";

/// Commands for manifests.
#[derive(Debug, clap::Parser)]
#[command(name = "injector", version = runtime::VERSION)]
pub enum Command {
    /// Print manifests with the sidecars that the webhook would add
    Inject {
        /// Output format: the manifests, or patches for kustomize
        #[arg(long, default_value = "yaml", value_name = "FORMAT")]
        format: Format,
        /// Manifests and settings
        #[command(flatten)]
        input: Input,
    },
    /// Print the warnings that the webhook would return; exit code 1 if there are any
    Lint {
        /// Manifests and settings
        #[command(flatten)]
        input: Input,
    },
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// The manifests with sidecars.
    Yaml,
    /// A list for `patches` of a kustomization.
    Patch,
}

/// Manifests and settings.
#[derive(Debug, clap::Args)]
pub struct Input {
    /// File with manifests in YAML or JSON; `-` for standard input. Can be repeated
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Namespace of objects without one
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Manifests of the control plane, for its settings: the output of `helm template`, or of
    /// `kubectl -n dapr-system get deploy/dapr-sidecar-injector cm/dapr-trust-bundle
    /// configurations.dapr.io/daprsystem -o yaml`
    #[arg(long, value_name = "FILE")]
    control_plane: Option<PathBuf>,
    /// PEM file with the trust anchors. Default: those in the manifests of the control plane
    #[arg(long, value_name = "FILE")]
    trust_anchors: Option<PathBuf>,
    /// Image of the sidecar
    #[arg(long, value_name = "IMAGE")]
    sidecar_image: Option<String>,
    /// Environment variable of the injector; overrides the manifests of the control plane. Can be
    /// repeated
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
}

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A file cannot be read.
    #[error("read {name}")]
    Read {
        /// Name of the file.
        name: String,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A document is not YAML.
    #[error(transparent)]
    Document(#[from] BadDocument),
    /// `inject` has no trust anchors for the sidecars.
    #[error(
        "no trust anchors: set --trust-anchors to the output of \
         `kubectl -n dapr-system get cm dapr-trust-bundle -o jsonpath='{{.data.ca\\.crt}}'`, \
         or pass that ConfigMap with --control-plane"
    )]
    NoTrustAnchors,
    /// The trust anchors are not certificates.
    #[error("parse the trust anchors")]
    TrustAnchors(#[source] identity::AnchorsError),
    /// The manifests of the control plane have no injector.
    #[error("{name} does not contain Deployment dapr-sidecar-injector")]
    NoInjector {
        /// Name of the file.
        name: String,
    },
    /// A value of `--env` has another form.
    #[error("--env {pair} is not NAME=VALUE")]
    Variable {
        /// The value.
        pair: String,
    },
    /// The arguments of the injector in the manifests are invalid.
    #[error("arguments of the injector in the manifests of the control plane")]
    Arguments(#[from] clap::Error),
    /// The settings of the injector are invalid.
    #[error("settings of the injector")]
    Settings(#[source] ConfigError),
    /// Standard output or standard error is closed.
    #[error("write the output")]
    Write(#[source] io::Error),
}

/// Runs a command. False if the webhook would reject a pod or, for `lint`, would return warnings.
///
/// # Errors
/// [`CommandError`]
pub fn run(command: &Command) -> Result<bool, CommandError> {
    match command {
        Command::Inject { format, input } => {
            let (sources, outcome) = input.inject(true)?;
            report(&outcome)?;
            let good = outcome.remarks.iter().all(|r| !matches!(r.result, PodResult::Failed(_)));
            if good {
                print(&match format {
                    Format::Yaml => joined(&sources, &outcome.texts),
                    Format::Patch => patches(&outcome),
                })?;
            }
            Ok(good)
        }
        Command::Lint { input } => {
            let (_, outcome) = input.inject(false)?;
            let mut lines = Vec::new();
            for Remark { subject, result, warnings } in &outcome.remarks {
                lines.extend(warnings.iter().map(|w| format!("{subject}: {}", printable(w))));
                if let PodResult::Failed(why) = result {
                    lines.push(rejection(subject, why));
                }
            }
            let good = lines.is_empty();
            print(&lines.into_iter().map(|line| line + "\n").collect::<String>())?;
            Ok(good)
        }
    }
}

/// The warnings and rejections of the webhook for manifests, with the injector's default settings:
/// for each pod that has any, its object and texts.
///
/// # Errors
/// A document is not YAML.
pub fn lint(sources: &[Source]) -> Result<Vec<Remark>, CommandError> {
    let input = Input {
        files: Vec::new(),
        namespace: None,
        control_plane: None,
        trust_anchors: None,
        sidecar_image: None,
        env: Vec::new(),
    };
    let config = input.config(&ControlPlane::default())?;
    let offline = Offline {
        settings: &config.settings,
        trust_anchors: "",
        mtls_enabled: true,
        namespace: Some("default"),
    };
    let mut remarks = offline.inject(sources)?.remarks;
    remarks.retain(|r| !r.warnings.is_empty() || matches!(r.result, PodResult::Failed(_)));
    Ok(remarks)
}

impl Input {
    fn inject(&self, needs_anchors: bool) -> Result<(Vec<Source>, Outcome), CommandError> {
        let sources = self.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
        let control_plane = self.control_plane()?;
        let config = self.config(&control_plane)?;
        let anchors = match &self.trust_anchors {
            Some(path) => Some(read(path)?.text),
            None => control_plane.trust_anchors,
        };
        if needs_anchors && anchors.is_none() {
            return Err(CommandError::NoTrustAnchors);
        }
        let anchors = anchors.unwrap_or_default();
        if needs_anchors {
            identity::TrustAnchors::parse_pem(anchors.as_bytes())
                .map_err(CommandError::TrustAnchors)?;
        }
        let offline = Offline {
            settings: &config.settings,
            trust_anchors: &anchors,
            mtls_enabled: control_plane.mtls_enabled.unwrap_or(true),
            // `lint` writes no sidecar, so it needs no namespace.
            namespace: self.namespace.as_deref().or((!needs_anchors).then_some("default")),
        };
        let outcome = offline.inject(&sources)?;
        Ok((sources, outcome))
    }

    fn control_plane(&self) -> Result<ControlPlane, CommandError> {
        let mut found = ControlPlane::default();
        let Some(path) = &self.control_plane else { return Ok(found) };
        let source = read(path)?;
        for document in super::read(&source)? {
            found.read(&document.value);
        }
        if found.env.is_empty() {
            return Err(CommandError::NoInjector { name: source.name });
        }
        Ok(found)
    }

    fn config(&self, control_plane: &ControlPlane) -> Result<Config, CommandError> {
        let mut env = control_plane.env.clone();
        for pair in &self.env {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| CommandError::Variable { pair: pair.clone() })?;
            env.insert(name.to_owned(), value.to_owned());
        }
        env.extend(self.sidecar_image.clone().map(|image| ("SIDECAR_IMAGE".to_owned(), image)));
        for (name, default) in [("NAMESPACE", NAMESPACE), ("SIDECAR_IMAGE", SIDECAR_IMAGE)] {
            env.entry(name.to_owned()).or_insert_with(|| default.to_owned());
        }
        let args = std::iter::once("injector").chain(control_plane.args.iter().map(String::as_str));
        let args = runtime::flags::double_dashes(args.map(Into::into));
        let flags = Flags::try_parse_from(args)?;
        // In a cluster the injector has a token.
        let host = HostEnvironment { resolv_conf: String::new(), has_token: true };
        flags.into_config(|name| env.get(name).cloned(), &host).map_err(CommandError::Settings)
    }
}

fn read(path: &Path) -> Result<Source, CommandError> {
    if path == Path::new("-") {
        let mut text = String::new();
        let name = "standard input".to_owned();
        return match io::stdin().read_to_string(&mut text) {
            Ok(_) => Ok(Source { name, text }),
            Err(source) => Err(CommandError::Read { name, source }),
        };
    }
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Source { name, text }),
        Err(source) => Err(CommandError::Read { name, source }),
    }
}

/// Prints the results to standard error.
fn report(outcome: &Outcome) -> Result<(), CommandError> {
    let mut lines = Vec::new();
    for Remark { subject, result, warnings } in &outcome.remarks {
        match result {
            PodResult::Injected { app_id, .. } => {
                lines.push(format!("{subject}: sidecar of app {app_id} injected"));
            }
            PodResult::Failed(why) => lines.push(rejection(subject, why)),
            PodResult::Unchanged(_) => {}
        }
        lines.extend(warnings.iter().map(|w| format!("{subject}: warning: {}", printable(w))));
    }
    lines.extend(outcome.rewritten.iter().map(|document| {
        format!(
            "{document}: written from scratch without its comments, because its YAML cannot be edited in place"
        )
    }));
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    io::stderr().write_all(text.as_bytes()).map_err(CommandError::Write)
}

fn rejection(subject: &str, why: &str) -> String {
    format!("{subject}: rejected: {}", printable(why))
}

/// Joins the texts to one stream of documents.
fn joined(sources: &[Source], texts: &[String]) -> String {
    let mut all = String::new();
    for (source, text) in sources.iter().zip(texts) {
        if !all.is_empty() {
            if !all.ends_with('\n') {
                all.push('\n');
            }
            // Unless the next text starts with a separator.
            if documents::split(&source.text).first().is_none_or(|first| !first.is_empty()) {
                all.push_str("---\n");
            }
        }
        all.push_str(text);
    }
    all
}

/// The patches as a list for `patches` of a kustomization.
fn patches(outcome: &Outcome) -> String {
    let patches = outcome.remarks.iter().filter_map(|remark| match &remark.result {
        PodResult::Injected { patch, target, .. } => {
            let operations = emit::block(&json!(patch), 0).unwrap_or_default();
            Some(json!({"target": target, "patch": operations.join("\n") + "\n"}))
        }
        PodResult::Unchanged(_) | PodResult::Failed(_) => None,
    });
    let patches: Value = patches.collect();
    let mut lines = emit::block(&patches, 0).unwrap_or_else(|| vec![emit::inline(&patches)]);
    lines.push(String::new());
    lines.join("\n")
}

fn print(text: &str) -> Result<(), CommandError> {
    io::stdout().write_all(text.as_bytes()).map_err(CommandError::Write)
}
