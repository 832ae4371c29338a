//! `cargo xtask cluster`: the test cluster behind a command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use blackbox::progress::{say, step};
use blackbox::{Cluster, LocalApi, NodeCluster, Tool, environment, tools};
use clap::{Args, Subcommand};

use crate::output::print;

/// A real Kubernetes on this machine.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start it, unless it runs; remains of a crash are removed first
    Up {
        #[command(flatten)]
        which: Which,
    },
    /// Stop it and remove everything that it created
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// Print what runs and how to reach it
    Status {
        /// An existing cluster: print whether it answers
        #[arg(long, value_name = "NAME")]
        context: Option<String>,
    },
    /// Import the images of docker-archive files into the node
    Import {
        /// Files written by `cargo xtask image`
        archives: Vec<PathBuf>,
    },
    /// Build the programs of the test cluster into the cache and print their paths
    Tools {
        /// `name` or `name@version`; all of them by default
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Only etcd, kube-apiserver and kube-controller-manager: Pods stay Pending. Always the case
    /// without root
    #[arg(long, conflicts_with = "context")]
    api_only: bool,
    /// A cluster of your kubeconfig, instead of one on this machine; it is not modified
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Which {
    fn api_only(&self) -> bool {
        self.api_only || !environment::is_root()
    }
}

pub(crate) fn run(flags: Flags) -> Result<()> {
    match flags.action {
        Action::Up { which } => up(&which),
        Action::Down { which } => down(&which),
        Action::Status { context } => status(context.as_deref()),
        Action::Import { archives } => import(&archives),
        Action::Tools { names } => build_tools(&names),
    }
}

fn up(which: &Which) -> Result<()> {
    if let Some(context) = &which.context {
        return answers(context);
    }
    if which.api_only() {
        if !which.api_only {
            say("not root: an API-only cluster, Pods will stay Pending");
        }
        let cluster = step("API-only cluster", || LocalApi::here().up())?;
        return how_to_reach(&cluster);
    }
    let node = NodeCluster::here()?;
    step("cluster", || node.up())?;
    how_to_reach_node(&node)
}

fn down(which: &Which) -> Result<()> {
    if let Some(context) = &which.context {
        bail!("cluster {context:?} is yours, it stays as it is");
    }
    step("API-only cluster down", || LocalApi::here().down())?;
    if which.api_only() {
        return Ok(());
    }
    step("cluster down", || NodeCluster::here()?.down())
}

fn status(context: Option<&str>) -> Result<()> {
    if let Some(context) = context {
        return answers(context);
    }
    let (api, node) = (LocalApi::here(), NodeCluster::here()?);
    let mut any = false;
    for (title, programs) in [("API-only cluster", api.programs()), ("cluster", node.programs())] {
        for (name, running) in &programs {
            print(&format!("{title}\t{name}\t{}", if *running { "running" } else { "ended" }))?;
        }
        any |= !programs.is_empty();
    }
    if !any {
        return print("no cluster: cargo xtask cluster up");
    }
    if api.is_up() {
        how_to_reach(&api.cluster())?;
    }
    if node.is_up() {
        how_to_reach_node(&node)?;
    }
    Ok(())
}

fn answers(context: &str) -> Result<()> {
    let cluster = Cluster::existing(context);
    cluster.kubectl(&["get", "--raw=/readyz"]).with_context(|| format!("cluster {context:?}"))?;
    print(&format!("cluster {context:?} answers"))
}

fn import(archives: &[PathBuf]) -> Result<()> {
    let node = NodeCluster::here()?;
    archives.iter().try_for_each(|archive| {
        step(&format!("import {}", archive.display()), || node.import_image(archive))
    })
}

fn build_tools(names: &[String]) -> Result<()> {
    let chosen: Vec<Tool> = if names.is_empty() {
        Tool::ALL.to_vec()
    } else {
        names.iter().map(|name| Tool::parse(name)).collect::<Result<_>>()?
    };
    tools::provide(&chosen)?;
    chosen.iter().try_for_each(|tool| print(&format!("{tool}\t{}", tool.path()?.display())))
}

fn how_to_reach(cluster: &Cluster) -> Result<()> {
    match cluster.kubeconfig() {
        Some(file) => print(&format!("export KUBECONFIG={}", file.display())),
        None => Ok(()),
    }
}

fn how_to_reach_node(node: &NodeCluster) -> Result<()> {
    how_to_reach(&node.cluster())?;
    let network = node.network_handle().display();
    print(&format!("nsenter --net={network} kubectl get pods --all-namespaces"))?;
    print(&format!("logs of the cluster's programs: {}", node.logs().display()))
}
