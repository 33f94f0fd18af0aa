//! MCL's step: each of its losses, and what it refuses.

use crate::support::close::assert_norm;
use crate::support::whole_run::VIDEOS;
use rand::RngExt;
use tubelet::augment::BlurForm;
use tubelet::error::{Error, ErrorKind};
use tubelet::nn::{HeadSpec, SmallR3d};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::alignment::{Alignment, Form, overlap};
use tubelet::ssl::mcl::{Mcl, Rates, Views};
use tubelet::ssl::report::Report;
use tubelet::tensor::{Device, Integers, Tensor};
use tubelet::train::mcl::{KEYS, Recipe};
use tubelet::train::recipe::Training;
use tubelet::train::views::ViewSpec;

/// The smallest recipe that has everything.
pub fn recipe() -> Recipe {
    let spec = SmallR3d {
        in_channels: 3,
        widths: vec![4, 8],
        blocks: vec![0, 1],
        stem_kernel: [3, 3, 3],
        stem_stride: [1, 2, 2],
        strides: vec![[1; 3], [2; 3]],
        temporal: vec![3; 2],
        residual: true,
        ..SmallR3d::default()
    };
    let small = Recipe::small();
    let views = ViewSpec { frames: 4, stride: 2, side: 16, cache_side: 24, ..small.training.views.clone() };
    let training =
        Training { views, epochs: 3, batch: 4, warmup_epochs: 0.5, queue_cap: 24, probe_clips: 1, ..small.training };
    let alignment = Alignment { module: "layer2.0".into(), ..small.method.alignment.clone() };
    Recipe {
        net: spec.net().unwrap(),
        init: None,
        heads: HeadSpec { hidden: 8, code: 4, normalised: true },
        uniform_heads: false,
        method: Mcl { alignment, momentum: 0.9, ..small.method },
        training,
    }
}

/// Clips `n 4 16 16 3`: each video has its own brightness in each part of the frame, alike in all of its clips, and a
/// bright column that moves.
fn clips(n: usize, seed: u64) -> Tensor {
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    let mut v = Vec::new();
    for video in 0..n {
        for t in 0..4 {
            for y in 0..16 {
                for x in 0..16 {
                    let level = ((video >> (2 * y / 16)) & 1) as f32;
                    let bar = if x == 2 + t + 2 * (video % 4) { 2.0 } else { 0.0 };
                    v.extend([(); 3].map(|()| level + bar + rng.random_range(-0.1..0.1)));
                }
            }
        }
    }
    Tensor::from_f32([n, 4, 16, 16, 3], &v).unwrap()
}

/// Where the column moves, on the grid `2 4 4` of `layer2.0`.
fn target(n: usize) -> Tensor {
    let mut y = Vec::new();
    for video in 0..n {
        for t in 0..2 {
            let cell = (2 + 2 * t + 2 * (video % 4)) / 4;
            y.extend((0..16).map(|i| if i % 4 == cell { 1.0 } else { 0.1 }));
        }
    }
    Tensor::from_f32([n, 2, 4, 4], &y).unwrap()
}

pub fn views(n: usize) -> Views {
    let order: Vec<f32> = (0..n).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    Views {
        query: clips(n, 1),
        keys: [clips(n, 2), clips(n, 3), clips(n, 4)],
        target: Some(target(n)),
        order: Tensor::from_f32([n, 1], &order).unwrap(),
        owners: Integers::new((0..n as u32).collect()),
        permuted: false,
    }
}

pub const RATES: Rates = Rates { lr: 0.02, order: 1.0, alignment: 1.0 };

fn steps(method: &Mcl, views: &Views, rates: Rates, count: u64) -> Result<Vec<Report>, Error> {
    let mut network = recipe().network(VIDEOS, 1, &Device::Cpu)?.0;
    let sgd = Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 };
    let step = |i| {
        let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
        method.step(&mut network, views, &mut rng, rates, &sgd)
    };
    (0..count).map(step).collect()
}

fn part(report: &Report, name: &str) -> f32 {
    report.part(name).unwrap_or_else(|| panic!("{name} is not in {report:?}"))
}

#[test]
fn every_preset_builds_its_network_and_knows_its_grid() {
    let count = |recipe: &Recipe| recipe.network(100, 0, &Device::Cpu).unwrap().0.encoder().trunk.features_dim();
    assert_eq!(count(&Recipe::tiny()), 128);
    assert_eq!(Recipe::small().grid().unwrap(), Some([4, 6, 6]));
    let paper = Recipe::paper();
    assert_eq!(paper.grid().unwrap(), Some([4, 7, 7]));
    assert_eq!(paper.with_target().unwrap().training.views.focus.target, Some([4, 7, 7]));
}

/// `docs/papers/mcl.md`, sections 1.1, 1.3, 1.6, 2.3, 3.3 and 4.
#[test]
fn the_paper_presets_are_the_releases_for_both_data_sets() {
    let (ucf, k400) = (Recipe::paper(), Recipe::paper_kinetics());
    for (recipe, rows, least, window) in [(&ucf, 240, 64, 8), (&k400, 256, 33, 4)] {
        let Training { views, min_frames, .. } = &recipe.training;
        assert_eq!((views.cache_side, *min_frames, views.focus.window), (rows, least, window));
        assert_eq!((views.augment.blur_form, views.augment.blur_sigma), (BlurForm::Boxes, [0.1, 2.0]));
        assert!(recipe.uniform_heads && recipe.method.order_from == 1);
        recipe.check().unwrap();
    }
    let rates = |r: &Recipe| (r.training.epochs, r.training.lr, r.method.w_order);
    assert_eq!([rates(&ucf), rates(&k400)], [(200, 0.01, 1.0), (400, 0.02, 0.0)]);
    for small in [Recipe::tiny(), Recipe::small()] {
        let Training { views, min_frames, .. } = &small.training;
        assert_eq!((views.augment.blur_form, *min_frames), (BlurForm::ThreeByThree, 0));
        assert!(!small.uniform_heads && small.method.order_from == 0, "their recorded figures were made so");
    }
}

#[test]
fn the_losses_of_four_videos_fall() {
    let seen = steps(&recipe().method, &views(4), RATES, 150).unwrap();
    let mean = |of: &[Report], name| of.iter().map(|r| part(r, name)).sum::<f32>() / of.len() as f32;
    for name in ["loss_inter", "loss_align"] {
        let (first, last) = (mean(&seen[1..11], name), mean(&seen[140..], name));
        assert!(last < 0.8 * first, "{name}: {first} to {last}");
    }
    // Single steps of so small a batch go up and down.
    let accuracy = mean(&seen[140..], "accuracy_inter");
    assert!(accuracy > 0.9, "{accuracy}");
    let last = seen.last().unwrap();
    assert!(part(last, "align_cosine") > part(&seen[0], "align_cosine") + 0.1, "{:?} to {last:?}", seen[0]);
}

#[test]
fn the_loss_is_the_weighted_sum_of_its_parts() {
    let method = Mcl { w_inter: 0.7, w_intra: 1.3, ..recipe().method };
    let rates = Rates { lr: 0.02, order: 0.4, alignment: 2.0 };
    for report in steps(&method, &views(4), rates, 5).unwrap() {
        let weights = [("loss_inter", 0.7), ("loss_intra", 1.3), ("loss_order", 0.4), ("loss_align", 2.0)];
        let sum: f32 = weights.iter().map(|(name, w)| w * part(&report, name)).sum();
        assert_norm("the loss is the sum of its parts", &[report.loss], &[sum], 1e-6);
        let three = ["align_space_time", "align_space", "align_time"].map(|name| part(&report, name));
        assert_norm("alignment is the sum of its terms", &[part(&report, "loss_align")], &[three.iter().sum()], 1e-6);
    }
}

#[test]
fn losses_switch_off_one_by_one() {
    let all = recipe().method;
    let names = |method: &Mcl, rates| {
        let seen = steps(method, &views(4), rates, 2).unwrap();
        let names = seen[1].parts.iter().map(|(name, _)| *name).filter(|name| name.starts_with("loss"));
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&all, RATES), ["loss_inter", "loss_intra", "loss_order", "loss_align"]);
    assert_eq!(names(&Mcl { w_inter: 0.0, ..all.clone() }, RATES), ["loss_intra", "loss_order", "loss_align"]);
    assert_eq!(names(&Mcl { w_intra: 0.0, ..all.clone() }, RATES), ["loss_inter", "loss_order", "loss_align"]);
    assert_eq!(names(&all, Rates { order: 0.0, ..RATES }), ["loss_inter", "loss_intra", "loss_align"]);
    assert_eq!(names(&all, Rates { alignment: 0.0, ..RATES }), ["loss_inter", "loss_intra", "loss_order"]);
    let none = Mcl { w_inter: 0.0, w_intra: 0.0, ..all };
    let e = steps(&none, &views(4), Rates { lr: 0.1, order: 0.0, alignment: 0.0 }, 1).unwrap_err().to_string();
    assert!(e.contains("at least one term"), "{e}");
}

/// An order classifier that has learned nothing is wrong as often as right; the loss it starts from is ln 2.
#[test]
fn intra_and_order_begin_at_chance() {
    let report = steps(&recipe().method, &views(4), RATES, 1).unwrap().remove(0);
    assert!((part(&report, "loss_order") - 2f32.ln()).abs() < 0.2, "{report:?}");
    // Key and query network are equal at the start, so clips of a video are about as near to the query as its own.
    assert!((part(&report, "loss_intra") - 2f32.ln()).abs() < 0.5, "{report:?}");
}

#[test]
fn rates_ramp_and_switch() {
    let method = Mcl { w_order: 0.5, ..recipe().method };
    let at = |epoch| method.rates(0.1, epoch, 10, 2.0);
    assert_eq!([at(0).order, at(5).order], [0.0, 0.25]);
    let released = Mcl { w_order: 0.5, ..Mcl::released("") };
    // As epoch / epochs with epochs counted from 1 (mcl.md 3.3).
    assert_eq!([0, 4, 9].map(|epoch| released.rates(0.1, epoch, 10, 2.0).order), [0.05, 0.25, 0.5]);
    assert_eq!([at(1).alignment, at(2).alignment], [method.alignment.warm_weight, method.alignment.weight]);
    // Of ten epochs with two of warm-up, the third has the weight, the tenth the last one, and those between lie on a line.
    let falling = Alignment { weight: 7.0, warm_weight: 3.0, last_weight: Some(0.0), ..method.alignment.clone() };
    let falling = Mcl { alignment: falling, ..method };
    let of = |epoch, epochs, warmup| falling.rates(0.1, epoch, epochs, warmup).alignment;
    assert_eq!([0, 1, 2, 3, 8, 9, 12].map(|epoch| of(epoch, 10, 2.0)), [3.0, 3.0, 7.0, 6.0, 1.0, 0.0, 0.0]);
    assert_eq!([of(1, 2, 0.5), of(0, 1, 0.0), of(1, 3, 0.5)], [7.0, 7.0, 7.0], "too few epochs to fall in");
}

#[test]
fn a_queue_gets_three_keys_a_sample() {
    let method = Mcl { in_batch: false, ..recipe().method };
    let mut network = recipe().network(VIDEOS, 1, &Device::Cpu).unwrap().0;
    assert_eq!(network.queue().len(), 24);
    let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
    method.step(&mut network, &views(4), &mut rng, RATES, &Sgd::default()).unwrap();
    assert_eq!(network.queue().filled(), 4 * KEYS);
    assert_eq!(network.queue().owners()[..12], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn what_cannot_be_aligned_is_refused() {
    let recipe = recipe();
    let of = |method: &Mcl, views: &Views| steps(method, views, RATES, 1).unwrap_err();
    let e = of(&recipe.method, &Views { target: None, ..views(4) }).to_string();
    assert!(e.contains("target") && e.contains("motion to align with"), "{e}");
    let coarse = Tensor::zeros([4, 2, 2, 2]);
    let e = of(&recipe.method, &Views { target: Some(coarse), ..views(4) });
    assert!(matches!(e.kind(), ErrorKind::Shape { .. }) && e.to_string().contains("[4 2 4 4]"), "{e}");
    let alignment = Alignment { module: "layer9.0".into(), ..recipe.method.alignment.clone() };
    let absent = Mcl { alignment, ..recipe.method.clone() };
    let e = of(&absent, &views(4)).to_string();
    assert!(e.contains("layer9.0") && e.contains("no such module"), "{e}");
    let e = Recipe { method: absent, ..recipe }.grid().unwrap_err().to_string();
    assert!(e.contains("layer9.0"), "{e}");
}

#[test]
fn a_queue_longer_than_an_epoch_is_refused_where_own_keys_are_not_masked() {
    let training = Training { queue: Some(KEYS * VIDEOS + 1), ..recipe().training };
    let masked = Recipe { training, ..recipe() };
    assert!(masked.network(VIDEOS, 0, &Device::Cpu).is_ok(), "a video's own keys are masked, however old");
    let method = Mcl { mask_own: false, ..masked.method.clone() };
    let e = Recipe { method, ..masked }.network(VIDEOS, 0, &Device::Cpu).err().unwrap().to_string();
    assert!(e.contains("37") && e.contains("12 training videos with 3 keys each") && e.contains("at most 36"), "{e}");
}

#[test]
fn frozen_normalisation_behind_the_target_is_warned_of() {
    let method = recipe().method;
    assert!(method.warnings().is_empty());
    let frozen = Mcl { frozen_norm: true, ..method };
    let [warning] = &frozen.warnings()[..] else { panic!("one warning") };
    assert!(warning.contains("layer2.0") && warning.contains("frozen"), "{warning}");
    let unaligned = Alignment { weight: 0.0, warm_weight: 0.0, ..frozen.alignment.clone() };
    assert!(Mcl { alignment: unaligned, ..frozen.clone() }.warnings().is_empty());
    // It is allowed, and its running statistics stay.
    let mut network = recipe().network(VIDEOS, 1, &Device::Cpu).unwrap().0;
    let running = |network: &tubelet::ssl::mcl::Network| -> Vec<Vec<f32>> {
        let all = network.query().iter().filter(|(_, p)| !p.role.trains());
        all.map(|(_, p)| p.value.load().unwrap().to_vec()).collect()
    };
    let before = running(&network);
    let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
    let report = frozen.step(&mut network, &views(4), &mut rng, RATES, &Sgd::default()).unwrap();
    assert!(report.loss.is_finite());
    assert_eq!(before, running(&network));
}

#[test]
fn every_form_gives_a_map_on_the_grid_and_change_nothing() {
    for form in [Form::WeightGradient, Form::GradCam, Form::Magnitude] {
        let recipe = recipe();
        let method = Mcl { alignment: Alignment { form, ..recipe.method.alignment.clone() }, ..recipe.method };
        let network = recipe.network(VIDEOS, 1, &Device::Cpu);
        let (network, _) = network.unwrap();
        let map = method.saliency(&network, &views(4)).unwrap();
        assert_eq!(map.dims(), [4, 2, 4, 4], "{form}");
        let map = map.load().unwrap();
        assert!(map.iter().all(|v| *v >= 0.0) && map.iter().any(|v| *v > 0.0), "{form}");
        assert_eq!(network.query().batches, 0);
    }
}

#[test]
fn overlap_is_cosine_and_correlation() {
    let y = [0.0, 1.0, 2.0, 5.0];
    let [cosine, correlation] = overlap(&y.map(|v| 3.0 * v), &y);
    assert_norm("a multiple", &[cosine as f32, correlation as f32], &[1.0, 1.0], 1e-6);
    let [cosine, correlation] = overlap(&[1.0; 4], &y);
    assert_norm("flat", &[cosine as f32], &[8.0 / (4.0f32 * 30.0).sqrt()], 1e-6);
    assert_eq!(correlation, 0.0);
    assert_eq!(overlap(&[0.0; 4], &y), [0.0, 0.0]);
}
