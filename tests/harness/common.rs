//! What all tests of a run share: `cargo xtask test` keeps a [`Host`], which starts a fixture when the
//! first test asks for it and stops all at the end. nextest runs each test in a process of its own, so
//! without it each test would start an API server.
//!
//! A test that shares a fixture writes only into namespaces of its own and stops nothing. A test that
//! is run by itself starts the fixture in its own process.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::injector_fixture::Rights;
use crate::progress::say;
use crate::{ApiCluster, InjectorFixture, OperatorFixture, Scratch, environment};

/// The variable with the socket of the [`Host`].
pub const SOCKET: &str = "TRILBY_COMMON";
/// Interval at which the host looks for requests, and for the end of the tests.
const POLL: Duration = Duration::from_millis(50);
/// How long a test waits for a fixture to start, others before it included.
const START: Duration = Duration::from_mins(5);

/// A fixture that tests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Common {
    /// [`ApiCluster::common`].
    Api,
    /// [`InjectorFixture::common`].
    Injector,
    /// The same with the admission guard in force.
    GuardedInjector,
    /// [`OperatorFixture::common`].
    Operator,
}

impl Common {
    const ALL: [Self; 4] = [Self::Api, Self::Injector, Self::GuardedInjector, Self::Operator];

    const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Injector => "injector",
            Self::GuardedInjector => "guarded-injector",
            Self::Operator => "operator",
        }
    }

    fn start(self) -> Result<Started> {
        Ok(match self {
            Self::Api => Started::Api(Box::new(ApiCluster::start_with_definitions()?)),
            Self::Injector => Started::Injector(Box::new(InjectorFixture::start(Rights::Ours)?)),
            Self::GuardedInjector => {
                let fixture = InjectorFixture::start(Rights::Ours)?;
                fixture.guard()?;
                Started::Injector(Box::new(fixture))
            }
            Self::Operator => Started::Operator(Box::new(OperatorFixture::start()?)),
        })
    }

    /// The folder of the fixture of this run; `None` for a test that is run by itself.
    ///
    /// # Errors
    /// When the host could not start it, or is gone.
    pub(crate) fn of_run(self) -> Result<Option<PathBuf>> {
        let Some(socket) = environment::var(SOCKET) else { return Ok(None) };
        self.request(Path::new(&socket))
            .map(Some)
            .with_context(|| format!("common {}", self.name()))
    }

    fn request(self, socket: &Path) -> Result<PathBuf> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(START))?;
        writeln!(stream, "{}", self.name())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        match answer.trim_end().split_once(' ') {
            Some(("started", folder)) => Ok(folder.into()),
            Some(("failed", error)) => bail!("{error}"),
            _ => bail!("the run has ended"),
        }
    }
}

/// A running fixture.
#[derive(Debug)]
enum Started {
    Api(Box<ApiCluster>),
    Injector(Box<InjectorFixture>),
    Operator(Box<OperatorFixture>),
}

impl Started {
    fn folder(&self) -> &Path {
        match self {
            Self::Api(api) => api.state(),
            Self::Injector(fixture) => fixture.folder(),
            Self::Operator(fixture) => fixture.folder(),
        }
    }
}

/// Keeps the fixtures of a run. They end with this value and with the thread that serves.
#[derive(Debug)]
pub struct Host {
    listener: UnixListener,
    started: BTreeMap<Common, Result<Started, String>>,
    folder: Scratch,
}

impl Host {
    /// A host without fixtures.
    ///
    /// # Errors
    /// When no socket can be made.
    pub fn new() -> Result<Self> {
        let folder = Scratch::new("common")?;
        let listener = UnixListener::bind(folder.path().join("socket"))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, started: BTreeMap::new(), folder })
    }

    /// The value of [`SOCKET`] for the tests.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Serves the tests until they have ended.
    ///
    /// # Errors
    /// When the end of the tests cannot be waited for.
    pub fn serve(&mut self, tests: &mut Child) -> Result<ExitStatus> {
        loop {
            if let Some(status) = tests.try_wait().context("wait for the tests")? {
                return Ok(status);
            }
            match self.listener.accept() {
                // A test that was stopped meanwhile reads no answer.
                Ok((stream, _)) => drop(self.answer(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(POLL),
                Err(error) => return Err(error).context("accept a test"),
            }
        }
    }

    fn answer(&mut self, stream: UnixStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(START))?;
        let mut name = String::new();
        BufReader::new(&stream).read_line(&mut name)?;
        let common = Common::ALL.into_iter().find(|common| common.name() == name.trim_end());
        let common = common.with_context(|| format!("no fixture {name:?}"))?;
        let started = self.started.entry(common).or_insert_with(|| {
            say(format_args!("starting what tests share: {}", common.name()));
            common.start().map_err(|error| format!("{error:#}").replace('\n', " "))
        });
        let mut stream = stream;
        match started {
            Ok(started) => writeln!(stream, "started {}", started.folder().display()),
            Err(error) => writeln!(stream, "failed {error}"),
        }
        .context("answer a test")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_host_serves_until_the_tests_have_ended_and_says_what_failed() {
        let mut host = Host::new().unwrap();
        host.started.insert(Common::Api, Err("no etcd".to_owned()));
        let socket = host.socket();
        let mut tests = Command::new("sleep").arg("60").spawn().unwrap();
        let client = thread::spawn(move || Common::Api.request(&socket).unwrap_err().to_string());
        while !client.is_finished() {
            if let Ok((stream, _)) = host.listener.accept() {
                host.answer(stream).unwrap();
            }
        }
        assert_eq!(client.join().unwrap(), "no etcd");
        tests.kill().unwrap();
        assert!(!host.serve(&mut tests).unwrap().success());
        let socket = host.socket();
        drop(host);
        assert!(Common::Api.request(&socket).is_err(), "the run has ended");
    }
}
