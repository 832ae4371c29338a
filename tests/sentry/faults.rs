//! Faults around a serving sentry: an API server that stalls or refuses connections, a Secret that is
//! deleted or edited, a full disk.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::procfs::peak_memory;
use blackbox::{Deadline, Ports, Scratch, Spawn, build_binary, soon, until};
use serde_json::json;

use crate::fixture::{System, request};

/// The state of the connection to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Open,
    /// Connections are accepted and transfer nothing.
    Stalled,
    /// Connections are closed immediately.
    Refusing,
}

/// The state, and the waiters for a change of it.
struct LinkState {
    link: Mutex<Link>,
    changed: Condvar,
}

impl LinkState {
    fn get(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state once it is not [`Link::Stalled`].
    fn wait_while_stalled(&self) -> Link {
        let stalled = |link: &mut Link| *link == Link::Stalled;
        *self.changed.wait_while(self.get(), stalled).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy to the API server that tests can block.
struct FaultProxy {
    link: Arc<LinkState>,
    kubeconfig: std::path::PathBuf,
    _folder: Scratch,
}

impl FaultProxy {
    fn new(system: &System) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let config = std::fs::read_to_string(system.api.kubeconfig())?;
        let server =
            config.split("https://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let server = server.context("no server in the kubeconfig")?.trim_matches(['"', '\'', ',']);
        let target: SocketAddr = server.parse().with_context(|| server.to_owned())?;
        let folder = Scratch::new("fault-proxy")?;
        let config = config.replace(server, &listener.local_addr()?.to_string());
        let kubeconfig = folder.write("kubeconfig", config)?;
        let link = Arc::new(LinkState { link: Mutex::new(Link::Open), changed: Condvar::new() });
        let state = link.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if *state.get() == Link::Refusing {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                pump(&client, &server, &state);
                pump(&server, &client, &state);
            }
        });
        Ok(Self { link, kubeconfig, _folder: folder })
    }

    fn set(&self, link: Link) {
        *self.link.get() = link;
        self.link.changed.notify_all();
    }
}

/// Copies in one direction while the link is open.
fn pump(from: &TcpStream, to: &TcpStream, link: &Arc<LinkState>) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    let link = link.clone();
    std::thread::spawn(move || {
        // The timeout makes the loop check the link while no data arrives.
        let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
        let mut buffer = [0; 16 * 1024];
        loop {
            if link.wait_while_stalled() == Link::Refusing {
                break;
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
fn an_api_server_that_stalls_or_refuses_does_not_change_the_ca() -> Result<()> {
    let system = System::new()?;
    let proxy = FaultProxy::new(&system)?;
    let kubeconfig = proxy.kubeconfig.to_string_lossy().into_owned();
    let mut sentry = system.start_with("sentry", &["--kubeconfig", &kubeconfig])?;
    sentry.wait_ready()?;
    let (anchors, secret) = (system.anchors()?, system.data("secret")?);
    for link in [Link::Refusing, Link::Stalled] {
        proxy.set(link);
        // Sentry polls the CA every 30 seconds.
        let reported = sentry.process.log().matches("sentry continues with the current CA").count();
        until(Deadline::seconds(120), "sentry to notice", || {
            let log = sentry.process.log();
            Ok((log.matches("sentry continues with the current CA").count() > reported)
                .then_some(()))
        })
        .with_context(|| format!("{link:?}"))?;
        assert!(sentry.process.is_running());
        assert_eq!(sentry.health()?, 200, "{link:?}: it continues to serve");
        proxy.set(Link::Open);
        // A change is noticed: the API server is reachable again.
        system.patch("configmap", &json!({"ca.crt": ""}))?;
        until(Deadline::seconds(120), "sentry to publish the anchors again", || {
            Ok(system.anchors().is_ok_and(|now| now == anchors).then_some(()))
        })
        .with_context(|| format!("after {link:?}"))?;
    }
    assert_eq!(system.data("secret")?, secret, "the CA is unchanged");
    Ok(())
}

#[test]
fn a_deleted_secret_is_restored_with_the_same_ca() -> Result<()> {
    let system = System::new()?;
    let mut sentry = system.start_ready()?;
    let (anchors, secret) = (system.anchors()?, system.data("secret")?);
    let name = ["secret", "dapr-trust-bundle", "-n", &system.namespace];
    system.api.kubectl(&[&["delete"], &name[..]].concat())?;
    sentry
        .process
        .wait_for_log("Secret dapr-trust-bundle does not exist", Deadline::seconds(60))?;
    assert_eq!(sentry.health()?, 200);
    // Helm or Argo recreate it, empty.
    let empty = ["create", "secret", "generic", "dapr-trust-bundle", "-n", &system.namespace];
    system.api.kubectl(&empty)?;
    until(Deadline::seconds(60), "the CA to be written back", || {
        Ok((system.data("secret")? == secret).then_some(()))
    })?;
    // Secret and ConfigMap are emptied together: sentry does not create a second CA.
    let empty_data = json!({"data": null}).to_string();
    for kind in ["configmap", "secret"] {
        let object = ["patch", kind, "dapr-trust-bundle", "-n", &system.namespace];
        system.api.kubectl(&[&object[..], &["--type=merge", "-p", &empty_data]].concat())?;
    }
    until(
        Deadline::seconds(60),
        "the CA to be restored, or sentry to report that it vanished",
        || {
            let vanished = sentry.process.log().contains("the stored CA vanished");
            let restored = system.data("secret")? == secret;
            Ok((vanished || restored).then_some(()))
        },
    )?;
    assert!(system.anchors().map_or(true, |now| now == anchors), "no other CA");
    assert_eq!(sentry.health()?, 200);
    Ok(())
}

#[test]
fn a_secret_of_cert_manager_is_used_and_reloaded() -> Result<()> {
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
    // An incomplete renewal is rejected, the complete one is used.
    system.patch("secret", &json!({"tls.crt": second.pem().issuer_chain}))?;
    sentry.process.wait_for_log("issuer key does not match", Deadline::seconds(60))?;
    assert_eq!(sentry.health()?, 200);
    write(&second)?;
    until(Deadline::seconds(60), "the renewed root to be published", || {
        Ok((system.anchors()? == second.anchors()).then_some(()))
    })?;
    // Sentry does not rotate it.
    system.rotate()?;
    sentry.process.wait_for_log("dapr.io/rotate-ca has no effect", Deadline::seconds(60))?;
    assert_eq!(system.stage()?, None);
    assert!(system.secret("issuer.crt").is_err(), "sentry writes no key of its own");
    Ok(())
}

#[test]
#[ignore = "needs root: mounts a small disk"]
fn a_full_disk_leaves_nothing_behind() -> Result<()> {
    let folder = Scratch::new("full-disk")?;
    folder.write("config.yaml", "")?;
    std::fs::create_dir(folder.path().join("credentials"))?;
    // One page: the first of three files fits. The mount ends with the process.
    let script = "mount -t tmpfs -o size=4k none credentials && \"$@\"; code=$?; ls -A credentials | wc -l > left; exit $code";
    let mut process = Spawn::new("sentry", "/usr/bin/unshare", folder.path())
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(build_binary("sentry")?)
        .args(["--config=config.yaml", "--issuer-credentials=credentials"])
        .service_at(Ports::free()?)
        .env("NAMESPACE", "mesh")
        .folder(folder.path())
        .start()?;
    let status = until(soon(), "the end", || Ok(process.exit_status()))?;
    let log = process.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("No space left on device") && log.contains("issuer"), "{log}");
    assert_eq!(std::fs::read_to_string(folder.path().join("left"))?.trim(), "0", "{log}");
    Ok(())
}

#[test]
fn large_requests_are_rejected_without_buffering_them() -> Result<()> {
    /// Four requests of this size are more than the memory that all of them may use.
    const LARGE: usize = 4 * 1024 * 1024 - 1024;
    const BUDGET: u64 = 16 * 1024 * 1024;
    let system = System::new()?;
    let sentry = system.start_ready()?;
    let anchors = system.anchors()?;
    let mut large = request("shop", "till", "");
    large.certificate_signing_request = vec![b'x'; LARGE];
    let before = peak_memory(sentry.process.pid())?;
    let outcomes = crate::fixture::runtime().block_on(async {
        let client = sentry.client(&anchors).await?;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (mut client, large) = (client.clone(), large.clone());
            calls.spawn(async move { client.sign_certificate(large).await.map(drop) });
        }
        anyhow::Ok(calls.join_all().await)
    })?;
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    let grown = peak_memory(sentry.process.pid())?.saturating_sub(before);
    assert!(grown < BUDGET, "{grown} bytes for 64 requests");
    Ok(())
}
