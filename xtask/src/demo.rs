//! `cargo xtask demo`: installs the product and shows it working.

use std::fmt::Write as _;
use std::{panic, thread};

use anyhow::{Result, bail, ensure};
use blackbox::demo::tour::{self, Observers, Tour};
use blackbox::demo::{self, Demo};
use blackbox::progress::{elapsed, say, step};
use blackbox::{Cluster, NodeCluster, build_daprctl, environment};
use clap::{Args, ValueEnum};

use crate::output::print;

/// Starts a cluster if none is given, installs the chart, runs the annotated sample and shows it
/// working. Exits non-zero with the reason when a part fails.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// A cluster of your kubeconfig, instead of one on this machine (needs root)
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// With --context: the registry that the control plane images were pushed to
    #[arg(long, value_name = "REGISTRY", requires = "context")]
    registry: Option<String>,
    /// A setting of the chart
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How the chart is installed
    #[arg(long, value_enum, default_value_t = Mode::Default)]
    mode: Mode,
    /// Namespace of the sample
    #[arg(long, value_name = "NAME", default_value = "hello")]
    namespace: String,
    /// Show all building blocks of Dapr in place of the sample
    #[arg(long)]
    tour: bool,
    /// Cargo's profile for the services: dev compiles faster, release is what is shipped
    #[arg(long, default_value = "dev")]
    profile: String,
    /// Leave everything running, and print how to look around
    #[arg(long)]
    keep: bool,
    /// Remove what `--keep` left
    #[arg(long, conflicts_with = "keep")]
    down: bool,
}

/// How the chart is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Default values
    Default,
    /// Several pods of each service
    Ha,
    /// Rights in the release namespace alone; the sample lives there
    Namespaced,
    /// Sidecars communicate without mTLS
    NoMtls,
}

impl From<Mode> for demo::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Default => Self::Default,
            Mode::Ha => Self::Ha,
            Mode::Namespaced => Self::Namespaced,
            Mode::NoMtls => Self::NoMtls,
        }
    }
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    ensure!(
        !flags.tour || matches!(flags.mode, Mode::Default | Mode::Ha),
        "--tour has access control and several namespaces, so it needs mTLS and rights in all \
         namespaces: use it with --mode default or ha"
    );
    match &flags.context {
        Some(context) => on_existing(flags, context),
        None => on_cluster(flags),
    }
}

fn on_existing(flags: &Flags, context: &str) -> Result<()> {
    let demo = Demo::new(Cluster::existing(context), environment::workspace(), &flags.namespace);
    let mut demo = with_settings(demo, flags);
    if flags.down {
        return step("remove the sample and the chart", || remove(&demo));
    }
    let Some(registry) = &flags.registry else {
        bail!(
            "--context needs --registry: the registry that the cluster pulls the images from; \
             make them with `cargo xtask image` and push them (README, Install)"
        );
    };
    demo = demo.value(format!("global.controlPlane.registry={registry}"));
    let shown = show(&demo, flags, None);
    if flags.keep || shown.is_err() {
        print(
            "left as it is; `daprctl dashboard` opens the dashboard, and `cargo xtask demo --down` \
             with the same --context removes everything",
        )?;
        return shown;
    }
    step("remove the sample and the chart", || remove(&demo))
}

fn remove(demo: &Demo) -> Result<()> {
    Tour::remove(demo)?;
    demo.remove()
}

fn on_cluster(flags: &Flags) -> Result<()> {
    ensure!(
        environment::is_root(),
        "a cluster with real pods on this machine needs root; as another user give one that \
         exists with --context NAME --registry REGISTRY"
    );
    let node = NodeCluster::here()?;
    if flags.down {
        return step("remove the cluster", || node.down());
    }
    if flags.tour {
        Observers::provide()?;
    }
    let outcome = bring_up(&node, &flags.profile).and_then(|cluster| {
        step("make and import images", || {
            demo::import_images(&node, &flags.profile)?;
            demo::dashboard::import_image(&node, &flags.profile)
        })?;
        if flags.tour {
            step("make and import the image of the tour", || demo::import_tour_image(&node))?;
        }
        let demo = demo::on_cluster(cluster, environment::workspace(), &flags.namespace);
        show(&with_settings(demo, flags), flags, Some(&node))
    });
    if flags.keep {
        print(&format!(
            "\nleft running. To look around:\n  export KUBECONFIG={}\n  alias k='nsenter --net={net} kubectl'\n  \
             k -n {} get pods; k -n {} get pods\nThe dashboard, at http://127.0.0.1:{port}/ in that network:\n  \
             nsenter --net={net} {} dashboard --no-browser --port {port} &\n  \
             nsenter --net={net} chromium --no-sandbox http://127.0.0.1:{port}/\n\
             Remove it with: cargo xtask demo --down",
            node.cluster().kubeconfig().unwrap_or_else(|| "".as_ref()).display(),
            demo::CONTROL_PLANE,
            if flags.tour { tour::NAMESPACE } else { &flags.namespace },
            build_daprctl()?.display(),
            net = node.network_handle().display(),
            port = demo::dashboard::PORT,
        ))?;
        return outcome;
    }
    let removed = step("remove the cluster", || node.down());
    outcome.and(removed)
}

/// Brings up a cluster while cargo builds the services: the first time both compile for minutes, and
/// each leaves a core idle while it downloads and links.
fn bring_up(node: &NodeCluster, profile: &str) -> Result<Cluster> {
    thread::scope(|scope| {
        let what = format!("build the control plane, cargo's profile {profile}");
        let programs = scope.spawn(move || step(&what, || demo::build_programs(profile)));
        let cluster = step("bring up a cluster", || node.up());
        programs.join().unwrap_or_else(|panic| panic::resume_unwind(panic)).and(cluster)
    })
}

fn with_settings(demo: Demo, flags: &Flags) -> Demo {
    flags.set.iter().fold(demo.mode(flags.mode.into()), Demo::value)
}

/// Installs, and shows the sample or the tour; `node` is that of a cluster on this machine.
fn show(demo: &Demo, flags: &Flags, node: Option<&NodeCluster>) -> Result<()> {
    step("install the chart", || demo.install())?;
    section("The control plane", &demo.control_plane()?)?;
    section("helm test", &step("helm test", || demo.helm_test())?)?;
    if flags.tour {
        take_tour(demo, node)?;
    } else {
        show_sample(demo, flags.mode)?;
    }
    step("install the dashboard", || demo.install_dashboard())?;
    say(format_args!("everything works ({:.0} s)", elapsed().as_secs_f64()));
    Ok(())
}

/// Shows every building block, a line each.
fn take_tour(demo: &Demo, node: Option<&NodeCluster>) -> Result<()> {
    let observers = step("start Zipkin and Prometheus", || node.map(Observers::start).transpose())?;
    let [tour, other] = step("deploy the applications of the tour", || Tour::deploy(demo))?;
    tour.take(&other, observers.as_ref(), |shown| print(&shown.to_string()))
}

/// Deploys, and shows every feature of the sample.
fn show_sample(demo: &Demo, mode: Mode) -> Result<()> {
    step("deploy the sample", || demo.deploy())?;
    section("The sample: application and sidecar in each pod", &demo.pods()?)?;
    section("The injected container", &demo.sidecar_arguments()?)?;
    if mode != Mode::NoMtls {
        section("Who the sidecar proves to be", &format!("{:#}", demo.svid()?))?;
    }
    let metadata = demo.metadata()?;
    let components = metadata.get("components").map(|c| format!("{c:#}")).unwrap_or_default();
    section("Components, as the sidecar loaded them", &components)?;
    let order = step("orders arrive", || demo.orders_go_on())?;
    let kept = step("the last order survives a restart", || demo.order_survives_restart())?;
    section("Orders", &format!("order {order} stored; order {kept} read back after a restart"))?;
    let mut actors = String::new();
    for id in ["1", "2", "3", "1"] {
        let (count, host) = demo.count(id)?;
        writeln!(actors, "Counter/{id} lives in {host} and has counted to {count}")?;
    }
    section("Actors, placed over two pods", actors.trim_end())?;
    let late = step("a job arrives on time", || demo.job_arrives("2s", 2_000))?;
    let ticks = step("a reminder continues without its scheduler", || demo.reminder_survives())?;
    section(
        "The scheduler",
        &format!(
            "a job due in 2 s arrived {late} ms late; a reminder of each second, registered \
             before the scheduler's pod was deleted, counted to {ticks} after it"
        ),
    )
}

fn section(title: &str, body: &str) -> Result<()> {
    print(&format!("\n== {title}\n{}", body.trim_end()))
}
