//! Runs an external program that is not trusted to behave: it may hang, flood its output, or crash.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Result of a program.
pub(super) struct Output {
    pub stdout: Vec<u8>,
    /// The last 4 KiB of its messages.
    pub stderr: String,
    pub status: ExitStatus,
}

/// Why there is no output. The program and all its children have ended when this is returned.
pub(super) enum Failure {
    /// It could not be started.
    Start(io::Error),
    /// It neither ended nor wrote to its standard output within the time limit.
    Silent,
    /// It wrote more than the limit.
    Flood,
    /// A system error while reading.
    Read(io::Error),
    /// It was killed by another process or by the system.
    Killed,
    /// The stop flag was set.
    Stopped,
}

/// Output of a program.
pub(super) enum Piece<'a> {
    /// To its standard output.
    Out(&'a [u8]),
    /// To its standard error.
    Message(&'a [u8]),
}

/// Limits for a program.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    /// Longest time without output on its standard output.
    pub silence: Duration,
    /// Stop flag, set from another thread.
    pub stop: &'a AtomicBool,
}

/// Interval at which the flag is checked.
const GLANCE: Duration = Duration::from_millis(100);

/// How long a program has been silent, as the sum of the intervals between looks at it. None counts for more than
/// [`GLANCE`]: where this process was itself suspended meanwhile, as by SIGSTOP or with a sleeping computer, the clock
/// went on, and a program that was suspended with it could not write.
pub(super) struct Silence {
    limit: Duration,
    so_far: Duration,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, so_far: Duration::ZERO }
    }

    /// Adds the time since the last look.
    pub(super) fn add(&mut self, interval: Duration) {
        self.so_far = self.so_far.saturating_add(interval.min(GLANCE));
    }

    pub(super) fn broken(&mut self) {
        self.so_far = Duration::ZERO;
    }

    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.so_far)
    }
}
const STDERR_KEPT: usize = 4096;

/// A child in its own process group, which is killed as a whole unless the child was waited for.
struct Group {
    child: Child,
    ended: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: plain system call. The child has not been waited for, so its process id, which is also that of
            // the group, cannot have been reused.
            unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
            let _ = self.child.wait();
        }
    }
}

/// Starts `command` so that it ends when this process ends, for whatever reason.
fn spawn(command: &mut Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let die_with_parent = move || {
            // SAFETY: plain system calls without pointer arguments.
            let (refused, now) = unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0, libc::getppid()) };
            if refused {
                return Err(io::Error::last_os_error());
            }
            // If the parent died before the call there is no signal: the child has another parent by then.
            if now.cast_unsigned() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec the closure only makes system calls; it neither allocates nor locks (nor do its
        // errors). The signal is sent when the forking thread ends, not the process. That is this thread, and it stays
        // in `run` until the child has been waited for.
        unsafe { command.pre_exec(die_with_parent) };
    }
    command.spawn()
}

/// Runs `command` and passes its output to `sink`, until it ends or `sink` stops (then it is killed, and there is no
/// status). Messages on standard error do not reset the time limit. If both streams are readable, messages come first.
pub(super) fn run(
    command: &mut Command,
    patience: Patience,
    sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
) -> Result<Option<ExitStatus>, Failure> {
    let stopped = || if patience.stop.load(Ordering::Relaxed) { Err(Failure::Stopped) } else { Ok(()) };
    stopped()?;
    let mut group = Group { child: spawn(command).map_err(Failure::Start)?, ended: false };
    let (mut out, mut err) = (group.child.stdout.take(), group.child.stderr.take());
    let mut buffer = vec![0u8; 1 << 16];
    let (mut silence, mut last_look) = (Silence::new(patience.silence), Instant::now());
    let mut look = |silence: &mut Silence| {
        let now = Instant::now();
        silence.add(now - std::mem::replace(&mut last_look, now));
        if silence.left().is_zero() { Err(Failure::Silent) } else { Ok(()) }
    };
    while out.is_some() || err.is_some() {
        stopped()?;
        look(&mut silence)?;
        let fds = [out.as_ref().map(AsRawFd::as_raw_fd), err.as_ref().map(AsRawFd::as_raw_fd)];
        let [out_ready, err_ready] = wait_readable(fds, silence.left().min(GLANCE)).map_err(Failure::Read)?;
        if err_ready {
            let n = read_some(&mut err, &mut buffer).map_err(Failure::Read)?;
            if sink(Piece::Message(&buffer[..n])).is_break() {
                return Ok(None);
            }
        }
        if out_ready {
            let n = read_some(&mut out, &mut buffer).map_err(Failure::Read)?;
            if sink(Piece::Out(&buffer[..n])).is_break() {
                return Ok(None);
            }
            silence.broken();
        }
    }
    let status = loop {
        stopped()?;
        match group.child.try_wait().map_err(Failure::Read)? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
        look(&mut silence)?;
    };
    group.ended = true;
    if was_ended(status) { Err(Failure::Killed) } else { Ok(Some(status)) }
}

/// Whether another process or the system ended the program. `ffmpeg` catches most signals and then exits with 255; a
/// shell script reports a signal as 128 and its number. A crash is another signal, and may be the file's fault.
fn was_ended(status: ExitStatus) -> bool {
    const CRASHES: [i32; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGFPE, libc::SIGILL, libc::SIGSYS];
    match (status.signal(), status.code()) {
        (Some(signal), _) => !CRASHES.contains(&signal),
        (None, Some(255)) => true,
        (None, Some(code)) => (129..160).contains(&code) && !CRASHES.contains(&(code - 128)),
        (None, None) => false,
    }
}

/// Runs `command` to its end, with at most `limit` bytes of standard output (more is a [`Failure::Flood`]).
pub(super) fn collect(command: &mut Command, limit: usize, patience: Patience) -> Result<Output, Failure> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let status = run(command, patience, &mut |piece| {
        match piece {
            Piece::Out(bytes) if stdout.len() + bytes.len() > limit => return ControlFlow::Break(()),
            Piece::Out(bytes) => stdout.extend_from_slice(bytes),
            Piece::Message(bytes) => {
                stderr.extend_from_slice(bytes);
                stderr.drain(..stderr.len().saturating_sub(STDERR_KEPT));
            }
        }
        ControlFlow::Continue(())
    })?;
    let status = status.ok_or(Failure::Flood)?;
    Ok(Output { stdout, stderr: String::from_utf8_lossy(&stderr).into_owned(), status })
}

/// Reads what is available; at the end of the stream, `stream` becomes `None`.
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

/// Waits until one of two streams is readable (or has ended).
fn wait_readable(fds: [Option<RawFd>; 2], at_most: Duration) -> io::Result<[bool; 2]> {
    // `poll` ignores negative descriptors.
    let mut polled = fds.map(|fd| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
    let milliseconds = at_most.as_millis().clamp(1, 1 << 30) as libc::c_int;
    // SAFETY: `polled` is an array of two valid `pollfd`s that outlives the call.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, milliseconds) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok([false; 2]) } else { Err(error) };
    }
    Ok(polled.map(|p| p.revents != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_suspended_process_is_no_silence_of_the_program() {
        let mut silence = Silence::new(Duration::from_secs(60));
        // A night's sleep of the computer, and another.
        for _ in 0..2 {
            silence.add(Duration::from_secs(8 * 3600));
        }
        assert_eq!(silence.left(), Duration::from_secs(60) - 2 * GLANCE);
        silence.broken();
        assert_eq!(silence.left(), Duration::from_secs(60));
    }

    #[test]
    fn a_program_that_was_ended_is_told_from_one_that_failed_or_crashed() {
        let ended = |wait_status: i32| was_ended(ExitStatus::from_raw(wait_status));
        for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGXCPU] {
            assert!(ended(signal) && ended((128 + signal) << 8), "{signal}");
        }
        assert!(ended(255 << 8));
        for signal in [libc::SIGSEGV, libc::SIGABRT, libc::SIGILL] {
            assert!(!ended(signal) && !ended((128 + signal) << 8), "{signal}");
        }
        for code in [0, 1, 8, 69, 127, 183, 187, 234] {
            assert!(!ended(code << 8), "{code}");
        }
    }

    #[test]
    fn silence_of_a_program_adds_up_until_the_limit() {
        let mut silence = Silence::new(Duration::from_secs(60));
        let looks = (1..).find(|_| {
            silence.add(GLANCE);
            silence.left().is_zero()
        });
        assert_eq!(looks, Some(600));
        let mut silence = Silence::new(Duration::from_millis(5));
        silence.add(Duration::from_millis(4));
        assert_eq!(silence.left(), Duration::from_millis(1));
        silence.add(Duration::from_millis(7));
        assert!(silence.left().is_zero());
    }
}
