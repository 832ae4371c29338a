//! Images in a registry: one name for all architectures, identified by its digest.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{Architecture, Service, Tool, process};

/// Pushes the archives of one image, one for each architecture, under one name, and returns its
/// digest, `sha256:…`. Credentials are those of `docker login`.
///
/// # Errors
/// When the registry rejects one of them.
pub fn push(name: &str, archives: &[(Architecture, PathBuf)]) -> Result<String> {
    let crane = Tool::CRANE.path()?;
    let mut index = Command::new(&crane);
    index.args(["index", "append", "--tag", name]);
    for (architecture, archive) in archives {
        let own = format!("{name}-{}", architecture.name());
        let output = process::output(Command::new(&crane).arg("push").arg(archive).arg(&own))?;
        index.args(["--manifest", last_line(&output)?]);
    }
    process::output(&mut index)?;
    let digest = process::output(Command::new(&crane).args(["digest", name]))?;
    Ok(last_line(&digest)?.to_owned())
}

/// Adds a tag to an image in the registry.
///
/// # Errors
/// When the registry rejects it.
pub fn tag(name: &str, tag: &str) -> Result<()> {
    process::output(Command::new(Tool::CRANE.path()?).args(["tag", name, tag])).map(drop)
}

fn last_line(output: &str) -> Result<&str> {
    let line = output.trim().lines().last().context("crane printed no digest")?;
    ensure!(line.contains("sha256:"), "crane printed {line} for a digest");
    Ok(line)
}

/// Values of the chart that name the images by their digests, so that a tag that moves changes
/// nothing.
pub fn pins(images: &[(Service, String)]) -> serde_json::Value {
    let mut values = serde_json::Map::new();
    for (service, image) in images {
        let (section, key) = place(*service);
        values.insert(section.to_owned(), serde_json::json!({key: {"name": image}}));
    }
    values.into()
}

/// The images that [`pins`] named.
///
/// # Errors
/// When there is none.
pub fn pinned(values: &serde_json::Value) -> Result<Vec<(Service, String)>> {
    let image = |service| {
        let (section, key) = place(service);
        let name = values.get(section)?.get(key)?.get("name")?.as_str()?;
        Some((service, name.to_owned()))
    };
    let images: Vec<_> = Service::ALL.into_iter().filter_map(image).collect();
    ensure!(!images.is_empty(), "no image is named");
    Ok(images)
}

/// The path of a service's image in the chart's values.
const fn place(service: Service) -> (&'static str, &'static str) {
    match service {
        Service::Operator => ("dapr_operator", "image"),
        Service::Injector => ("dapr_sidecar_injector", "injectorImage"),
        Service::Sentry => ("dapr_sentry", "image"),
        Service::Placement => ("dapr_placement", "image"),
        Service::Scheduler => ("dapr_scheduler", "image"),
    }
}
