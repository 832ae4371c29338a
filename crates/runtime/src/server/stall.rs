//! A peer that accepts no bytes for too long is disconnected.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::metrics::server::{Limit, Meter};

/// A connection whose writes fail when the peer accepted nothing for the limit.
pub(super) struct WriteStall<IO> {
    io: IO,
    limit: Duration,
    meter: Meter,
    /// Runs while a write waits.
    writing: Timer,
    /// Runs while a flush waits. Separate, because a flush of plain TCP never waits.
    flushing: Timer,
}

type Timer = Option<Pin<Box<Sleep>>>;

impl<IO> WriteStall<IO> {
    pub(super) fn new(io: IO, limit: Duration, meter: Meter) -> Self {
        Self { io, limit, meter, writing: None, flushing: None }
    }
}

/// The outcome of a write, or the end of its time.
fn within<T>(
    cx: &mut Context<'_>,
    written: Poll<io::Result<T>>,
    timer: &mut Timer,
    limit: Duration,
    meter: &Meter,
) -> Poll<io::Result<T>> {
    if written.is_ready() {
        *timer = None;
        return written;
    }
    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
    if timer.as_mut().poll(cx).is_pending() {
        return Poll::Pending;
    }
    meter.hit(Limit::WriteStall);
    Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
}

impl<IO: AsyncRead + Unpin> AsyncRead for WriteStall<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for WriteStall<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        within(cx, written, &mut this.writing, this.limit, &this.meter)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        within(cx, written, &mut this.writing, this.limit, &this.meter)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        within(cx, flushed, &mut this.flushing, this.limit, &this.meter)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        within(cx, shut, &mut this.flushing, this.limit, &this.meter)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::metrics::server::ServerMetrics;

    const LIMIT: Duration = Duration::from_secs(30);
    const TICK: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_wait_for_the_limit_before_it_reads_and_no_longer() {
        let meter = ServerMetrics::register(&prometheus::Registry::new()).unwrap().of("test");
        let (near, mut far) = tokio::io::duplex(1);
        let mut io = WriteStall::new(near, LIMIT, meter);
        io.write_all(b"a").await.unwrap();

        let slow = async {
            tokio::time::sleep(LIMIT.checked_sub(TICK).unwrap()).await;
            far.read_u8().await.unwrap()
        };
        let (written, read) = tokio::join!(io.write_all(b"b"), slow);
        written.unwrap();
        assert_eq!(read, b'a');

        let slower = tokio::time::sleep(LIMIT + TICK);
        let (written, ()) = tokio::join!(io.write_all(b"c"), slower);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
