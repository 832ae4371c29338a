//! What a sentry that serves does when its surroundings fail: an API server that is slow, refuses
//! or is gone, a Secret that is deleted or edited by hand, a full disk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::{Deadline, Ports, Scratch, Spawn, build_binary, environment, until};
use serde_json::json;

use crate::bed::System;

/// What the way to the API server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Way {
    Open,
    /// Connections are made and nothing passes.
    Stalled,
    /// Connections are closed at once.
    Refusing,
}

/// A way to the API server that tests can block.
struct Gate {
    way: Arc<AtomicU8>,
    kubeconfig: std::path::PathBuf,
    _folder: Scratch,
}

impl Gate {
    fn new(system: &System) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let config = std::fs::read_to_string(system.bed.kubeconfig())?;
        let server =
            config.split("https://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let server = server.context("no server in the kubeconfig")?.trim_matches(['"', '\'', ',']);
        let target: SocketAddr = server.parse().with_context(|| server.to_owned())?;
        let folder = Scratch::new("gate")?;
        let config = config.replace(server, &listener.local_addr()?.to_string());
        let kubeconfig = folder.write("kubeconfig", config)?;
        let way = Arc::new(AtomicU8::new(Way::Open as u8));
        let state = way.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if state.load(Ordering::SeqCst) == Way::Refusing as u8 {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                pump(&client, &server, &state);
                pump(&server, &client, &state);
            }
        });
        Ok(Self { way, kubeconfig, _folder: folder })
    }

    fn set(&self, way: Way) {
        self.way.store(way as u8, Ordering::SeqCst);
    }
}

/// Copies in one direction for as long as the way is open.
fn pump(from: &TcpStream, to: &TcpStream, way: &Arc<AtomicU8>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    let way = way.clone();
    std::thread::spawn(move || {
        // Looks at the gate while nothing comes.
        let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
        let mut buffer = [0; 16 * 1024];
        loop {
            if way.load(Ordering::SeqCst) == Way::Refusing as u8 {
                break;
            }
            if way.load(Ordering::SeqCst) == Way::Stalled as u8 {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    if to.write_all(buffer.get(..count).unwrap_or_default()).is_err() {
                        break;
                    }
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn an_api_server_that_stalls_or_refuses_costs_no_ca_and_no_restart() -> Result<()> {
    let system = System::new()?;
    let gate = Gate::new(&system)?;
    let kubeconfig = gate.kubeconfig.to_string_lossy().into_owned();
    let mut sentry = system.start_with("sentry", &["--kubeconfig", &kubeconfig])?;
    sentry.wait_ready()?;
    let (anchors, secret) = (system.anchors()?, system.data("secret")?);
    for way in [Way::Refusing, Way::Stalled] {
        gate.set(way);
        // The CA is looked at every half minute.
        let told = sentry.process.log().matches("sentry goes on with the CA it has").count();
        until(Deadline::seconds(120), "sentry to notice", || {
            let log = sentry.process.log();
            Ok((log.matches("sentry goes on with the CA it has").count() > told).then_some(()))
        })
        .with_context(|| format!("{way:?}"))?;
        assert!(sentry.process.is_running());
        assert_eq!(sentry.health()?, 200, "{way:?}: it serves with what it has");
        gate.set(Way::Open);
        // Something new in the Secret is seen: it is back.
        system.patch("configmap", &json!({"ca.crt": ""}))?;
        until(Deadline::seconds(120), "sentry to publish the anchors again", || {
            Ok(system.anchors().is_ok_and(|now| now == anchors).then_some(()))
        })
        .with_context(|| format!("after {way:?}"))?;
    }
    assert_eq!(system.data("secret")?, secret, "the CA is what it was");
    Ok(())
}

#[test]
fn a_deleted_secret_comes_back_with_the_same_ca() -> Result<()> {
    let system = System::new()?;
    let mut sentry = system.start_ready()?;
    let (anchors, secret) = (system.anchors()?, system.data("secret")?);
    let name = ["secret", "dapr-trust-bundle", "-n", &system.namespace];
    system.bed.kubectl(&[&["delete"], &name[..]].concat())?;
    sentry
        .process
        .wait_for_log("Secret dapr-trust-bundle does not exist", Deadline::seconds(60))?;
    assert_eq!(sentry.health()?, 200);
    // Helm or Argo make it anew, empty.
    let empty = ["create", "secret", "generic", "dapr-trust-bundle", "-n", &system.namespace];
    system.bed.kubectl(&empty)?;
    until(Deadline::seconds(60), "the CA to be written back", || {
        Ok((system.data("secret")? == secret).then_some(()))
    })?;
    // And only emptied, together with the published anchors: sentry does not make a second one.
    let take_away = json!({"data": null}).to_string();
    for kind in ["configmap", "secret"] {
        let object = ["patch", kind, "dapr-trust-bundle", "-n", &system.namespace];
        system.bed.kubectl(&[&object[..], &["--type=merge", "-p", &take_away]].concat())?;
    }
    until(Deadline::seconds(60), "the CA to be back, or sentry to say that it vanished", || {
        let vanished = sentry.process.log().contains("the stored CA vanished");
        let back = system.data("secret")? == secret;
        Ok((vanished || back).then_some(()))
    })?;
    assert!(system.anchors().map_or(true, |now| now == anchors), "no other CA");
    assert_eq!(sentry.health()?, 200);
    Ok(())
}

#[test]
fn a_secret_of_cert_manager_is_used_and_followed() -> Result<()> {
    use testkit::ca::Ca;
    let system = System::new()?;
    let write = |ca: &Ca| {
        let (chain, key) = (&ca.pem().issuer_chain, ca.pem().issuer_key.as_str());
        system
            .patch("secret", &json!({"ca.crt": ca.pem().anchors, "tls.crt": chain, "tls.key": key}))
    };
    let (first, second) = (Ca::new(), Ca::new());
    write(&first)?;
    let mut sentry = system.start_ready()?;
    assert_eq!(system.anchors()?, first.anchors());
    // Half a renewal is not used, the whole is.
    system.patch("secret", &json!({"tls.crt": second.pem().issuer_chain}))?;
    sentry.process.wait_for_log("issuer key does not match", Deadline::seconds(60))?;
    assert_eq!(sentry.health()?, 200);
    write(&second)?;
    until(Deadline::seconds(60), "the renewed root to be published", || {
        Ok((system.anchors()? == second.anchors()).then_some(()))
    })?;
    // It is not sentry's to replace.
    system.rotate()?;
    sentry.process.wait_for_log("dapr.io/rotate-ca has no effect", Deadline::seconds(60))?;
    assert_eq!(system.stage()?, None);
    assert!(system.secret("issuer.crt").is_err(), "sentry wrote nothing of its own");
    Ok(())
}

#[test]
fn a_full_disk_leaves_nothing_behind() -> Result<()> {
    if !environment::is_root() {
        return Ok(()); // Mounting a small disk needs root.
    }
    let folder = Scratch::new("full-disk")?;
    folder.write("config.yaml", "")?;
    std::fs::create_dir(folder.path().join("credentials"))?;
    // One page: the first of three files fits. The mount is gone with the process.
    let script = "mount -t tmpfs -o size=4k none credentials && \"$@\"; code=$?; ls -A credentials | wc -l > left; exit $code";
    let mut process = Spawn::new("sentry", "/usr/bin/unshare", folder.path())
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(build_binary("sentry")?)
        .args(["--config=config.yaml", "--issuer-credentials=credentials"])
        .service_at(Ports::free()?)
        .env("NAMESPACE", "mesh")
        .folder(folder.path())
        .start()?;
    let status = until(Deadline::seconds(30), "the end", || Ok(process.exit_status()))?;
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("No space left on device") && log.contains("issuer"), "{log}");
    assert_eq!(std::fs::read_to_string(folder.path().join("left"))?.trim(), "0", "{log}");
    Ok(())
}
