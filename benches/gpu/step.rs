//! The whole training step of MaCLR with the paper's networks: both pathways, their keys, the queues, the update.

use super::cases::{Case, Work, random};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;
use tubelet::error::Result;
use tubelet::rng::{Purpose, stream};
use tubelet::ssl::maclr::{Maclr, Views};
use tubelet::tensor::{DType, Device};
use tubelet::train::maclr::Recipe;

/// Pairs of clips a step.
const BATCH: usize = 32;

/// The step in one number type. A step is not one kernel, so no floor is stated for its arithmetic and bytes.
pub fn maclr(dtype: DType) -> Case {
    let recipe = Recipe::paper().expect("the preset is valid; a test builds it");
    let (v, queue) = (recipe.views.clone(), recipe.queue_cap);
    let rgb = [BATCH, v.frames, v.side, v.side, 3];
    let motion = [BATCH, v.motion_frames, v.side, v.side, v.motion.channels()];
    let problem = json!({
        "op": "maclr_step", "rgb": rgb, "motion": motion, "queue": queue, "code": recipe.code,
        "head_hidden": recipe.head_hidden, "tau": recipe.method.temperature, "momentum": recipe.method.momentum,
        // Width, extent and stride in time of the stem, temporal extents of the stages.
        "visual_net": {"width": 64, "stem": [5, 2], "temporal": [1, 1, 3, 3]},
        "motion_net": {"width": 8, "stem": [1, 2], "temporal": [1, 1, 1, 1]},
    });
    let make = move |device: &Device| -> Result<Work> {
        let method = Maclr { dtype, groups: 1, ..recipe.method.clone() };
        let recipe = Recipe { method: method.clone(), queue: Some(queue), ..recipe.clone() };
        let pathways = Rc::new(RefCell::new(recipe.pathways(queue, 1, device)?));
        let clips = |shape, seed| random(shape, DType::F32, device, seed);
        let views = Rc::new(Views {
            rgb: [clips(rgb, 1)?, clips(rgb, 2)?],
            motion: Some([clips(motion, 3)?, clips(motion, 4)?]),
            owners: (0..BATCH as u32).collect(),
        });
        let (device, sgd) = (device.clone(), recipe.sgd);
        Ok(Box::new(move || {
            let (pathways, views, method, device) = (pathways.clone(), views.clone(), method.clone(), device.clone());
            Ok(Box::new(move || {
                let mut rng = stream(1, 0, 0, Purpose::KeyShuffle);
                method.step(&mut pathways.borrow_mut(), &views, &mut rng, 0.01, &sgd)?;
                Ok(device)
            }))
        }))
    };
    Case {
        name: format!("train_step/maclr/paper-{BATCH}/{}", dtype.name()),
        dtype,
        problem,
        flops: 0,
        bytes: 0,
        make: Box::new(make),
    }
}
