//! Child processes that can be stopped, continued, limited, killed and waited for, with their output in files.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longer than any run of the size used here.
const PATIENCE: Duration = Duration::from_secs(300);

/// A process with its output in two files. It is killed when this value is dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    began: Instant,
}

impl Process {
    /// Starts `command`, with its output in `log.out` and `log.err`. With `longest`, no file it writes can become
    /// longer than that many bytes: writing then fails as on a full disk.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path, longest: Option<u64>) -> Result<Process> {
        command.stdin(Stdio::null()).stdout(File::create(log.with_extension("out"))?);
        command.stderr(File::create(log.with_extension("err"))?);
        if let Some(longest) = longest {
            let limit = libc::rlimit { rlim_cur: longest, rlim_max: longest };
            let full = move || {
                // SAFETY: two system calls that access no memory but `limit`, as is allowed between fork and exec.
                let set = unsafe {
                    libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                    libc::setrlimit(libc::RLIMIT_FSIZE, &limit)
                };
                if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            };
            // SAFETY: the closure only makes system calls: it allocates nothing and takes no lock.
            unsafe { command.pre_exec(full) };
        }
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Process { child, log: log.to_owned(), began: Instant::now() })
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a system call without pointers. The process is a child that has not been reaped unless it has ended,
        // so its id is not reused.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// When the system call fails, or it has run for too long.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let ended = self.child.try_wait()?;
        if ended.is_none() && self.began.elapsed() > PATIENCE {
            bail!("a process has not ended within {} s: {}", PATIENCE.as_secs(), self.log.display());
        }
        Ok(ended)
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// As [`Process::ended`].
    pub fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            match self.ended()? {
                Some(status) => return Ok(status),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// What it has written to standard error.
    pub fn errors(&self) -> String {
        read(&self.log.with_extension("err"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, or is not needed any more
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
