//! Options of all examples, and how all examples end.

use super::output::{complain, lost, printable, say_aside};
use super::ranks::{self, Ranks};
use super::stop::{stopped, survive_file_limit};
use anyhow::{Context, Result, ensure};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use tubelet::cpu::Isa;
use tubelet::dist::World;
use tubelet::nn::{ARCHES, Arch};
use tubelet::tensor::Device;
use tubelet::train::limits::{self, Limit, Number};

/// Options of all examples: `#[command(flatten)] common: Common`.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Folder for all output [default: runs/<example>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Device: auto (a GPU if there is a usable one), cpu, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,

    /// Number of threads, at most 1024; 0 = all of the machine. Results do not depend on it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within::<usize>(limits::THREADS))]
    pub threads: usize,
}

impl Common {
    /// The output folder of the example called `example`.
    pub fn out(&self, example: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(example))
    }

    /// Starts the threads and opens the device. Call it once, before any computation.
    pub fn start(&self) -> Result<Device> {
        let world = World::from_env()?;
        ensure!(
            world.size == 1,
            "this program runs as one process, and {} started {}: of the programs here, pretrain_maclr, pretrain_mcl, finetune \
             and linear_probe run as several",
            world.launcher,
            world.size
        );
        self.start_threads(&world)?;
        self.open_device(&world)
    }

    /// The same of a program that may be one of several ranks, which are connected first, so that an error of one ends all.
    pub fn start_ranks(&self) -> Result<(Device, Ranks)> {
        let ranks = Ranks::join(World::from_env()?)?;
        self.start_threads(&ranks.world)?;
        let device = self.open_device(&ranks.world)?;
        let ranks = ranks.on_device(&device)?;
        Ok((device, ranks))
    }

    /// The cores of a machine are divided among its ranks.
    fn start_threads(&self, world: &World) -> Result<()> {
        Isa::bound().context("TUBELET_ISA")?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if self.threads == 0 && world.size > 1 { world.threads(cores()) } else { self.threads };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .with_context(|| format!("--threads {}: they cannot be started", self.threads))
    }

    /// The device: of several ranks each on a machine has a GPU of its own, by its number there.
    fn open_device(&self, world: &World) -> Result<Device> {
        let (rank, size) = (world.local_rank, world.local_size);
        match self.device {
            DeviceChoice::Auto => {
                let own = if rank > 0 { Device::cuda(rank).ok() } else { None };
                if let Some(own) = own {
                    return Ok(own);
                }
                let (device, reason) = Device::auto();
                ensure!(
                    rank == 0 || device == Device::Cpu,
                    "{size} ranks run on this machine, and each needs a GPU of its own, but there is no cuda:{rank}: start as \
                     many as it has GPUs, or choose --device cpu"
                );
                if let Some(reason) = reason {
                    say_aside(format_args!("computing on the CPU: {reason}"));
                }
                Ok(device)
            }
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Cuda(n) => {
                ensure!(
                    size == 1,
                    "--device cuda:{n}: {size} ranks run on this machine, and each needs a GPU of its own: leave the option out, \
                     and each takes the one with its number"
                );
                Device::cuda(n).with_context(|| format!("--device cuda:{n}"))
            }
        }
    }

    /// The device as `summary.json` names it.
    pub fn device_name(&self, device: &Device) -> String {
        match (device, self.device) {
            (Device::Cpu, _) => "cpu".into(),
            (_, DeviceChoice::Cuda(n)) => format!("cuda:{n}"),
            _ => "cuda:0".into(),
        }
    }
}

/// A clap value parser, `#[arg(value_parser = within::<f32>(limits::LR))]`, for numbers of type `T` within `limit`.
pub fn within<T>(limit: Limit) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: Number + Send + Sync + 'static,
{
    move |text| limit.parse(text).map_err(|_| format!("it must be {limit}"))
}

/// A clap value parser for values with names: `#[arg(value_parser = one_of([("raw", Raw), ("mean", Mean)]))]`. The help
/// lists the names, and a misspelt one gets a suggestion.
pub fn one_of<T, const N: usize>(all: [(&'static str, T); N]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let known = PossibleValuesParser::new(all.map(|(name, _)| name));
    known.try_map(move |text| all.into_iter().find(|(name, _)| *name == text).map(|(_, value)| value).ok_or("unknown"))
}

/// A clap value parser for networks that have a name: `#[arg(value_parser = arch())]`.
pub fn arch() -> impl TypedValueParser<Value = &'static Arch> {
    let known = PossibleValuesParser::new(ARCHES.iter().map(|arch| PossibleValue::new(arch.name).help(arch.about)));
    known.try_map(|name| Arch::by_name(&name).ok_or("unknown"))
}

/// The value of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(0)),
            _ => s
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| "a device is auto, cpu or cuda:N".to_owned()),
        }
    }
}

/// Runs a program and ends it: success, or the error as one sentence on standard error. A program that was stopped by a
/// signal reports what was saved, and exits with a status that identifies the signal. Other ranks are told how it ended.
/// `fn main() -> ExitCode { program(|| run(&Args::parse())) }`
pub fn program(run: impl FnOnce() -> Result<()>) -> ExitCode {
    match survive_file_limit().and_then(|()| run()) {
        Ok(()) => {
            ranks::finish();
            match lost() {
                None => ExitCode::SUCCESS,
                Some(why) => {
                    complain(format_args!("error: standard output cannot be written: {why}"));
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            if let Some((text, status)) = stopped(&error, ranks::are_several()) {
                say_aside(&text);
                ranks::fail(&text);
                return ExitCode::from(status);
            }
            let text = printable(sentence(error.chain().map(|cause| cause.to_string())));
            complain(format_args!("error: {text}"));
            ranks::fail(&text);
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one sentence. A cause that the sentence already ends with is not repeated, nor the path of
/// an option at the start of its cause: `--out runs/x` and `runs/x is in use` become `--out runs/x is in use`.
fn sentence(causes: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for cause in causes.filter(|cause| !cause.is_empty()) {
        let path = text.strip_prefix("--").and_then(|option| option.split_once(' ')).map_or("", |(_, path)| path);
        match cause.strip_prefix(path).filter(|rest| !path.is_empty() && rest.starts_with([':', ' '])) {
            _ if text.ends_with(&cause) => {}
            Some(rest) => text += rest,
            None if text.is_empty() => text = cause,
            None => text += &format!(": {cause}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_path_of_its_option_once() {
        let of = |causes: &[&str]| sentence(causes.iter().map(|cause| (*cause).to_owned()));
        assert_eq!(of(&["--out my run", "my run is in use by process 7"]), "--out my run is in use by process 7");
        assert_eq!(of(&["--out run", "run: this is not a folder"]), "--out run: this is not a folder");
        assert_eq!(of(&["--out run/a", "run: this is not a folder"]), "--out run/a: run: this is not a folder");
        assert_eq!(of(&["--out run", "runs is in use"]), "--out run: runs is in use");
        assert_eq!(of(&["cannot read x: gone", "gone"]), "cannot read x: gone");
    }
}
