//! Sidecars that run as processes of this machine, as `dapr run` starts them. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use resources::annotations::{ANNOTATION_APP_ID, PREFIX};
use resources::{names, ports};
use runtime::flags::go_bool;

use super::arguments::Arguments;
use super::pod::{Container, Owner, Pod, SidecarPorts};
use super::{arguments, redaction};

/// Longest command line that is read, in bytes: that of `dapr run` has less than two thousand.
pub(crate) const MAX_COMMAND_BYTES: usize = 64 * 1024;
/// Namespace of what pages show: processes share this machine, and [`Sidecar::reads`] decides which
/// objects they read.
pub(crate) const NAMESPACE: &str = "default";
/// Flags of daprd that pages show; those with an annotation have its name (Dapr 1.18).
const SHOWN: [&str; 12] = [
    "app-id",
    "app-port",
    "app-protocol",
    "app-max-concurrency",
    "app-channel-address",
    "dapr-http-port",
    "dapr-grpc-port",
    "metrics-port",
    "resources-path",
    "log-level",
    "placement-host-address",
    "scheduler-host-address",
];

/// A process, as the kernel describes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process<'a> {
    pub(crate) id: u32,
    /// Its words, each with a NUL at its end.
    pub(crate) command: &'a [u8],
    /// Its variables, each with a NUL at its end; only `NAMESPACE` is used.
    pub(crate) environment: &'a [u8],
    /// Its working directory, to which paths are relative.
    pub(crate) folder: &'a Path,
    pub(crate) started: Option<Timestamp>,
}

/// A sidecar and the files that it reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sidecar {
    /// Its process in the form of a pod.
    pub(crate) pod: Pod,
    /// Variable `NAMESPACE`.
    namespace: Option<String>,
    /// Folders of Components and other objects.
    pub(crate) resources: Vec<PathBuf>,
    /// Files of Configurations.
    pub(crate) configurations: Vec<PathBuf>,
}

impl Sidecar {
    /// `None` for a process that is no sidecar of this machine: one without app id, or of a pod.
    pub(crate) fn read(process: &Process<'_>) -> Option<Self> {
        let flags = flags(process.command)?;
        let value = |name: &str| flags.iter().rfind(|(own, _)| *own == name).map(|(_, v)| *v);
        let number = |name: &str| value(name).and_then(|text| text.parse::<u16>().ok());
        if value("mode") == Some("kubernetes") {
            return None;
        }
        let app_id = value("app-id").filter(|id| !id.is_empty())?;
        let annotations = SHOWN.into_iter().filter_map(|name| {
            let annotation = format!("{PREFIX}{name}");
            let value = redaction::annotation(&annotation, value(name)?);
            Some((annotation, value))
        });
        let mut annotations: BTreeMap<_, _> = annotations.collect();
        annotations.insert(ANNOTATION_APP_ID.to_owned(), app_id.to_owned());
        let has_metrics = value("enable-metrics").is_none_or(|text| go_bool(text) != Ok(false));
        let public = number("dapr-public-port").or_else(|| number("dapr-http-port"));
        let pod = Pod {
            namespace: NAMESPACE.to_owned(),
            name: process.id.to_string(),
            annotations,
            owner: Owner { kind: "Process".to_owned(), name: names::SIDECAR_CONTAINER.to_owned() },
            phase: "Running".to_owned(),
            created: process.started,
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ports: SidecarPorts {
                public: public.unwrap_or(ports::SIDECAR_HTTP),
                metrics: has_metrics
                    .then(|| number("metrics-port").unwrap_or(ports::SIDECAR_METRICS)),
                internal: number("dapr-internal-grpc-port"),
            },
            arguments: Arguments::of(&flags),
            containers: vec![Container {
                name: names::SIDECAR_CONTAINER.to_owned(),
                is_ready: true,
                ..Container::default()
            }],
            ..Pod::default()
        };
        let paths = |names: &[&str]| {
            let given = flags.iter().filter(|(name, _)| names.contains(name));
            let given = given.flat_map(|(_, list)| list.split(',')).filter(|path| !path.is_empty());
            given.map(|path| process.folder.join(path)).collect()
        };
        Some(Self {
            pod,
            namespace: namespace(process.environment),
            resources: paths(&["resources-path", "components-path"]),
            configurations: paths(&["config"]),
        })
    }

    /// Whether it reads an object of a folder: one of its namespace or without; without the variable
    /// `NAMESPACE` any (Dapr 1.18).
    pub(crate) fn reads(&self, folder: &Path, namespace: Option<&str>) -> bool {
        let is_own = match (&self.namespace, namespace) {
            (Some(own), Some(other)) => own == other,
            _ => true,
        };
        is_own && self.resources.iter().any(|own| own == folder)
    }
}

/// Flags and their values; `None` if the program is not daprd.
fn flags(command: &[u8]) -> Option<Vec<(&str, &str)>> {
    if command.len() > MAX_COMMAND_BYTES {
        return None;
    }
    let words = command.split(|byte| *byte == 0).map(|word| std::str::from_utf8(word).ok());
    let mut words = words.collect::<Option<Vec<_>>>()?.into_iter();
    let program = Path::new(words.next()?).file_name()?;
    (program == names::SIDECAR_CONTAINER).then(|| arguments::flags(words))
}

fn namespace(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|byte| *byte == 0);
    let own = variables.find_map(|variable| variable.strip_prefix(b"NAMESPACE="))?;
    std::str::from_utf8(own).ok().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn read(command: &str) -> Option<Sidecar> {
        Sidecar::read(&Process {
            id: 7,
            command: command.replace(' ', "\0").as_bytes(),
            environment: b"HOME=/h\0NAMESPACE=prod\0DAPR_API_TOKEN=t",
            folder: Path::new("/home/u"),
            started: None,
        })
    }

    #[test]
    fn the_command_of_dapr_run_is_read() {
        // As `dapr run` 1.16.5 writes it.
        let command = "/h/.dapr/bin/daprd --app-id cart --dapr-http-port 3601 --dapr-grpc-port 50701 \
            --log-level info --app-max-concurrency -1 --app-protocol http --metrics-port 9601 \
            --placement-host-address 127.0.0.1:50005 --app-port 3000 \
            --resources-path /h/.dapr/components --resources-path own --config /h/.dapr/config.yaml";
        let sidecar = read(command).unwrap();
        assert_eq!((sidecar.pod.app_id(), sidecar.pod.name.as_str()), ("cart", "7"));
        let ports = SidecarPorts { public: 3601, metrics: Some(9601), internal: None };
        assert_eq!(sidecar.pod.ports, ports);
        assert!(sidecar.pod.is_app() && sidecar.pod.is_ready());
        let folders = ["/h/.dapr/components", "/home/u/own"].map(PathBuf::from);
        assert_eq!(sidecar.resources, folders);
        assert_eq!(sidecar.configurations, [PathBuf::from("/h/.dapr/config.yaml")]);
        let flag = |name: &str| sidecar.pod.annotations.get(name).map(String::as_str);
        assert_eq!(flag("dapr.io/app-port"), Some("3000"));
        assert_eq!(flag("dapr.io/app-max-concurrency"), Some("-1"));
        assert!(!format!("{sidecar:?}").contains("DAPR_API_TOKEN"), "{sidecar:?}");
    }

    #[test]
    fn a_sidecar_reads_objects_of_its_folders_and_namespace() {
        let own = read("daprd --app-id a --resources-path r").unwrap();
        let folder = Path::new("/home/u/r");
        assert!(own.reads(folder, None) && own.reads(folder, Some("prod")));
        assert!(!own.reads(folder, Some("test")) && !own.reads(Path::new("/other"), None));
        let any = Sidecar { namespace: None, ..own };
        assert!(any.reads(folder, Some("test")));
    }

    #[rstest]
    #[case("daprd -app-id=a -dapr-http-port=1", (1, Some(9090), None))]
    #[case("daprd --app-id a --dapr-public-port 2 --dapr-http-port 1 --enable-metrics=false",
        (2, None, None))]
    #[case("daprd --app-id a --enable-metrics", (3500, Some(9090), None))]
    #[case("daprd --app-id a --dapr-internal-grpc-port 5", (3500, Some(9090), Some(5)))]
    fn flags_have_the_forms_of_go(
        #[case] command: &str,
        #[case] (public, metrics, internal): (u16, Option<u16>, Option<u16>),
    ) {
        let want = SidecarPorts { public, metrics, internal };
        assert_eq!(read(command).unwrap().pod.ports, want);
    }

    #[rstest]
    #[case("")]
    #[case("daprd")]
    #[case("daprd --version")]
    #[case("vim daprd --app-id a")]
    #[case("mydaprd --app-id a")]
    #[case("/daprd --mode kubernetes --app-id a")]
    fn other_processes_are_no_sidecars(#[case] command: &str) {
        assert_eq!(read(command), None);
    }

    #[test]
    fn a_command_has_a_limit() {
        let start = "daprd --app-id a --app-protocol ";
        let of = |bytes: usize| read(&format!("{start}{}", "h".repeat(bytes - start.len())));
        assert!(of(MAX_COMMAND_BYTES).is_some());
        assert!(of(MAX_COMMAND_BYTES + 1).is_none());
    }
}
