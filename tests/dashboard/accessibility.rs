//! axe-core in Chromium finds no serious fault on any page, in the light and with its own style.

use anyhow::{Context as _, Result, ensure};
use blackbox::{Scratch, axe, browser, http};
use serde_json::Value;

use crate::{Fixture, PAGES};

/// Where the script leaves what it found.
const FOUND: &str = "<pre id=\"axe-found\">";

pub(crate) fn no_serious_fault(all: &Fixture) -> Result<()> {
    let script = axe::script()?;
    let style = http::get(all.port, "/assets/style.css")?.body;
    let scratch = Scratch::new("axe")?;
    for (path, _) in PAGES {
        let page = http::get(all.port, path)?.body;
        let found = faults(&scratch, &page, &style, &script)
            .with_context(|| format!("check {path} with axe-core"))?;
        ensure!(found.is_empty(), "{path}: {found:#?}");
    }
    // The check finds what is wrong.
    let broken = "<!doctype html><html><head></head><body><img src=\"x.png\"></body></html>";
    let found = faults(&scratch, broken, &style, &script)?;
    ensure!(found.iter().any(|fault| fault.starts_with("image-alt")), "{found:?}");
    Ok(())
}

/// `id: help` of each serious fault. The page's own policy admits no other script, so the page is
/// opened from a file.
fn faults(scratch: &Scratch, page: &str, style: &str, script: &str) -> Result<Vec<String>> {
    let run = "axe.run().then(r => { const p = document.createElement('pre'); p.id = 'axe-found'; \
               p.textContent = JSON.stringify(r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help}))); \
               document.body.append(p); });";
    let head = format!("<style>{style}</style>");
    let end = format!("<script>{script}</script><script>{run}</script></body>");
    let page = page.replacen("</head>", &format!("{head}</head>"), 1);
    let page = page.replacen("</body>", &end, 1);
    let file = scratch.write("page.html", page)?;
    let document = browser::open_file(&file)?.document;
    let found = document.split_once(FOUND).context("axe-core did not end")?.1;
    let found = found.split_once("</pre>").context("axe-core did not end")?.0;
    let found: Value = serde_json::from_str(
        &found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"),
    )?;
    let text = |fault: &Value, name: &str| fault[name].as_str().unwrap_or_default().to_owned();
    let serious = found
        .as_array()
        .into_iter()
        .flatten()
        .filter(|fault| ["serious", "critical"].contains(&text(fault, "impact").as_str()));
    Ok(serious.map(|fault| format!("{}: {}", text(fault, "id"), text(fault, "help"))).collect())
}
