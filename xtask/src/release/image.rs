//! `cargo xtask image`: container images without a container daemon.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use blackbox::progress::{say, step};
use blackbox::{Architecture, Image, NodeCluster, Service, environment, peer_images, registry};
use clap::{Args, ValueEnum};

use crate::output::print;

/// Container images as docker-archive files, for `docker load`, `ctr images import` and the
/// cluster of `cargo xtask cluster up`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// One of our services; by default all, unless --peer is given
    #[arg(long, value_name = "NAME", value_parser = Service::parse)]
    service: Vec<Service>,
    /// The dashboard, which has its own chart; by default included, unless a service or --peer is
    /// given
    #[arg(long)]
    dashboard: bool,
    /// A program of the sample that is not ours, as built on this machine
    #[arg(long, value_name = "NAME")]
    peer: Vec<Peer>,
    /// Folder of the archives
    #[arg(long, value_name = "DIR", default_value = "target/images")]
    out: PathBuf,
    /// The part before the `/` in the names
    #[arg(long, default_value = "localhost", conflicts_with = "push")]
    registry: String,
    /// Push to this registry, which becomes part of the names; credentials are those of `docker
    /// login`. Writes the digests to `digests.json` beside the archives: values for `helm -f`
    #[arg(long, value_name = "REGISTRY", conflicts_with = "import")]
    push: Option<String>,
    /// With --push: an additional tag, for example 1.18 beside 1.18.3
    #[arg(long, value_name = "TAG", requires = "push")]
    alias: Vec<String>,
    /// A processor, amd64 or arm64; by default that of this machine. With --push one name covers
    /// all of them
    #[arg(long, value_name = "NAME", conflicts_with = "import")]
    arch: Vec<Architecture>,
    /// Tag of our services; daprd's is its version, the other peers' is `1`
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// Cargo's profile for our services
    #[arg(long, default_value = "release")]
    profile: String,
    /// Also import into the node of `cargo xtask cluster up`
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
    let everything = flags.service.is_empty() && flags.peer.is_empty() && !flags.dashboard;
    let services = if everything { Service::ALL.to_vec() } else { flags.service.clone() };
    let registry = flags.push.as_deref().unwrap_or(&flags.registry).trim_end_matches('/');
    let out = environment::workspace().join(&flags.out); // an absolute path is unchanged
    let mut pushed = Vec::new();
    for service in services {
        let name = format!("{registry}/{}:{}", service.binary(), flags.tag);
        let make =
            |architecture| peer_images::service_for(architecture, service, &name, &flags.profile);
        let archives = archives(service.binary(), make, &out, flags)?;
        if flags.push.is_some() {
            let digest = step(&format!("push {name}"), || push(&name, &archives, &flags.alias))?;
            print(&format!("{name}@{digest}"))?;
            pushed.push((service, format!("{name}@{digest}")));
        }
    }
    if !pushed.is_empty() {
        let file = out.join("digests.json");
        let pins = format!("{:#}\n", registry::pins(&pushed));
        fs::write(&file, pins).with_context(|| format!("write {}", file.display()))?;
        print(&format!("to install exactly these: helm ... -f {}", file.display()))?;
    }
    if everything || flags.dashboard {
        let name = format!("{registry}/dashboard:{}", flags.tag);
        let make = |architecture| peer_images::dashboard(architecture, &name, &flags.profile);
        let archives = archives("dashboard", make, &out, flags)?;
        if flags.push.is_some() {
            let digest = step(&format!("push {name}"), || push(&name, &archives, &flags.alias))?;
            print(&format!("{name}@{digest}"))?;
        }
    }
    for peer in &flags.peer {
        let value = peer.to_possible_value().context("a peer has a name")?;
        let image = step(&format!("image of {}", value.get_name()), || peer.image(registry))?;
        let archive = finish(&image, value.get_name(), &out, flags)?;
        if flags.push.is_some() {
            let archives = [(Architecture::here()?, archive)];
            step(&format!("push {}", image.name()), || push(image.name(), &archives, &[]))?;
        }
    }
    Ok(())
}

/// The images of a program, one for each requested processor.
fn archives(
    program: &str,
    make: impl Fn(Architecture) -> Result<Image>,
    out: &Path,
    flags: &Flags,
) -> Result<Vec<(Architecture, PathBuf)>> {
    let wanted = match flags.arch.as_slice() {
        [] => vec![Architecture::here()?],
        named => named.to_vec(),
    };
    let one = |architecture: Architecture| {
        let what = format!("image of {program} for {}", architecture.name());
        let image = step(&what, || make(architecture))?;
        let file = match flags.arch.len() {
            0 | 1 => program.to_owned(),
            _ => format!("{program}-{}", architecture.name()),
        };
        Ok((architecture, finish(&image, &file, out, flags)?))
    };
    wanted.into_iter().map(one).collect()
}

/// Writes the archive and prints its contents.
fn finish(image: &Image, name: &str, out: &Path, flags: &Flags) -> Result<PathBuf> {
    let archive = out.join(format!("{name}.tar"));
    image.write(&archive)?;
    if flags.import {
        NodeCluster::here()?.import_image(&archive)?;
        say(format_args!("imported {}", image.name()));
    }
    let size = fs::metadata(&archive)?.len();
    let (whole, tenth) = (size / 1_000_000, size % 1_000_000 / 100_000);
    print(&format!("{}\t{}\t{whole}.{tenth} MB", image.name(), archive.display()))?;
    Ok(archive)
}

fn push(name: &str, archives: &[(Architecture, PathBuf)], aliases: &[String]) -> Result<String> {
    let digest = registry::push(name, archives)?;
    aliases.iter().try_for_each(|alias| registry::tag(name, alias))?;
    Ok(digest)
}
