//! Builds a Go program from its published module, in a module of our own that requires it and
//! repeats its replace lines: Go ignores those of a dependency, and `go install` refuses them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::progress::say;
use crate::tools::{self, Recipe, Tool};
use crate::{Architecture, Deadline, Scratch, environment, process, until};

/// Modules that the checksum database does not serve.
const NO_SUM_DB: &str = "github.com/dapr/*,github.com/diagridio/*";
/// Where Kubernetes programs keep their version.
const KUBERNETES_VERSION: &str = "k8s.io/component-base/version";
/// A constant date: two builds must not differ.
const BUILD_DATE: &str = "2026-01-01T00:00:00Z";
/// Replace lines for [`tools::DAPR`], which requires versions that the module proxy does not serve.
const NEWEST_DAPR: [&str; 2] = [
    "github.com/dapr/durabletask-go => github.com/dapr/durabletask-go v0.12.1",
    "github.com/iskorotkov/avro/v2 => ./avro",
];
/// The module `./avro` of that line: the part of the fork that daprd uses, over the fork's origin.
const AVRO: [(&str, &str); 2] =
    [("go.mod", include_str!("avro/module.txt")), ("avro.go", include_str!("avro/avro.go"))];
/// The main program of [`Recipe::Daprd`].
const DAPRD: &str = include_str!("daprd/main.go");
/// Build tags of its components: those that are stable, and one for cryptography.
const DAPRD_COMPONENTS: &str = "stablecomponents,crypto_localstorage";
/// A module that replace lines of [`tools::DAPR`] itself name and that the proxy does not serve.
const UNSERVED: &str = "github.com/twmb/pulsar-client-go";
/// Replace lines for the older releases of the compatibility matrix.
const OLDER_DAPR: [&str; 1] =
    ["github.com/diagridio/go-etcd-cron => github.com/diagridio/go-etcd-cron v0.12.6"];
/// Interval of the progress lines of a long build.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// The oldest Go that can build all of them.
const GO_DIRECTIVE: &str = "1.24.0";

/// A published module in Go's module cache.
struct Module {
    go_mod: PathBuf,
    folder: PathBuf,
}

/// Input of `go build`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    requires: Vec<(String, String)>,
    replaces: Vec<String>,
    package: String,
    ld_flags: Vec<String>,
    tags: &'static str,
    /// `go.sum` of the module, where the checksum database will not do.
    sums: String,
}

/// Builds `tool` into `target`, which appears only when it is complete; for this machine, or for the
/// architecture `foreign`.
///
/// # Errors
/// When Go is missing or too old, a module cannot be downloaded, or the build fails; the error
/// holds the end of the build's log.
pub(crate) fn build(tool: &Tool, target: &Path, foreign: Option<Architecture>) -> Result<()> {
    let folder = environment::cache()?.join("build").join(tool.to_string());
    if folder.exists() {
        fs::remove_dir_all(&folder)?; // of a build that was interrupted
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let plan = plan(tool, &folder)?;
    fs::write(folder.join("go.mod"), go_mod(&plan))?;
    fs::write(folder.join("go.sum"), &plan.sums)?;

    let log_file = folder.join("build.log");
    let log = File::create(&log_file)?;
    let mut go = go(&folder);
    if let Some(architecture) = foreign {
        go.env("GOARCH", architecture.name());
    }
    let mut child = go
        .args(["build", "-mod=mod", "-trimpath", "-tags", plan.tags, "-o", "program", "-ldflags"])
        .arg(format!("-s -w {}", plan.ld_flags.join(" ")))
        .arg(&plan.package)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("run go")?;
    if !wait_with_signs_of_life(&mut child, tool)?.success() {
        let log = fs::read_to_string(&log_file).unwrap_or_default();
        bail!("go build {}: {}", plan.package, process::tail(&log));
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::rename(folder.join("program"), target)
        .with_context(|| format!("move the program to {}", target.display()))?;
    fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Waits for the build and prints progress lines.
fn wait_with_signs_of_life(child: &mut Child, tool: &Tool) -> Result<ExitStatus> {
    loop {
        let ended = until(Deadline::after(SIGN_OF_LIFE), "go build", || Ok(child.try_wait()?));
        match (ended, child.try_wait()?) {
            (Ok(status), _) | (Err(_), Some(status)) => return Ok(status),
            (Err(_), None) => say(format_args!("still building {tool}")),
        }
    }
}

/// `go`, with an environment that does not depend on the user's settings.
fn go(folder: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(folder).stdin(Stdio::null());
    command.envs([
        ("CGO_ENABLED", "0"),
        ("GOFLAGS", "-buildvcs=false"),
        ("GOWORK", "off"),
        ("GO111MODULE", "on"),
    ]);
    let theirs = environment::var("GONOSUMDB").map(|list| format!("{list},{NO_SUM_DB}"));
    command.env("GONOSUMDB", theirs.as_deref().unwrap_or(NO_SUM_DB));
    command
}

/// Builds the main package of a module of ours, as its `go.mod` and `go.sum` say.
///
/// # Errors
/// When Go is missing, a module cannot be downloaded, or the build fails.
pub(super) fn build_own(module: &Path, target: &Path) -> Result<()> {
    let mut build = go(module);
    build.args(["build", "-mod=readonly", "-trimpath", "-o"]).arg(target).arg(".");
    process::output(&mut build).map(drop)
}

fn plan(tool: &Tool, folder: &Path) -> Result<Plan> {
    if environment::find_program("go").is_none() {
        bail!("Go {GO_DIRECTIVE} or newer is needed to build it: https://go.dev/dl");
    }
    let version = tool.version.to_owned();
    match tool.recipe {
        Recipe::Plain { module, package } => Ok(plain(module, version, package, "")),
        Recipe::Own { module, main } => {
            fs::write(folder.join("main.go"), main)?;
            Ok(plain(module, version, ".", ""))
        }
        Recipe::Summed { module, package, sums } => Ok(plain(module, version, package, sums)),
        Recipe::Kubernetes => {
            let module = download(folder, "k8s.io/kubernetes", &version)?;
            Ok(Plan {
                replaces: staging(&replaces(folder, &module)?, &version)?,
                requires: vec![("k8s.io/kubernetes".to_owned(), version)],
                package: format!("k8s.io/kubernetes/cmd/{}", tool.name),
                ld_flags: kubernetes_version(tool.version)?,
                ..Plan::default()
            })
        }
        Recipe::Dapr { command, components } => Ok(Plan {
            package: format!("github.com/dapr/dapr/cmd/{command}"),
            tags: components,
            ..dapr(folder, version)?
        }),
        Recipe::Daprd => {
            fs::write(folder.join("main.go"), DAPRD)?;
            Ok(Plan { package: ".".to_owned(), tags: DAPRD_COMPONENTS, ..dapr(folder, version)? })
        }
        Recipe::DaprCli { runtime } => dapr_cli(folder, &version, runtime),
    }
}

/// What all programs of Dapr's runtime have in common.
fn dapr(folder: &Path, version: String) -> Result<Plan> {
    let module = download(folder, "github.com/dapr/dapr", &version)?;
    let mut replaces = published(&replaces(folder, &module)?);
    replaces.retain(|line| !line.contains(UNSERVED));
    let newest = version == tools::DAPR;
    let ours = if newest { NEWEST_DAPR.as_slice() } else { OLDER_DAPR.as_slice() };
    replaces.extend(ours.iter().map(|line| (*line).to_owned()));
    if newest {
        write_avro(folder)?;
    }
    Ok(Plan {
        replaces,
        ld_flags: vec![format!(
            "-X github.com/dapr/dapr/pkg/buildinfo.version={}",
            version.trim_start_matches('v')
        )],
        requires: vec![("github.com/dapr/dapr".to_owned(), version)],
        sums: sums(&module)?,
        ..Plan::default()
    })
}

fn plain(module: &str, version: String, package: &str, sums: &str) -> Plan {
    Plan {
        requires: vec![(module.to_owned(), version)],
        package: package.to_owned(),
        sums: sums.to_owned(),
        ..Plan::default()
    }
}

/// Writes the module [`AVRO`] next to the program's.
fn write_avro(folder: &Path) -> Result<()> {
    let module = folder.join("avro");
    fs::create_dir_all(&module).with_context(|| format!("create {}", module.display()))?;
    for (file, text) in AVRO {
        let file = module.join(file);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn dapr_cli(folder: &Path, version: &str, runtime: &str) -> Result<Plan> {
    let module = download(folder, "github.com/dapr/cli", version)?;
    let dapr = download(folder, "github.com/dapr/dapr", runtime)?;
    let mut replaces = published(&replaces(folder, &module)?);
    for path in ["github.com/dapr/dapr", "github.com/dapr/components-contrib"] {
        replaces.retain(|line| line.split_whitespace().next() != Some(path));
        replaces.push(format!("{path} => {path} {runtime}"));
    }
    Ok(Plan {
        replaces,
        package: "github.com/dapr/cli".to_owned(),
        ld_flags: vec![
            format!("-X main.version={}", version.trim_start_matches('v')),
            "-X main.apiVersion=1.0".to_owned(),
        ],
        requires: vec![("github.com/dapr/cli".to_owned(), version.to_owned())],
        tags: "",
        sums: sums(&module)? + &sums(&dapr)?,
    })
}

/// Downloads a module into Go's module cache.
fn download(folder: &Path, path: &str, version: &str) -> Result<Module> {
    let module = format!("{path}@{version}");
    let answer = process::output(go(folder).args(["mod", "download", "-json", &module]))?;
    let answer: Value = serde_json::from_str(&answer)?;
    let file = |key: &str| {
        let file = answer.get(key).and_then(Value::as_str).map(PathBuf::from);
        file.with_context(|| format!("go mod download {module}: no {key}"))
    };
    Ok(Module { go_mod: file("GoMod")?, folder: file("Dir")? })
}

/// The folder of a published module in Go's module cache, downloaded if necessary.
///
/// # Errors
/// When Go is missing or the module cannot be downloaded.
pub fn module_folder(path: &str, version: &str) -> Result<PathBuf> {
    let folder = Scratch::new("module")?;
    Ok(download(folder.path(), path, version)?.folder)
}

/// The replace lines of a module as `go mod edit -json` prints them.
fn replaces(folder: &Path, module: &Module) -> Result<Vec<Value>> {
    let answer = process::output(go(folder).args(["mod", "edit", "-json"]).arg(&module.go_mod))?;
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer.get("Replace").and_then(Value::as_array).cloned().unwrap_or_default())
}

/// `k8s.io/x => ./staging/...` as the module that is published for it: v1.34.4 is v0.34.4 there.
fn staging(replaces: &[Value], kubernetes: &str) -> Result<Vec<String>> {
    let rest = kubernetes.strip_prefix("v1.").context("a Kubernetes version starts with v1.")?;
    let is_staging = |replace: &&Value| text(replace, "/New/Path").starts_with("./staging/");
    let line = |replace: &Value| {
        let path = text(replace, "/Old/Path");
        format!("{path} => {path} v0.{rest}")
    };
    Ok(replaces.iter().filter(is_staging).map(line).collect())
}

/// Replace lines that point at published modules; those that point at folders are dropped.
fn published(replaces: &[Value]) -> Vec<String> {
    let line = |replace: &Value| {
        let [old, old_version, new, new_version] =
            ["/Old/Path", "/Old/Version", "/New/Path", "/New/Version"].map(|at| text(replace, at));
        (!new_version.is_empty())
            .then(|| format!("{old} {old_version} => {new} {new_version}").replace("  ", " "))
    };
    replaces.iter().filter_map(line).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn sums(module: &Module) -> Result<String> {
    let file = module.folder.join("go.sum");
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// Without these flags the server reports v0.0.0, which clients check.
fn kubernetes_version(version: &str) -> Result<Vec<String>> {
    let minor = version.split('.').nth(1).context("a Kubernetes version has a minor part")?;
    let values = [
        ("gitVersion", version),
        ("gitMajor", "1"),
        ("gitMinor", minor),
        ("gitTreeState", "clean"),
        ("buildDate", BUILD_DATE),
    ];
    Ok(values.map(|(key, value)| format!("-X {KUBERNETES_VERSION}.{key}={value}")).to_vec())
}

fn go_mod(plan: &Plan) -> String {
    let mut lines = vec!["module build".to_owned(), format!("go {GO_DIRECTIVE}")];
    lines.extend(plan.requires.iter().map(|(path, version)| format!("require {path} {version}")));
    lines.extend(plan.replaces.iter().map(|line| format!("replace {line}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn staging_modules_are_replaced_by_their_published_version() {
        let lines = [
            json!({"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}}),
            json!({"Old": {"Path": "a.b/c"}, "New": {"Path": "a.b/d", "Version": "v1.0.0"}}),
        ];
        assert_eq!(staging(&lines, "v1.34.4").unwrap(), ["k8s.io/api => k8s.io/api v0.34.4"]);
        assert_eq!(published(&lines), ["a.b/c => a.b/d v1.0.0"]);
    }

    #[test]
    fn a_replace_line_keeps_the_version_it_is_limited_to() {
        let line = json!({"Old": {"Path": "a.b/c", "Version": "v0.1.0"},
                          "New": {"Path": "a.b/c", "Version": "v0.2.0"}});
        assert_eq!(published(&[line]), ["a.b/c v0.1.0 => a.b/c v0.2.0"]);
    }
}
