//! Options for MCL's additions to a method: clips and crops chosen by motion, and the alignment loss.

use super::args::{one_of, within};
use super::options::set;
use anyhow::{Context, Result};
use clap::ValueEnum;
use tubelet::ops::alignment::{TargetNorm, Terms};
use tubelet::ssl::alignment::{Alignment, Form};
use tubelet::train::focus::Focus;
use tubelet::train::limits;

/// On or off.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// A term of the alignment loss.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Term {
    SpaceTime,
    Space,
    Time,
}

/// Values of `--align-form`, named as in `settings.json`.
const FORMS: [(&str, Form); 3] =
    [("weight-gradient", Form::WeightGradient), ("grad-cam", Form::GradCam), ("magnitude", Form::Magnitude)];

/// The options, for `#[command(flatten)]`.
#[derive(clap::Args)]
pub struct FocusOptions {
    /// Choose clip starts by motion, with probability 0.7
    #[arg(long, value_name = "SWITCH")]
    motion_sampling: Option<Switch>,
    /// Crops that keep motion
    #[arg(long, value_name = "SWITCH")]
    motion_crop: Option<Switch>,
    /// Reproduce the released code's motion sampling and crops, including boxes for motionless clips
    #[arg(long)]
    legacy_focus: bool,

    /// Weight of the alignment loss
    #[arg(long, value_parser = within::<f32>(limits::W_ALIGN))]
    w_align: Option<f32>,
    /// Its weight during the warm-up epochs [default: as --w-align if that is given]
    #[arg(long, value_parser = within::<f32>(limits::W_ALIGN_WARMUP))]
    w_align_warmup: Option<f32>,
    /// Its weight in the last epoch, to which it goes from --w-align linearly [default: as --w-align]
    #[arg(long, value_parser = within::<f32>(limits::W_ALIGN_END))]
    w_align_end: Option<f32>,
    /// Form of the alignment map: weight-gradient (the release's), grad-cam, or magnitude (Grad-CAM with magnitudes of
    /// its weights)
    #[arg(long, value_parser = one_of(FORMS))]
    align_form: Option<Form>,
    /// Treat the map's channel weights as constants: nothing is differentiated twice
    #[arg(long, value_name = "SWITCH")]
    align_detached: Option<Switch>,
    /// The module whose output is aligned, such as layer4.2.conv3 (a convolution) or layer3.0 (a block)
    #[arg(long)]
    align_module: Option<String>,
    /// Terms of the alignment loss, one or more, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "TERMS")]
    align_terms: Option<Vec<Term>>,
    /// Softmax over frames of the target's sums: unscaled (raw, the release) or divided by their mean (mean)
    #[arg(long, value_name = "NORM", value_parser = one_of([("raw", TargetNorm::Raw), ("mean", TargetNorm::Mean)]))]
    target_norm: Option<TargetNorm>,
    /// Subtract the means of both maps before comparing them, so that a flat map scores 0
    #[arg(long, value_name = "SWITCH")]
    align_centred: Option<Switch>,
}

impl FocusOptions {
    /// Applies the given options.
    pub fn apply(&self, focus: &mut Focus, alignment: &mut Alignment) -> Result<()> {
        match self.motion_sampling {
            Some(Switch::On) => focus.sampling = 0.7,
            Some(Switch::Off) => focus.sampling = 0.0,
            None => {}
        }
        set(&mut focus.crop, self.motion_crop.map(|s| s == Switch::On));
        focus.legacy |= self.legacy_focus;
        set(&mut alignment.weight, self.w_align);
        set(&mut alignment.warm_weight, self.w_align_warmup.or(self.w_align));
        alignment.last_weight = self.w_align_end.or(alignment.last_weight);
        set(&mut alignment.form, self.align_form);
        set(&mut alignment.detached, self.align_detached.map(|s| s == Switch::On));
        if let Some(module) = &self.align_module {
            alignment.module.clone_from(module);
        }
        if let Some(given) = &self.align_terms {
            let weight = |term| f32::from(u8::from(given.contains(&term)));
            let [spatio_temporal, spatial, temporal] = [Term::SpaceTime, Term::Space, Term::Time].map(weight);
            alignment.cosines.terms = Terms { spatio_temporal, spatial, temporal };
        }
        set(&mut alignment.cosines.target_norm, self.target_norm);
        set(&mut alignment.cosines.centred, self.align_centred.map(|s| s == Switch::On));
        focus.check().context("--motion-sampling, --motion-crop and --legacy-focus")
    }
}
