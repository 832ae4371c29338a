//! Starts programs that the kernel kills when this process ends for any reason.
//!
//! A program requests the signal for itself, which needs `unsafe` code between fork and exec.
//! Instead this program is started again with [`EXEC`] as its first argument, requests the signal
//! and becomes the other program by exec.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;
use std::{io, thread};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// The first argument of a process that becomes another program.
const EXEC: &str = "exec-child";
/// This program, even if its file was replaced.
const SELF: &str = "/proc/self/exe";

/// Becomes another program if the first argument is `exec-child`; returns `None` if it is not, and
/// the error if that fails. Must be the first call of the process.
pub fn exec_child() -> Option<io::Error> {
    let mut args = std::env::args_os().skip(1);
    (args.next()? == EXEC).then(|| exec(args))
}

fn exec(mut args: impl Iterator<Item = OsString>) -> io::Error {
    let parent = args.next().and_then(|pid| pid.into_string().ok()?.parse().ok());
    let (Some(parent), Some(program)) = (parent.and_then(Pid::from_raw), args.next()) else {
        return io::ErrorKind::InvalidInput.into();
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // A parent that ended before the request sends no signal.
    if getppid() != Some(parent) {
        return io::Error::other("the scheduler has ended");
    }
    std::process::Command::new(program).args(args).exec()
}

/// A thread that starts programs. The kernel sends the signal when the thread that started a
/// program ends, so the thread lives as long as this handle.
pub(super) struct Launcher(mpsc::UnboundedSender<Order>);

type Order = (Command, oneshot::Sender<io::Result<Child>>);

impl Launcher {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(super) fn start() -> io::Result<Self> {
        let (orders, mut inbox) = mpsc::unbounded_channel::<Order>();
        let runtime = Handle::current();
        thread::Builder::new().name("launcher".to_owned()).spawn(move || {
            let _entered = runtime.enter();
            while let Some((mut command, reply)) = inbox.blocking_recv() {
                let _ = reply.send(command.spawn());
            }
        })?;
        Ok(Self(orders))
    }

    /// Starts a program with an empty environment in a separate process group, so that Ctrl-C
    /// reaches only this process. Its standard error is a pipe.
    ///
    /// # Errors
    /// The system cannot start it.
    pub(super) async fn spawn(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = &String>,
    ) -> io::Result<Child> {
        let mut command = Command::new(SELF);
        command.arg(EXEC).arg(std::process::id().to_string()).arg(program).args(arguments);
        command.env_clear().process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the launching thread is gone");
        self.0.send((command, reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
