//! Runs that are stopped, killed or damaged and then resumed keep their bits; runs that cannot go on keep their checkpoint.

use super::{maclr, mcl};
use crate::support::whole_run::{self, SEED, VIDEOS, checkpoint};
use rand::RngExt;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tubelet::error::{Error, ErrorKind};
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::Device;
use tubelet::train::maclr::{MaclrRun, Recipe};
use tubelet::train::mcl::MclRun;
use tubelet::train::pretrain::Outcome;
use tubelet::train::recipe::Training;
use tubelet::train::views::Loader;

/// A whole run of MaCLR in `dir`, cache included.
fn run(dir: &Path, recipe: &Recipe, after: Option<u64>) -> Result<(Outcome, Vec<f32>), Error> {
    let method = MaclrRun::new(recipe, VIDEOS, SEED, &Device::Cpu)?;
    whole_run::run(dir, &recipe.training, true, method, Loader::pair, after)
}

/// The same of MCL.
fn run_mcl(dir: &Path, after: Option<u64>) -> Result<(Outcome, Vec<f32>), Error> {
    let recipe = mcl::recipe().with_target()?;
    let method = MclRun::new(&recipe, VIDEOS, SEED, &Device::Cpu)?;
    whole_run::run(dir, &recipe.training, true, method, Loader::quad, after)
}

#[test]
fn a_run_of_maclr_that_is_stopped_and_resumed_keeps_its_bits() {
    whole_run::resumes(|dir, after| run(dir, &maclr::recipe(), after));
}

#[test]
fn a_run_in_micro_batches_keeps_its_bits() {
    let training = Training { accumulate: 2, ..maclr::recipe().training };
    whole_run::resumes(|dir, after| run(dir, &Recipe { training: training.clone(), ..maclr::recipe() }, after));
}

#[test]
fn micro_batches_divide_the_batch() {
    let of = |accumulate: usize, groups: usize| {
        let mut recipe = maclr::recipe();
        recipe.training.accumulate = accumulate;
        recipe.method.groups = groups;
        recipe.check().map_err(|e| e.to_string())
    };
    assert_eq!((of(1, 1), of(2, 1), of(2, 2)), (Ok(()), Ok(()), Ok(())));
    for (accumulate, groups, option) in
        [(3, 1, "--accumulate = 3"), (4, 1, "--accumulate = 4"), (2, 4, "--bn-groups = 4")]
    {
        let e = of(accumulate, groups).unwrap_err();
        assert!(e.contains(option), "{e}");
    }
}

#[test]
fn a_run_of_mcl_that_is_stopped_and_resumed_keeps_its_bits() {
    whole_run::resumes(run_mcl);
}

#[test]
fn a_damaged_checkpoint_costs_steps_and_no_bit() {
    whole_run::goes_back(|dir, after| run(dir, &maclr::recipe(), after));
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &maclr::recipe(), Some(3)).unwrap_err();
    let kept = checkpoint(dir.path());
    let wild = Recipe { training: Training { lr: f32::MAX, ..maclr::recipe().training }, ..maclr::recipe() };
    // No recipe may have that rate: the loop alone gets it.
    assert!(wild.check().unwrap_err().to_string().contains("--lr"));
    let method = MaclrRun::new(&maclr::recipe(), VIDEOS, SEED, &Device::Cpu).unwrap();
    let e = whole_run::run(dir.path(), &wild.training, true, method, Loader::pair, None).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::NotFinite { name: "loss", step: 4.., .. }), "{e}");
    assert!(kept == checkpoint(dir.path()), "the last good checkpoint changed");
}

#[test]
fn a_batch_larger_than_the_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let e = run(
        dir.path(),
        &Recipe { training: Training { batch: 13, ..maclr::recipe().training }, ..maclr::recipe() },
        None,
    )
    .unwrap_err()
    .to_string();
    assert!(e.contains("13") && e.contains("12 videos"), "{e}");
}

// ---- SIGKILL

/// Set for the process that the test below kills: its folder.
const FOLDER: &str = "TUBELET_TEST_FOLDER";

/// Not a test: what the killed process does.
#[test]
#[ignore = "run by killed_at_random_moments_ends_with_the_same_bits"]
fn body_of_the_killed_process() {
    if let Some(dir) = std::env::var_os(FOLDER) {
        run(Path::new(&dir), &maclr::recipe(), None).unwrap();
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "training::resume::body_of_the_killed_process", "--ignored", "--test-threads=1"])
        .env(FOLDER, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills at random moments of cache building and training, four in each of five runs, and in more of them where a busy
/// machine let processes end before; each run then ends with the bits of one never killed, cache included.
#[test]
fn killed_at_random_moments_ends_with_the_same_bits() {
    let whole = tempfile::tempdir().unwrap();
    let began = Instant::now();
    assert!(spawn(whole.path()).wait().unwrap().success());
    let length = began.elapsed();
    let cached = |dir: &Path| -> BTreeMap<_, _> {
        let files = std::fs::read_dir(dir.join("cache")).unwrap().map(|f| f.unwrap().path());
        let packed = files.filter(|p| p.extension().is_some_and(|e| e == "tbv" || e == "tbf"));
        packed.map(|p| (p.file_name().unwrap().to_owned(), std::fs::read(&p).unwrap())).collect()
    };
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    println!("moments of seed {seed}");
    let (mut kills, mut runs) = (0, 0);
    while runs < 5 || (kills < 10 && runs < 15) {
        runs += 1;
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..4 {
            let mut child = spawn(dir.path());
            std::thread::sleep(Duration::from_secs_f64(rng.random_range(0.0..0.4) * length.as_secs_f64()));
            kills += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(spawn(dir.path()).wait().unwrap().success(), "a killed run did not go on");
        assert!(checkpoint(whole.path()) == checkpoint(dir.path()), "checkpoints differ after kills");
        assert!(cached(whole.path()) == cached(dir.path()), "caches differ after kills");
    }
    assert!(kills >= 10, "only {kills} of {} processes were still running when they were to be killed", 4 * runs);
}
