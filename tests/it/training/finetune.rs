//! Training with labels: the step against a plain computation, accumulation, clipping, precise batch norm, resumption, and
//! the clips it sees.

use crate::support::close::assert_near;
use crate::support::moving_square::{self, mask, weights};
use crate::support::numbers::noise;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tubelet::augment::rand_augment::RandAugment;
use tubelet::flow::motion::MotionInput;
use tubelet::nn::{Mode, Net, Params, Pass, Role, SmallR3d, Trunk};
use tubelet::ops::sgd::Sgd;
use tubelet::tape::{Tape, Var};
use tubelet::tensor::{Device, Tensor};
use tubelet::train::finetune::{Finetune, Labelled, Recipe, keep_share};
use tubelet::train::folder::Folder;
use tubelet::train::pretrain::{At, Load, Method, Observer, Report, Scores, Settings, pretrain};
use tubelet::train::views::{Loader, Part, ViewSpec};
use tubelet::video::{ProceduralSpec, Splits};
use tubelet::{Error, error::ErrorKind};

const DIMS: [usize; 4] = [4, 16, 16, 3];
const CLASSES: usize = 3;
const VIDEOS: usize = 12;

fn net() -> Net {
    SmallR3d::default().net().unwrap()
}

/// Small clips without dropout.
fn recipe() -> Recipe {
    let views = ViewSpec { frames: DIMS[0], side: DIMS[1], ..ViewSpec::small() };
    let sgd = Sgd { weight_decay: 0.0, ..Sgd::default() };
    Recipe { views, batch: 6, micro_batch: 6, dropout: 0.0, precise_bn: 0, sgd, epochs: 3, ..Recipe::small() }
}

/// A clip of noise for each epoch and video, whose mean tells its class.
fn clip(epoch: u64, video: usize) -> Labelled {
    let label = (video % CLASSES) as u32;
    let data = noise(100 * epoch + video as u64, &DIMS).load().unwrap().iter().map(|v| v + label as f32).collect();
    Labelled { clip: Part::new(DIMS, data), label }
}

fn started(recipe: &Recipe) -> Finetune {
    let load: Arc<Load<Labelled>> = Arc::new(|epoch, video, _| Ok(clip(epoch, video)));
    let trunk = Trunk::with_params(&net(), 7).1;
    Finetune::new(recipe, &net(), &trunk, CLASSES, (load, VIDEOS), 1, &Device::Cpu).unwrap()
}

const AT: At = At { seed: 5, epoch: 0, step: 0, epochs: 3 };

fn step(run: &mut Finetune, recipe: &Recipe, videos: usize, lr: f32) -> Report {
    run.step((0..videos).map(|video| clip(0, video)).collect(), AT, lr, &recipe.sgd).unwrap()
}

fn values(params: &Params, name: &str) -> Vec<f64> {
    let id = params.find(name).unwrap_or_else(|| panic!("{name}"));
    params[id].value.load().unwrap().iter().map(|v| f64::from(*v)).collect()
}

/// The change of all parameters together, as a norm.
fn moved(a: &Params, b: &Params) -> f64 {
    let pairs = a.trainable().zip(b.trainable());
    let square = |(x, y): (&Tensor, &Tensor)| -> f64 {
        x.load().unwrap().iter().zip(y.load().unwrap().iter()).map(|(x, y)| f64::from(x - y).powi(2)).sum()
    };
    pairs.map(|((_, x), (_, y))| square((&x.value, &y.value))).sum::<f64>().sqrt()
}

fn features(params: &mut Params, clips: &[Labelled], mode: Mode) -> Vec<f64> {
    let data: Vec<f32> = clips.iter().flat_map(|c| c.clip.data.clone()).collect();
    let [t, h, w, c] = DIMS;
    let x = Tensor::from_f32([clips.len(), t, h, w, c], &data).unwrap();
    let (tape, trunk) = (Tape::no_grad(), Trunk::with_params(&net(), 0).0);
    let y = trunk.forward(&mut Pass::new(&tape, params, mode), &Var::constant(x)).unwrap();
    y.value().load().unwrap().iter().map(|v| f64::from(*v)).collect()
}

/// The first step of the classifier on a frozen trunk is -1.9 times the rate (Nesterov, momentum 0.9) times the mean of
/// `(softmax - onehot) ⊗ features`, and the loss the mean of `-ln p`.
#[test]
fn a_step_of_the_classifier_alone_is_softmax_minus_the_label_times_the_features() {
    let recipe = Recipe { frozen: true, ..recipe() };
    let mut run = started(&recipe);
    let mut before = run.network().1.clone();
    let report = step(&mut run, &recipe, 6, 0.5);
    let clips: Vec<Labelled> = (0..6).map(|video| clip(0, video)).collect();
    let x = features(&mut before, &clips, Mode::Frozen);
    let (w, b, d) = (values(&before, "fc.weight"), values(&before, "fc.bias"), x.len() / 6);
    let (mut want_w, mut want_b, mut loss, mut right) = (w.clone(), b.clone(), 0.0, 0);
    for (sample, row) in clips.iter().zip(x.chunks_exact(d)) {
        let z: Vec<f64> =
            w.chunks_exact(d).zip(&b).map(|(w, b)| w.iter().zip(row).map(|(w, x)| w * x).sum::<f64>() + b).collect();
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        loss -= (z[sample.label as usize].exp() / sum).ln() / 6.0;
        right += usize::from((0..CLASSES).all(|k| z[k] <= z[sample.label as usize]));
        for k in 0..CLASSES {
            let g = (z[k].exp() / sum - f64::from(u8::from(k == sample.label as usize))) / 6.0;
            want_b[k] -= 0.5 * 1.9 * g;
            (0..d).for_each(|i| want_w[k * d + i] -= 0.5 * 1.9 * g * row[i]);
        }
    }
    let after = run.network().1;
    // The forward pass and the update in f32: sums of 128 and of 6 products.
    for (got, want) in [(values(after, "fc.weight"), want_w), (values(after, "fc.bias"), want_b)] {
        got.iter().zip(&want).for_each(|(a, b)| assert_near("a weight", *a, *b, 1e-5));
    }
    assert_near("the loss", f64::from(report.loss), loss, 1e-5);
    assert_eq!(report.part("train_top1"), Some(right as f32 / 6.0));
    let trunk =
        |p: &Params| p.iter().take(p.len() - 2).map(|(_, p)| p.value.load().unwrap().to_vec()).collect::<Vec<_>>();
    assert!(trunk(after) == trunk(&before), "the trunk is frozen, running statistics included");
}

/// Without batch statistics the gradient of a batch is the sum over its parts, whatever their size.
#[test]
fn accumulated_gradients_are_those_of_the_whole_batch() {
    let of = |micro_batch| {
        let recipe = Recipe { frozen: true, micro_batch, ..recipe() };
        let mut run = started(&recipe);
        let report = step(&mut run, &recipe, 6, 0.5);
        (values(run.network().1, "fc.weight"), report.loss, report.part("train_top1"))
    };
    let whole = of(6);
    for micro in [1, 2, 3] {
        let (weights, loss, right) = of(micro);
        // Sums of six gradients in another order.
        weights.iter().zip(&whole.0).for_each(|(a, b)| assert_near("a weight", *a, *b, 1e-6));
        assert_near("the loss", f64::from(loss), f64::from(whole.1), 1e-6);
        assert_eq!(right, whole.2, "{micro}");
    }
}

#[test]
fn a_gradient_that_is_too_long_is_scaled_to_the_limit_and_a_shorter_one_is_unchanged() {
    let free = recipe();
    let mut run = started(&free);
    let before = run.network().1.clone();
    step(&mut run, &free, 6, 0.1);
    let length = moved(run.network().1, &before) / (0.1 * 1.9);
    for (limit, want) in [(0.25 * length, 0.25 * length), (4.0 * length, length)] {
        let clipped = Recipe { clip_norm: Some(limit as f32), ..recipe() };
        let mut run = started(&clipped);
        let report = step(&mut run, &clipped, 6, 0.1);
        let got = moved(run.network().1, &before) / (0.1 * 1.9);
        // Weights near 1 are rounded to 6e-8 of their size when they move by a few thousandths.
        assert_near("the length of the step", got / want, 1.0, 5e-4);
        assert_near("the norm", f64::from(report.part("grad_norm").unwrap()) / length, 1.0, 5e-4);
    }
}

#[test]
fn a_loss_that_is_not_finite_leaves_the_weights() {
    let recipe = recipe();
    let mut run = started(&recipe);
    let before = run.network().1.clone();
    let mut bad = clip(0, 0);
    bad.clip.data[0] = f32::NAN;
    let report = run.step(vec![bad, clip(0, 1)], AT, 0.1, &recipe.sgd).unwrap();
    assert!(report.loss.is_nan());
    assert_eq!(moved(run.network().1, &before), 0.0);
}

/// With a single batch of statistics, evaluation mode is training mode on that batch, except that running variances are
/// the unbiased ones, n / (n - 1): the last of three maps has 12 x 2 x 2 numbers of a channel, and a deviation changes by
/// 1 % there and less before, so that features differ by a few hundredths of the largest at most.
#[test]
fn precise_statistics_are_those_of_the_batches_that_follow_the_last_epoch() {
    let recipe = Recipe { batch: VIDEOS, micro_batch: VIDEOS, precise_bn: 1, ..recipe() };
    let mut run = started(&recipe);
    step(&mut run, &recipe, VIDEOS, 0.1);
    let at = At { step: 2, epoch: 2, ..AT };
    run.finish(at).unwrap();
    let mut params = run.network().1.clone();
    // Of the epoch after the last, in any order.
    let clips: Vec<Labelled> = (0..VIDEOS).map(|video| clip(at.epochs, video)).collect();
    let fixed = features(&mut params, &clips, Mode::Eval);
    let mut other = params.clone();
    let batch = features(&mut params, &clips, Mode::Train { parts: 1 });
    let scale = batch.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = fixed.iter().zip(&batch).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 0.05 * scale, "{worst} of {scale}");
    for (_, p) in other.iter_mut().filter(|(_, p)| p.role == Role::RunningVar) {
        p.value = Tensor::full(p.value.shape(), 4.0);
    }
    let wrong = features(&mut other, &clips, Mode::Eval);
    let off = wrong.iter().zip(&batch).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off > 4.0 * worst, "other statistics would be seen");
}

struct Stop<'a>(&'a AtomicBool, Option<u64>);

impl Observer for Stop<'_> {
    fn step(&mut self, at: At, _: u64, _: &Report, _: f64) {
        if Some(at.step + 1) == self.1 {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    fn scores(&mut self, _: u64, _: Scores) {}
    fn epoch(&mut self, _: u64) {}
}

fn run(dir: &Path, recipe: &Recipe, after: Option<u64>) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let (stop, folder) = (AtomicBool::new(false), Folder::open(dir)?);
    let settings = Settings {
        run: "a test".into(),
        seed: 5,
        epochs: recipe.epochs,
        batch: recipe.batch,
        schedule: recipe.schedule(2),
        earlier: Vec::new(),
        sgd: recipe.sgd,
        workers: 2,
        probe_every: 0,
        trace: None,
    };
    let load: Arc<Load<Labelled>> = Arc::new(|epoch, video, _| Ok(clip(epoch, video)));
    let mut method = started(recipe);
    pretrain(&mut method, load, VIDEOS, None, &folder, &settings, &stop, &mut Stop(&stop, after))?;
    let last = std::fs::read_dir(dir.join("checkpoints")).unwrap().map(|f| f.unwrap().path()).max().unwrap();
    let mut files: Vec<_> = std::fs::read_dir(last).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    Ok(files.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect())
}

#[test]
fn a_run_that_is_stopped_anywhere_and_resumed_keeps_its_bits_dropout_and_statistics_included() {
    let recipe = Recipe { dropout: 0.5, precise_bn: 2, micro_batch: 3, clip_norm: Some(1.0), ..recipe() };
    let whole = run(tempfile::tempdir().unwrap().path(), &recipe, None).unwrap();
    assert!(whole.len() >= 2);
    for after in 1..6 {
        let dir = tempfile::tempdir().unwrap();
        let e = run(dir.path(), &recipe, Some(after)).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Stopped { .. }), "{e}");
        assert!(run(dir.path(), &recipe, None).unwrap() == whole, "stopped after {after} steps");
    }
}

#[test]
fn separable_classes_are_learned_by_the_whole_network() {
    let recipe = Recipe { lr: 0.05, ..recipe() };
    let mut run = started(&recipe);
    let losses: Vec<f32> = (0..30).map(|_| step(&mut run, &recipe, VIDEOS, 0.05).loss).collect();
    assert!(losses[29] < 0.2 * losses[0], "{losses:?}");
}

/// The way by bytes, with none of RandAugment's operations, ends with the clip of the direct way, mirrored or not; many
/// clips show the red square.
#[test]
fn a_clip_shows_the_square_and_is_the_same_by_way_of_bytes() {
    let dir = tempfile::tempdir().unwrap();
    moving_square::write_frames(dir.path());
    let views = moving_square::views(MotionInput::Flow);
    let loader = moving_square::loader(dir.path(), &views, "", moving_square::exact);
    let plain = Recipe { views: views.clone(), ..Recipe::small() };
    let bytes = Recipe { rand_augment: Some(RandAugment { count: 0, magnitude: 9.0 }), ..plain.clone() };
    let mut seen = 0;
    for epoch in 0..20 {
        let [a, b] = [&plain, &bytes].map(|recipe| recipe.clip(&loader, epoch, 1, 1).unwrap());
        assert_eq!((a.label, a.clip.dims), (1, b.clip.dims));
        // A byte is half a level off at most, before the division by the deviation.
        let half = 0.5001 / 255.0 / views.augment.std[0];
        assert!(a.clip.data.iter().zip(&b.clip.data).all(|(x, y)| (x - y).abs() <= half + 1e-5));
        seen += usize::from((0..4).all(|t| weights(&mask(&a.clip, t)).sum::<f32>() > 20.0));
        let again = plain.clip(&loader, epoch, 1, 1).unwrap();
        assert_eq!(again.clip.data, a.clip.data);
    }
    assert!(seen > 5, "crops that hold the square: {seen}");
}

/// With segments a clip spans the video: of the middle clip, each frame is the middle one of its segment, pixel for pixel.
#[test]
fn segments_take_a_frame_from_each_part_of_the_video() {
    let dir = tempfile::tempdir().unwrap();
    moving_square::write_frames(dir.path());
    let views = ViewSpec { segments: true, stride: 1, ..moving_square::views(MotionInput::Flow) };
    let loader = moving_square::loader(dir.path(), &views, "", moving_square::exact);
    let len = loader.cache.get(loader.videos[0]).unwrap().len();
    // As many clips of one frame as there are frames: clip i is frame i.
    let single = Loader { spec: ViewSpec { segments: false, frames: 1, ..views.clone() }, ..loader.clone() };
    let edge = |i: usize| ((len - 1) as f64 * i as f64 / 4.0).round() as usize;
    let clip = loader.view(0, [0, 1], [0, 1]).unwrap();
    for (i, frame) in clip.data.chunks_exact(clip.data.len() / 4).enumerate() {
        let middle = single.view(0, [(edge(i) + edge(i + 1)) / 2, len], [0, 1]).unwrap();
        assert!(frame == middle.data, "frame {i}");
    }
    let recipe = Recipe { views, ..Recipe::small() };
    let clips: Vec<Labelled> = (0..8).map(|epoch| recipe.clip(&loader, epoch, 0, 0).unwrap()).collect();
    assert!(clips.iter().any(|c| c.clip.data != clips[0].clip.data), "frames are drawn anew in each epoch");
}

#[test]
fn a_share_of_the_labels_keeps_every_class_and_is_part_of_a_larger_share() {
    let splits = Splits::procedural(&ProceduralSpec { videos_per_class: 10, ..ProceduralSpec::default() }).unwrap();
    let names = |share: f64, seed: u64| -> Vec<String> {
        let mut data = splits.train.clone();
        keep_share(&mut data, share, seed);
        let labels: std::collections::BTreeSet<_> = data.items.iter().map(|item| item.label).collect();
        assert_eq!(labels.len(), data.classes.len(), "{share}");
        data.items.iter().map(|item| item.name.clone()).collect()
    };
    let [one, third, all] = [0.01, 0.3, 1.0].map(|share| names(share, 2));
    let classes = splits.train.classes.len();
    assert_eq!([one.len(), third.len(), all.len()], [classes, 3 * classes, 10 * classes]);
    assert!(one.iter().all(|name| third.contains(name)) && third.iter().all(|name| all.contains(name)));
    assert!(all.iter().zip(&splits.train.items).all(|(a, b)| *a == b.name), "the order stays");
    assert_ne!(names(0.3, 3), third);
}

#[test]
fn presets_are_valid_and_numbers_out_of_range_are_refused() {
    let ops = RandAugment { count: 1, magnitude: 23.0 };
    for recipe in [Recipe::maclr_ucf101(), Recipe::maclr_ucf101_linear(), Recipe::mcl(ops), Recipe::ssv2()] {
        recipe.check(&Net::cvrl_r3d50()).unwrap();
    }
    // MaCLR's release: 34 of 200 epochs of warm-up from .001, which ends on the cosine.
    let schedule = Recipe::maclr_ucf101().schedule(100);
    assert_eq!((schedule.at(0), schedule.warmup, schedule.steps), (0.001, 3400, 20_000));
    // Something-Something v2: drops at epochs 14 and 18.
    let schedule = Recipe::ssv2().schedule(10);
    assert_eq!([139, 140, 180].map(|step| schedule.at(step)), [0.12, 0.12 * 0.1, 0.12 * 0.1f32.powi(2)]);
    for (wrong, name) in [
        (Recipe { micro_batch: 4, ..recipe() }, "--micro-batch"),
        (Recipe { dropout: 1.0, ..recipe() }, "--dropout"),
        (Recipe { clip_norm: Some(f32::NAN), ..recipe() }, "--clip-norm"),
        (Recipe { lr: 0.0, ..recipe() }, "--lr"),
    ] {
        let e = wrong.check(&net()).unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
    }
}
