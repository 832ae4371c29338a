//! axe-core, which finds accessibility faults in a page; from the npm registry, pinned by hash.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha512};

use super::cached;
use crate::{Scratch, browser, environment, packages, process};

const VERSION: &str = "4.11.0";
/// SHA-512 of the package in the registry.
const HASH: &str =
    "ilYanEU8vxxBexpJd8cWM4ElSQq4QctCLKih0TSfjIfCQTeyH/6zVrmIJfLPrKTKJRbiG+cfnZbQIjAlJmF1jQ==";

/// Where the script leaves what it found.
const FOUND: &str = "<pre id=\"axe-found\">";

/// `id: help` of each serious or critical fault of a page with this style, as Chromium shows it. The
/// policy of a page may admit no other script, so it is opened from a file.
///
/// # Errors
/// When axe-core or Chromium is missing and cannot be fetched, or does not end in time.
pub fn serious_faults(page: &str, style: &str) -> Result<Vec<String>> {
    let script = script()?;
    // Selectors of thousands of elements, and of those without a fault, take most of the time.
    let run = "axe.run({resultTypes: ['violations'], selectors: false}).then(r => { const p = document.createElement('pre'); p.id = 'axe-found'; \
               p.textContent = JSON.stringify(r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help}))); \
               document.body.append(p); });";
    let head = format!("<style>{style}</style>");
    let end = format!("<script>{script}</script><script>{run}</script></body>");
    let page = page.replacen("</head>", &format!("{head}</head>"), 1);
    let page = page.replacen("</body>", &end, 1);
    let scratch = Scratch::new("axe")?;
    let document = browser::open_file(&scratch.write("page.html", page)?)?.document;
    let found = document.split_once(FOUND).context("axe-core did not end")?.1;
    let found = found.split_once("</pre>").context("axe-core did not end")?.0;
    let found = found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let found: Vec<Value> = serde_json::from_str(&found)?;
    let text = |fault: &Value, name: &str| {
        fault.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let is_serious =
        |fault: &&Value| ["serious", "critical"].contains(&text(fault, "impact").as_str());
    let serious = found.iter().filter(is_serious);
    Ok(serious.map(|fault| format!("{}: {}", text(fault, "id"), text(fault, "help"))).collect())
}

/// The script; fetched on first use.
fn script() -> Result<String> {
    let script = cached::folder(&format!("axe-core-{VERSION}"), fetch)?.join("package/axe.min.js");
    fs::read_to_string(&script).with_context(|| format!("read {}", script.display()))
}

fn fetch(folder: &Path) -> Result<()> {
    packages::require(&packages::NPM)?;
    let npm = environment::find_program("npm").context("npm is missing")?;
    let mut pack = Command::new(npm);
    pack.args(["pack", "--silent", &format!("axe-core@{VERSION}")]).current_dir(folder);
    process::output(&mut pack)?;
    let package = folder.join(format!("axe-core-{VERSION}.tgz"));
    let hash = STANDARD.encode(Sha512::digest(fs::read(&package)?));
    ensure!(hash == HASH, "axe-core {VERSION} has the hash {hash}");
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(&package).arg("package/axe.min.js").current_dir(folder);
    process::output(&mut unpack).map(drop)
}
