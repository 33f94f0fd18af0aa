//! `cargo xtask ranks --hosts`: two ranks on two hosts with addresses of their own, which are network namespaces of this machine.
//! What one sends arrives at the other 5 ms later, through a cable that is this program. A run must have the bits of one process
//! that accumulates, and must end with a sentence when the cable is cut in the middle.

use super::{METHODS, PER_EPOCH, begin, finish, same};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long a frame is on its way.
const DELAY: Duration = Duration::from_millis(5);

/// Ranks whose machines are silent end after 20 s (`dist::Patience`); the rest is for a busy machine.
const SILENCE: Duration = Duration::from_secs(20 + 15);

/// Two hosts and the cable between them.
struct Hosts {
    names: [String; 2],
    is_cut: Arc<AtomicBool>,
}

impl Hosts {
    fn new() -> Result<Hosts> {
        let id = std::process::id();
        let hosts = Hosts { names: [0, 1].map(|i| format!("tubelet{id}h{i}")), is_cut: Arc::default() };
        let mut ends = Vec::new();
        for (i, host) in hosts.names.iter().enumerate() {
            let card = format!("tb{id}h{i}");
            ip(&["netns", "add", host])?;
            ends.push(open(&card)?);
            ip(&["link", "set", &card, "netns", host])?;
            let inside = |args: &[&str]| ip(&[&["netns", "exec", host, "ip"], args].concat());
            inside(&["addr", "add", &format!("{}/24", address(i)), "dev", &card])?;
            inside(&["link", "set", &card, "up"])?;
            inside(&["link", "set", "lo", "up"])?;
        }
        let [a, b] = <[File; 2]>::try_from(ends).map_err(|_| anyhow::anyhow!("there are two hosts"))?;
        connect(a.try_clone()?, b.try_clone()?, hosts.is_cut.clone());
        connect(b, a, hosts.is_cut.clone());
        Ok(hosts)
    }

    /// A program as the rank of each host.
    fn start(&self, program: &Path, args: &[&str], out: &Path, home: &Path) -> Result<[Child; 2]> {
        let start = |rank: usize| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.names[rank]]).arg(program).args(args).arg("--out").arg(out);
            let variables =
                [("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"), ("WORLD_SIZE", "2"), ("MASTER_PORT", "29500")];
            command.envs(variables).env("MASTER_ADDR", address(0)).env("RANK", rank.to_string());
            begin(&mut command, home)
        };
        Ok([start(0)?, start(1)?])
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.names {
            let _ = ip(&["netns", "del", host]); // with its end of the cable
        }
    }
}

fn address(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

fn ip(args: &[&str]) -> Result<()> {
    let done =
        Command::new("ip").args(args).stdin(Stdio::null()).output().context("ip (iproute2) cannot be started")?;
    ensure!(done.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// A network card whose cable is a file: frames that the card sends are read from it.
fn open(card: &str) -> Result<File> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const FRAMES_ALONE: i16 = 0x1002; // IFF_TAP | IFF_NO_PI
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("/dev/net/tun")?;
    let mut request = [0_u8; 40]; // struct ifreq: the name, then the flags
    request[..card.len()].copy_from_slice(card.as_bytes());
    request[16..18].copy_from_slice(&FRAMES_ALONE.to_ne_bytes());
    // SAFETY: the request is as long as the kernel's struct ifreq, and lives as long as the call.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    ensure!(code == 0, "the network card {card} cannot be made: {}", std::io::Error::last_os_error());
    Ok(file)
}

/// Carries frames in one direction, until a host is gone.
fn connect(mut from: File, mut to: File, is_cut: Arc<AtomicBool>) {
    let (send, receive) = channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        let mut frame = vec![0; 1 << 16];
        while let Ok(length) = from.read(&mut frame) {
            if !is_cut.load(Ordering::Relaxed) && send.send((Instant::now() + DELAY, frame[..length].to_vec())).is_err()
            {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        for (due, frame) in receive {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let _ = to.write_all(&frame); // a card that is not up takes nothing
        }
    });
}

/// Runs all of it. `alone` is where the run of one process of a method lies.
pub(super) fn run(programs: &Path, home: &Path, alone: impl Fn(&str, &str) -> Result<PathBuf>) -> Result<()> {
    // SAFETY: it only tells a number.
    if unsafe { libc::geteuid() } != 0 || Command::new("ip").arg("-V").output().is_err() {
        println!("hosts are not tried: network namespaces need root, and the program ip (iproute2)");
        return Ok(());
    }
    let hosts = Hosts::new()?;
    for (method, options) in METHODS {
        let args: Vec<&str> = options.split(' ').collect();
        let out = home.join(format!("{method}-hosts"));
        let begun = Instant::now();
        for mut rank in hosts.start(&programs.join(method), &args, &out, home)? {
            finish(&mut rank, true)?;
        }
        same(&alone(method, options)?, &out)?;
        let seconds = begun.elapsed().as_secs_f64();
        println!("hosts: {method} on 2 ranks, 5 ms apart: the bits of --accumulate 2, in {seconds:.0} s");
    }
    let (method, args) = METHODS[0];
    let (out, log) = (home.join("cut"), home.join("log"));
    let before = fs::read_to_string(&log)?.len();
    let args: Vec<&str> = args.split(' ').collect();
    let mut ranks = hosts.start(&programs.join(method), &args, &out, home)?;
    let middle = out.join(format!("checkpoints/step-{:08}", 2 * PER_EPOCH));
    while !middle.exists() {
        for rank in &mut ranks {
            ensure!(rank.try_wait()?.is_none(), "a run ended before its first checkpoint: target/ranks/log says why");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    hosts.is_cut.store(true, Ordering::Relaxed);
    let cut = Instant::now();
    while ranks.iter_mut().any(|rank| matches!(rank.try_wait(), Ok(None))) {
        if cut.elapsed() > SILENCE {
            ranks.iter_mut().for_each(|rank| drop(rank.kill()));
            bail!("the cable was cut, and after {} s a rank goes on", SILENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = fs::read_to_string(&log)?.split_off(before);
    let said: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    ensure!(said.len() == 2 && said.iter().all(|line| line.contains("does not answer")), "they said: {said:?}");
    println!(
        "hosts: the cable was cut in the middle of a run: both ended after {:.0} s, with",
        cut.elapsed().as_secs_f64()
    );
    said.iter().for_each(|line| println!("    {line}"));
    Ok(())
}
