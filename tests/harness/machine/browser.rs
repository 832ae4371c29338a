//! A real browser without a screen: Chromium loads a page and runs its scripts.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::packages::{self, CHROMIUM};
use crate::{Cluster, Scratch, process};

/// How long a page may take, on a machine that others use too.
const LIMIT: Duration = Duration::from_mins(1);
/// Resolves no name: a page that asks for anything outside of this machine fails.
const NO_NAMES: &str =
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost";

/// What a page came to.
#[derive(Debug)]
pub struct Opened {
    /// The document after its scripts ran, as HTML.
    pub document: String,
    /// What the browser logged, refusals by a Content Security Policy among it.
    pub console: String,
}

/// Opens an URL.
///
/// # Errors
/// When Chromium is not installed and cannot be, or does not end in a minute.
pub fn open(url: &str) -> Result<Opened> {
    run(Command::new("timeout"), &["--dump-dom", url])
}

/// Opens an URL where that cluster can be reached.
///
/// # Errors
/// As [`open`].
pub fn open_inside(cluster: &Cluster, url: &str) -> Result<Opened> {
    run(cluster.command("timeout"), &["--dump-dom", url])
}

/// Draws a page of this width in pixels into a PNG file.
///
/// # Errors
/// As [`open`], or when there is no file afterwards.
pub fn draw(url: &str, width: u32, file: &Path) -> Result<()> {
    let picture = format!("--screenshot={}", file.display());
    let size = format!("--window-size={width},900");
    run(Command::new("timeout"), &[&picture, &size, "--hide-scrollbars", url])?;
    ensure!(file.is_file(), "Chromium drew no {}", file.display());
    Ok(())
}

/// Runs Chromium by `timeout`.
fn run(mut command: Command, args: &[&str]) -> Result<Opened> {
    packages::require(&CHROMIUM)?;
    let scratch = Scratch::new("browser")?;
    command.arg(LIMIT.as_secs().to_string()).arg("chromium");
    command.arg(format!("--user-data-dir={}", scratch.path().display()));
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
