//! axe-core in Chromium finds no serious fault on any page, in the light and with its own style.

use anyhow::{Context as _, Result, ensure};
use blackbox::{axe, http};

use crate::{Fixture, PAGES};

pub(crate) fn no_serious_fault(all: &Fixture) -> Result<()> {
    let style = http::get(all.port, "/assets/style.css")?.body;
    for (path, _) in PAGES {
        let page = http::get(all.port, path)?.body;
        let found = axe::serious_faults(&page, &style);
        let found = found.with_context(|| format!("check {path} with axe-core"))?;
        ensure!(found.is_empty(), "{path}: {found:#?}");
    }
    // The check finds what is wrong.
    let broken = "<!doctype html><html><head></head><body><img src=\"x.png\"></body></html>";
    let found = axe::serious_faults(broken, &style)?;
    ensure!(found.iter().any(|fault| fault.starts_with("image-alt")), "{found:?}");
    Ok(())
}
