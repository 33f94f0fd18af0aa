//! The complete training step of MaCLR with the paper's networks (both pathways, their key networks, queues and
//! updates), and the update alone.

use super::cases::{Case, Work, random};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;
use tubelet::error::Result;
use tubelet::nn::{Classifier, Net, Precision};
use tubelet::ops::sgd::{self, Rate, Sgd, Update, Weights};
use tubelet::rng::{Purpose, stream};
use tubelet::shape::Shape;
use tubelet::ssl::maclr::{Maclr, Views};
use tubelet::ssl::supervised::{Learner, Supervised};
use tubelet::tensor::{DType, Device, Tensor};
use tubelet::train::maclr::Recipe;
use tubelet::train::recipe::Training;

/// Pairs of clips per step.
const BATCH: usize = 32;

/// The step in one data type. A step is not a single kernel, so no minimum work is stated.
pub fn maclr(dtype: DType) -> Case {
    let recipe = Recipe::paper().expect("the preset is valid; a test builds it");
    let (v, queue) = (recipe.training.views.clone(), recipe.training.queue_cap);
    let rgb = [BATCH, v.frames, v.side, v.side, 3];
    let motion = [BATCH, v.motion_frames, v.side, v.side, v.motion_channels()];
    let problem = json!({
        "op": "maclr_step", "rgb": rgb, "motion": motion, "queue": queue, "code": recipe.code,
        "head_hidden": recipe.head_hidden, "tau": recipe.method.temperature, "momentum": recipe.method.momentum,
        // Width, extent and stride in time of the stem, temporal extents of the stages.
        "visual_net": {"width": 64, "stem": [5, 2], "temporal": [1, 1, 3, 3]},
        "motion_net": {"width": 8, "stem": [1, 2], "temporal": [1, 1, 1, 1]},
    });
    let make = move |device: &Device| -> Result<Work> {
        let method = Maclr { precision: dtype.into(), groups: 1, ..recipe.method.clone() };
        let recipe = Recipe {
            method: method.clone(),
            training: Training { queue: Some(queue), ..recipe.training.clone() },
            ..recipe.clone()
        };
        let pathways = Rc::new(RefCell::new(recipe.pathways(queue, 1, device)?));
        let clips = |shape, seed| random(shape, DType::F32, device, seed);
        let views = Rc::new(Views {
            rgb: [clips(rgb, 1)?, clips(rgb, 2)?],
            motion: Some([clips(motion, 3)?, clips(motion, 4)?]),
            targets: None,
            owners: (0..BATCH as u32).collect(),
            key_clips: Vec::new(),
        });
        let (device, sgd) = (device.clone(), recipe.training.sgd);
        Ok(Box::new(move || {
            let (pathways, views, method, device) = (pathways.clone(), views.clone(), method.clone(), device.clone());
            Ok(Box::new(move || {
                let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
                method.step(&mut pathways.borrow_mut(), &views, &mut rng, 0.01, &sgd)?;
                Ok(device)
            }))
        }))
    };
    Case { name: format!("step/maclr/{}", dtype.name()), dtype, problem, flops: 0, bytes: 0, make: Box::new(make) }
}

/// A training step with labels of two of the networks that `cargo xtask model` predicts, under its names.
pub fn networks() -> [Case; 2] {
    [("slow_r50", Net::slow_r50(), [8, 224, 224]), ("r2plus1d_18", Net::r2plus1d_18(), [16, 112, 112])].map(
        |(name, net, [t, h, w])| {
            const CLIPS: usize = 64;
            let make = move |device: &Device| -> Result<Work> {
                let (classifier, params) = Classifier::new(&net, 400, 1)?;
                let learner = Rc::new(RefCell::new(Learner::new(classifier, params.to(device)?)?));
                let clips = random([CLIPS, t, h, w, 3], DType::F32, device, 1)?;
                let device = device.clone();
                Ok(Box::new(move || {
                    let (learner, clips, device) = (learner.clone(), clips.clone(), device.clone());
                    Ok(Box::new(move || {
                        let precision = Precision::Bf16;
                        let how = Supervised { dropout: 0.0, clip_norm: None, frozen: false, precision };
                        let mut rng = stream(1, 0, 0, Purpose::Dropout);
                        let part = std::iter::once(Ok((clips, (0..CLIPS as u32).collect())));
                        learner.borrow_mut().step(&how, CLIPS, part, &mut rng, 0.01, &Sgd::default())?;
                        Ok(device)
                    }))
                }))
            };
            Case {
                name: format!("train_step/{name}/b{CLIPS}/bf16"),
                dtype: DType::BF16,
                problem: json!({"op": "train_step", "net": name, "clips": CLIPS}),
                flops: 0,
                bytes: 0,
                make: Box::new(make),
            }
        },
    )
}

/// SGD, moving average and bf16 copies of all weights of SlowOnly-R50.
pub fn update() -> Case {
    let (_, params) = Classifier::new(&Net::slow_r50(), 400, 1).expect("the network is valid; a test builds it");
    let shapes: Vec<Shape> = params.trainable().map(|(_, p)| p.value.shape()).collect();
    let len: usize = shapes.iter().map(|s| s.len()).sum();
    let problem = json!({"op": "sgd", "shapes": shapes.iter().map(|s| s.dims().to_vec()).collect::<Vec<_>>()});
    let make = move |device: &Device| -> Result<Work> {
        let set = |dtype: DType, seed: u32| -> Result<Rc<RefCell<Vec<Tensor>>>> {
            let all: Result<Vec<Tensor>> = shapes.iter().map(|s| random(*s, dtype, device, seed)).collect();
            Ok(Rc::new(RefCell::new(all?)))
        };
        let full = [set(DType::F32, 1)?, set(DType::F32, 2)?, set(DType::F32, 3)?, set(DType::F32, 4)?];
        let half = [set(DType::BF16, 5)?, set(DType::BF16, 6)?];
        let device = device.clone();
        Ok(Box::new(move || {
            let (full, half, device) = (full.clone(), half.clone(), device.clone());
            Ok(Box::new(move || {
                let [w, grad, velocity, key] = full.each_ref().map(|set| set.borrow_mut());
                let [half, key_half] = half.each_ref().map(|set| set.borrow_mut());
                let (mut w, mut velocity, mut key, mut half, mut key_half) = (w, velocity, key, half, key_half);
                let rest = velocity.iter_mut().zip(key.iter_mut()).zip(half.iter_mut().zip(key_half.iter_mut()));
                let mut steps: Vec<Update> = (w.iter_mut().zip(grad.iter()).zip(rest))
                    .map(|((w, g), ((v, key), (half, key_half)))| Update {
                        w: Weights::Trained(w),
                        update: Some((g, v, true)),
                        key: Some(key),
                        half: Some(half),
                        key_half: Some(key_half),
                    })
                    .collect();
                sgd::update_all(&Sgd::default(), Rate::Value(0.01), 0.999, None, &mut steps)?;
                Ok(device)
            }))
        }))
    };
    Case {
        name: "sgd/step_all/slow_r50/f32".into(),
        dtype: DType::F32,
        problem,
        flops: 10 * len as u64,
        // Four f32 arrays read, three written, two bf16 arrays written.
        bytes: 32 * len as u64,
        make: Box::new(make),
    }
}
