//! One program of a test: started with a log file, polled until it serves, stopped by its process
//! id.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Deadline, http, until};

/// Number of log lines in an error.
const LOG_TAIL_LINES: usize = 25;
/// Time limit for a dropped program to end after SIGTERM.
const END_WAIT: Duration = Duration::from_secs(5);

/// Executes its other arguments in a mount namespace where the first is the namespace
/// of a pod.
const POD: &str = r#"set -e
mount -t tmpfs run /run
folder=/var/run/secrets/kubernetes.io/serviceaccount
mkdir -p "$folder"
printf %s "$1" > "$folder/namespace"
shift
exec "$@""#;

/// Whether a program outlives the process that started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Killed when the [`Process`] is dropped, and by the kernel when this process ends.
    #[default]
    Bound,
    /// Outlives the [`Process`], and is killed by the kernel when this process ends.
    Runner,
    /// Runs in its own session; found again by [`Process::adopt`].
    Detached,
}

/// A program to be started.
#[derive(Clone, Debug)]
pub struct Spawn {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    unset: Vec<OsString>,
    folder: Option<PathBuf>,
    log: PathBuf,
    lifetime: Lifetime,
    network: Option<PathBuf>,
    pod_namespace: Option<String>,
}

impl Spawn {
    /// `program`, with standard output and error in `<logs>/<name>.log`.
    pub fn new(name: &str, program: impl Into<PathBuf>, logs: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            unset: Vec::new(),
            folder: None,
            log: logs.join(format!("{name}.log")),
            lifetime: Lifetime::default(),
            network: None,
            pod_namespace: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Removes an environment variable, inherited or set so far; a later [`Spawn::env`] wins.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(set, _)| set != name.as_ref());
        self.unset.push(name.as_ref().to_owned());
        self
    }

    /// Runs in that folder.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Whether the program outlives this process.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Runs inside the network namespace with that handle (`/run/netns/NAME`).
    #[must_use]
    pub fn network(mut self, handle: Option<PathBuf>) -> Self {
        self.network = handle;
        self
    }

    /// Finds the namespace of its pod where the kubelet writes it: `/run` is its own, and holds
    /// nothing else.
    #[must_use]
    pub fn in_pod_of(mut self, namespace: &str) -> Self {
        self.pod_namespace = Some(namespace.to_owned());
        self
    }

    /// Starts the program.
    ///
    /// # Errors
    /// When it or one of the wrappers (`setpriv`, `setsid`, `nsenter`, `unshare` of util-linux) is
    /// missing, or the log file cannot be written.
    pub fn start(self) -> Result<Process> {
        if let Some(parent) = self.log.parent() {
            fs::create_dir_all(parent)?;
        }
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open log {}", self.log.display()))?;
        let mut words = self.wrappers();
        words.push(self.program.clone().into());
        words.extend(self.args);
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().context("empty command")?);
        command.args(words);
        for name in self.unset {
            command.env_remove(name);
        }
        command.envs(self.env);
        if let Some(folder) = self.folder {
            command.current_dir(folder);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn_on_lasting_thread(command)
            .with_context(|| format!("start {} ({})", self.name, self.program.display()))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        Ok(Process {
            name: self.name,
            pid,
            child: Some(child),
            log: self.log,
            lifetime: self.lifetime,
        })
    }

    /// The wrappers, each of which executes the next and finally the program, with the same pid.
    fn wrappers(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(network) = &self.network {
            let mut net = OsString::from("--net=");
            net.push(network);
            words.extend(["nsenter".into(), net]);
        }
        if let Some(namespace) = &self.pod_namespace {
            words.extend(["unshare", "--map-root-user", "--mount", "sh", "-c"].map(OsString::from));
            words.extend([POD.into(), "sh".into(), namespace.into()]);
        }
        match self.lifetime {
            Lifetime::Bound | Lifetime::Runner => {
                words.extend(["setpriv", "--pdeathsig", "KILL"].map(OsString::from));
            }
            Lifetime::Detached => words.push("setsid".into()),
        }
        words
    }
}

/// Spawns on a thread that lives as long as this process: the kernel sends the parent-death signal
/// when the *thread* that forked ends, and each test has a thread of its own.
fn spawn_on_lasting_thread(command: Command) -> Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).ok().context("the spawning thread is gone")?;
    Ok(answer.recv().context("the spawning thread is gone")??)
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Option<Child>,
    log: PathBuf,
    lifetime: Lifetime,
}

impl Process {
    /// A program that an earlier process started as [`Lifetime::Detached`].
    pub fn adopt(name: &str, pid: Pid, log: PathBuf) -> Self {
        Self { name: name.to_owned(), pid, child: None, log, lifetime: Lifetime::Detached }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its name, that of its log file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its standard output and error so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Where its standard output and error go.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The exit status if it has ended. For an adopted program always `None`.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => rustix::process::test_kill_process(self.pid).is_ok(),
        }
    }

    /// Waits until `probe` returns `Ok(true)`; its errors count as "not yet".
    ///
    /// # Errors
    /// At once when the program ends, else at the deadline; both with the end of its log.
    pub fn wait(
        &mut self,
        deadline: Deadline,
        what: &str,
        mut probe: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        let title = format!("{}: {what}", self.name);
        let result = until(deadline, &title, || {
            if probe(&self.log()).unwrap_or(false) {
                return Ok(Some(()));
            }
            match self.exit_status() {
                Some(status) => bail!("{title}: it ended ({})", describe(status)),
                None => Ok(None),
            }
        });
        result.with_context(|| format!("log of {}:\n{}", self.name, tail(&self.log())))
    }

    /// Waits for a text in its log.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn wait_for_log(&mut self, text: &str, deadline: Deadline) -> Result<()> {
        self.wait(deadline, &format!("log text {text:?}"), |log| Ok(log.contains(text)))
    }

    /// Waits until something listens on that TCP port in the network namespace of the program.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn wait_for_port(&mut self, port: u16, deadline: Deadline) -> Result<()> {
        let sockets = format!("/proc/{}/net", self.pid.as_raw_nonzero());
        self.wait(deadline, &format!("port {port}"), |_| {
            let tables =
                ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("{sockets}/{table}")));
            Ok(tables.iter().flatten().any(|table| is_listening(table, port)))
        })
    }

    /// Waits until `GET http://127.0.0.1:<port><path>` answers 2xx.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub fn wait_for_http(&mut self, port: u16, path: &str, deadline: Deadline) -> Result<()> {
        self.wait(deadline, &format!("http://127.0.0.1:{port}{path}"), |_| {
            Ok(http::get(port, path)?.is_success())
        })
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the program has ended or belongs to another user.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Sends SIGTERM and returns the exit status.
    ///
    /// # Errors
    /// When it has not ended by the deadline.
    pub fn terminate(&mut self, deadline: Deadline) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status() {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        until(deadline, &format!("{} to end after SIGTERM", self.name), || Ok(self.exit_status()))
            .with_context(|| format!("log of {}:\n{}", self.name, tail(&self.log())))
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        match &mut self.child {
            Some(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            None => {
                let _ = kill_process(self.pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Bound && self.terminate(Deadline::after(END_WAIT)).is_err() {
            self.kill();
        }
    }
}

/// Whether a table of `/proc/net/tcp` has a listener (state `0A`) on that port.
fn is_listening(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some("0A")
    })
}

/// The exit code or signal in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let start = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines.get(start..).unwrap_or_default().join("\n")
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error holds its
/// standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let result = command.stdin(Stdio::null()).output().with_context(|| format!("run {name}"))?;
    if !result.status.success() {
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let (out, err) = (&result.stdout, &result.stderr);
        bail!(
            "{name} {}: {}\n{}{}",
            args.join(" "),
            describe(result.status),
            tail(&String::from_utf8_lossy(out)),
            tail(&String::from_utf8_lossy(err)),
        );
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    #[test]
    fn an_early_end_is_reported_at_once_with_the_log() {
        let scratch = Scratch::new("process").unwrap();
        let spawn =
            Spawn::new("sh", "/bin/sh", scratch.path()).args(["-c", "echo no luck; exit 3"]);
        let mut process = spawn.start().unwrap();
        let error = process.wait_for_log("ready", Deadline::seconds(20)).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("exit code 3") && text.contains("no luck"), "{text}");
    }

    #[test]
    fn survives_the_end_of_the_thread_that_started_it() {
        let scratch = Scratch::new("process").unwrap();
        let folder = scratch.path().to_path_buf();
        let start = move || Spawn::new("sleep", "/bin/sleep", &folder).arg("60").start().unwrap();
        let mut process = thread::spawn(start).join().unwrap();
        thread::sleep(Duration::from_millis(100)); // the signal would have arrived by now
        assert!(process.is_running());
        let status = process.terminate(Deadline::seconds(5)).unwrap();
        assert_eq!(describe(status), "signal 15");
    }

    #[test]
    fn a_listener_differs_from_a_connection() {
        let table = "  sl  local_address rem_address   st
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000";
        assert!(is_listening(table, 8080));
        assert!(!is_listening(table, 8081));
    }

    #[test]
    fn output_holds_the_reason_of_a_failure() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 9"])).unwrap_err();
        assert!(error.to_string().contains("exit code 9\nwhy"), "{error}");
    }
}
