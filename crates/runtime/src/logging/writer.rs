//! A thread that writes log lines, so that a slow destination delays no request.
//!
//! Lines wait in a bounded queue. A line that finds it full is dropped and counted; the next line
//! follows a notice with the number of dropped ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::IntCounter;

use super::LogError;
use super::outputs::Outputs;

/// Lines that may wait: ten seconds of a busy service.
const MAX_LINES: usize = 8_192;
/// Bytes of the lines that may wait.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Sender to the thread. Cheap to clone.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: SyncSender<Job>,
    queue: Arc<Queue>,
    dropped: IntCounter,
}

#[derive(Default)]
struct Queue {
    bytes: AtomicUsize,
    /// Lines dropped since the last notice.
    missing: AtomicU64,
}

enum Job {
    Line(String, Timestamp),
    /// Acknowledges that all earlier lines are written.
    Flush(SyncSender<()>),
}

impl Writer {
    /// Starts the thread. `notice` formats a message as a line.
    ///
    /// # Errors
    /// The operating system cannot start the thread.
    pub(super) fn start(
        outputs: Outputs,
        dropped: IntCounter,
        notice: impl Fn(Timestamp, String) -> String + Send + 'static,
    ) -> Result<Self, LogError> {
        let (jobs, inbox) = sync_channel(MAX_LINES);
        let writer = Self { jobs, queue: Arc::default(), dropped };
        let queue = writer.queue.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || run(&inbox, &queue, outputs, notice))
            .map_err(LogError::Thread)?;
        Ok(writer)
    }

    /// Queues a line, or drops it when the queue is full.
    pub(super) fn write(&self, line: String, now: Timestamp) {
        let bytes = line.len();
        let waiting = self.queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = waiting + bytes <= MAX_BYTES;
        if room && self.jobs.try_send(Job::Line(line, now)).is_ok() {
            return;
        }
        self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.queue.missing.fetch_add(1, Ordering::Relaxed);
        self.dropped.inc();
    }

    /// Waits until all queued lines are written, up to `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        let mut job = Job::Flush(done);
        let give_up = crate::clock::monotonic() + limit;
        while let Err(TrySendError::Full(back)) = self.jobs.try_send(job) {
            if crate::clock::monotonic() >= give_up {
                return;
            }
            job = back;
            std::thread::yield_now();
        }
        // Fails when the time has passed.
        let _ = written.recv_timeout(give_up.saturating_duration_since(crate::clock::monotonic()));
    }
}

fn run(
    inbox: &Receiver<Job>,
    queue: &Queue,
    mut outputs: Outputs,
    notice: impl Fn(Timestamp, String) -> String,
) {
    for job in inbox {
        match job {
            Job::Line(line, now) => {
                queue.bytes.fetch_sub(line.len(), Ordering::Relaxed);
                let missing = queue.missing.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    let text = format!(
                        "{missing} lines were dropped: they came faster than the log takes them"
                    );
                    outputs.write(&notice(now, text), now, |message| notice(now, message));
                }
                outputs.write(&line, now, |message| notice(now, message));
            }
            Job::Flush(done) => {
                // The sender may have stopped waiting.
                let _ = done.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Condvar, Mutex};

    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// A reader that blocks until it is opened.
    #[derive(Clone, Default)]
    struct Pipe(Arc<(Mutex<Taken>, Condvar)>);

    /// Whether it is open, and what it read.
    type Taken = (bool, Vec<u8>);

    impl Pipe {
        fn open(&self) {
            self.0.0.lock().unwrap().0 = true;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let state = self.0.0.lock().unwrap();
            let mut state = self.0.1.wait_while(state, |(open, _)| !*open).unwrap();
            state.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(pipe: &Pipe) -> Writer {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        Writer::start(Outputs::to(pipe.clone()), dropped, |_, message| message + "\n").unwrap()
    }

    /// Waits until the thread has taken its first line and blocks on the pipe.
    fn hang(writer: &Writer) {
        writer.write("first\n".to_owned(), Timestamp::UNIX_EPOCH);
        while writer.queue.bytes.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_blocked_reader_delays_no_line_and_costs_counted_lines() {
        let pipe = Pipe::default();
        let writer = writer(&pipe);
        hang(&writer);
        for _ in 0..MAX_LINES {
            writer.write("x\n".to_owned(), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(writer.dropped.get(), 0, "the queue is full and no fuller");
        writer.write("too many\n".to_owned(), Timestamp::UNIX_EPOCH);
        assert_eq!(writer.dropped.get(), 1);
        pipe.open();
        writer.flush(TIMEOUT);
        let text = pipe.text();
        let notice = "1 lines were dropped: they came faster than the log takes them\n";
        assert!(text.starts_with(&format!("first\n{notice}x\nx\n")), "{}", &text[..200]);
        assert_eq!(text.lines().count(), 1 + 1 + MAX_LINES);
    }

    #[test]
    fn large_lines_are_limited_by_their_bytes() {
        let pipe = Pipe::default();
        let writer = writer(&pipe);
        hang(&writer);
        let half = "x".repeat(MAX_BYTES / 2);
        for _ in 0..2 {
            writer.write(half.clone(), Timestamp::UNIX_EPOCH);
        }
        assert_eq!(writer.dropped.get(), 0);
        writer.write("x".to_owned(), Timestamp::UNIX_EPOCH);
        assert_eq!(writer.dropped.get(), 1);
        pipe.open();
        writer.flush(TIMEOUT);
        writer.write("again".to_owned(), Timestamp::UNIX_EPOCH);
        assert_eq!(writer.dropped.get(), 1);
    }
}
