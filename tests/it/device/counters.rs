//! What kernels do on real layers, counted by the simulator: instructions, sectors of global memory, bank conflicts. The
//! counts are committed (`tests/fixtures/counters.csv`), printed by `cargo xtask kernels`, and may not grow.
//!
//! `TUBELET_WRITE_COUNTERS=1 cargo test counters` writes them anew: a line for each kernel in a case, sorted. After a conflict in
//! a merge, take either side and write them anew.

#[path = "../../../benches/gpu/cases.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
pub mod cases;

use crate::support::sim::Sim;
use ptxsim::{Counters, Order, Sums};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;
use tubelet::ops::batch_norm::Norm;
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, on_tile, on_tile_between, on_tile_normed};
use tubelet::ops::unary::{self, Unary};
use tubelet::ops::{arith, reduce, relu, sgd};
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Device, Tensor};

/// Cases of `benches/gpu`, at the tables' own batch.
const CHOSEN: &[&str] = &[
    "alignment/map_fwd/p3d-50/f32",
    "alignment/map_bwd/p3d-50/f32",
    "alignment/loss_bwd/p3d-50/f32",
    "conv3d/fprop/r21d-2s/bf16",
    "conv3d/dgrad/r21d-2s/bf16",
    "conv3d/wgrad/r21d-2s/bf16",
    "conv3d/fprop/r21d-2t/bf16",
    "conv3d/dgrad/r21d-2t/bf16",
    "conv3d/wgrad/r21d-2t/bf16",
    "conv3d/fprop/slow-2c/bf16",
    "conv3d/dgrad/slow-2c/bf16",
    "conv3d/wgrad/slow-2c/bf16",
    "conv3d/fprop/slow-3b-down/bf16",
    "conv3d/dgrad/slow-3b-down/bf16",
    "conv3d/fprop/slow-5b/bf16",
    "conv3d/wgrad/slow-5b/bf16",
    "conv3d/fprop/r21d-3t/f32",
    "batch_norm/fwd_relu/r21d-2s/bf16",
    "batch_norm/bwd_relu/r21d-2s/bf16",
    "batch_norm/fwd_relu/r21d-2s/f32",
    "l2_norm/fwd/codes/f32",
    "l2_norm/bwd/codes/f32",
    "infonce/fwd_bwd/paper-256/bf16",
    "pool3d/max_fwd/stem/bf16",
    "pool3d/max_bwd/stem/bf16",
];

/// Work that is counted though no peer is timed on it: its name, and what makes its inputs.
fn elementwise() -> Vec<(&'static str, cases::Make)> {
    fn make(dtype: DType, run: impl Fn(&Tensor) -> tubelet::error::Result<Tensor> + Copy + 'static) -> cases::Make {
        Box::new(move |device| {
            let x = cases::random([4096, 64], dtype, device, 1)?;
            Ok(Box::new(move || {
                let x = x.clone();
                Ok(Box::new(move || Ok(run(&x)?.device())))
            }))
        })
    }
    let sum = |to: [usize; 2]| move |x: &Tensor| reduce::sum_to_forward(x, to.into());
    let descent = |x: &Tensor| {
        let fresh = |dtype: DType| arith::scale_forward(x, 0.5)?.cast(dtype);
        let [mut w, mut v, mut key] = [fresh(DType::F32)?, fresh(DType::F32)?, fresh(DType::F32)?];
        let [mut half, mut key_half] = [fresh(DType::BF16)?, fresh(DType::BF16)?];
        let step = sgd::Update {
            w: sgd::Weights::Trained(&mut w),
            update: Some((x, &mut v, true)),
            key: Some(&mut key),
            half: Some(&mut half),
            key_half: Some(&mut key_half),
        };
        sgd::update_all(&sgd::Sgd::default(), sgd::Rate::Value(0.1), 0.99, None, &mut [step])?;
        Ok(w)
    };
    vec![
        ("unary/exp/256k/f32", make(DType::F32, |x| unary::forward(Unary::Exp, x))),
        ("unary/exp/256k/bf16", make(DType::BF16, |x| unary::forward(Unary::Exp, x))),
        ("relu/fwd/256k/bf16", make(DType::BF16, relu::forward)),
        ("relu/bwd/256k/bf16", make(DType::BF16, |x| relu::backward(x, x))),
        ("cast/narrow/256k/f32", make(DType::F32, |x| x.cast(DType::BF16))),
        ("cast/widen/256k/bf16", make(DType::BF16, |x| x.cast(DType::F32))),
        ("reduce/all/256k/f32", make(DType::F32, sum([1, 1]))),
        ("reduce/channels/256k/bf16", make(DType::BF16, sum([1, 64]))),
        ("reduce/rows/256k/bf16", make(DType::BF16, sum([4096, 1]))),
        ("reduce/in_order/8x32k/f32", make(DType::F32, |x| reduce::in_order(&x.reshape([8, 32768])?, DType::F32))),
        ("reduce/in_order/8x32k/bf16", make(DType::BF16, |x| reduce::in_order(&x.reshape([8, 32768])?, DType::BF16))),
        ("sgd/all/256k/f32", make(DType::F32, descent)),
    ]
}

/// Name, input, filters, kernel and stride.
type Layer = (&'static str, [usize; 5], usize, [usize; 3], [usize; 3]);

/// Small problems of which every tile of the kernels with TMA and wgmma is counted, in every pass: with halos and without, with
/// strides, and over time.
const HOPPER: [Layer; 7] = [
    ("small-s", [1, 2, 14, 14, 64], 64, [1, 3, 3], [1, 1, 1]),
    ("small-down", [1, 2, 12, 12, 64], 128, [1, 3, 3], [1, 2, 2]),
    ("small-t", [1, 4, 8, 10, 64], 64, [3, 1, 1], [1, 1, 1]),
    ("small-v", [1, 3, 9, 12, 64], 64, [3, 3, 3], [1, 1, 1]),
    ("small-c", [1, 2, 9, 10, 128], 64, [1, 1, 1], [1, 1, 1]),
    ("small-stem", [1, 5, 20, 24, 4], 64, [3, 7, 7], [2, 2, 2]),
    ("small-motion", [1, 2, 17, 240, 4], 8, [1, 7, 7], [1, 2, 2]),
];

/// A tile of a pass of one of them.
pub struct HopperTile {
    pub name: String,
    problem: Conv3d,
    pass: Operator,
    tile: usize,
    prologue: Prologue,
}

/// What a pass does with what it loads.
#[derive(Clone, Copy)]
enum Prologue {
    Nothing,
    /// A batch norm with ReLU.
    Norm,
    /// dgrad: the gradient of a batch norm.
    Gradient,
}

impl HopperTile {
    /// All of them; where a pass has fewer tiles, the last ones do nothing.
    pub fn all() -> Vec<HopperTile> {
        let passes = [("fprop", Operator::Fprop), ("dgrad", Operator::Dgrad), ("wgrad", Operator::Wgrad)];
        let mut all = Vec::new();
        for (layer, x, k, kernel, stride) in HOPPER {
            let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
            let g = Geometry::new(Window::same(kernel).strided(stride));
            let problem = Conv3d::new("conv3d", x.into(), w.into(), &g).unwrap();
            // The first four are those of all devices, of stems the first one.
            let stem = x[4] <= 4;
            let (passes, first) = if stem { (vec![passes[0], passes[2]], 1) } else { (passes.to_vec(), 4) };
            for ((word, pass), tile) in passes.into_iter().flat_map(|pass| (first..16).map(move |tile| (pass, tile))) {
                let name = |with: &str| format!("conv3d/{word}{with}/{layer}/bf16/tile{tile}");
                all.push(HopperTile { name: name(""), problem, pass, tile, prologue: Prologue::Nothing });
                if kernel == [1; 3] && stride == [1; 3] {
                    let (with, prologue) = match pass {
                        Operator::Dgrad => ("_formed", Prologue::Gradient),
                        _ => ("_normed", Prologue::Norm),
                    };
                    all.push(HopperTile { name: name(with), problem, pass, tile, prologue });
                }
            }
        }
        all
    }

    /// Its operands on a device, and ones for its channels and for its filters, twice.
    pub fn operands(&self, device: &Device) -> [Tensor; 4] {
        let p = &self.problem;
        let shapes = match self.pass {
            Operator::Fprop => [p.x_shape(), p.w_shape()],
            Operator::Dgrad => [p.y_shape(), p.w_shape()],
            Operator::Wgrad => [p.x_shape(), p.y_shape()],
        };
        let [a, b] = shapes.map(|shape| cases::random(shape, DType::BF16, device, 1).unwrap());
        let [ones, slopes] =
            [&[p.c()][..], &[1, 2, p.y_shape().last()]].map(|of| Tensor::full(Shape::new(of), 1.0).to(device).unwrap());
        [a, b, ones, slopes]
    }

    /// Computes it.
    pub fn run(&self, [a, b, ones, slopes]: &[Tensor; 4]) {
        match self.prologue {
            Prologue::Nothing => drop(on_tile(&self.problem, self.pass, self.tile, [a, b]).unwrap()),
            Prologue::Norm => {
                let norm = Norm::new(ones, ones, ones, ones).unwrap();
                drop(on_tile_normed(&self.problem, self.pass, self.tile, [a, b], &norm).unwrap());
            }
            Prologue::Gradient => {
                let one = Tensor::full([self.problem.y_shape().last()], 1.0).to(&a.device()).unwrap();
                let norm = Norm::new(&one, &one, &one, &one).unwrap();
                drop(on_tile_between(&self.problem, self.tile, [a, b], Some((a, &norm, slopes)), None).unwrap());
            }
        }
    }
}

/// The committed counts, and the names of their columns.
pub static COMMITTED: LazyLock<String> = LazyLock::new(|| std::fs::read_to_string(file()).unwrap());

fn file() -> PathBuf {
    crate::root().join("tests/fixtures/counters.csv")
}

const HEADER: &str = "kernel,case,warp_instructions,tensor_instructions,sectors,ideal_sectors,bytes,\
    shared_requests,bank_conflict_cycles";

/// What is kept of the counters of a kernel, in the order of [`HEADER`]. The products of `wgmma` are counted in those of a warp,
/// 16x8x16; copies of TMA are among bytes and sectors, without what they fill with zeros.
fn kept(c: &Counters) -> [u64; 7] {
    [
        c.warp_instructions,
        if c.wgmma_products > 0 { c.wgmma_products / (16 * 8 * 16) } else { c.tensor_instructions },
        c.global_sectors_loaded + c.global_sectors_stored + c.bulk_sectors_loaded,
        c.ideal_sectors + c.bulk_bytes_loaded.div_ceil(32),
        c.global_bytes_loaded + c.global_bytes_stored + c.bulk_bytes_loaded,
        c.shared_requests,
        c.bank_conflict_cycles,
    ]
}

/// The counts over all launches of a kernel in a case, by `kernel,case`.
fn counted() -> BTreeMap<String, [u64; 7]> {
    let mut rows = BTreeMap::new();
    let chosen = cases::all(1).into_iter().filter(|c| CHOSEN.contains(&c.name.as_str())).map(|c| (c.name, c.make));
    for (case, make) in chosen.chain(elementwise().into_iter().map(|(name, make)| (name.into(), make))) {
        let sim = Sim::new(Order::Forward);
        let mut work = make(&sim.device()).unwrap();
        let timed = work().unwrap();
        let before = sim.machine.totals(); // of the inputs and, for a backward pass, of the forward pass
        timed().unwrap();
        since(&before, &sim, &case, &mut rows);
    }
    for tile in HopperTile::all() {
        let sim = Sim::hopper(Order::Forward, Sums::Nearest);
        let operands = tile.operands(&sim.device());
        let before = sim.machine.totals();
        tile.run(&operands);
        since(&before, &sim, &tile.name, &mut rows);
    }
    // The question to a device, and the packing of filters, which reads two bytes at a time from the first-level cache.
    rows.retain(|name, _| !name.starts_with("conv3d_rows_") && !name.starts_with("conv3d_pack_filters_"));
    rows
}

/// Adds a row for each kernel that has run since `before`.
fn since(before: &BTreeMap<String, Counters>, sim: &Sim, case: &str, rows: &mut BTreeMap<String, [u64; 7]>) {
    for (kernel, all) in sim.machine.totals() {
        let old = before.get(&kernel).map_or([0; 7], kept);
        let mut counts = kept(&all);
        counts.iter_mut().zip(old).for_each(|(now, old)| *now -= old);
        if counts[0] > 0 {
            rows.insert(format!("{kernel},{case}"), counts);
        }
    }
}

#[test]
fn kernels_do_no_more_than_was_committed() {
    let rows = counted();
    if std::env::var_os("TUBELET_WRITE_COUNTERS").is_some() {
        let line =
            |(name, counts): (&String, &[u64; 7])| format!("{name},{}\n", counts.map(|c| c.to_string()).join(","));
        let lines: String = rows.iter().map(line).collect();
        std::fs::write(file(), format!("{HEADER}\n{lines}")).unwrap();
        return;
    }
    assert_eq!(COMMITTED.lines().next(), Some(HEADER));
    for (name, counts) in &rows {
        let [_, _, sectors, ideal, .., conflicts] = *counts;
        // wgrad of stems stores partial sums of two taps, which begin at any 16 bytes. Real layers have few of them.
        let stored_in_pieces = name.starts_with("conv3d_wgrad_stem_sm90");
        let enough = if stored_in_pieces { 2 * ideal } else { ideal };
        assert!(100 * sectors <= 115 * enough, "{name}: {sectors} sectors, {enough} would do");
        // The tiles of 256 rows for Hopper store their result with some.
        let free = name.starts_with("conv3d") && !name.contains("_sm90_256x");
        assert!(!free || conflicts == 0, "{name}: {conflicts} cycles of bank conflicts");
        // A kernel that is new in a case replaces another one, which is worth writing anew but no fault.
        let Some(old) = COMMITTED.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(',')) else { continue };
        for ((column, old), now) in HEADER.split(',').skip(2).zip(old.split(',')).zip(counts) {
            let old: u64 = old.parse().unwrap();
            assert!(
                *now <= old + old / 50,
                "{name}: {column} {old} before, {now} now; if that is meant, TUBELET_WRITE_COUNTERS=1 cargo test counters"
            );
        }
    }
}
