//! Where a network lies in a file, and whose names it has.
//!
//! A program puts its network below names of its own: `state_dict.`, `module.` (a wrapper for several GPUs), `encoder_q.`
//! (contrastive learning). [`find`] asks for the one thing that does not vary, the name of the first convolution, in each of the
//! [`Naming`]s; what stands before it is the prefix of the whole network. [`PUBLISHED`] lists the files this was made for.

use super::{Info, InputSpec, RgbInput, Source};
use crate::error::{Error, Result};
use crate::nn::nets::Naming;
use std::collections::BTreeMap;
use std::fmt;

/// A published file, or a kind of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// What it is.
    pub name: &'static str,
    /// What stands before the names of the network.
    pub prefix: &'static str,
    /// A tensor by which it is told from others, after the prefix.
    pub marker: &'static str,
    /// The network it fits, by its name in [`crate::nn::ARCHES`].
    pub arch: &'static str,
    /// Tensors of its head, and the parameters of [`crate::nn::Encoder`] or [`crate::nn::Classifier`] that correspond.
    pub heads: &'static [(&'static str, &'static str)],
    /// The RGB clips that it was trained with.
    pub input: RgbInput,
    /// Where its names are from.
    pub source: &'static str,
}

/// MaCLR's and PySlowFast's Slow: 8 frames 8 apart, one grey value for all colours (`docs/papers/maclr.md` section 3).
const SLOW: RgbInput =
    RgbInput { frames: 8, stride: 8, fps: Some(30.0), side: 224, short_side: 256, mean: [0.45; 3], std: [0.225; 3] };

/// MCL's, with ImageNet's colours (`docs/papers/mcl.md`). Image networks have no frames of their own: it is started from them.
const MCL: RgbInput =
    RgbInput { frames: 16, stride: 2, fps: None, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], ..SLOW };

/// Those of torchvision's weights `KINETICS400_V1` (`models/video/resnet.py`, `transforms/_presets.py`).
const TORCHVISION: RgbInput = RgbInput {
    frames: 16,
    stride: 1,
    fps: Some(15.0),
    side: 112,
    short_side: 128,
    mean: [0.43216, 0.394_666, 0.37645],
    std: [0.22803, 0.22145, 0.216_989],
};

/// Published files and where their names are from. The first row that fits a file describes it.
pub const PUBLISHED: &[Published] = &[
    Published {
        name: "MaCLR's release (RGB and motion in one module: pathways 0 and 1)",
        prefix: "model_state.encoder_q.",
        marker: "head.pathway0_projection_0.weight",
        arch: "cvrl_r3d50",
        heads: &[
            ("head.pathway0_projection_0", "head.projection.0"),
            ("head.pathway0_projection_1", "head.projection.2"),
        ],
        input: SLOW,
        source: "amazon-science/self-supervised-maclr: utils/checkpoint.py, models/head_helper.py",
    },
    Published {
        name: "PySlowFast's contrastive learning: ρMoCo, BYOL, SimCLR, SwAV",
        prefix: "model_state.backbone.",
        marker: "s1.pathway0_stem.conv.weight",
        arch: "slow_r50",
        heads: &[],
        input: SLOW,
        source: "facebookresearch/SlowFast: models/contrastive.py, projects/contrastive_ssl",
    },
    Published {
        name: "PySlowFast",
        prefix: "model_state.",
        marker: "s1.pathway0_stem.conv.weight",
        arch: "slow_r50",
        heads: &[("head.projection", "blocks.5.proj")],
        input: SLOW,
        source: "facebookresearch/SlowFast: utils/checkpoint.py, models/stem_helper.py, models/resnet_helper.py",
    },
    Published {
        name: "pytorchvideo's slow_r50",
        prefix: "model_state.",
        marker: "blocks.0.conv.weight",
        arch: "slow_r50",
        heads: &[("blocks.5.proj", "blocks.5.proj")],
        input: SLOW,
        source: "facebookresearch/pytorchvideo: models/hub/resnet.py, models/resnet.py",
    },
    Published {
        name: "MoCo of an image network",
        prefix: "state_dict.module.encoder_q.",
        marker: "layer1.0.conv1.weight",
        arch: "p3d_a50",
        heads: &[("fc.0", "nce_inter_head.head.0"), ("fc.2", "nce_inter_head.head.2")],
        input: MCL,
        source: "facebookresearch/moco: moco/builder.py, main_moco.py",
    },
    Published {
        name: "MCL's release",
        prefix: "model.module.backbone.",
        marker: "layer1.0.conv2_t.weight",
        arch: "p3d_a50",
        heads: &[],
        input: MCL,
        source: "YihengZhang-CV/MCL-Motion-Focused-Contrastive-Learning: train.py, model/encoder.py",
    },
    Published {
        name: "torchvision's r2plus1d_18",
        prefix: "",
        marker: "stem.3.weight",
        arch: "r2plus1d_18",
        heads: &[("fc", "fc")],
        input: TORCHVISION,
        source: "pytorch/vision: models/video/resnet.py",
    },
    Published {
        name: "torchvision's r3d_18",
        prefix: "",
        marker: "layer4.1.conv2.0.weight",
        arch: "r3d_18",
        heads: &[("fc", "fc")],
        input: TORCHVISION,
        source: "pytorch/vision: models/video/resnet.py",
    },
    Published {
        name: "torchvision's resnet50",
        prefix: "",
        marker: "layer3.5.conv3.weight",
        arch: "r2d50",
        heads: &[("fc", "fc")],
        input: MCL,
        source: "pytorch/vision: models/resnet.py",
    },
];

/// The first convolution of each naming, and a second tensor where the first alone may be of something else.
const STEMS: [(Naming, &str, &str); 5] = [
    (Naming::SlowFast { pathway: 0 }, "s1.pathway0_stem.conv.weight", ""),
    (Naming::SlowFast { pathway: 1 }, "s1.pathway1_stem.conv.weight", ""),
    (Naming::PytorchVideo, "blocks.0.conv.weight", ""),
    (Naming::Torchvision, "stem.0.weight", ""),
    (Naming::Image, "conv1.weight", "layer1.0.conv1.weight"),
];

/// Parts of a prefix that belong to a moving average of a network, not to the network: MoCo's, PySlowFast's, MCL's, BYOL's, DINO's.
const AVERAGES: [&str; 8] = [
    "encoder_k",
    "backbone_hist",
    "model_ema",
    "ema",
    "momentum_encoder",
    "target_encoder",
    "target_network",
    "teacher",
];

/// Parts of a prefix that say nothing of what the network is for.
const WRAPPERS: [&str; 10] = [
    "state_dict",
    "model_state",
    "model_state_dict",
    "model",
    "net",
    "module",
    "encoder_q",
    "encoder",
    "backbone",
    "classifier",
];

/// A network in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What stands before its names, with the dot at its end.
    pub prefix: String,
    /// Whose names it has.
    pub naming: Naming,
    /// Whether it is an image network: its first convolution has no extent in time.
    pub image: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.prefix.as_str() {
            "" => f.write_str("at the top"),
            prefix => write!(f, "below `{prefix}`"),
        }
    }
}

impl Place {
    fn has(&self, parts: &[&str]) -> impl Iterator<Item = bool> {
        self.prefix.split_terminator('.').map(move |part| parts.contains(&part)).collect::<Vec<_>>().into_iter()
    }

    /// Whether its names are below those of `at`, which may lack the dot at its end.
    fn is_below(&self, at: &str) -> bool {
        self.prefix.trim_end_matches('.') == at.trim_end_matches('.')
    }

    /// Whether it is the moving average of another network.
    #[must_use]
    pub fn is_average(&self) -> bool {
        self.has(&AVERAGES).any(|found| found)
    }

    /// The clips that it was trained with, if it is a published network of RGB clips or images.
    #[must_use]
    pub fn input(&self, tensors: &BTreeMap<String, Info>) -> Option<InputSpec> {
        let known = self.published(tensors).filter(|_| self.naming != Naming::SlowFast { pathway: 1 });
        known.map(|known| known.input.into())
    }

    /// What is known of it.
    #[must_use]
    pub fn published(&self, tensors: &BTreeMap<String, Info>) -> Option<&'static Published> {
        let fits =
            |p: &&Published| p.prefix == self.prefix && tensors.contains_key(&format!("{}{}", p.prefix, p.marker));
        PUBLISHED.iter().find(fits)
    }
}

/// The published network that a file is recognised as, below `at` if this is given. Moving averages are passed over, and the
/// pathway of motion beside one of RGB.
#[must_use]
pub fn recognise(tensors: &BTreeMap<String, Info>, at: Option<&str>) -> Option<&'static Published> {
    let wanted = |p: &Place| at.map_or(!p.is_average(), |at| p.is_below(at));
    let motion = Naming::SlowFast { pathway: 1 };
    find(tensors).iter().filter(|p| wanted(p) && p.naming != motion).find_map(|place| place.published(tensors))
}

/// All networks in a file.
#[must_use]
pub fn find(tensors: &BTreeMap<String, Info>) -> Vec<Place> {
    let mut found = Vec::new();
    for (name, info) in tensors {
        for (naming, stem, second) in STEMS {
            let Some(prefix) = name.strip_suffix(stem).filter(|p| p.is_empty() || p.ends_with('.')) else { continue };
            if second.is_empty() || tensors.contains_key(&format!("{prefix}{second}")) {
                found.push(Place { prefix: prefix.to_owned(), naming, image: info.shape.len() == 4 });
            }
        }
    }
    found
}

/// The network of a file that starts one with the names `naming`:
///
/// 1. that below `at`, if this is given;
/// 2. otherwise one with these names if there is any, and an RGB pathway rather than one of motion;
/// 3. of those, none that is a moving average of another (`encoder_k`, `backbone_hist`, `model_ema`, …);
/// 4. of those, one below names that are only wrappers (`state_dict.module.`), if there is any.
///
/// # Errors
/// `Format` when there is none, or when several remain.
pub fn choose(source: &Source, naming: Naming, at: Option<&str>) -> Result<Place> {
    let all = find(source.tensors());
    if all.is_empty() {
        let names: Vec<String> = STEMS.iter().map(|(_, stem, _)| format!("`{stem}`")).collect();
        let what = format!("no network is found in it: no name ends with one of {}", names.join(", "));
        return Err(Error::content(source.path(), what));
    }
    let keep = |places: Vec<Place>, wanted: &dyn Fn(&Place) -> bool| match places.iter().any(wanted) {
        true => places.into_iter().filter(wanted).collect(),
        false => places,
    };
    let prefixes = |places: &[Place]| places.iter().map(Place::to_string).collect::<Vec<_>>().join(", ");
    let mut left: Vec<Place> = match at {
        None => all,
        Some(at) => {
            let below: Vec<Place> = all.iter().filter(|p| p.is_below(at)).cloned().collect();
            if below.is_empty() {
                let what = format!("there is no network below `{at}`, only {}", prefixes(&all));
                return Err(Error::content(source.path(), what));
            }
            below
        }
    };
    left = keep(left, &|p| p.naming == naming);
    left = keep(left, &|p| p.naming != Naming::SlowFast { pathway: 1 });
    left = keep(left, &|p| !p.is_average());
    left = keep(left, &|p| p.has(&WRAPPERS).all(|known| known));
    match <[Place; 1]>::try_from(left) {
        Ok([one]) => Ok(one),
        Err(several) => {
            let what = format!(
                "it has several networks; say which one, by what stands before its names: {}",
                prefixes(&several)
            );
            Err(Error::content(source.path(), what))
        }
    }
}
