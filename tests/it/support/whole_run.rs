//! A whole run of any method on a dozen procedural videos: cache, training, probe, checkpoint. Stopping and killing it is
//! what its callers test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tubelet::error::Error;
use tubelet::eval::{features::extract, knn::knn, probe::probe};
use tubelet::flow::Gray;
use tubelet::ops::tvl1;
use tubelet::train::folder::Folder;
use tubelet::train::pretrain::{At, Earlier, Method, Observer, Outcome, Report, Scores, Settings, pretrain};
use tubelet::train::recipe::Training;
use tubelet::train::views::Loader;
use tubelet::video::cache::Builder;
use tubelet::video::{Cache, Ffmpeg, ProceduralSpec, Splits};

/// Training videos.
pub const VIDEOS: usize = 12;
/// Seed of every run.
pub const SEED: u64 = 5;

/// Stops after a number of steps, or never.
struct Watch<'a> {
    stop: &'a AtomicBool,
    after: Option<u64>,
    losses: Vec<f32>,
}

impl Observer for Watch<'_> {
    fn step(&mut self, at: At, _: u64, report: &Report, _: f64) {
        self.losses.push(report.loss);
        if Some(at.step + 1) == self.after {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
    fn scores(&mut self, _: u64, _: Scores) {}
    fn epoch(&mut self, _: u64) {}
}

/// Loaders of the training and of the test videos, with their cache in `dir`; flow for training where `motion` says so.
pub fn loaders(dir: &Path, training: &Training, motion: bool) -> Result<([Loader; 2], Splits), Error> {
    let spec = ProceduralSpec {
        classes: 3,
        videos_per_class: 4,
        test_per_class: 2,
        frames: 16,
        side: 24,
        ..Default::default()
    };
    let splits = Splits::procedural(&spec)?;
    let tvl1 = training.views.flow.clone();
    let flow = |pairs: &[(&Gray, &Gray)]| tvl1::flow_pairs(pairs, &tvl1);
    let stop = AtomicBool::new(false);
    let loader = |data, motion: bool| -> Result<Loader, Error> {
        let with = Builder {
            ffmpeg: Ffmpeg::default(),
            flow: Some(&flow),
            pairs: 1,
            threads: 2,
            verify: true,
            stop: &stop,
            progress: &|_| {},
        };
        let (cache, _) = Cache::build(&dir.join("cache"), data, &training.views.cache(motion), &with)?;
        Ok(Loader { videos: cache.usable(), cache, spec: training.views.clone(), seed: SEED, motion, on_gpu: false })
    };
    Ok(([loader(&splits.train, motion)?, loader(&splits.test, false)?], splits))
}

/// What a method makes of a video in an epoch.
pub type Sample<S> = fn(&Loader, u64, usize) -> Result<S, Error>;

/// A run in `dir`, cache included, stopped `after` a number of steps; what it came to, and its losses.
pub fn run<M: Method>(
    dir: &Path,
    training: &Training,
    motion: bool,
    method: M,
    sample: Sample<M::Sample>,
    after: Option<u64>,
) -> Result<(Outcome, Vec<f32>), Error> {
    changed(dir, training, &[], motion, method, sample, after)
}

/// As [`run`], where the run was to have other numbers of epochs before.
pub fn changed<M: Method>(
    dir: &Path,
    training: &Training,
    earlier: &[Earlier],
    motion: bool,
    mut method: M,
    sample: Sample<M::Sample>,
    after: Option<u64>,
) -> Result<(Outcome, Vec<f32>), Error> {
    let folder = Folder::open(dir)?;
    let ([train, test], splits) = loaders(dir, training, motion)?;
    let mut evaluate = |trunk: &_, params: &_| {
        let [dims, _] = training.views.dims();
        let of = |l: &Loader, labels: Vec<usize>| {
            let mut clips = |v| Ok(l.uniform(v, 1)?.into_iter().map(|c| c.data).collect());
            extract(trunk, params, &labels, dims, &mut clips)
        };
        let (train, test) = (of(&train, splits.train.labels().unwrap())?, of(&test, splits.test.labels().unwrap())?);
        Ok(Scores { probe: probe(&train, &test, 0.03)?.top1, knn: knn(&train, &test, 1)?.top1 })
    };
    let settings = Settings {
        run: "a test".to_owned(),
        seed: SEED,
        epochs: training.epochs,
        batch: training.batch,
        schedule: training.schedule((VIDEOS / training.batch.max(1)) as u64),
        earlier: earlier.to_vec(),
        sgd: training.sgd,
        workers: 2,
        probe_every: 0,
        trace: None,
    };
    let load = Arc::new({
        let train = train.clone();
        move |epoch, video, _| sample(&train, epoch, video)
    });
    let stop = AtomicBool::new(false);
    let mut watch = Watch { stop: &stop, after, losses: Vec::new() };
    let done = pretrain(&mut method, load, VIDEOS, Some(&mut evaluate), &folder, &settings, &stop, &mut watch)?;
    Ok((done, watch.losses))
}

/// Every file of the checkpoints, by name.
pub fn checkpoint(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let home = dir.join("checkpoints");
    for folder in std::fs::read_dir(&home).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            files.insert(path.strip_prefix(&home).unwrap().to_owned(), std::fs::read(&path).unwrap());
        }
    }
    assert!(!files.is_empty(), "no checkpoint in {}", home.display());
    files
}

/// With a damaged newest checkpoint, a run of nine steps in epochs of three goes back to the one before, and ends with the bits
/// of one that was never stopped.
pub fn goes_back(run: impl Fn(&Path, Option<u64>) -> Result<(Outcome, Vec<f32>), Error>) {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (done, losses) = run(whole.path(), None).unwrap();
    run(parts.path(), Some(6)).unwrap_err();
    let file = parts.path().join("checkpoints/step-00000006/weights.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let (again, rest) = run(parts.path(), None).unwrap();
    assert_eq!(rest[..], losses[3..], "from the checkpoint of step 3");
    assert_eq!((again.after, again.loss_first, again.loss_last), (done.after, done.loss_first, done.loss_last));
    let aside = parts.path().join("checkpoints/damaged-step-00000006");
    assert_eq!(
        std::fs::read(aside.join("weights.safetensors")).unwrap(),
        bytes,
        "it is kept for whoever wants to know"
    );
    std::fs::remove_dir_all(aside).unwrap();
    assert!(checkpoint(whole.path()) == checkpoint(parts.path()), "checkpoints differ");
}

/// Stopped twice and taken up again, a run of nine steps is one that was never stopped, bit for bit.
pub fn resumes(run: impl Fn(&Path, Option<u64>) -> Result<(Outcome, Vec<f32>), Error>) {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (done, losses) = run(whole.path(), None).unwrap();
    assert_eq!((done.steps, losses.len()), (9, 9));
    for after in [2, 6] {
        let e = run(parts.path(), Some(after)).unwrap_err();
        assert!(matches!(e.kind(), tubelet::error::ErrorKind::Stopped { .. }), "{e}");
    }
    let (again, rest) = run(parts.path(), None).unwrap();
    assert_eq!(rest[..], losses[6..], "after stops at 2 and 6");
    assert!(checkpoint(whole.path()) == checkpoint(parts.path()), "checkpoints differ");
    assert_eq!((again.before, again.after), (done.before, done.after));
    assert_eq!((again.loss_first, again.loss_last), (done.loss_first, done.loss_last));
    // A finished run has nothing left to do and says the same.
    let (third, none) = run(parts.path(), None).unwrap();
    assert!(none.is_empty());
    assert_eq!((third.after, third.loss_last), (done.after, done.loss_last));
}
