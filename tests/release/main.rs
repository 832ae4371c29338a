//! What a release consists of, pushed to a registry of the test's own: one name for both
//! processors, the same bytes each time, and values that pin them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use blackbox::krew::{self, Platform};
use blackbox::signing::Signer;
use blackbox::{
    Architecture, Deadline, Image, Process, Scratch, Service, Spawn, Tool, chart_repo, environment,
    process, provenance, registry, until,
};
use serde_json::Value;

const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// An empty registry on this machine.
struct Registry {
    address: String,
    files: Scratch,
    _process: Process,
}

impl Registry {
    fn start() -> Result<Self> {
        let files = Scratch::new("registry")?;
        let port = environment::free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut process = Spawn::new("registry", Tool::CRANE.path()?, files.path())
            .args(["registry", "serve", "--address", &address])
            .start()?;
        process.wait_for_port(port, Deadline::seconds(60))?;
        Ok(Self { address, files, _process: process })
    }

    /// Archives of an image for both processors; nothing in them but their service's name.
    fn archives(&self, name: &str) -> Result<Vec<(Architecture, PathBuf)>> {
        let one = |architecture: Architecture| {
            let file = self.files.path().join(format!("{}.tar", architecture.name()));
            let content = format!("{name} {}", architecture.name());
            Image::new(name).architecture(architecture).bytes(content, "/program").write(&file)?;
            Ok((architecture, file))
        };
        Architecture::ALL.into_iter().map(one).collect()
    }
}

fn crane(args: &[&str]) -> Result<String> {
    process::output(Command::new(Tool::CRANE.path()?).args(args))
}

#[test]
fn one_name_stands_for_both_processors_and_always_has_the_same_digest() -> Result<()> {
    let registry = Registry::start()?;
    let name = format!("{}/trilby/sentry:1.18.3", registry.address);
    let digest = registry::push(&name, &registry.archives(&name)?)?;
    let pinned = format!("{name}@{digest}");
    let index: Value = serde_json::from_str(&crane(&["manifest", &pinned])?)?;
    let manifests = index.get("manifests").and_then(Value::as_array).context("no index")?;
    let text = |manifest: &Value, at: &str| -> String {
        manifest.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let platforms: Vec<_> =
        manifests.iter().map(|one| text(one, "/platform/architecture")).collect();
    ensure!(platforms == ["amd64", "arm64"], "{index}");
    for platform in ["linux/amd64", "linux/arm64"] {
        let config = crane(&["config", "--platform", platform, &pinned])?;
        ensure!(config.contains("\"User\":\"65532\""), "{config}");
    }

    ensure!(registry::push(&name, &registry.archives(&name)?)? == digest, "another digest");
    registry::tag(&name, "1.18")?;
    let alias = format!("{}/trilby/sentry:1.18", registry.address);
    ensure!(crane(&["digest", &alias])?.trim() == digest, "the alias is another image");
    Ok(())
}

#[test]
fn the_pins_of_a_push_name_every_image_of_the_chart_by_its_digest() -> Result<()> {
    let registry = Registry::start()?;
    let mut pushed = Vec::new();
    for service in Service::ALL {
        let name = format!("{}/trilby/{}:1.18.3", registry.address, service.binary());
        let digest = registry::push(&name, &registry.archives(&name)?)?;
        pushed.push((service, format!("{name}@{digest}")));
    }
    let values = registry.files.write("digests.json", registry::pins(&pushed).to_string())?;
    let chart = environment::workspace().join("charts/dapr");
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.args(["template", "dapr", "--namespace", "dapr-system", "-f"]).arg(values).arg(chart);
    helm.args(["--set", "global.controlPlane.registry=elsewhere.example"]);
    let rendered = process::output(&mut helm)?;
    for (_, image) in &pushed {
        ensure!(rendered.contains(image.as_str()), "{image} is not in the chart's rendering");
        until(Deadline::seconds(60), "the registry", || Ok(crane(&["manifest", image]).ok()))?;
    }
    ensure!(!rendered.contains("elsewhere.example"), "an image is not pinned");
    Ok(())
}

/// Helm, which takes nothing from this user's settings.
fn helm(home: &Path, args: &[&str]) -> Result<String> {
    let mut helm = Command::new(Tool::HELM.path()?);
    for name in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        helm.env(name, home.join(name));
    }
    process::output(helm.args(args).current_dir(home))
}

#[test]
fn charts_are_pushed_to_a_registry_and_installed_from_it() -> Result<()> {
    let registry = Registry::start()?;
    let folder = registry.files.path();
    let charts = folder.join("charts");
    let address = format!("oci://{}/charts", registry.address);
    let packages = [
        ("dapr", chart_repo::add_chart(&charts, Some(&registry.address))?),
        ("dapr-dashboard", chart_repo::add_dashboard(&charts, Some(&registry.address))?),
    ];
    for (name, package) in packages {
        chart_repo::push(&package, &address)?;
        let url = format!("{address}/{name}");
        helm(folder, &["pull", &url, "--plain-http"])?;
        let pulled = folder.join(package.file_name().context("a package has a name")?);
        ensure!(fs::read(&pulled)? == fs::read(&package)?, "{name}: other bytes were pulled");
        let rendered = helm(folder, &["template", name, &url, "--plain-http"])?;
        ensure!(rendered.contains(&format!("{}/", registry.address)), "{name}: {rendered}");
        let local = helm(folder, &["template", name, &package.to_string_lossy()])?;
        ensure!(rendered == local, "{name} renders otherwise than the package");
    }
    Ok(())
}

/// krew installs the archive by its manifest, and `kubectl dapr` is the program in it.
#[test]
fn krew_installs_what_kubectl_dapr_runs() -> Result<()> {
    let files = Scratch::new("krew")?;
    let release = files.path().join("release");
    let program = files.write("program", "#!/bin/sh\necho \"daprctl: $*\"\n")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let archive = krew::pack(&release, Platform::linux(Architecture::here()?), &program)?;
    let manifest = krew::write_manifest(&release, "https://releases.example.com/v1")?;
    let install = |home: &Path| -> Result<String> {
        let mut krew = Command::new(Tool::KREW.path()?);
        krew.arg("install").arg(format!("--manifest={}", manifest.display()));
        krew.arg(format!("--archive={}", archive.display())).stdin(Stdio::null());
        process::output(krew.env("KREW_ROOT", home).env("HOME", files.path()))
    };
    let home = files.path().join("home");
    install(&home)?;
    ensure!(home.join("store/dapr").join(VERSION).join("LICENSE").is_file(), "no licence");
    let path =
        format!("{}:{}", home.join("bin").display(), environment::var("PATH").unwrap_or_default());
    let mut kubectl = Command::new(Tool::KUBECTL.path()?);
    let said = process::output(kubectl.args(["dapr", "check", "--pre"]).env("PATH", path))?;
    ensure!(said.trim() == "daprctl: check --pre", "{said}");

    fs::write(&archive, "another program")?;
    let other = install(&files.path().join("other"));
    ensure!(other.is_err(), "an archive with another checksum is installed");
    Ok(())
}

/// The commands of docs/release.md that verify a release, in `folder`.
fn verify(folder: &Path, image: &str, chart: &Path) -> Result<String> {
    let document = fs::read_to_string(environment::workspace().join("docs/release.md"))?;
    let (_, after) = document.split_once("runs this block. -->").context("no such comment")?;
    let (_, block) = after.split_once("```sh\n").context("no block of commands")?;
    let (block, _) = block.split_once("```").context("the block has no end")?;
    let cosign = format!("cosign() {{ {} \"$@\"; }}", Tool::COSIGN.path()?.display());
    let mut shell = Command::new("sh");
    shell.args(["-euc", &format!("{cosign}\n{block}")]).current_dir(folder);
    process::output(shell.env("IMAGE", image).env("CHART", chart))
}

#[test]
fn a_rehearsed_release_verifies_as_documented() -> Result<()> {
    let registry = Registry::start()?;
    let name = format!("{}/trilby/sentry:1.18.3", registry.address);
    let digest = registry::push(&name, &registry.archives(&name)?)?;
    let image = format!("{name}@{digest}");
    let folder = registry.files.path();
    let charts = folder.join("charts");
    let chart = chart_repo::add_chart(&charts, Some(&registry.address))?;
    ensure!(verify(folder, &image, &chart).is_err(), "nothing is signed, and it verifies");

    let signer = Signer::rehearsal(folder)?;
    ensure!(signer.sign_image(&name).is_err(), "a tag is signed");
    signer.sign_image(&image)?;
    let sources = provenance::Sources::here()?;
    let predicate = provenance::predicate(Service::Sentry, "release", "urn:example", &sources);
    signer.attest(&image, &predicate)?;
    signer.sign_file(&chart)?;
    let said = verify(folder, &image, &chart)?;
    ensure!(said.contains(&digest), "{said}");

    // Another image, a chart with one more byte, and another key's signature do not verify.
    let other = format!("{}/trilby/sentry:other", registry.address);
    let other_digest = registry::push(&other, &registry.archives("another")?)?;
    ensure!(verify(folder, &format!("{other}@{other_digest}"), &chart).is_err(), "not signed");
    let mut changed = fs::read(&chart)?;
    changed.push(0);
    fs::write(&chart, changed)?;
    ensure!(verify(folder, &image, &chart).is_err(), "a changed chart verifies");
    signer.sign_file(&chart)?;
    verify(folder, &image, &chart)?;
    let stranger = registry.files.path().join("stranger");
    fs::create_dir(&stranger)?;
    Signer::rehearsal(&stranger)?;
    ensure!(verify(&stranger, &image, &chart).is_err(), "another key verifies");
    Ok(())
}
