//! Work whose time is of interest alone: InfoNCE against the paper's queue, TV-L1 of a batch, augmentation of clips.

use super::cost::{Priced, price, total};
use super::device::Device as Rates;
use super::recorder;
use std::fmt::Write;
use tubelet::augment::{AugmentSpec, BlurForm, Draw, apply_rgb_batch};
use tubelet::error::Result;
use tubelet::ops::infonce::{self, Owners, Term};
use tubelet::ops::tvl1::{self, Tvl1};
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::{DType, Device, Frames, Tensor};
use tubelet::train::maclr::Recipe;
use tubelet::train::views::ViewSpec;

/// Work, and what it launches at full size.
pub struct Work {
    pub name: &'static str,
    pub launches: Vec<Priced>,
}

/// What is recorded, after its inputs were made.
type Timed = Box<dyn Fn() -> Result<()>>;

/// Every such work.
///
/// # Errors
/// None in practice: the problems are valid.
pub fn all(rates: &Rates) -> Result<Vec<Work>> {
    let priced = |name, run: &dyn Fn(&Device) -> Result<Timed>| -> Result<Work> {
        let (device, log) = recorder::device();
        let timed = run(&device)?;
        drop(log.take());
        timed()?;
        Ok(Work { name, launches: price(&log.take(), rates) })
    };
    let contrast = |gradient: bool| {
        move |device: &Device| -> Result<Timed> {
            let codes = |rows: usize| Tensor::zeros_on(device, [rows, 128])?.cast(DType::BF16);
            let (q, queue) = (codes(512)?, codes(65536)?);
            Ok(Box::new(move || {
                infonce::sweep(&[Term { q: &q, k: &q }], &queue, Owners::Unknown, 0.1, gradient).map(drop)
            }))
        }
    };
    let flow = |pairs: usize, outer_iterations: usize| {
        move |device: &Device| -> Result<Timed> {
            let images = Tensor::zeros_on(device, [pairs, 224, 224])?;
            let p = Tvl1 { outer_iterations, ..Tvl1::default() };
            Ok(Box::new(move || tvl1::flow_batch(&images, &images, &p).map(drop)))
        }
    };
    // As `pack --flow` computes it, for a preset.
    let packed = |[h, w]: [usize; 2], p: Tvl1| {
        move |device: &Device| -> Result<Timed> {
            let (images, p) = (Tensor::zeros_on(device, [tvl1::PAIRS, h, w])?, p.clone());
            Ok(Box::new(move || tvl1::flow_batch(&images, &images, &p).map(drop)))
        }
    };
    let paper = Recipe::paper()?.training.views.flow;
    let clips = |jitter: f32, boxes: bool| {
        move |device: &Device| -> Result<Timed> {
            let Device::Cuda(gpu) = device else { unreachable!("the recorder is a GPU") };
            let (h, w) = (256, 340);
            let black = vec![0; h * w * 3];
            let frames = Frames::upload(gpu, &[black.as_slice(); 8 * 16], h, w)?;
            let blur_form = if boxes { BlurForm::Boxes } else { BlurForm::ThreeByThree };
            let spec = AugmentSpec { jitter, blur: 1.0, blur_form, ..AugmentSpec::default() };
            let draws: Vec<Draw> =
                (0..8).map(|i| Draw::sample(&mut stream(i, 0, 0, Purpose::Test), &spec, h, w)).collect();
            Ok(Box::new(move || apply_rgb_batch(&frames, &draws, 224, DType::BF16).map(drop)))
        }
    };
    Ok(vec![
        priced("infonce, d 128, 512 queries, 65536 keys, loss", &contrast(false))?,
        priced("infonce, the same, loss and gradient", &contrast(true))?,
        priced("tvl1, 42 pairs of 224x224, 5 levels, 5 warps, 30 iterations", &flow(tvl1::PAIRS, 1))?,
        priced("tvl1, 16 pairs", &flow(16, 1))?,
        priced("tvl1, one pair", &flow(1, 1))?,
        priced("tvl1, 42 pairs, 300 iterations (10 medians)", &flow(tvl1::PAIRS, 10))?,
        priced("tvl1, 42 pairs of 80x106, pack --preset small", &packed([80, 106], ViewSpec::small().flow))?,
        priced("tvl1, 42 pairs of 256x340, pack --preset maclr-paper", &packed([256, 340], paper))?,
        priced("augmentation, 8 clips of 16x256x340 to 224, without jitter", &clips(0.0, false))?,
        priced("augmentation, with jitter", &clips(1.0, false))?,
        priced("augmentation, with jitter and blurs by boxes", &clips(1.0, true))?,
    ])
}

/// One line for each.
pub fn table(all: &[Work], rates: &Rates) -> String {
    let mut text = format!("Predicted for an {}; no number is measured.\n\n", rates.name);
    text += "| work | launches | HBM MB | µs in a stream | in a graph | between launches | of it in a graph |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|\n";
    for work in all {
        let all = total(&work.launches, rates);
        let busy: f64 = work.launches.iter().map(|l| l.cost.seconds).sum();
        let [stream, graph, apart, less] =
            [all.stream, all.graph, all.stream - busy, all.graph - busy].map(|seconds| 1e6 * seconds);
        let n = work.launches.len();
        let hbm = work.launches.iter().map(|l| l.demand.hbm).sum::<f64>() * 1e-6;
        let _ =
            writeln!(text, "| {} | {n} | {hbm:.1} | {stream:.1} | {graph:.1} | {apart:.1} | {less:.1} |", work.name);
    }
    text
}
