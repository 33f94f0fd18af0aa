//! Who the processes of a run are, by the environment variables of their launcher.

use crate::error::{Error, Result};
use crate::files::fnv1a;
use std::fmt;

/// The program that started the processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// None: one process.
    None,
    /// `torchrun`, or anything else that sets `RANK` and `WORLD_SIZE`.
    Torchrun,
    /// Slurm's `srun`.
    Srun,
    /// `mpirun` of Open MPI.
    OpenMpi,
    /// `mpirun` of MPICH and what descends from it.
    Mpich,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Launcher::None => "no launcher",
            Launcher::Torchrun => "torchrun",
            Launcher::Srun => "srun",
            Launcher::OpenMpi => "mpirun of Open MPI",
            Launcher::Mpich => "mpirun of MPICH",
        })
    }
}

/// This process among those of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Its number among those of this machine, from 0: the GPU that it takes.
    pub local_rank: usize,
    /// How many there are on this machine, among which its processors are divided.
    pub local_size: usize,
    /// Who started them.
    pub launcher: Launcher,
    /// Host and port where rank 0 listens, if the launcher names a host or all processes are on this machine.
    pub meeting: Option<(String, u16)>,
    /// Which start of which run this is: processes with another key are of another one.
    pub key: String,
}

/// How a launcher says who is who.
struct Names {
    launcher: Launcher,
    /// Variables with rank, number of ranks, and the same on this machine. Where one may be called differently, the first
    /// that is set counts.
    rank: &'static str,
    size: &'static str,
    local_rank: &'static [&'static str],
    local_size: &'static [&'static str],
    /// Variables that tell runs, and restarts of one, apart.
    key: &'static [&'static str],
}

/// In the order of precedence: inside of an allocation of Slurm, torchrun's and mpirun's own variables count.
const LAUNCHERS: [Names; 4] = [
    Names {
        launcher: Launcher::Torchrun,
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: &["LOCAL_RANK"],
        local_size: &["LOCAL_WORLD_SIZE"],
        key: &["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"],
    },
    Names {
        launcher: Launcher::OpenMpi,
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: &["OMPI_COMM_WORLD_LOCAL_RANK"],
        local_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
        key: &["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
    },
    Names {
        launcher: Launcher::Mpich,
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: &["MPI_LOCALRANKID"],
        local_size: &["MPI_LOCALNRANKS"],
        key: &["PMI_ID", "HYDRA_JOB_ID"],
    },
    Names {
        launcher: Launcher::Srun,
        rank: "SLURM_PROCID",
        size: "SLURM_STEP_NUM_TASKS",
        local_rank: &["SLURM_LOCALID"],
        local_size: &["SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"],
        key: &["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"],
    },
];

impl World {
    /// A single process.
    #[must_use]
    pub fn alone() -> World {
        World {
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
            launcher: Launcher::None,
            meeting: None,
            key: String::new(),
        }
    }

    /// This process, by the environment variables of torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`,
    /// `MASTER_ADDR`, `MASTER_PORT`), of mpirun (`OMPI_COMM_WORLD_*`; `PMI_*`), or of srun (`SLURM_*`). Without any, it is
    /// alone. A shell that runs inside of an allocation of Slurm is no rank: srun's are those that have a step.
    ///
    /// # Errors
    /// `Param` naming the variable whose value is missing or no number in range.
    pub fn from_env() -> Result<World> {
        // What is no text is shown as well as possible, and is no number either.
        World::from(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// The same, of variables that `get` knows.
    ///
    /// # Errors
    /// As [`World::from_env`].
    pub fn from(get: impl Fn(&str) -> Option<String>) -> Result<World> {
        let set = |names: &Names| {
            get(names.rank).is_some()
                && match names.launcher {
                    Launcher::Srun => get(names.size).is_some(),
                    // `srun --mpi=pmi2` sets these too, and says who is where by its own.
                    Launcher::Mpich => get("MPI_LOCALRANKID").is_some() || get("SLURM_STEP_NUM_TASKS").is_none(),
                    _ => true,
                }
        };
        let Some(names) = LAUNCHERS.iter().find(|names| set(names)) else {
            // The others would wait for this one.
            let size = get("WORLD_SIZE").filter(|size| size.trim() != "1");
            return size.map_or(Ok(World::alone()), |size| {
                Err(Error::param(
                    "launcher",
                    "RANK",
                    "nothing",
                    format!("WORLD_SIZE is {size}: set the number of this process, too"),
                ))
            });
        };
        let number = |name: &'static str, rule: &str, range: std::ops::Range<usize>| {
            let text = get(name).unwrap_or_default();
            let value = text.trim().parse().ok().filter(|n| range.contains(n));
            value.ok_or_else(|| {
                let got = if text.is_empty() { "nothing".to_owned() } else { text };
                Error::param("launcher", name, got, format!("{} {rule}", names.launcher))
            })
        };
        let size = number(names.size, "sets it to the number of processes, from 1 to 65536", 1..65537)?;
        let rank = number(names.rank, &format!("sets it to a number below {}, which is {size}", names.size), 0..size)?;
        let first = |of: &[&'static str]| of.iter().copied().find(|name| get(name).is_some());
        let local_size = match first(names.local_size) {
            // srun writes `2(x3),1`: how many each of the machines has. The first is taken if all are alike.
            Some(name) if names.launcher == Launcher::Srun => per_node(&get(name).unwrap_or_default()).unwrap_or(1),
            Some(name) => number(name, "sets it to the number of processes on this machine", 1..size + 1)?,
            None => 1,
        };
        let local_rank = match first(names.local_rank) {
            Some(name) => {
                // Slurm's machines may have different numbers of tasks, of which `local_size` is the first.
                let known = first(names.local_size).filter(|_| names.launcher != Launcher::Srun);
                let (of, most) = known.map_or((names.size, size), |name| (name, local_size));
                let rule = format!("sets it to the number of the process on this machine, below {of}, which is {most}");
                number(name, &rule, 0..most)?
            }
            None => 0,
        };
        let host = get("MASTER_ADDR").or_else(|| get("SLURM_STEP_NODELIST").and_then(|list| first_host(&list)));
        // Where all of them are on this machine, no launcher needs to name it.
        let host = host.or_else(|| (local_size == size).then(|| "127.0.0.1".to_owned()));
        let key: Vec<String> = names.key.iter().filter_map(|name| get(name)).collect();
        let key = format!("{} {}", names.launcher, key.join("."));
        let port = match get("MASTER_PORT") {
            Some(_) => {
                let rule = "must be set to a port that rank 0 can use, from 1024 to 65534";
                let port = number("MASTER_PORT", rule, 1024..65535)?;
                // torchrun's agent itself listens there, and its own connections are likely to have the ports behind it, so ranks
                // meet below those that systems give to connections.
                let has_agent = get("TORCHELASTIC_RUN_ID").is_some();
                if has_agent { 20_000 + (port + 5_000) % 10_000 } else { port }
            }
            // Several runs on one machine are unlikely to have the same.
            None => 20_000 + (fnv1a(key.as_bytes()) % 10_000) as usize,
        };
        let meeting = host.map(|host| (host, port as u16));
        Ok(World { rank, size, local_rank, local_size, launcher: names.launcher, meeting, key })
    }

    /// How many of `cores` processors this process should use: those of the machine divided among its ranks, and at least
    /// one. (torchrun sets `OMP_NUM_THREADS` to 1, which is not followed.)
    #[must_use]
    pub fn threads(&self, cores: usize) -> usize {
        (cores / self.local_size.max(1)).max(1)
    }
}

/// The number of tasks a machine in Slurm's short form: `4`, `4(x2)`; of `4(x2),3` the first.
fn per_node(text: &str) -> Option<usize> {
    text.split([',', '(']).next()?.trim().parse().ok().filter(|n| *n > 0)
}

/// The first host in Slurm's short form of a list: `a` of `a,b`, `node07` of `node[07-09,12],b`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let number = match rest.strip_prefix('[') {
        Some(inside) => {
            let end = inside.find([',', '-', ']'])?;
            let after = inside.find(']')?;
            let behind = &inside[after + 1..];
            return Some(format!("{name}{}{}", &inside[..end], behind.split(',').next().unwrap_or_default()));
        }
        None => "",
    };
    Some(format!("{name}{number}")).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The world of a process with these variables, separated by blanks.
    fn world(variables: &str) -> Result<World> {
        World::from(|name| {
            let pairs = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_owned())
        })
    }

    fn place(variables: &str) -> ([usize; 4], Launcher, Option<(String, u16)>) {
        let w = world(variables).unwrap();
        ([w.rank, w.size, w.local_rank, w.local_size], w.launcher, w.meeting)
    }

    const TORCHRUN: &str = "RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node0 MASTER_PORT=29500";

    #[test]
    fn launchers_say_who_is_who() {
        assert_eq!(world("HOME=/root").unwrap(), World::alone());
        assert_eq!(world("WORLD_SIZE=1").unwrap(), World::alone());
        let e = world("WORLD_SIZE=2 MASTER_ADDR=node0").unwrap_err().to_string();
        assert!(e.contains("RANK") && e.contains("WORLD_SIZE is 2"), "{e}");
        assert_eq!(place(TORCHRUN), ([3, 8, 1, 2], Launcher::Torchrun, Some(("node0".into(), 29500))));
        // The agent of torchrun listens on the port itself.
        let meeting = place(&format!("{TORCHRUN} TORCHELASTIC_RUN_ID=a")).2;
        assert_eq!(meeting, Some(("node0".into(), 24500)));
        let mpi =
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=4";
        let (ranks, launcher, meeting) = place(mpi);
        assert_eq!((ranks, launcher), ([1, 4, 1, 4], Launcher::OpenMpi));
        // All are on this machine.
        let (host, port) = meeting.unwrap();
        assert!(host == "127.0.0.1" && (20_000..30_000).contains(&port), "{host}:{port}");
        let elsewhere = mpi.replace("LOCAL_SIZE=4", "LOCAL_SIZE=2");
        assert_eq!(place(&elsewhere), ([1, 4, 1, 2], Launcher::OpenMpi, None));
        let mpich = "PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=0 MPI_LOCALNRANKS=2 MASTER_ADDR=h MASTER_PORT=2000";
        assert_eq!(place(mpich), ([0, 2, 0, 2], Launcher::Mpich, Some(("h".into(), 2000))));
        let slurm = "SLURM_JOB_ID=7 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=6 SLURM_LOCALID=1 SLURM_STEP_TASKS_PER_NODE=2(x3) \
                     SLURM_STEP_NODELIST=gpu[07-09]";
        let (ranks, launcher, meeting) = place(slurm);
        assert_eq!((ranks, launcher), ([5, 6, 1, 2], Launcher::Srun));
        let (host, port) = meeting.unwrap();
        assert!(host == "gpu07" && (20_000..30_000).contains(&port), "{host}:{port}");
        // Slurm with MPICH's interface, and MPICH's own launcher inside of a step of Slurm.
        let (ranks, launcher, _) = place(&format!("{slurm} PMI_RANK=5 PMI_SIZE=6"));
        assert_eq!((ranks, launcher), ([5, 6, 1, 2], Launcher::Srun));
        let (ranks, launcher, _) = place(&format!("{slurm} {mpich}"));
        assert_eq!((ranks, launcher), ([0, 2, 0, 2], Launcher::Mpich));
        // A batch script of Slurm has a process id, and is no step.
        assert_eq!(world("SLURM_JOB_ID=7 SLURM_PROCID=0").unwrap(), World::alone());
        // torchrun within Slurm.
        assert_eq!(place(&format!("{slurm} {TORCHRUN}")).1, Launcher::Torchrun);
    }

    #[test]
    fn another_start_has_another_key() {
        let key = |restart: usize| {
            world(&format!("{TORCHRUN} TORCHELASTIC_RUN_ID=a TORCHELASTIC_RESTART_COUNT={restart}")).unwrap().key
        };
        assert_eq!(key(0), key(0));
        assert_ne!(key(0), key(1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (variables, name) in [
            ("RANK=8 WORLD_SIZE=8", "RANK"),
            ("RANK=x WORLD_SIZE=8", "RANK"),
            ("RANK=0", "WORLD_SIZE"),
            ("RANK=0 WORLD_SIZE=0", "WORLD_SIZE"),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=2", "LOCAL_RANK"),
            ("RANK=0 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "LOCAL_RANK"),
            ("RANK=0 WORLD_SIZE=4 LOCAL_WORLD_SIZE=5", "LOCAL_WORLD_SIZE"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=80", "MASTER_PORT"),
        ] {
            let e = world(variables).unwrap_err().to_string();
            assert!(e.contains(&format!("launcher: {name} = ")), "{variables}: {e}");
        }
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (list, host) in [("a,b", "a"), ("a", "a"), ("n[07-09,12],b", "n07"), ("n[3]", "n3"), ("n[1,4]-ib", "n1-ib")]
        {
            assert_eq!(first_host(list).as_deref(), Some(host));
        }
        assert_eq!([first_host(""), first_host("n[")], [None, None]);
    }

    #[test]
    fn the_processors_of_a_machine_are_divided() {
        let w = World { local_size: 4, ..World::alone() };
        assert_eq!([w.threads(16), w.threads(6), w.threads(2)], [4, 1, 1]);
    }
}
