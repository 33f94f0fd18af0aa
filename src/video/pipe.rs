//! Running a program whose output is wanted and whose manners are not trusted: it may hang, flood or die.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What a program left behind.
pub(super) struct Output {
    pub stdout: Vec<u8>,
    /// The last 4 KiB of its messages.
    pub stderr: String,
    pub status: ExitStatus,
}

/// Why there is no output. The program and all its children are gone by the time this is returned.
pub(super) enum Failure {
    /// It could not be started.
    Start(io::Error),
    /// It wrote nothing to its standard output, nor ended, for the whole time allowed.
    Silent,
    /// It wrote more than the limit.
    Flood,
    /// The system failed us while reading.
    Read(io::Error),
}

const STDERR_KEPT: usize = 4096;

/// A child in a process group of its own, killed with the whole group unless it was waited for.
struct Group {
    child: Child,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: plain system call. The child has not been waited for, so its process id, which is also its
            // group's, cannot have been given to another process.
            unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end, keeping at most `limit` bytes of its standard output (more is a [`Failure::Flood`]) and
/// waiting at most `patience` between two pieces of it. Messages on standard error are read on, but do not count as
/// a sign of life.
pub(super) fn run(command: &mut Command, limit: usize, patience: Duration) -> Result<Output, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut group = Group { child: command.spawn().map_err(Failure::Start)?, ended: false };
    let (mut out, mut err) = (group.child.stdout.take(), group.child.stderr.take());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut buffer = vec![0u8; 1 << 16];
    let mut deadline = Instant::now() + patience;
    while out.is_some() || err.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Silent);
        }
        let fds = [out.as_ref().map(AsRawFd::as_raw_fd), err.as_ref().map(AsRawFd::as_raw_fd)];
        let [out_ready, err_ready] = wait_readable(fds, left).map_err(Failure::Read)?;
        if out_ready {
            let n = read_some(&mut out, &mut buffer).map_err(Failure::Read)?;
            if stdout.len() + n > limit {
                return Err(Failure::Flood);
            }
            stdout.extend_from_slice(&buffer[..n]);
            deadline = Instant::now() + patience;
        }
        if err_ready {
            let n = read_some(&mut err, &mut buffer).map_err(Failure::Read)?;
            stderr.extend_from_slice(&buffer[..n]);
            stderr.drain(..stderr.len().saturating_sub(STDERR_KEPT));
        }
    }
    let status = loop {
        match group.child.try_wait().map_err(Failure::Read)? {
            Some(status) => break status,
            None if Instant::now() >= deadline => return Err(Failure::Silent),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    group.ended = true;
    Ok(Output { stdout, stderr: String::from_utf8_lossy(&stderr).into_owned(), status })
}

/// Reads what is there; at the end of the stream, `stream` becomes `None`.
fn read_some(stream: &mut Option<impl Read>, buffer: &mut [u8]) -> io::Result<usize> {
    let Some(reader) = stream else { return Ok(0) };
    match reader.read(buffer) {
        Ok(0) => {
            *stream = None;
            Ok(0)
        }
        Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

/// Waits until one of two streams can be read (or has ended).
fn wait_readable(fds: [Option<RawFd>; 2], at_most: Duration) -> io::Result<[bool; 2]> {
    // A negative descriptor is one `poll` leaves out.
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
    let milliseconds = at_most.as_millis().clamp(1, 1 << 30) as libc::c_int;
    // SAFETY: `polled` is an array of two valid `pollfd`s that lives through the call.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([false; 2]) } else { Err(error) };
    }
    Ok(polled.map(|p| p.revents != 0))
}
