use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// Opens a file; of a pipe, without waiting for its writer.
pub fn open(path: &Path) -> Result<File> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    File::options().read(true).custom_flags(nonblocking).open(path)
}

/// Reads a regular file, or the one that a link leads to, of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Error::other("it is not a regular file: put one in its place"));
    }
    up_to(file, most)
}

/// Reads a regular file, or what comes out of a pipe or a device until it ends, which it has to do
/// within a time.
pub fn read_stream(path: &Path, most: u64, within: Duration) -> Result<Vec<u8>> {
    let file = open(path)?;
    if file.metadata()?.is_file() { up_to(file, most) } else { drained(file, most, within) }
}

fn up_to(file: File, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long(most)) } else { Ok(bytes) }
}

fn drained(mut file: File, most: u64, within: Duration) -> Result<Vec<u8>> {
    let deadline = Instant::now() + within;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 8192]);
    loop {
        if !is_readable(&file, deadline)? {
            let text = format!("it has not ended within {within:?}: does a program write to it?");
            return Err(Error::new(ErrorKind::TimedOut, text));
        }
        match file.read(&mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > most {
            return Err(too_long(most));
        }
    }
}

/// Waits until there is something to read or the other side has closed; not longer than the deadline.
fn is_readable(file: &File, deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn too_long(most: u64) -> Error {
    let text = format!("it is over {} MiB: is it the right file?", most >> 20);
    Error::new(ErrorKind::FileTooLarge, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    fn fifo(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        path
    }

    #[test]
    fn a_pipe_is_no_regular_file_and_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        assert!(read(&path, 9).unwrap_err().to_string().contains("not a regular file"));
        let error = read_stream(&path, 9, SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // A writer that comes and never ends.
        let _writer = File::options().read(true).write(true).open(&path).unwrap();
        assert_eq!(read_stream(&path, 9, SOON).unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn a_pipe_that_ends_is_read_whole_however_late_its_writer_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path());
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "text").unwrap()
        });
        assert_eq!(read_stream(&path, 9, Duration::from_secs(20)).unwrap(), b"text");
        writer.join().unwrap();
        assert_eq!(read_stream(Path::new("/dev/null"), 9, SOON).unwrap(), b"");
    }

    #[test]
    fn what_has_no_end_is_refused() {
        let error = read_stream(Path::new("/dev/zero"), 1 << 20, Duration::from_secs(20));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::FileTooLarge);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
