//! TV-L1 optical flow by duality (Zach, Pock and Bischof, DAGM 2007), with the definition and the defaults of OpenCV's
//! `DualTVL1OpticalFlow`: a pyramid, warps by cubic interpolation, and for each warp alternating pointwise thresholding
//! and dual projection, with a median filter in between. `docs/math/tvl1.md` gives the formulae and the three places
//! where this differs from OpenCV's arithmetic.
//!
//! ```
//! use tubelet::{ops::tvl1, tensor::{Device, Tensor}};
//! let (device, _) = Device::auto(); // the first GPU, or the CPU
//! let waves = |shift: f32| -> tubelet::error::Result<Tensor> {
//!     let pixel = |i: usize| 128.0 + 90.0 * (0.3 * ((i % 40) as f32 - shift)).sin() * (0.4 * (i / 40) as f32).cos();
//!     Tensor::from_f32([1, 32, 40], &(0..32 * 40).map(pixel).collect::<Vec<_>>())?.to(&device)
//! };
//! let flow = tvl1::flow_batch(&waves(0.0)?, &waves(1.0)?, &tvl1::Tvl1::default())?; // pairs 2 h w
//! assert_eq!(flow.dims(), [1, 2, 32, 40]);
//! assert!((flow.load()?[16 * 40 + 20] - 1.0).abs() < 0.1, "one pixel to the right");
//! # Ok::<(), tubelet::error::Error>(())
//! ```

#[cfg(any(test, feature = "testing"))]
pub mod cases;
mod cpu;
pub(super) mod cuda;
mod flows;
mod lanes;
mod median;
mod plane;
mod pyramid;
mod recorded;
#[cfg(any(test, feature = "testing"))]
pub mod reference;
mod sweep;
mod warp;

pub use cuda::{Plan, PlannedLevel, Pointers, launch};
pub use flows::Flows;
pub use lanes::Lanes;
pub use recorded::Recorded;

use crate::cpu::Isa;
use crate::error::{Error, Result};
use crate::flow::{Flow, Gray};
use crate::tensor::{DType, Device, Place, Tensor};
use rayon::prelude::*;

/// A level of the pyramid has at least this many pixels on each side, unless it is the image itself.
const SMALLEST_LEVEL: usize = 16;

/// Parameters. The defaults are those of OpenCV's `DualTVL1OpticalFlow` (without its `gamma`, which is zero by
/// default).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Tvl1 {
    /// Step of the dual update, above 0 and at most 1; beyond 0.25 it may not converge. Default 0.25.
    pub tau: f64,
    /// Weight of brightness constancy against smoothness, for intensities 0 to 255; smaller is smoother. Default 0.15.
    pub lambda: f64,
    /// Tightness of the coupling between the two halves of the alternation. Default 0.3.
    pub theta: f64,
    /// Maximum number of levels of the pyramid. Default 5.
    pub scales: usize,
    /// Size of a level relative to the next finer one, 0.1 to 0.95. Default 0.8.
    pub scale_step: f64,
    /// Warps per level. Default 5.
    pub warps: usize,
    /// A warp ends when the root mean square change of an iteration is at most this, in pixels. Default 0.01.
    pub epsilon: f64,
    /// Iterations between two median filters. Default 30.
    pub inner_iterations: usize,
    /// Median filters per warp, each followed by inner iterations. Default 10.
    pub outer_iterations: usize,
    /// Side of the median filter in pixels: 1 (none), 3 or 5. Default 5.
    pub median: usize,
}

impl Default for Tvl1 {
    fn default() -> Self {
        Tvl1 {
            tau: 0.25,
            lambda: 0.15,
            theta: 0.3,
            scales: 5,
            scale_step: 0.8,
            warps: 5,
            epsilon: 0.01,
            inner_iterations: 30,
            outer_iterations: 10,
            median: 5,
        }
    }
}

impl Tvl1 {
    /// Checks that every parameter is in its range.
    ///
    /// # Errors
    /// `Param` naming the first that is not.
    pub fn check(&self) -> Result<()> {
        let real = |name, x: f64, ok: bool, rule: &str| {
            if ok { Ok(()) } else { Err(Error::param("tvl1", name, x, format!("it must be {rule}"))) }
        };
        real("tau", self.tau, self.tau > 0.0 && self.tau <= 1.0, "above 0 and at most 1")?;
        real("lambda", self.lambda, self.lambda > 0.0 && self.lambda <= 1e3, "above 0 and at most 1000")?;
        real("theta", self.theta, (1e-3..=1e3).contains(&self.theta), "from 0.001 to 1000")?;
        real("scale_step", self.scale_step, (0.1..=0.95).contains(&self.scale_step), "from 0.1 to 0.95")?;
        real("epsilon", self.epsilon, (0.0..=1e3).contains(&self.epsilon), "from 0 to 1000 pixels")?;
        let counts = [
            ("scales", self.scales),
            ("warps", self.warps),
            ("inner_iterations", self.inner_iterations),
            ("outer_iterations", self.outer_iterations),
        ];
        for (name, n) in counts {
            if !(1..=10_000).contains(&n) {
                return Err(Error::param("tvl1", name, n, "it must be from 1 to 10000"));
            }
        }
        if ![1, 3, 5].contains(&self.median) {
            return Err(Error::param("tvl1", "median", self.median, "it must be 1 (none), 3 or 5 pixels"));
        }
        Ok(())
    }
}

/// The extent of the next coarser level after one of extent `n`.
fn coarser(n: usize, p: &Tvl1) -> usize {
    (n as f64 * p.scale_step).round_ties_even() as usize
}

/// Number of levels for an image of `h w` pixels.
fn levels(h: usize, w: usize, p: &Tvl1) -> usize {
    let sides = |&(h, w): &(usize, usize)| {
        let below = (coarser(h, p), coarser(w, p));
        (below.0.min(below.1) >= SMALLEST_LEVEL).then_some(below)
    };
    std::iter::successors(Some((h, w)), sides).take(p.scales).count()
}

/// The flow from `a` to `b` in pixels. Rows of large images are shared between the threads of the current pool; the
/// result does not depend on the number of threads.
///
/// # Errors
/// `Shape` when the sizes differ, a side is below 3 or above 2^22 pixels or the image has more than 2^28; `Param` when
/// a pixel is not a number from -65535 to 65535 or a parameter is out of range.
pub fn flow(a: &Gray, b: &Gray, p: &Tvl1) -> Result<Flow> {
    check(a, b, p)?;
    let mut memory = cpu::Memory::new(Isa::best());
    let threads = rayon::current_num_threads();
    if threads == 1 || a.data().len() < cpu::SHARED {
        return Ok(memory.flow(a, b, p, 1));
    }
    // Scheduling rows is cheap on a thread of the pool; `join` enters it.
    Ok(rayon::join(|| memory.flow(a, b, p, threads), || ()).0)
}

/// The buffers of a flow computation, for many pairs on one thread: for pairs of the same size only the result is
/// allocated.
pub struct Workspace(cpu::Memory);

impl Workspace {
    /// Empty buffers; they are allocated for the first pair.
    #[must_use]
    pub fn new() -> Self {
        Workspace(cpu::Memory::new(Isa::best()))
    }

    /// The flow from `a` to `b`, computed on the calling thread alone: the same bits as [`flow`].
    ///
    /// # Errors
    /// As [`flow`].
    pub fn flow(&mut self, a: &Gray, b: &Gray, p: &Tvl1) -> Result<Flow> {
        check(a, b, p)?;
        Ok(self.0.flow(a, b, p, 1))
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Workspace::new()
    }
}

/// The flows of many pairs, which are shared between the threads of the current pool: the way to compute the flow of a
/// video. The same bits as [`flow`] on each pair.
///
/// # Errors
/// The first error of [`flow`], in the order of the pairs.
pub fn flow_pairs(pairs: &[(&Gray, &Gray)], p: &Tvl1) -> Result<Vec<Flow>> {
    let flows = pairs.par_iter().map_init(Workspace::new, |memory, (a, b)| memory.flow(a, b, p));
    flows.collect::<Vec<_>>().into_iter().collect()
}

/// The flows of pairs of the same size on `device`, at most [`PAIRS`] at a time on a GPU. On the CPU as [`flow_pairs`].
///
/// # Errors
/// As [`flow`], in the order of the pairs; on a GPU also `Shape` when the pairs differ in size, `OutOfMemory` and
/// `Driver`.
pub fn flow_pairs_on(device: &Device, pairs: &[(&Gray, &Gray)], p: &Tvl1) -> Result<Vec<Flow>> {
    let (Device::Cuda(_), Some((first, _))) = (device, pairs.first()) else { return flow_pairs(pairs, p) };
    let size = [first.h(), first.w()];
    let mut flows = Vec::with_capacity(pairs.len());
    for some in pairs.chunks(PAIRS) {
        flows.extend(batch_on(device, some, size, p, |a, b| flow_batch(a, b, p))?);
    }
    Ok(flows)
}

/// The flows of pairs that are all of `h w` pixels, which `compute` computes on `device`.
fn batch_on(
    device: &Device,
    pairs: &[(&Gray, &Gray)],
    [h, w]: [usize; 2],
    p: &Tvl1,
    compute: impl FnOnce(&Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Vec<Flow>> {
    for (a, b) in pairs {
        check(a, b, p)?;
        if (a.h(), a.w()) != (h, w) {
            let got = format!("{} x {}", a.h(), a.w());
            return Err(Error::shape("tvl1", "pairs", format!("all of {h} x {w} pixels"), got));
        }
    }
    let (a, b): (Vec<&[f32]>, Vec<&[f32]>) = pairs.iter().map(|(a, b)| (a.data(), b.data())).unzip();
    let [a, b] = [a, b].map(|images| Tensor::stack(device, [pairs.len(), h, w], &images));
    let flow = compute(&a?, &b?)?;
    let fields = flow.load()?;
    let field = |uv: &[f32]| Flow::new(h, w, uv[..h * w].to_vec(), uv[h * w..].to_vec());
    fields.chunks_exact(2 * h * w).map(field).collect()
}

/// Number of pairs that [`flow_pairs_on`] computes at once on a GPU. With 42, the tiles of 224x224 pixels fill 132
/// multiprocessors nearly a whole number of times: eight times on the finest level, where those of 16 pairs take four.
pub const PAIRS: usize = 42;

/// The flows of a batch on the device of its images: from `a [pairs h w]` to `b`, `[pairs 2 h w]` (u, then v). On the
/// CPU as [`flow_pairs`]. On a GPU there is no host synchronisation, pairs stop independently, and pixels are not
/// checked: a pair with a NaN gets meaningless flow.
///
/// ```
/// use tubelet::ops::tvl1::{Tvl1, flow_batch};
/// use tubelet::tensor::{Device, Tensor};
///
/// # fn main() -> tubelet::error::Result<()> {
/// let device = Device::Cpu; // or a GPU: the call is the same
/// let wave: Vec<f32> = (0..2 * 16 * 16).map(|i| 127.5 + 100.0 * (0.5 * (i % 16) as f32).sin()).collect();
/// let (a, b) = (Tensor::from_f32([2, 16, 16], &wave)?, Tensor::from_f32([2, 16, 16], &wave)?);
/// let flow = flow_batch(&a.to(&device)?, &b.to(&device)?, &Tvl1::default())?;
/// assert_eq!(flow.dims(), [2, 2, 16, 16]);
/// assert!(flow.load()?.iter().all(|v| v.abs() < 1e-3), "nothing moved");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Shape` when the images differ in shape or are smaller than 3x3; `DType` when they are not f32; `Param` when a parameter is
/// out of range, or on the CPU a pixel; `Device` when `a` and `b` are on different devices; on a GPU `OutOfMemory` and `Driver`.
pub fn flow_batch(a: &Tensor, b: &Tensor, p: &Tvl1) -> Result<Tensor> {
    let &[pairs, h, w] = a.dims() else {
        return Err(Error::shape("tvl1", "a", "[pairs h w]", a.shape()));
    };
    if b.shape() != a.shape() {
        return Err(Error::shape("tvl1", "b", a.shape(), b.shape()));
    }
    a.expect("tvl1", "a", DType::F32)?;
    b.expect("tvl1", "b", DType::F32)?;
    match a.place("tvl1", &[("b", b)])? {
        Place::Cpu => {
            let images = |x: &Tensor| -> Result<Vec<Gray>> {
                let x = x.f32()?;
                let cut = |i: usize| Gray::new(h, w, x[i * h * w..(i + 1) * h * w].to_vec());
                (0..pairs).map(cut).collect()
            };
            let (a, b) = (images(a)?, images(b)?);
            let flows = flow_pairs(&a.iter().zip(&b).collect::<Vec<_>>(), p)?;
            Tensor::build([pairs, 2, h, w], |out| {
                for (out, flow) in out.chunks_exact_mut(2 * h * w).zip(&flows) {
                    out[..h * w].copy_from_slice(flow.u());
                    out[h * w..].copy_from_slice(flow.v());
                }
            })
        }
        Place::Gpu(gpu) => {
            let plan = Plan::new(pairs, h, w, p)?;
            let mut flow = Tensor::on_gpu(gpu, DType::F32, [pairs, 2, h, w])?;
            let work = gpu.alloc(plan.workspace())?;
            let at = Pointers { a: a.input().0, b: b.input().0, flow: flow.output().0, workspace: work.ptr() };
            // SAFETY: the tensors have the plan's extents, and their memory is freed in stream order after this work.
            unsafe { launch(gpu, &plan, p, &at)? };
            Ok(flow)
        }
    }
}

/// The supported image sizes. On a longer side, positions including the margins would not be exact in f32.
const SIZES: &str = "at least 3x3, at most 2^22 pixels a side and 2^28 in all";

fn size_fits(h: usize, w: usize) -> bool {
    (3..=1 << 22).contains(&h) && (3..=1 << 22).contains(&w) && h * w <= 1 << 28
}

fn check(a: &Gray, b: &Gray, p: &Tvl1) -> Result<()> {
    p.check()?;
    for (arg, x) in [("a", a), ("b", b)] {
        let size = format!("{}x{}", x.h(), x.w());
        if !size_fits(x.h(), x.w()) {
            return Err(Error::shape("tvl1", arg, SIZES, size));
        }
        if let Some(i) = x.data().iter().position(|v| v.is_nan() || v.abs() > 65535.0) {
            let at = format!("{} at row {}, column {}", x.data()[i], i / x.w(), i % x.w());
            return Err(Error::param("tvl1", arg, at, "pixels are numbers, usually from 0 to 255"));
        }
    }
    if (a.h(), a.w()) != (b.h(), b.w()) {
        return Err(Error::shape("tvl1", "b", format!("{}x{} as a is", a.h(), a.w()), format!("{}x{}", b.h(), b.w())));
    }
    Ok(())
}
