//! The programs of a node: kubelet, kube-proxy, and `coredns` as a host process.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::control_plane::Layout;
use crate::node_cluster::{DNS, KUBE_PROXY, KUBELET, NODE_ADDRESS, NODE_NAME, POD_CIDR};
use crate::{Cluster, Process, Tool};

/// Where Pods expect DNS.
const DNS_SERVICE: &str = "10.96.0.10";
/// The domain of the cluster.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// Settings shared by the parts of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) layout: &'a Layout,
    /// The cgroup that all Pods live below.
    pub(crate) cgroup: &'a str,
    pub(crate) runtime_socket: &'a Path,
}

impl Parts<'_> {
    /// Starts the kubelet.
    pub(crate) fn start_kubelet(&self) -> Result<Process> {
        let folder = self.layout.state.join("kubelet");
        fs::create_dir_all(&folder)?;
        let resolv_conf = folder.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {NODE_ADDRESS}\n"))?;
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            // Only processes in the cluster's network reach it.
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": CLUSTER_DOMAIN,
            "containerRuntimeEndpoint": format!("unix://{}", self.runtime_socket.display()),
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": {
                "memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                "imagefs.available": "0%", "imagefs.inodesFree": "0%",
            },
            "failCgroupV1": false,
            "failSwapOn": false,
            "imageGCHighThresholdPercent": 100, // an image that is removed cannot be pulled again
            "oomScoreAdj": 0,
            "podLogsDir": self.layout.state.join("pod-logs"),
            "resolvConf": resolv_conf,
            "serverTLSBootstrap": false,
            "volumePluginDir": folder.join("volume-plugins"),
        });
        let file = folder.join("config.json");
        fs::write(&file, format!("{config:#}\n"))?;
        self.layout
            .spawn("kubelet", Tool::KUBELET.path()?)
            .arg(format!("--config={}", file.display()))
            .arg(format!("--kubeconfig={}", self.layout.kubeconfig(KUBELET).display()))
            .arg(format!("--root-dir={}", folder.join("root").display()))
            .arg(format!("--cert-dir={}", folder.join("pki").display()))
            .arg(format!("--hostname-override={NODE_NAME}"))
            .arg(format!("--node-ip={NODE_ADDRESS}"))
            .start()
    }

    /// Starts kube-proxy.
    pub(crate) fn start_proxy(&self) -> Result<Process> {
        self.layout
            .spawn("kube-proxy", Tool::KUBE_PROXY.path()?)
            .arg(format!("--kubeconfig={}", self.layout.kubeconfig(KUBE_PROXY).display()))
            .arg(format!("--hostname-override={NODE_NAME}"))
            .arg(format!("--cluster-cidr={POD_CIDR}"))
            .args(["--proxy-mode=iptables", "--conntrack-max-per-core=0", "--oom-score-adj=0"])
            .start()
    }

    /// Registers the DNS service and starts `coredns` behind it.
    pub(crate) fn start_dns(&self, cluster: &Cluster) -> Result<Process> {
        cluster.apply(&dns_manifests()).context("register cluster DNS")?;
        let folder = self.layout.state.join("dns");
        fs::create_dir_all(&folder)?;
        let file = folder.join("Corefile");
        let kubeconfig = self.layout.kubeconfig(DNS);
        let corefile = format!(
            ".:53 {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {}
        pods insecure
        ttl 5
    }}
    cache 5
}}
",
            kubeconfig.display()
        );
        fs::write(&file, corefile)?;
        self.layout.spawn("coredns", Tool::COREDNS.path()?).arg("-conf").arg(file).start()
    }
}

/// A Service without selector that points at the node, and the rights of `coredns`.
fn dns_manifests() -> String {
    let ports = |target: bool| {
        let port = |name: &str, protocol: &str| {
            let mut port = json!({"name": name, "port": 53, "protocol": protocol});
            if let (true, Some(fields)) = (target, port.as_object_mut()) {
                fields.insert("targetPort".to_owned(), json!(53));
            }
            port
        };
        json!([port("dns", "UDP"), port("dns-tcp", "TCP")])
    };
    let read = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"]});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports(true)},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4", "ports": ports(false),
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": true}}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": DNS.name},
            "rules": [
                read("", &["services", "namespaces", "pods"]),
                read("discovery.k8s.io", &["endpointslices"]),
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": DNS.name},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": DNS.name,
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": DNS.name},
            ],
        },
    ]});
    list.to_string()
}
