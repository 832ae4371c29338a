//! Where log lines go: standard output, standard error, files.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::LogError;
use super::file::{LogFile, Rotation};
use crate::flags::{LogFlags, ProcessFlags};

/// The destinations of log lines, without duplicates. A destination that accepts no lines (a full
/// disk, a closed pipe) loses them without effect on the others or the process; its next line
/// follows a notice with the number of lost lines.
pub(super) struct Outputs(Vec<Output>);

struct Output {
    name: String,
    sink: Sink,
    /// Lines lost since the last one that was written.
    lost: u64,
}

enum Sink {
    Stream(Box<dyn Write + Send>),
    File(LogFile),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl Outputs {
    /// The destinations of `--log-file` and `--log-outputs`.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn open(flags: &ProcessFlags) -> Result<Self, LogError> {
        let rotation = rotation(&flags.log);
        let destinations = destinations(flags.log_file.as_deref(), &flags.log.log_outputs);
        let open = |destination| {
            let (name, sink) = match destination {
                Destination::Stdout => ("stdout".to_owned(), Sink::Stream(Box::new(io::stdout()))),
                Destination::Stderr => ("stderr".to_owned(), Sink::Stream(Box::new(io::stderr()))),
                Destination::File(path) => {
                    let name = path.display().to_string();
                    let file = LogFile::open(&path, rotation)
                        .map_err(|cause| LogError::File { name: name.clone(), cause })?;
                    (name, Sink::File(file))
                }
            };
            Ok(Output { name, sink, lost: 0 })
        };
        destinations.into_iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    #[cfg(test)]
    pub(super) fn to(stream: impl Write + Send + 'static) -> Self {
        let sink = Sink::Stream(Box::new(stream));
        Self(vec![Output { name: "test".to_owned(), sink, lost: 0 }])
    }

    /// Writes a line to every destination. `notice` formats a message as a line.
    pub(super) fn write(&mut self, line: &str, now: Timestamp, notice: impl Fn(String) -> String) {
        for output in &mut self.0 {
            output.write(line, now, &notice);
        }
    }
}

impl Output {
    fn write(&mut self, line: &str, now: Timestamp, notice: impl Fn(String) -> String) {
        if self.lost > 0 {
            let notice = notice(format!("{} lines were not written to {}", self.lost, self.name));
            if self.sink.write(notice.as_bytes(), now).is_ok() {
                self.lost = 0;
            }
        }
        if self.lost > 0 || self.sink.write(line.as_bytes(), now).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }
}

impl Sink {
    fn write(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(line).and_then(|()| stream.flush()),
            Self::File(file) => file.append(line, now),
        }
    }
}

/// Whether flags configure rotated files although rotation is off.
pub(super) fn never_rotates(flags: &LogFlags) -> bool {
    let rotation = rotation(flags);
    let configured =
        rotation.max_backups.is_some() || rotation.max_age.is_some() || rotation.compress;
    rotation.max_bytes.is_none() && configured
}

fn rotation(flags: &LogFlags) -> Rotation {
    Rotation {
        max_bytes: Some(flags.log_file_max_size).filter(|size| *size > 0),
        max_backups: Some(flags.log_file_max_backups).filter(|number| *number > 0),
        max_age: Some(flags.log_file_max_age.0).filter(|age| !age.is_zero()),
        compress: flags.log_file_compression,
    }
}

/// Each destination once; standard output when there is none.
fn destinations(file: Option<&Path>, outputs: &str) -> Vec<Destination> {
    let listed = outputs.split(',').map(str::trim).filter(|name| !name.is_empty());
    let listed = listed.map(|name| match name {
        "stdout" => Destination::Stdout,
        "stderr" => Destination::Stderr,
        path => Destination::File(path.into()),
    });
    let file = file.map(|path| Destination::File(path.to_path_buf()));
    let mut all = Vec::new();
    for destination in listed.chain(file) {
        if !all.contains(&destination) {
            all.push(destination);
        }
    }
    if all.is_empty() {
        all.push(Destination::Stdout);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use rstest::rstest;

    use super::*;

    fn file(path: &str) -> Destination {
        Destination::File(path.into())
    }

    #[rstest]
    #[case::nothing(None, "", vec![Destination::Stdout])]
    #[case::file_alone(Some("/a"), "", vec![file("/a")])]
    #[case::list(None, "stdout, stderr,/b,", vec![Destination::Stdout, Destination::Stderr, file("/b")])]
    #[case::both_are_written(Some("/a"), "stdout,/b", vec![Destination::Stdout, file("/b"), file("/a")])]
    #[case::once(Some("/a"), "/a,/a,stderr", vec![file("/a"), Destination::Stderr])]
    #[case::commas(None, ",,", vec![Destination::Stdout])]
    fn flags_name_destinations(
        #[case] log_file: Option<&str>,
        #[case] outputs: &str,
        #[case] want: Vec<Destination>,
    ) {
        assert_eq!(destinations(log_file.map(Path::new), outputs), want);
    }

    #[rstest]
    #[case::no_flags(LogFlags::default(), false)]
    #[case::backups(LogFlags { log_file_max_backups: 3, ..LogFlags::default() }, true)]
    #[case::compression(LogFlags { log_file_compression: true, ..LogFlags::default() }, true)]
    #[case::with_size(LogFlags { log_file_compression: true, log_file_max_size: 1, ..LogFlags::default() }, false)]
    fn rotation_flags_without_a_size_are_reported(#[case] flags: LogFlags, #[case] want: bool) {
        assert_eq!(never_rotates(&flags), want);
    }

    /// Takes lines only while it has room.
    #[derive(Clone, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_destination_loses_lines_and_reports_how_many() {
        let (first, second) = (Disk::default(), Disk::default());
        let mut outputs = Outputs::to(first.clone());
        outputs.0.extend(Outputs::to(second.clone()).0);
        let notice = |message| format!("{message}\n");
        let mut write = |line: &str| outputs.write(line, Timestamp::UNIX_EPOCH, notice);
        write("1\n");
        first.full.store(true, Ordering::Relaxed);
        write("2\n");
        write("3\n");
        first.full.store(false, Ordering::Relaxed);
        write("4\n");
        let text = |disk: &Disk| String::from_utf8(disk.text.lock().unwrap().clone()).unwrap();
        assert_eq!(text(&first), "1\n2 lines were not written to test\n4\n");
        assert_eq!(text(&second), "1\n2\n3\n4\n");
    }
}
