//! What defines a MaCLR run except its data: a plain struct, and presets.

use super::{MOTION, VISUAL};
use crate::dist::sum::Wire;
use crate::error::{Error, Result};
use crate::flow::motion::MotionInput;
use crate::nn::{Encoder, HeadSpec, Net, Params, SmallR3d};
use crate::ops::sgd::Sgd;
use crate::ssl::alignment::Alignment;
use crate::ssl::maclr::{CrossPositive, Maclr, Pathways};
use crate::ssl::pathway::Pathway;
use crate::ssl::queue::Queue;
use crate::tensor::Device;
use crate::train::limits;
use crate::train::recipe::{MethodNumbers, Training, fitting};
use crate::train::views::{Focus, ViewSpec};
use crate::weights::{Config, ImageHead, InputSpec, Loaded, Networks, start_from};
use serde::Serialize;
use std::path::PathBuf;

/// Everything that defines a run except its data. Presets are starting points; every field may be changed.
#[derive(Clone, Debug, Serialize)]
pub struct Recipe {
    /// The visual trunk.
    pub visual: Net,
    /// The motion trunk; its input channels are determined by the motion clips ([`Recipe::motion_net`]).
    pub motion: Net,
    /// A file of weights to initialise the visual trunk from ([`start_from`]); otherwise its weights are random.
    #[serde(skip)] // a path, which may not be valid Unicode
    pub init: Option<PathBuf>,
    /// Width of the hidden layers of the projection heads.
    pub head_hidden: usize,
    /// Whether the heads have batch norm before their ReLU.
    pub head_norm: bool,
    /// Length of the codes.
    pub code: usize,
    /// Losses and momentum.
    pub method: Maclr,
    /// Clips, queue, epochs and learning rate.
    pub training: Training,
}

impl Recipe {
    /// For procedural videos and first experiments: under three minutes on two cores. Their classes are directions, so
    /// the motion network's input is the flow itself: edges of flow look the same for opposite directions.
    #[must_use]
    pub fn tiny() -> Recipe {
        let views =
            ViewSpec { stride: 2, motion: MotionInput::Flow, motion_clamp: 2.0, motion_frames: 8, ..ViewSpec::small() };
        let small = Self::small();
        Recipe { training: Training { views, probe_clips: 3, epochs: 48, ..small.training }, ..small }
    }

    /// For a few hundred real videos on two cores: takes minutes.
    #[must_use]
    pub fn small() -> Recipe {
        Recipe {
            visual: small_net(3, 1),
            motion: small_net(1, 2),
            init: None,
            head_hidden: 128,
            head_norm: true,
            code: 64,
            method: Maclr {
                w_vv: 0.1,
                momentum: 0.99,
                cross_positive: CrossPositive::SameClip,
                in_batch: true,
                ..Maclr::default()
            },
            training: Training::small(),
        }
    }

    /// [`Recipe::small`], trained for longer and at a higher rate: what reaches most on held-out people
    /// (`docs/experiments.md`), in seven times the time.
    #[must_use]
    pub fn long() -> Recipe {
        let small = Self::small();
        Recipe { training: Training { epochs: 400, lr: 0.06, ..small.training }, ..small }
    }

    /// The paper's networks and sizes (`docs/papers/maclr.md` sections 2, 3, 9), for a machine with enough memory.
    pub fn paper() -> Result<Recipe> {
        Ok(Recipe {
            visual: Net::cvrl_r3d50(),
            motion: Net::motion_r2d50(8)?,
            init: None,
            head_hidden: 2048,
            head_norm: false,
            code: 128,
            method: Maclr { groups: 4, ..Maclr::default() },
            training: Training {
                views: ViewSpec::paper(),
                min_frames: 0,
                queue: None,
                queue_cap: 65536,
                epochs: 200,
                batch: 64,
                accumulate: 1,
                sync_bn: false,
                wire: Wire::F32,
                lr: 0.1,
                lr_floor: 0.0,
                warmup_epochs: 35.0,
                whole_cosine: true,
                sgd: Sgd { momentum: 0.9, nesterov: true, weight_decay: 1e-4 },
                probe_clips: 10,
            },
        })
    }

    /// Checks every number, the constraints between them, and that both networks accept clips of this size, before
    /// anything is read or decoded.
    ///
    /// # Errors
    /// `Param` naming the option, or the field if no option sets it, with its value and its range.
    pub fn check(&self) -> Result<()> {
        self.check_numbers()?;
        let [[t, h, w, _], [motion_t, ..]] = self.training.views.dims();
        fitting(&self.visual, [t, h, w], "--frames and --side")?;
        if self.method.uses_motion() {
            fitting(&self.motion, [motion_t, h, w], "--motion-frames and --side")?;
        }
        if self.method.w_steps != 0.0 {
            self.parts_of_time()?;
        }
        Ok(())
    }

    /// Into how many parts the terms between time steps divide the time of both networks' clips: the steps of the network that
    /// has fewer.
    ///
    /// # Errors
    /// `Param` when those of the other are no multiple of it, or the alignment is to read another module.
    fn parts_of_time(&self) -> Result<usize> {
        let [[t, h, w, _], [motion_t, ..]] = self.training.views.dims();
        let of = |net: &Net, clip: [usize; 3]| -> Result<(usize, String)> {
            let (encoder, params) = self.encoder(net, 0)?;
            Ok((encoder.steps(&params, clip)?, encoder.steps_module().unwrap_or_default().to_owned()))
        };
        let (rgb, module) = of(&self.visual, [t, h, w])?;
        let (motion, _) = of(&self.motion_net(), [motion_t, h, w])?;
        let refuse = |rule: String| Err(Error::param("settings", "--w-steps", self.method.w_steps, rule));
        if let Some(tap) = self.method.alignment.as_ref().and_then(|of| of.tap()).filter(|tap| *tap != module) {
            return refuse(format!(
                "it reads {module}, and --align-module {tap} another module: they must be the same"
            ));
        }
        let parts = rgb.min(motion);
        if !rgb.is_multiple_of(parts) || !motion.is_multiple_of(parts) {
            return refuse(format!(
                "the visual network has {rgb} time steps for its clips and the motion network {motion}: one must be a multiple of \
                 the other (--frames, --motion-frames)"
            ));
        }
        Ok(parts)
    }

    pub(super) fn check_numbers(&self) -> Result<()> {
        let m = &self.method;
        let alignment = m.alignment.as_ref().map_or([0.0; 3], Alignment::weights);
        let weights = [(limits::W_VV, m.w_vv), (limits::W_MM, m.w_mm), (limits::W_VM, m.w_vm), (limits::W_MV, m.w_mv)];
        let (weights, temperatures) = (&weights, &[m.temperature]);
        let numbers = MethodNumbers { weights, alignment, temperatures, momentum: m.momentum, groups: m.groups };
        limits::W_STEPS.check(m.w_steps)?;
        m.check_steps()?;
        self.check_tubelets()?;
        numbers.check(&self.training)?;
        let (drift, epochs) = (self.training.views.drift, self.training.epochs);
        if drift > epochs {
            let rule = format!("the clips would not be as far apart as asked for in any of the {epochs} --epochs");
            return Err(Error::param("settings", limits::DRIFT.option, drift, rule));
        }
        Ok(())
    }

    /// Checks what samples with synthetic tubelets leave room for: nothing that knows how the video itself moves.
    fn check_tubelets(&self) -> Result<()> {
        let (m, views) = (&self.method, &self.training.views);
        let excluded = [
            (m.uses_motion(), "they are for RGB alone: --w-mm 0 --w-vm 0 --w-mv 0"),
            (
                m.alignment.as_ref().is_some_and(Alignment::is_on),
                "the flow of the videos does not show them: --w-align 0",
            ),
            (views.focus != Focus::default(), "clips and crops are random: --motion-sampling off --motion-crop off"),
            (views.background_swap > 0.0, "the background is another video's already: --background-swap 0"),
            (views.drift > 0, "the two clips are not of one video: --drift 0"),
        ];
        match excluded.into_iter().find(|(is, _)| *is && views.tubelets > 0) {
            Some((_, rule)) => Err(Error::param("settings", "--tubelets", views.tubelets, rule)),
            None => Ok(()),
        }
    }

    /// The head for time steps, if a term between these is computed: like that for clips.
    fn steps_head(&self) -> Option<HeadSpec> {
        (self.method.w_steps != 0.0).then(|| self.head())
    }

    fn head(&self) -> HeadSpec {
        HeadSpec { hidden: self.head_hidden, code: self.code, normalised: self.head_norm }
    }

    /// What its networks are, by the prefixes of their names in the weights.
    #[must_use]
    pub fn networks(&self) -> Networks {
        let config = |net: &Net, what: &str, input: InputSpec| {
            let origin = format!("{what} network, pre-trained with MaCLR");
            let config = Config::new(net, origin).maclr(self.head()).input(input);
            if let Some(steps) = self.steps_head() { config.steps(steps) } else { config }
        };
        let [rgb, motion] = self.training.views.inputs();
        let visual = (VISUAL.to_owned(), config(&self.visual, "The visual", rgb));
        let motion =
            self.method.uses_motion().then(|| (MOTION.to_owned(), config(&self.motion_net(), "The motion", motion)));
        [visual].into_iter().chain(motion).collect()
    }

    /// Loads [`Recipe::init`] into a temporary network of the right kind, to report what it would do or why it cannot.
    ///
    /// # Errors
    /// As [`start_from`].
    pub fn check_init(&self) -> Result<Option<Loaded>> {
        Ok(self.init.is_some().then(|| self.visual_start(0)).transpose()?.and_then(|(.., inflated)| inflated))
    }

    /// The visual network with its initial weights.
    fn visual_start(&self, seed: u64) -> Result<(Encoder, Params, Option<Loaded>)> {
        let (encoder, mut params) = self.encoder(&self.visual, seed)?;
        let init = self.init.as_ref();
        let start = init.map(|path| start_from(path, &self.visual, &mut params, ImageHead::Dropped));
        let inflated = start.transpose()?;
        Ok((encoder, params, inflated))
    }

    fn encoder(&self, net: &Net, seed: u64) -> Result<(Encoder, Params)> {
        Encoder::with_heads(net, self.head(), self.steps_head(), seed)
    }

    /// The motion trunk with as many input channels as a motion clip has.
    #[must_use]
    pub fn motion_net(&self) -> Net {
        Net { in_channels: self.training.views.motion_channels(), ..self.motion.clone() }
    }

    /// The same recipe with alignment targets on the grid of the aligned module, if there is one.
    ///
    /// # Errors
    /// `Param` when the visual network has no such module.
    pub fn with_target(mut self) -> Result<Recipe> {
        let Some(alignment) = &self.method.alignment else { return Ok(self) };
        let (encoder, params) = Encoder::new(&self.visual, self.head_hidden, self.code, 0)?;
        let [[t, h, w, _], _] = self.training.views.dims();
        self.training.views.focus.target = alignment.grid(&encoder.trunk, &params, [t, h, w])?;
        Ok(self)
    }

    /// The two pathways in their initial state, on `device`. Their initial weights do not depend on it.
    ///
    /// # Errors
    /// As [`Training::queue_length`] and [`start_from`]; `Param` for invalid network sizes; on a GPU `OutOfMemory` and
    /// `Driver`.
    pub fn pathways(&self, videos: usize, seed: u64, device: &Device) -> Result<Pathways> {
        Ok(self.start(videos, seed, device)?.0)
    }

    /// The same, and what the visual network loaded from [`Recipe::init`].
    pub(super) fn start(&self, videos: usize, seed: u64, device: &Device) -> Result<(Pathways, Option<Loaded>)> {
        let queue = self.training.queue_length(videos, 1, self.method.mask_own)?;
        let parts = (self.method.w_steps != 0.0).then(|| self.parts_of_time()).transpose()?;
        let pathway = |(encoder, params): (Encoder, Params)| {
            let encoder = if let Some(parts) = parts { encoder.dividing_time(parts) } else { encoder };
            Pathway::new(encoder, params.to(device)?, Queue::new(queue, self.code)?.to(device)?)
        };
        let net = self.motion_net();
        let motion = self.method.uses_motion().then(|| pathway(self.encoder(&net, seed ^ 1 << 32)?)).transpose()?;
        let (encoder, params, inflated) = self.visual_start(seed)?;
        Ok((Pathways { visual: pathway((encoder, params))?, motion }, inflated))
    }
}

/// A stem and three residual stages of two 3x3x3 convolutions: 16, 32, 64, 128 channels. `stem_t` is the stem's
/// temporal stride: a motion clip has twice the frames of an RGB clip.
pub(in crate::train) fn small_net(in_channels: usize, stem_t: usize) -> Net {
    let spec = SmallR3d {
        in_channels,
        widths: vec![16, 32, 64, 128],
        blocks: vec![0, 1, 1, 1],
        convs: 2,
        residual: true,
        stem_kernel: [3, 5, 5],
        stem_stride: [stem_t, 2, 2],
        strides: vec![[1; 3], [1, 2, 2], [2; 3], [2; 3]],
        temporal: vec![3; 4],
    };
    let net = spec.net().expect("the preset's extents are valid; a test builds every preset");
    // In so shallow a network, blocks that start as their 1x1x1 shortcuts take long to learn anything temporal.
    Net { zero_last_scale: false, ..net }
}
