//! `cargo xtask image`: container images without a container daemon.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use blackbox::{
    Image, NodeBed, Service, Tool, environment, peer_images, process,
    progress::{say, step},
};
use clap::{Args, ValueEnum};

use crate::output::print;

/// Container images as docker-archive files, for `docker load`, `ctr images import` and the
/// cluster of `cargo xtask cluster up`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// One of our services; all four when none is given and no `--peer`
    #[arg(long, value_name = "NAME", value_parser = Service::parse)]
    service: Vec<Service>,
    /// A program of somebody else that the sample runs, as it is on this machine
    #[arg(long, value_name = "NAME")]
    peer: Vec<Peer>,
    /// Folder of the archives
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    out: PathBuf,
    /// What stands before the `/` in the names
    #[arg(long, default_value = "localhost", conflicts_with = "push")]
    registry: String,
    /// Push them to that registry, whose name they get; credentials are those of `docker login`
    #[arg(long, value_name = "REGISTRY", conflicts_with = "import")]
    push: Option<String>,
    /// Tag of our services; daprd's is its version, the other peers' is `1`
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Cargo's profile for our services
    #[arg(long, default_value = "release")]
    profile: String,
    /// Bring them to the node of `cargo xtask cluster up` too
    #[arg(long)]
    import: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    Daprd,
    Redis,
    Node,
    Python,
}

impl Peer {
    fn image(self, registry: &str) -> Result<Image> {
        match self {
            Self::Daprd => {
                peer_images::daprd(&format!("{registry}/daprd:{}", peer_images::daprd_tag()))
            }
            Self::Redis => peer_images::redis(&format!("{registry}/trilby-sample-redis:1")),
            Self::Node => peer_images::node(&format!("{registry}/trilby-sample-node:1")),
            Self::Python => peer_images::python(&format!("{registry}/trilby-sample-python:1")),
        }
    }
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let services = if flags.service.is_empty() && flags.peer.is_empty() {
        Service::ALL.to_vec()
    } else {
        flags.service.clone()
    };
    let registry = flags.push.as_deref().unwrap_or(&flags.registry).trim_end_matches('/');
    let out = environment::workspace().join(&flags.out); // an absolute folder stays what it is
    for service in services {
        let what = format!("image of {}", service.binary());
        let name = format!("{registry}/{}:{}", service.binary(), flags.tag);
        let image = step(&what, || peer_images::service(service, &name, &flags.profile))?;
        finish(&image, service.binary(), &out, flags)?;
    }
    for peer in &flags.peer {
        let value = peer.to_possible_value().context("a peer has a name")?;
        let image = step(&format!("image of {}", value.get_name()), || peer.image(registry))?;
        finish(&image, value.get_name(), &out, flags)?;
    }
    Ok(())
}

/// Writes the archive and says what it is.
fn finish(image: &Image, name: &str, out: &Path, flags: &Flags) -> Result<()> {
    let archive = out.join(format!("{name}.tar"));
    image.write(&archive)?;
    if flags.import {
        NodeBed::here()?.import_image(&archive)?;
        say(format_args!("imported {}", image.name()));
    }
    if flags.push.is_some() {
        step(&format!("push {}", image.name()), || push(&archive, image.name()))?;
    }
    let size = std::fs::metadata(&archive)?.len();
    let (whole, tenth) = (size / 1_000_000, size % 1_000_000 / 100_000);
    print(&format!("{}\t{}\t{whole}.{tenth} MB", image.name(), archive.display()))
}

fn push(archive: &Path, name: &str) -> Result<()> {
    process::output(Command::new(Tool::CRANE.path()?).arg("push").arg(archive).arg(name)).map(drop)
}
