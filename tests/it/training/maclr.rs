//! MaCLR's step: its losses, its queues, what it refuses.

use crate::support::whole_run::VIDEOS;
use rand::RngExt;
use tubelet::flow::motion::MotionInput;
use tubelet::nn::{Mode, Precision, SmallR3d, Trunk};
use tubelet::ops::sgd::Sgd;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::alignment::Alignment;
use tubelet::ssl::maclr::{CrossPositive, Maclr, Views};
use tubelet::ssl::pathway::Pathway;
use tubelet::ssl::report::Report as Seen;
use tubelet::ssl::{BatchPart, Division};
use tubelet::tape::Tape;
use tubelet::tensor::{Device, Tensor};
use tubelet::train::maclr::Recipe;
use tubelet::train::recipe::Training;
use tubelet::train::views::ViewSpec;

/// The smallest recipe that has everything: both networks, heads with normalisation, both queues.
pub fn recipe() -> Recipe {
    let net = |in_channels, stem_t| {
        let spec = SmallR3d {
            in_channels,
            widths: vec![4, 8],
            blocks: vec![0, 1],
            stem_kernel: [3, 3, 3],
            stem_stride: [stem_t, 2, 2],
            strides: vec![[1; 3], [2; 3]],
            temporal: vec![3; 2],
            ..SmallR3d::default()
        };
        spec.net().unwrap()
    };
    let views = ViewSpec { frames: 4, motion_frames: 8, stride: 2, side: 16, cache_side: 24, ..ViewSpec::small() };
    Recipe {
        visual: net(3, 1),
        motion: net(1, 2),
        head_hidden: 8,
        code: 4,
        training: Training { views, epochs: 3, batch: 4, warmup_epochs: 0.5, probe_clips: 1, ..Training::small() },
        ..Recipe::small()
    }
}

fn with(training: Training) -> Recipe {
    Recipe { training, ..recipe() }
}

/// Clips `n t h w c`: each video has its own brightness in each part of the frame, alike in both of its clips.
fn clips(n: usize, t: usize, c: usize, seed: u64) -> Tensor {
    let mut rng = stream(seed, 0, 0, Purpose::Test);
    let level = |video: usize, y: usize| ((video >> (2 * y / 16)) & 1) as f32;
    let value = |i: usize| level(i / (t * 256 * c), i / (16 * c) % 16) + rng.random_range(-0.1..0.1);
    let v: Vec<f32> = (0..n * t * 256 * c).map(value).collect();
    Tensor::from_f32([n, t, 16, 16, c], &v).unwrap()
}

pub fn views(n: usize) -> Views {
    let motion = [clips(n, 8, 1, 3), clips(n, 8, 1, 4)];
    Views {
        rgb: [clips(n, 4, 3, 1), clips(n, 4, 3, 2)],
        motion: Some(motion),
        targets: None,
        owners: (0..n as u32).collect(),
        key_clips: Vec::new(),
    }
}

fn steps(method: &Maclr, views: &Views, count: u64) -> Vec<Seen> {
    let recipe = Recipe { method: method.clone(), ..recipe() };
    let mut pathways = recipe.pathways(VIDEOS, 1, &Device::Cpu).unwrap();
    let sgd = Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 };
    let step = |i| {
        let mut rng = stream(1, 0, i, Purpose::KeyShuffle);
        method.step(&mut pathways, views, &mut rng, 0.02, &sgd).unwrap()
    };
    (0..count).map(step).collect()
}

/// The losses among a report's parts.
fn losses(seen: &Seen) -> impl Iterator<Item = (&'static str, f32)> {
    seen.parts.iter().filter(|(name, _)| name.starts_with("loss_")).copied()
}

pub fn method() -> Maclr {
    Maclr { momentum: 0.9, in_batch: true, w_vv: 0.5, ..Maclr::default() }
}

#[test]
fn every_preset_builds_its_networks() {
    let count = |recipe: Recipe| {
        let p = recipe.pathways(100, 0, &Device::Cpu).unwrap();
        (p.visual.encoder().trunk.features_dim(), p.motion.map(|m| m.encoder().trunk.features_dim()))
    };
    assert_eq!(count(Recipe::tiny()), (128, Some(128)));
    assert_eq!(count(Recipe::small()), (128, Some(128)));
    assert_eq!(count(Recipe::paper().unwrap()), (2048, Some(256)));
    // The release's trunk takes three channels (maclr.md 3.2): a map three times over.
    let trunk = |recipe: &Recipe| Trunk::with_params(&recipe.motion_net(), 0).1.count();
    assert_eq!(trunk(&Recipe::paper().unwrap()), 374_152);
    let mut flow = Recipe::paper().unwrap();
    flow.training.views.motion = MotionInput::Flow;
    assert_eq!((flow.motion_net().in_channels, Recipe::small().motion_net().in_channels), (2, 1));
    let rgb_only = Maclr { w_mm: 0.0, w_vm: 0.0, w_mv: 0.0, ..Maclr::default() };
    assert_eq!(count(Recipe { method: rgb_only, ..Recipe::small() }), (128, None));
}

#[test]
fn four_videos_are_learned_by_heart() {
    let seen = steps(&method(), &views(4), 100);
    assert_eq!(
        losses(&seen[0]).map(|(name, _)| name).collect::<Vec<_>>(),
        ["loss_vv", "loss_mm", "loss_vm", "loss_mv"]
    );
    let best = seen.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
    assert!(best.loss < 0.3 * seen[1].loss, "{} from {}", best.loss, seen[1].loss);
    assert!(["vv", "mm", "vm", "mv"].iter().all(|t| best.part(&format!("accuracy_{t}")) == Some(1.0)), "{best:?}");
    let weights = [0.5, 1.0, 1.0, 1.0];
    for s in &seen {
        let sum: f32 = losses(s).zip(weights).map(|((_, loss), w)| loss * w).sum();
        crate::support::close::assert_norm("the loss is the sum of its terms", &[s.loss], &[sum], 1e-6);
    }
}

/// The clip of the same moment is the other reading with the motion clips exchanged.
#[test]
fn the_two_cross_positives_are_one_exchange_apart() {
    let (a, b) = (views(4), views(4));
    let exchanged = Views { motion: b.motion.map(|[x, y]| [y, x]), ..b };
    let other = steps(&Maclr { cross_positive: CrossPositive::OtherClip, ..method() }, &a, 3);
    let same = steps(&Maclr { cross_positive: CrossPositive::SameClip, ..method() }, &exchanged, 3);
    let losses = |seen: &[Seen]| seen.iter().map(|s| s.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&other), losses(&same));
}

#[test]
fn terms_switch_off_one_by_one() {
    let all = views(4);
    let rgb = Views { motion: None, ..views(4) };
    let alone = Maclr { w_mm: 0.0, w_vm: 0.0, w_mv: 0.0, ..method() };
    let seen = steps(&alone, &rgb, 2);
    assert_eq!(losses(&seen[1]).map(|(name, _)| name).collect::<Vec<_>>(), ["loss_vv"]);
    let seen = steps(&Maclr { w_vv: 0.0, w_mv: 0.0, symmetric: true, ..method() }, &all, 2);
    assert_eq!(losses(&seen[1]).map(|(name, _)| name).collect::<Vec<_>>(), ["loss_mm", "loss_vm"]);
    let mut pathways = recipe().pathways(VIDEOS, 1, &Device::Cpu).unwrap();
    let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
    let mut step = |m: &Maclr, v: &Views| m.step(&mut pathways, v, &mut rng, 0.1, &Sgd::default()).unwrap_err();
    assert!(step(&method(), &rgb).to_string().contains("motion"));
    let nothing = Maclr { w_vv: 0.0, ..alone };
    assert!(step(&nothing, &all).to_string().contains("weight above 0"));
}

/// The terms between time steps by their formula, from the codes of the same networks: the positive is the key of the same
/// moment, and the keys of all other moments and videos are negatives.
#[test]
fn terms_between_time_steps_are_those_of_the_formula() {
    const TAU: f32 = 0.3;
    let same = CrossPositive::SameClip;
    let method = Maclr { w_steps: 0.7, steps_temperature: TAU, cross_positive: same, shuffle_keys: false, ..method() };
    let views = views(4);
    let new = || Recipe { method: method.clone(), ..recipe() }.pathways(VIDEOS, 1, &Device::Cpu).unwrap();
    let report = steps(&method, &views, 1).remove(0);
    let mut p = new();
    let (mode, whole, tape) = (Mode::Train { parts: 1 }, BatchPart::whole(), Tape::new());
    let motion = views.motion.as_ref().unwrap();
    let codes = |pathway: &mut Pathway, query: &Tensor, key: &Tensor| {
        let q = pathway.queries(&tape, query, mode, Precision::F32, None, &whole).unwrap().steps.unwrap();
        let k = pathway.keys(key, 1, None, Precision::F32, &Division::default()).unwrap().steps.unwrap();
        [q.value().load().unwrap().to_vec(), k.load().unwrap().to_vec()]
    };
    // The visual query and the motion key are of the first clip, the motion query and the visual key of the second.
    let [q_v, k_v] = codes(&mut p.visual, &views.rgb[0], &views.rgb[1]);
    let [q_m, k_m] = codes(p.motion.as_mut().unwrap(), &motion[1], &motion[0]);
    let d = recipe().code;
    assert_eq!(q_v.len() / d, 4 * 2, "two steps of four clips");
    for (name, q, k) in [("vm", &q_v, &k_m), ("mv", &q_m, &k_v)] {
        let n = q.len() / d;
        let score = |i: usize, j: usize| -> f64 {
            let products = q[i * d..][..d].iter().zip(&k[j * d..][..d]).map(|(a, b)| f64::from(*a) * f64::from(*b));
            products.sum::<f64>() / f64::from(TAU)
        };
        let one = |i: usize| (0..n).map(|j| score(i, j).exp()).sum::<f64>().ln() - score(i, i);
        let want = (0..n).map(one).sum::<f64>() / n as f64;
        let got = report.part(&format!("loss_steps_{name}")).unwrap();
        // Codes are the same. A score is a sum of four products over the temperature: some units of 2^-24 over 0.3.
        crate::support::close::assert_norm(name, &[got], &[want as f32], 3e-6);
    }
    let sum: f32 = losses(&report).zip([0.5, 1.0, 1.0, 1.0, 0.7, 0.7]).map(|((_, loss), w)| loss * w).sum();
    crate::support::close::assert_norm("the loss is the sum of its terms", &[report.loss], &[sum], 1e-6);
    // The heads are trained by them alone.
    let before = new();
    let mut after = new();
    let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
    method.step(&mut after, &views, &mut rng, 0.02, &Sgd::default()).unwrap();
    for (before, after) in
        [(&before.visual, &after.visual), (before.motion.as_ref().unwrap(), after.motion.as_ref().unwrap())]
    {
        let moved = |prefix: &str| {
            let of = before.query().iter().zip(after.query().iter()).filter(|((_, p), _)| p.name.starts_with(prefix));
            of.filter(|((_, p), _)| p.role.trains())
                .all(|((_, a), (_, b))| a.value.load().unwrap() != b.value.load().unwrap())
        };
        assert!(before.query().iter().any(|(_, p)| p.name.starts_with("head.steps.")) && moved("head.steps."));
    }
}

#[test]
fn terms_between_time_steps_are_refused_where_steps_do_not_match() {
    let same = Maclr { w_steps: 1.0, cross_positive: CrossPositive::SameClip, ..method() };
    let refused = |method: &Maclr, motion_frames: usize| {
        let recipe = recipe();
        let views = ViewSpec { motion_frames, ..recipe.training.views.clone() };
        let recipe =
            Recipe { method: method.clone(), training: Training { views, ..recipe.training.clone() }, ..recipe };
        let e = recipe.check().err().unwrap().to_string();
        assert!(e.contains("--w-steps"), "{e}");
        e
    };
    assert!(refused(&Maclr { cross_positive: CrossPositive::OtherClip, ..same.clone() }, 8).contains("same-clip"));
    assert!(refused(&Maclr { w_mm: 0.0, w_vm: 0.0, w_mv: 0.0, ..same.clone() }, 8).contains("motion"));
    assert!(refused(&same, 12).contains("--motion-frames"));
    // Twice as many steps are as many once each two are averaged.
    let views = ViewSpec { motion_frames: 16, ..recipe().training.views };
    let twice = Recipe { method: same.clone(), ..with(Training { views, ..recipe().training }) };
    twice.check().unwrap();
    let p = twice.pathways(VIDEOS, 1, &Device::Cpu).unwrap();
    let steps = |pathway: &Pathway, t| pathway.encoder().steps(pathway.query(), [t, 16, 16]).unwrap();
    assert_eq!([steps(&p.visual, 4), steps(p.motion.as_ref().unwrap(), 16)], [2, 2]);
    assert!(
        refused(&Maclr { alignment: Some(Alignment::from_scratch("layer2.0.conv1.0")), ..same }, 8)
            .contains("layer2.0")
    );
}

#[test]
fn a_queue_longer_than_the_data_is_refused_where_own_keys_are_not_masked() {
    let mut long = with(Training { queue: Some(VIDEOS + 1), ..recipe().training });
    assert!(long.pathways(VIDEOS, 0, &Device::Cpu).is_ok(), "a clip's own keys are masked, however old");
    long.method.mask_own = false;
    let e = long.pathways(VIDEOS, 0, &Device::Cpu).err().unwrap().to_string();
    assert!(e.contains("13") && e.contains("12 training videos") && e.contains("negatives"), "{e}");
    assert_eq!(recipe().training.queue_length(VIDEOS, 1, true).unwrap(), 12);
}
