//! Log lines reach stderr from a thread of its own: a pipe that nobody reads fills up, and a daemon
//! that waited for it would neither do its work nor end.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::Counters;

/// How many bytes of lines wait for stderr; what comes on top is dropped and counted.
const MAX_WAITING: usize = 1 << 20;

static DROPPED: Counters<0> = Counters::new(
    "lbctl_log_lines_dropped",
    "Log lines that nobody read in time, or that could not be written",
    [],
);

/// Where log lines are written to, a line a call; clones share it. Never waits.
#[derive(Debug, Clone)]
pub(super) struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// A line has come, or has gone.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Of the lines, the one that is being written among them.
    bytes: usize,
    /// Since that was last said.
    dropped: u64,
}

impl LogWriter {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let writer = shared.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || writer.run(out))?;
        Ok(Self(shared))
    }

    /// Waits until every line so far is written, yet not longer than a time.
    pub(super) fn flush(&self, within: Duration) {
        let waiting = |queue: &mut Queue| queue.bytes > 0;
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), within, waiting);
        drop(waited);
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        if queue.bytes + line.len() > MAX_WAITING {
            queue.dropped += 1;
            drop(queue);
            DROPPED.get().inc();
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.0.changed.notify_all();
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: impl Write) {
        loop {
            let line = self.next();
            if out.write_all(&line).is_err() {
                // Nobody is there to be told.
                DROPPED.get().inc();
            }
            if let Some(dropped) = self.written(line.len()) {
                tracing::warn!(dropped, "log lines were dropped: nobody read them in time");
            }
        }
    }

    /// Waits for the next line.
    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                return line;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes in that a line is gone; once it all flows again, answers how many were dropped.
    fn written(&self, len: usize) -> Option<u64> {
        let mut queue = self.lock();
        queue.bytes -= len;
        self.changed.notify_all();
        let flows = queue.lines.is_empty() && queue.dropped > 0;
        flows.then(|| std::mem::take(&mut queue.dropped))
    }
}

/// Shows the metric from the start.
pub(super) fn show() {
    DROPPED.get();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line only when it is allowed to.
    struct Slow {
        allowed: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.allowed.recv().map_err(io::Error::other)?;
            self.written.send(line.to_vec()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (allow, allowed) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let writer = LogWriter::start(Slow { allowed, written }).unwrap();
        let line = vec![b'x'; MAX_WAITING / 4];
        (0..6).for_each(|_| writer.push(&line));
        writer.flush(Duration::from_millis(20));
        assert_eq!(writer.0.lock().dropped, 2);
        (0..4).for_each(|_| allow.send(()).unwrap());
        writer.flush(Duration::from_secs(20));
        assert_eq!(lines.try_iter().count(), 4);
        assert_eq!(writer.0.lock().bytes, 0);
    }
}
