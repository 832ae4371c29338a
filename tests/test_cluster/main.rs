//! The test cluster itself: what the other suites rely on.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use blackbox::{
    ApiCluster, Cluster, Daprd, Deadline, NodeCluster, Redis, Scratch, peer_images, process, until,
};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers: [{name: app, image: "localhost/pause:1"}]
"#;

#[test]
fn a_deployment_becomes_a_pod_with_a_service_account() {
    let api = ApiCluster::common().unwrap();
    let namespace = api.namespace("cluster").unwrap();
    api.cluster().kubectl_with_input(&["apply", "-n", &namespace, "-f", "-"], DEPLOYMENT).unwrap();
    let pod = until(Deadline::seconds(60), "the pod", || {
        let pods = api.get(&["pods", "-n", &namespace])?;
        Ok(pods.pointer("/items/0").cloned())
    });
    let pod = pod.unwrap();
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["spec"]["serviceAccountName"], "default");
}

#[test]
fn kubectl_leaves_nothing_in_the_home_folder() {
    let (api, home) = (ApiCluster::common().unwrap(), Scratch::new("home").unwrap());
    let mut kubectl = api.cluster().kubectl_command().unwrap();
    process::output(kubectl.args(["get", "configmaps"]).env("HOME", home.path())).unwrap();
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn tokens_are_issued_for_an_audience() {
    let api = ApiCluster::common().unwrap();
    let namespace = api.namespace("cluster").unwrap();
    let token = api.cluster().token(&namespace, "default", "spiffe://here").unwrap();
    let review = format!(
        r#"{{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
             "spec": {{"token": "{token}", "audiences": ["spiffe://here"]}}}}"#
    );
    let answer = api.cluster().kubectl_with_input(&["create", "-o", "json", "-f", "-"], &review);
    let answer: serde_json::Value = serde_json::from_str(&answer.unwrap()).unwrap();
    assert_eq!(answer["status"]["authenticated"], true);
    let user = format!("system:serviceaccount:{namespace}:default");
    assert_eq!(answer["status"]["user"]["username"], user.as_str());
}

#[test]
fn a_refusal_holds_the_words_of_the_api_server() {
    let api = ApiCluster::common().unwrap();
    let manifest = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "UPPER"}}"#;
    let error = api.apply(manifest);
    let text = format!("{:#}", error.unwrap_err());
    assert!(text.contains("Invalid value: \"UPPER\""), "{text}");
}

#[test]
fn nothing_stays_of_a_test_process_that_is_killed() {
    let (mut victim, folder) = start_victim("api");
    assert!(!programs_that_mention(&folder).is_empty());
    victim.kill().unwrap();
    victim.wait().unwrap();
    until(Deadline::seconds(30), "the victim's programs and folder to go", || {
        Ok((programs_that_mention(&folder).is_empty() && !folder.exists()).then_some(()))
    })
    .unwrap();
}

/// Starts the program that owns a test cluster and waits for the line that names its folder.
fn start_victim(kind: &str) -> (Child, PathBuf) {
    let mut victim = Command::new(env!("CARGO_BIN_EXE_victim"))
        .arg(kind)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let folder = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("victim ").map(PathBuf::from));
    (victim, folder.expect("the victim's cluster starts"))
}

fn programs_that_mention(folder: &Path) -> Vec<String> {
    let text = folder.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|words| words.contains(text))
        .collect()
}

#[test]
fn the_official_sidecar_runs_with_the_real_redis() {
    let redis = Redis::start(Some("secret")).unwrap();
    let components = Scratch::new("components").unwrap();
    let state_store = format!(
        r#"{{"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {{"name": "store"}},
            "spec": {{"type": "state.redis", "version": "v1", "metadata": [
                {{"name": "redisHost", "value": "{}"}},
                {{"name": "redisPassword", "value": "secret"}}]}}}}"#,
        redis.host()
    );
    components.write("store.yaml", state_store).unwrap();
    let mut daprd = Daprd::builder("app")
        .args(["--resources-path", components.path().to_str().unwrap()])
        .args(["--placement-host-address=", "--scheduler-host-address="])
        .start()
        .unwrap();
    daprd.wait_ready(Deadline::seconds(60)).unwrap();
    let metadata = daprd.metadata().unwrap();
    assert_eq!(metadata["id"], "app");
    assert_eq!(metadata["components"][0]["name"], "store");

    let saved = serde_json::json!([{"key": "a", "value": 1}]);
    let answer = blackbox::http::post(daprd.http_port, "/v1.0/state/store", &saved).unwrap();
    assert!(answer.is_success(), "{answer:?}");
    let answer = blackbox::http::get(daprd.http_port, "/v1.0/state/store/a").unwrap();
    assert_eq!(answer.body, "1");
}

const RESOLVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: resolver}
spec:
  restartPolicy: Never
  securityContext: {runAsNonRoot: true}
  containers:
    - name: python
      image: localhost/python:test
      args: ["-c", "import socket; print(socket.gethostbyname('kubernetes.default'))"]
"#;

#[test]
#[ignore = "needs root: runs real Pods"]
fn a_node_runs_pods_comes_back_after_a_crash_and_leaves_nothing() {
    let api = NodeCluster::temporary().unwrap();
    let cluster = api.up().unwrap();
    runs_a_pod_that_resolves_names(&api, &cluster);

    let state = api.logs().parent().unwrap().to_path_buf();
    let pid = fs::read_to_string(state.join("pids/kubelet")).unwrap();
    Command::new("kill").args(["-9", pid.split(' ').next().unwrap()]).status().unwrap();
    until(Deadline::seconds(10), "the crash", || Ok((!api.is_up()).then_some(()))).unwrap();
    let cluster = api.up().unwrap();
    assert!(api.is_up());
    assert!(cluster.kubectl(&["get", "pods"]).unwrap().is_empty(), "a new cluster");

    let run = api.network_handle().parent().unwrap().to_path_buf();
    drop(api);
    assert_nothing_is_left(&run, &state);
}

#[test]
#[ignore = "needs root: runs real Pods"]
fn the_next_node_removes_one_whose_test_was_killed() {
    let (mut victim, run) = start_victim("node");
    let state = fs::read_link(run.join("state")).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    until(Deadline::seconds(10), "the victim's API server to end", || {
        let programs = programs_that_mention(&state);
        Ok((!programs.iter().any(|words| words.contains("kube-apiserver"))).then_some(()))
    })
    .unwrap();
    let next = NodeCluster::temporary().unwrap();
    next.up().unwrap();
    assert_nothing_is_left(&run, &state);
}

fn assert_nothing_is_left(run: &Path, state: &Path) {
    let name = run.file_name().unwrap().to_str().unwrap();
    assert_eq!(programs_that_mention(run), Vec::<String>::new());
    assert!(!run.exists() && !state.exists());
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(name));
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    assert!(hierarchies.map(|entry| entry.path()).all(|root| !root.join(name).exists()));
}

fn runs_a_pod_that_resolves_names(api: &NodeCluster, cluster: &Cluster) {
    let scratch = Scratch::new("image").unwrap();
    let archive = scratch.path().join("python.tar");
    peer_images::python("localhost/python:test").unwrap().write(&archive).unwrap();
    api.import_image(&archive).unwrap();
    cluster.apply(RESOLVER).unwrap();
    let succeeded = until(Deadline::seconds(60), "the pod to succeed", || {
        let pod = cluster.get(&["pod", "resolver"])?;
        Ok((pod.pointer("/status/phase") == Some(&"Succeeded".into())).then_some(()))
    });
    let why = cluster.kubectl(&["describe", "pods"]).unwrap();
    assert!(succeeded.is_ok(), "{succeeded:?}\n{why}");
    assert_eq!(cluster.kubectl(&["logs", "resolver"]).unwrap(), "10.96.0.1\n");
}
