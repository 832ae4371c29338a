//! The images of the test cluster: our services, and the programs of other Pods.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::programs::servers;
use crate::programs::service::{DASHBOARD, Linkage, build_dashboard_for_image};
use crate::{
    Architecture, Daprd, Image, Service, Tool, environment, packages, process, sbom, sdks, tools,
};

/// Parts of Python's library that no sample needs or that differ from run to run.
const PYTHON_LEFT_OUT: [&str; 11] = [
    "__pycache__",
    "config-*",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
];

/// What of an environment's packages no sample needs.
const SDK_LEFT_OUT: [&str; 4] = ["__pycache__", "pip", "pip-*", "setuptools*"];

/// The image of one of our services for this machine, see [`service_for`].
///
/// # Errors
/// When the service does not compile.
pub fn service(service: Service, name: &str, profile: &str) -> Result<Image> {
    service_for(Architecture::here()?, service, name, profile)
}

/// The image of one of our services: the static program, certificate authorities, its bill of
/// materials, a user without an account. The scheduler's also has the etcd that it runs.
///
/// # Errors
/// When the service does not compile, or the tools for another architecture are missing.
pub fn service_for(
    architecture: Architecture,
    service: Service,
    name: &str,
    profile: &str,
) -> Result<Image> {
    let built = service.build_for_image(architecture, profile)?;
    let materials = sbom::of_image(service, architecture)?;
    let mut image = own(architecture, name, service.binary(), built, &materials)?;
    if service == Service::Scheduler {
        image = image.file(Tool::ETCD_3_5.path_for(architecture)?, "/etcd")?;
    }
    Ok(service.environment().iter().fold(image, |image, (k, v)| image.env(k, v)))
}

/// The image of the dashboard, built like those of the services. Its memory is like the operator's:
/// a page is large for a moment, and then nothing is for hours.
///
/// # Errors
/// As [`service_for`].
pub fn dashboard(architecture: Architecture, name: &str, profile: &str) -> Result<Image> {
    let built = build_dashboard_for_image(architecture, profile)?;
    let materials = sbom::of_program(DASHBOARD, DASHBOARD, architecture)?;
    let image = own(architecture, name, DASHBOARD, built, &materials)?;
    Ok(Service::Operator.environment().iter().fold(image, |image, (k, v)| image.env(k, v)))
}

fn own(
    architecture: Architecture,
    name: &str,
    program: &str,
    built: (PathBuf, Linkage),
    materials: &Value,
) -> Result<Image> {
    let entry = format!("/{program}");
    let image = Image::new(name).architecture(architecture);
    let image = match built {
        (program, Linkage::Static) => image.file(program, &entry)?,
        (program, Linkage::Dynamic) => image.program(&program, &entry)?,
    };
    let materials = format!("{materials:#}\n");
    let image = image.ca_roots().bytes(materials, &sbom::path_in_image(program));
    Ok(image.entrypoint(&[&entry]))
}

/// The tag of [`daprd`] images: its version without the `v`.
pub fn daprd_tag() -> &'static str {
    tools::DAPR.trim_start_matches('v')
}

/// The official sidecar. Like the official image it has no entry point: the injector sets the
/// command.
///
/// # Errors
/// When it is missing and cannot be built.
pub fn daprd(name: &str) -> Result<Image> {
    let image = Image::new(name).file(Daprd::program()?, "/daprd")?;
    Ok(image.ca_roots().shared_folder("/tmp"))
}

/// The Redis server of this machine; the Pod sets its arguments.
///
/// # Errors
/// When it is not installed and cannot be.
pub fn redis(name: &str) -> Result<Image> {
    let image = Image::new(name).program(&servers::redis()?, "/usr/bin/redis-server")?;
    Ok(image.shared_folder("/data").working_folder("/data").entrypoint(&["/usr/bin/redis-server"]))
}

/// Node.js of this machine, without packages.
///
/// # Errors
/// When it is not installed and cannot be.
pub fn node(name: &str) -> Result<Image> {
    packages::require(&packages::NODE_JS)?;
    let program = environment::find_program("node").context("node is missing")?;
    let image = Image::new(name).program(&program, "/usr/bin/node")?;
    Ok(image.ca_roots().shared_folder("/tmp").entrypoint(&["/usr/bin/node"]))
}

/// Python of this machine with its standard library.
///
/// # Errors
/// When it is not installed and cannot be.
pub fn python(name: &str) -> Result<Image> {
    packages::require(&packages::PYTHON)?;
    // The program on `PATH` may be a script that chooses a version.
    let question = "import os, sys, sysconfig; \
        print(os.path.realpath(sys.executable), sysconfig.get_path('stdlib'), sep='\\n')";
    let answer = process::output(Command::new("python3").args(["-c", question]))?;
    let mut lines = answer.lines().map(PathBuf::from);
    let (program, library) = (lines.next(), lines.next());
    let program = program.context("python3 does not say where it is")?;
    let library = library.context("python3 does not say where its library is")?;
    let place = program.to_str().context("python's path is no UTF-8")?.to_owned();
    let target = library.to_str().context("python's path is no UTF-8")?.to_owned();
    Image::new(name)
        .program(&program, &place)?
        .tree(&library, &target, &PYTHON_LEFT_OUT)?
        .libraries_below(&library.join("lib-dynload"))
        .map(|image| image.link(&place, "/usr/bin/python3"))
        .map(|image| image.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1"))
        .map(|image| image.ca_roots().shared_folder("/tmp").entrypoint(&["/usr/bin/python3"]))
}

/// [`python`] with Dapr's workflow SDK.
///
/// # Errors
/// As [`python`], or when the SDK cannot be installed.
pub fn python_sdk(name: &str) -> Result<Image> {
    let question = "import sysconfig; print(sysconfig.get_path('platlib'))";
    let answer = process::output(Command::new(sdks::python()?).args(["-c", question]))?;
    let packages = PathBuf::from(answer.trim());
    let image = python(name)?.tree(&packages, "/sdk", &SDK_LEFT_OUT)?;
    Ok(image.libraries_below(&packages.join("grpc/_cython"))?.env("PYTHONPATH", "/sdk"))
}
