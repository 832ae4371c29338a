//! Headless Chromium: loads a page and runs its scripts.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::packages::{self, CHROMIUM};
use crate::{Cluster, Scratch, process};

/// Time limit of a page. A graph of 500 applications under axe-core takes minutes of a busy machine.
const LIMIT: Duration = Duration::from_mins(5);
/// Resolves no name: a page that requests anything outside of this machine fails.
const NO_NAMES: &str =
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost";

/// A page after its scripts ran.
#[derive(Debug)]
pub struct Opened {
    /// The document after its scripts ran, as HTML.
    pub document: String,
    /// The log of the browser, with violations of the Content Security Policy.
    pub console: String,
}

/// Opens an URL.
///
/// # Errors
/// When Chromium is missing and cannot be installed, or does not end in five minutes.
pub fn open(url: &str) -> Result<Opened> {
    run(Command::new("timeout"), &["--dump-dom", url])
}

/// Opens a file and waits until its scripts are idle.
///
/// # Errors
/// As [`open`].
pub fn open_file(file: &Path) -> Result<Opened> {
    let url = format!("file://{}", file.display());
    run(Command::new("timeout"), &["--dump-dom", "--virtual-time-budget=20000", &url])
}

/// Opens an URL in the network namespace of that cluster.
///
/// # Errors
/// As [`open`].
pub fn open_inside(cluster: &Cluster, url: &str) -> Result<Opened> {
    run(cluster.command("timeout"), &["--dump-dom", url])
}

/// Writes a screenshot of this width in pixels to a PNG file.
///
/// # Errors
/// As [`open`], or when there is no file afterwards.
pub fn draw(url: &str, width: u32, file: &Path) -> Result<()> {
    draw_by(Command::new("timeout"), url, width, file)
}

/// The same in the network namespace of that cluster.
///
/// # Errors
/// As [`draw`].
pub fn draw_inside(cluster: &Cluster, url: &str, width: u32, file: &Path) -> Result<()> {
    draw_by(cluster.command("timeout"), url, width, file)
}

fn draw_by(timeout: Command, url: &str, width: u32, file: &Path) -> Result<()> {
    let picture = format!("--screenshot={}", file.display());
    let size = format!("--window-size={width},900");
    run(timeout, &[&picture, &size, "--hide-scrollbars", url])?;
    ensure!(file.is_file(), "Chromium drew no {}", file.display());
    Ok(())
}

/// Runs Chromium by `timeout`.
fn run(mut command: Command, args: &[&str]) -> Result<Opened> {
    packages::require(&CHROMIUM)?;
    let scratch = Scratch::new("browser")?;
    command.arg(LIMIT.as_secs().to_string()).arg("chromium");
    command.arg(format!("--user-data-dir={}", scratch.path().display()));
    for folder in ["HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR"] {
        command.env(folder, scratch.path());
    }
    // Its own sandbox needs rights that root in a container lacks; the pages are ours.
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    command.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
    command.args(["--disable-component-update", "--enable-logging=stderr", NO_NAMES]);
    let output = command.args(args).stdin(Stdio::null()).output().context("run chromium")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (document, console) = (text(&output.stdout), text(&output.stderr));
    let status = process::describe(output.status);
    ensure!(output.status.success(), "chromium {args:?}: {status}\n{}", process::tail(&console));
    Ok(Opened { document, console })
}
