//! wgrad in tiles: `dw[k, a, c] = Σ over positions of dy[k]·x[a, c]`, where the sum runs along what tiles call depth.
//!
//! One operand, the gradients, is turned over: a row of a tile is one filter's at 32 positions. The other, the inputs, is
//! woven in pairs of positions. A tap along frames or rows is then another place to start reading, as long as it reads
//! every position's input in the same order; the taps along a row would start between the pairs, so what they read is
//! woven beside each other: the *columns* of a position are the numbers under all taps of a row. Filters fall into tiles
//! of 16 rows, columns into tiles of 16, and a row of the result is a run of a filter's numbers as they are stored.
//!
//! A *band* is some rows of positions of one frame: few enough that both operands and all sums stay in the second-level
//! cache, read again and again in stretches that the first-level cache holds. Bands go along time, so that a frame's
//! inputs are woven once for all taps. Steps that reach behind a band read other inputs there, and zeros of gradients: an
//! input that is no number spoils its channel under every tap, not only those that read it.

use super::super::super::Conv3d;
use super::correlate_flat;
use super::correlate_operands::Numbers;
use super::correlate_pack::{Ahead, turn, weave};
use super::correlate_plan::{BLOCK, Plan, STRETCH, phase_rows};
use crate::cpu::amx::{DEPTH, Product, SIDE, Step, TILE, Tiles};
use crate::error::Result;
use crate::ops::batch_norm::Lines;
use crate::tensor::Buffer;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Whether [`run`] can apply a prologue to the inputs that it weaves: where it weaves them once or little more often.
pub(in super::super) fn applies(p: &Conv3d, parts: usize) -> bool {
    !Plan::new(p, parts).flat
}

/// `dw` (`k kt kh kw c`, one group), where the convolution read `x`, or what a prologue made of it.
///
/// # Safety
/// `Isa::Amx` is available; the operands are of `p`; there is a prologue only where it [applies].
pub(in super::super) unsafe fn run(
    p: &Conv3d,
    x: Numbers,
    prologue: Option<&Lines>,
    dy: Numbers,
    dw: &mut [f32],
) -> Result<()> {
    if dw.is_empty() || p.y_shape().is_empty() || p.x_shape().is_empty() {
        dw.fill(0.0);
        return Ok(());
    }
    let plan = Plan::new(p, x.parts());
    if plan.flat {
        // SAFETY: as the caller vouches.
        unsafe { correlate_flat::run(p, x, dy, dw) };
        return Ok(());
    }
    let size = plan.of_share;
    let mut sums = Buffer::<f32>::arbitrary(plan.sets * plan.shares * size)?;
    sums.as_mut_slice().par_chunks_mut(size).enumerate().for_each(|(task, sums)| {
        // SAFETY: as the caller vouches.
        unsafe { Task::new(p, &plan, x, prologue, dy, task % plan.shares).run(task / plan.shares, sums) }
    });
    let sums = sums.as_slice();
    dw.par_chunks_mut(SIDE * p.taps() * p.c).enumerate().for_each(|(tile, dw)| {
        let first = tile / plan.filters * size + tile % plan.filters * SIDE * BLOCK;
        for (row, dw) in dw.chunks_exact_mut(p.taps() * p.c).enumerate() {
            let mut of_tap = first + row * BLOCK;
            for dw in dw.chunks_exact_mut(plan.pieces * plan.run) {
                for (piece, dw) in dw.chunks_exact_mut(plan.run).enumerate() {
                    for (i, dw) in dw.chunks_mut(SIDE).enumerate() {
                        let column = piece * plan.piece_columns + i;
                        let from = of_tap + column / 2 * plan.filters * SIDE * BLOCK + column % 2 * SIDE;
                        add_up(sums, from, plan.shares * size, dw);
                    }
                }
                of_tap += plan.columns.div_ceil(2) * plan.filters * SIDE * BLOCK;
            }
        }
    });
    Ok(())
}

/// The sum of what all sets have at `from`, in order, `size` numbers apart.
fn add_up(sums: &[f32], from: usize, size: usize, to: &mut [f32]) {
    let mut sum = [0.0; SIDE];
    sum.copy_from_slice(&sums[from..from + SIDE]);
    let mut at = from + size;
    while let Some(other) = sums.get(at..at + SIDE).and_then(<[f32]>::first_chunk::<SIDE>) {
        for (sum, v) in sum.iter_mut().zip(other) {
            *sum += v;
        }
        at += size;
    }
    match to.first_chunk_mut::<SIDE>() {
        Some(to) => *to = sum,
        None => to.copy_from_slice(&sum[..to.len()]),
    }
}

/// A band in one frame.
struct Item {
    /// Bands are counted over all samples.
    band: usize,
    n: usize,
    t: usize,
    rows: Range<usize>,
    steps: usize,
    /// Taps along time that read inside of the clip, and the frames that they read.
    taps: Vec<(usize, usize)>,
}

/// The sums over some bands.
struct Task<'a> {
    p: &'a Conv3d,
    plan: &'a Plan,
    x: Numbers<'a>,
    prologue: Option<&'a Lines>,
    dy: Numbers<'a>,
    /// A share of the filters, and how many tiles they take.
    filters: Range<usize>,
    tiles: usize,
    /// Gradients of a band, split, where they have to be.
    parts: Vec<bf16>,
    /// A row of inputs between zeros, in parts.
    row: Vec<bf16>,
    row_pitch: usize,
    /// Gradients turned over: parts, tiles of filters, steps.
    turned: Buffer<u8>,
    /// Inputs woven: frames of the ring, parts, columns, rows by their remainder under the stride, pairs.
    woven: Buffer<u8>,
    column_pitch: usize,
    /// Which band and frame of the input each place of the ring holds.
    holds: Vec<Option<(usize, usize)>>,
}

impl<'a> Task<'a> {
    fn new(
        p: &'a Conv3d,
        plan: &'a Plan,
        x: Numbers<'a>,
        prologue: Option<&'a Lines>,
        dy: Numbers<'a>,
        share: usize,
    ) -> Self {
        let win = &p.geometry.window;
        let span = (p.out[2] - 1) * win.stride[2] + (p.kernel[2] - 1) * win.dilation[2] + 1;
        let row_pitch = (span.max(p.input[2] + win.pad[2]) * p.c + 2 * SIDE).next_multiple_of(2 * SIDE);
        let phases = win.stride[1].min(phase_rows(p, plan.rows));
        let phase = phase_rows(p, plan.rows).div_ceil(win.stride[1]) * plan.pairs + SIDE;
        let column_pitch = phases * phase * 64;
        let steps = (plan.rows * plan.pairs).div_ceil(SIDE);
        let split = matches!(dy, Numbers::F32(..));
        let filters = share * plan.filters * SIDE..((share + 1) * plan.filters * SIDE).min(p.k);
        let tiles = filters.len().div_ceil(SIDE);
        Task {
            p,
            plan,
            x,
            prologue,
            dy,
            filters,
            tiles,
            parts: vec![bf16::ZERO; if split { dy.parts() * plan.rows * p.out[2] * p.k } else { 0 }],
            row: vec![bf16::ZERO; x.parts() * row_pitch],
            row_pitch,
            turned: Buffer::workspace(dy.parts() * tiles * steps * TILE),
            woven: Buffer::workspace(plan.ring * x.parts() * plan.columns * column_pitch),
            column_pitch,
            holds: vec![None; plan.ring],
        }
    }

    /// # Safety
    /// `Isa::Amx` is available.
    unsafe fn run(&mut self, set: usize, sums: &mut [f32]) {
        let (p, plan) = (self.p, self.plan);
        let frames = p.out[0];
        let all = p.n * plan.bands * frames;
        let mut started = vec![false; p.kernel[0]];
        let size = sums.len() / p.kernel[0];
        // SAFETY: as the caller vouches; no other task runs on this thread meanwhile, as nothing here waits for one.
        unsafe {
            let tiles = Tiles::new(DEPTH);
            let items = all * set / plan.sets..all * (set + 1) / plan.sets;
            for i in items.clone() {
                let item = self.item(i);
                if item.taps.is_empty() {
                    continue;
                }
                self.turn(&item);
                for &(_, frame) in &item.taps {
                    let place = frame % plan.ring;
                    if self.holds[place] != Some((item.band, frame)) {
                        self.weave(&item, frame, place);
                        self.holds[place] = Some((item.band, frame));
                    }
                }
                let next = items.contains(&(i + 1)).then(|| self.item(i + 1));
                self.multiply(&tiles, &item, next, &started, sums);
                item.taps.iter().for_each(|&(a, _)| started[a] = true);
            }
        }
        for (sums, _) in sums.chunks_exact_mut(size).zip(started).filter(|(_, started)| !started) {
            sums.fill(0.0);
        }
    }

    /// Band and frame number `i`.
    fn item(&self, i: usize) -> Item {
        let (p, plan) = (self.p, self.plan);
        let (band, t) = (i / p.out[0], i % p.out[0]);
        let first = band % plan.bands * plan.rows;
        let rows = first..(first + plan.rows).min(p.out[1]);
        let taps = (0..p.kernel[0]).filter_map(|a| Some((a, self.frame(t, a)?))).collect();
        Item { band, n: band / plan.bands, t, steps: (rows.len() * plan.pairs).div_ceil(SIDE), rows, taps }
    }

    /// Where the gradients of an item are: the first, and how many.
    fn gradients(&self, item: &Item) -> (usize, usize) {
        let p = self.p;
        let row = (item.n * p.out[0] + item.t) * p.out[1] + item.rows.start;
        (row * p.out[2] * p.k, item.rows.len() * p.out[2] * p.k)
    }

    /// What an item reads that is not at hand.
    fn places(&self, item: &Item) -> Vec<Range<*const u8>> {
        let (p, win) = (self.p, &self.p.geometry.window);
        let (first, len) = self.gradients(item);
        let row = p.input[2] * p.c;
        let end = (item.rows.start * win.stride[1] + phase_rows(p, item.rows.len())).saturating_sub(win.pad[1]);
        let rows = (item.rows.start * win.stride[1]).saturating_sub(win.pad[1])..end.min(p.input[1]);
        let absent =
            item.taps.iter().filter(|(_, frame)| self.holds[frame % self.plan.ring] != Some((item.band, *frame)));
        let inputs = absent.map(|(_, frame)| {
            let first = (item.n * p.input[0] + frame) * p.input[1] + rows.start;
            self.x.place(first * row, rows.len() * row)
        });
        std::iter::once(self.dy.place(first, len)).chain(inputs).filter(|place| !place.is_empty()).collect()
    }

    /// The frame of the input that output frame `t` reads at tap `a`.
    fn frame(&self, t: usize, a: usize) -> Option<usize> {
        let win = &self.p.geometry.window;
        let frame = (t * win.stride[0] + a * win.dilation[0]).checked_sub(win.pad[0])?;
        (frame < self.p.input[0]).then_some(frame)
    }

    /// Turns the gradients of some rows over, zeros where a row or the last step has positions too many.
    unsafe fn turn(&mut self, item: &Item) {
        let (p, pairs) = (self.p, self.plan.pairs);
        let (width, steps) = (p.out[2], item.steps);
        let (first, len) = self.gradients(item);
        let mut pitch = 0;
        let base = match self.dy {
            Numbers::Bf16(all) => &all[first..first + len],
            Numbers::F32(..) => {
                pitch = len;
                // SAFETY: as the caller vouches.
                unsafe { self.dy.copy(first, len, None, &mut self.parts, pitch) };
                &self.parts[..]
            }
        };
        let zeros = vec![bf16::ZERO; self.filters.len()];
        for part in 0..self.dy.parts() {
            for step in 0..steps {
                let mut at = [zeros.as_ptr(); 2 * SIDE];
                for (i, at) in at.iter_mut().enumerate() {
                    let (row, q) = ((step * 2 * SIDE + i) / (2 * pairs), (step * 2 * SIDE + i) % (2 * pairs));
                    if row < item.rows.len() && q < width {
                        *at = base[part * pitch + (row * width + q) * p.k + self.filters.start..].as_ptr();
                    }
                }
                let to = &mut self.turned.as_mut_slice()[(part * self.tiles * steps + step) * TILE..];
                // SAFETY: each position has all filters; the array has a tile for each part, tile of filters and step.
                unsafe {
                    turn(&at, at[0].wrapping_add(2 * SIDE * p.k), self.filters.len(), to.as_mut_ptr(), steps * TILE)
                };
            }
        }
    }

    /// Weaves what some rows of positions read of a frame.
    unsafe fn weave(&mut self, item: &Item, frame: usize, place: usize) {
        let (p, plan, rows) = (self.p, self.plan, item.rows.clone());
        let [_, height, width] = p.input;
        let win = &p.geometry.window;
        let (stride, pad) = (win.stride[1], win.pad[1]);
        let phase = self.phase(rows.len());
        let from_row = win.pad[2] * p.c;
        // Whether tiles read no more than a row of the input has.
        let whole = win.pad[2] == 0 && plan.run.is_multiple_of(SIDE);
        // Whether they read some pixels of a row only, which are then copied one by one.
        let thin = !(whole && self.x.parts() == 1 && self.prologue.is_none())
            && p.kernel[2] == 1
            && win.stride[2] > 1
            && win.pad[2] == 0;
        let (copies, apart, len) = if thin { (p.out[2], win.stride[2] * p.c, p.c) } else { (1, 0, width * p.c) };
        let step = if thin { p.c } else { win.stride[2] * p.c };
        let woven = place * self.x.parts() * plan.columns * self.column_pitch;
        for i in 0..phase_rows(p, rows.len()) {
            if (0..p.kernel[1]).all(|b| b * win.dilation[1] % stride != i % stride) {
                continue; // no tap reads rows of this remainder
            }
            let input = (rows.start * stride + i).checked_sub(pad).filter(|&i| i < height);
            let first = ((item.n * p.input[0] + frame) * height + input.unwrap_or(0)) * width * p.c;
            let row = match self.x {
                Numbers::Bf16(all) if whole && self.prologue.is_none() => &all[first..first + width * p.c],
                x => {
                    for q in (0..copies).filter(|_| input.is_some()) {
                        let to = &mut self.row[from_row + q * len..];
                        // SAFETY: as the caller vouches.
                        unsafe { x.copy(first + q * apart, len, self.prologue, to, self.row_pitch) };
                    }
                    &self.row[..]
                }
            };
            let to = woven + (i % stride * phase + i / stride * plan.pairs) * 64;
            for part in 0..self.x.parts() {
                for piece in 0..plan.pieces {
                    let first = part * plan.columns + piece * plan.piece_columns;
                    let to = &mut self.woven.as_mut_slice()[to + first * self.column_pitch..];
                    if input.is_none() {
                        for column in 0..plan.piece_columns {
                            to[column * self.column_pitch..][..plan.pairs * 64].fill(0);
                        }
                        continue;
                    }
                    let from = &row[part * self.row_pitch + piece * plan.piece_step..];
                    let (columns, pitch) = (plan.piece_columns, self.column_pitch);
                    // SAFETY: the row has all taps of all positions, and a tile's columns more.
                    unsafe { weave(from.as_ptr(), step, p.out[2], columns, to.as_mut_ptr(), pitch) };
                }
            }
        }
        // What the last step reads behind the last row meets zeros, and must be a number.
        for column in 0..self.x.parts() * plan.columns {
            for remainder in 0..stride.min(phase_rows(p, rows.len())) {
                let last = (phase_rows(p, rows.len()) - remainder).div_ceil(stride) * plan.pairs;
                let at = woven + column * self.column_pitch + (remainder * phase + last) * 64;
                self.woven.as_mut_slice()[at..at + (phase - last) * 64].fill(0);
            }
        }
    }

    /// Pairs of all rows of one remainder.
    fn phase(&self, rows: usize) -> usize {
        phase_rows(self.p, rows).div_ceil(self.p.geometry.window.stride[1]) * self.plan.pairs + SIDE
    }

    /// Adds a band's products to the sums.
    unsafe fn multiply(&self, tiles: &Tiles, item: &Item, next: Option<Item>, started: &[bool], sums: &mut [f32]) {
        let (p, plan, steps, taps) = (self.p, self.plan, item.steps, &item.taps);
        let win = &p.geometry.window;
        let (phase, parts) = (self.phase(item.rows.len()), self.x.parts());
        let stretches = steps.div_ceil(STRETCH);
        let mut list = Vec::with_capacity(STRETCH);
        let calls = stretches * self.tiles.div_ceil(2) * plan.columns.div_ceil(2) * taps.len() * p.kernel[1];
        let mut ahead = next.map_or_else(Ahead::default, |next| Ahead::new(self.places(&next), calls));
        for stretch in 0..stretches {
            list.clear();
            let own = steps * stretch / stretches..steps * (stretch + 1) / stretches;
            list.extend(own.map(|step| Step { a: (step * TILE) as isize, b: (step * TILE) as isize }));
            for tile in (0..self.tiles).step_by(2) {
                for column in (0..plan.columns).step_by(2) {
                    for &(a, frame) in taps {
                        for b in 0..p.kernel[1] {
                            let row = b * win.dilation[1];
                            let from = ((frame % plan.ring) * parts * plan.columns + column) * self.column_pitch
                                + (row % win.stride[1] * phase + row / win.stride[1] * plan.pairs) * 64;
                            let to = (((a * p.kernel[1] + b) * plan.columns.div_ceil(2) + column / 2) * plan.filters
                                + tile)
                                * 2
                                * SIDE
                                * SIDE;
                            let product = Product {
                                steps: &list,
                                parts,
                                a: self.turned.as_slice()[tile * steps * TILE..].as_ptr(),
                                a_stride: 64,
                                a_second: (steps * TILE) as isize,
                                a_part: (self.tiles * steps * TILE) as isize,
                                b: self.woven.as_slice()[from..].as_ptr(),
                                b_second: self.column_pitch as isize,
                                b_part: (plan.columns * self.column_pitch) as isize,
                                c: sums[to..].as_mut_ptr(),
                                fresh: stretch == 0 && !started[a],
                            };
                            ahead.ask();
                            // SAFETY: the bands' arrays hold all steps of all tiles, and the sums all blocks.
                            unsafe {
                                match (tile + 1 < self.tiles, column + 1 < plan.columns) {
                                    (true, true) => tiles.multiply::<2, 2>(&product),
                                    (true, false) => tiles.multiply::<2, 1>(&product),
                                    (false, true) => tiles.multiply::<1, 2>(&product),
                                    (false, false) => tiles.multiply::<1, 1>(&product),
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
