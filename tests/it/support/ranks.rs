//! The examples as several processes of one run, as a launcher starts them.

use super::programs::example;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longer than any of these runs takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Processes that run.
pub struct Running(pub Vec<Child>);

/// `name` as `size` ranks in `dir`, all on this machine. `args` says with which options, and `variables` in which other
/// environment, a rank is started. `None` if the program is not built.
pub fn start_each(
    name: &str,
    dir: &Path,
    size: usize,
    args: impl Fn(usize) -> Vec<String>,
    variables: impl Fn(usize) -> Vec<(&'static str, &'static str)>,
) -> Option<Running> {
    let program = example(name)?;
    let port = port().to_string();
    let start = |rank: usize| {
        let mut command = Command::new(&program);
        command.current_dir(dir).args(args(rank)).args(["--threads", "1"]).envs(variables(rank));
        let (rank, size) = (rank.to_string(), size.to_string());
        command.env("RANK", &rank).env("WORLD_SIZE", &size).env("LOCAL_RANK", &rank).env("LOCAL_WORLD_SIZE", &size);
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    Some(Running((0..size).map(start).collect()))
}

/// The same with these options for all.
pub fn start(name: &str, dir: &Path, size: usize, args: &[&str]) -> Option<Running> {
    start_each(name, dir, size, |_| args.iter().map(|arg| (*arg).to_owned()).collect(), |_| Vec::new())
}

/// A port that is free, and below those that the system gives to connections.
fn port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| {
        let i = 37 * std::process::id() as usize + NEXT.fetch_add(1, Ordering::Relaxed);
        10_000 + (i % 10_000) as u16
    });
    ports.find(free).unwrap()
}

impl Running {
    /// Sends a signal to a rank.
    pub fn signal(&self, rank: usize, signal: &str) {
        let id = self.0[rank].id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Waits until `path` is there.
    pub fn wait_for(&mut self, path: &Path) {
        let begun = Instant::now();
        while !path.exists() {
            let ended = self.0.iter_mut().any(|child| child.try_wait().unwrap().is_some());
            assert!(!ended && begun.elapsed() < PATIENCE, "{} does not appear", path.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What they print until their end.
    pub fn end(mut self) -> Vec<Output> {
        let begun = Instant::now();
        while self.0.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
            if begun.elapsed() > PATIENCE {
                self.0.iter_mut().for_each(|child| _ = child.kill());
                panic!("ranks do not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.0.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
    }
}

/// The one sentence with which a process ended.
pub fn sentence(out: &Output) -> String {
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && !errors.contains("panicked"), "{errors}");
    let said: Vec<&str> = errors.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(said.len(), 1, "{errors}");
    said[0].to_owned()
}
