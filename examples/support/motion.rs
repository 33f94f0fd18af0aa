//! Options for MCL's additions to a method: clips and crops chosen by motion, and the alignment loss.

use super::args::within;
use super::pretrain::set;
use anyhow::{Context, Result, bail};
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
    /// Form of the alignment map: weight-gradient (the release's), grad-cam, or magnitude (Grad-CAM with magnitudes of
    /// its weights)
    #[arg(long)]
    align_form: Option<Form>,
    /// Treat the map's channel weights as constants: nothing is differentiated twice
    #[arg(long, value_name = "SWITCH")]
    align_detached: Option<Switch>,
    /// The module whose output is aligned, such as layer4.2.conv3 (a convolution) or layer3.0 (a block)
    #[arg(long)]
    align_module: Option<String>,
    /// Terms of the alignment loss, any of space-time, space, time
    #[arg(long, value_delimiter = ',', value_name = "TERMS")]
    align_terms: Option<Vec<String>>,
    /// Softmax over frames of the target's sums: unscaled (raw, the release) or divided by their mean (mean)
    #[arg(long, value_name = "NORM")]
    target_norm: Option<String>,
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
        set(&mut alignment.form, self.align_form);
        set(&mut alignment.detached, self.align_detached.map(|s| s == Switch::On));
        if let Some(module) = &self.align_module {
            alignment.module.clone_from(module);
        }
        if let Some(names) = &self.align_terms {
            let mut terms = Terms { spatio_temporal: 0.0, spatial: 0.0, temporal: 0.0 };
            for name in names {
                match name.as_str() {
                    "space-time" => terms.spatio_temporal = 1.0,
                    "space" => terms.spatial = 1.0,
                    "time" => terms.temporal = 1.0,
                    other => bail!("--align-terms takes space-time, space and time, not {other}"),
                }
            }
            alignment.cosines.terms = terms;
        }
        alignment.cosines.target_norm = match self.target_norm.as_deref() {
            None => alignment.cosines.target_norm,
            Some("raw") => TargetNorm::Raw,
            Some("mean") => TargetNorm::Mean,
            Some(other) => bail!("--target-norm is raw or mean, not {other}"),
        };
        set(&mut alignment.cosines.centred, self.align_centred.map(|s| s == Switch::On));
        focus.check().context("--motion-sampling, --motion-crop and --legacy-focus")
    }
}
