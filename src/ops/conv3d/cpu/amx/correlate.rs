//! wgrad on AMX tiles: `dw[k, a, c] = Σ over positions of dy[k]·x[a, c]`, where the sum runs along the depth of the
//! tiles.
//!
//! The gradients are transposed: a row of a tile of A is one filter's gradients at 32 positions. The inputs are
//! interleaved in pairs of positions, as a tile of B stores them. A tap along frames or rows is then another address to
//! start reading from, as long as the inputs of all positions are read in the same order. Taps along a row would start
//! between pairs, so what they read is interleaved side by side: the *columns* of a position are the inputs under all
//! taps of a row. Filters are divided into tiles of 16 rows, columns into tiles of 16, and a row of the result is a run
//! of a filter's numbers as they are stored.
//!
//! A *band* is some rows of positions of one frame: few enough that both operands and all sums stay in the L2 cache,
//! from which they are read repeatedly in stretches that fit into the L1 cache. Bands advance along time, so that the
//! inputs of a frame are interleaved once for all taps. Steps that extend past the end of a band read unrelated inputs
//! there, multiplied by gradients of zero; an input of NaN or infinity therefore makes its channel NaN under every tap,
//! not only those that read it.

use super::super::super::Conv3d;
use super::correlate_flat;
use super::correlate_operands::Numbers;
use super::correlate_pack::{Prefetcher, interleave, transpose};
use super::correlate_tiling::{BLOCK, STRETCH, Tiling, phase_rows};
use crate::cpu::amx::{DEPTH, Offsets, Product, SIDE, TILE, Tiles};
use crate::cpu::traffic::{self, Temporary, Work};
use crate::error::Result;
use crate::ops::batch_norm::Lines;
use crate::tensor::Buffer;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Whether [`run`] can apply a prologue to the inputs while it interleaves them: where each is interleaved once or
/// little more often.
pub(in super::super) fn applies(p: &Conv3d, parts: usize) -> bool {
    !Tiling::new(p, parts).flat
}

/// Computes `dw` (`k kt kh kw c`, one group) from the convolution's input: `x`, or the result of the prologue on it.
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
    let tiling = Tiling::new(p, x.parts());
    if tiling.flat {
        // SAFETY: as the caller vouches.
        unsafe { correlate_flat::run(p, x, dy, dw) };
        return Ok(());
    }
    let size = tiling.of_share;
    let mut sums = Buffer::<f32>::arbitrary(tiling.sets * tiling.shares * size)?;
    let of_sums = size_of_val(sums.as_slice());
    traffic::temporary(Temporary::Sums, of_sums, of_sums);
    // Every share of the filters reads the inputs and, where they are split, all gradients.
    let of_dy = if matches!(dy, Numbers::F32(..)) { tiling.shares } else { 1 };
    traffic::more(|| Work::moves(tiling.shares * x.bytes() + of_dy * dy.bytes(), 0, tiling.sets * tiling.shares));
    // Transposed and interleaved terms, without the rows that two bands share.
    let columns = p.n * p.input[0] * p.input[1] * p.out[2] * tiling.columns * SIDE;
    traffic::cached(2 * x.parts() * (p.y_shape().len() + tiling.shares * columns));
    sums.as_mut_slice().par_chunks_mut(size).enumerate().for_each(|(task, sums)| {
        // SAFETY: as the caller vouches.
        unsafe { Task::new(p, &tiling, x, prologue, dy, task % tiling.shares).run(task / tiling.shares, sums) }
    });
    let sums = sums.as_slice();
    dw.par_chunks_mut(SIDE * p.taps() * p.c).enumerate().for_each(|(tile, dw)| {
        let first = tile / tiling.filters * size + tile % tiling.filters * SIDE * BLOCK;
        for (row, dw) in dw.chunks_exact_mut(p.taps() * p.c).enumerate() {
            let mut of_tap = first + row * BLOCK;
            for dw in dw.chunks_exact_mut(tiling.pieces * tiling.run) {
                for (piece, dw) in dw.chunks_exact_mut(tiling.run).enumerate() {
                    for (i, dw) in dw.chunks_mut(SIDE).enumerate() {
                        let column = piece * tiling.piece_columns + i;
                        let from = of_tap + column / 2 * tiling.filters * SIDE * BLOCK + column % 2 * SIDE;
                        add_up(sums, from, tiling.shares * size, dw);
                    }
                }
                of_tap += tiling.columns.div_ceil(2) * tiling.filters * SIDE * BLOCK;
            }
        }
    });
    Ok(())
}

/// Adds up `size` numbers at `from` in each set, in the order of the sets.
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
    /// Bands are numbered over all samples.
    band: usize,
    n: usize,
    t: usize,
    rows: Range<usize>,
    steps: usize,
    /// Taps along time that read inside the clip, and the frames that they read.
    taps: Vec<(usize, usize)>,
}

/// The sums over some bands, computed by one task.
struct Task<'a> {
    p: &'a Conv3d,
    tiling: &'a Tiling,
    x: Numbers<'a>,
    prologue: Option<&'a Lines>,
    dy: Numbers<'a>,
    /// The filters of this share, and the number of tiles they fill.
    filters: Range<usize>,
    tiles: usize,
    /// The gradients of a band split into bf16 terms, if they have to be split.
    parts: Vec<bf16>,
    /// A row of inputs with zero padding on both sides, as bf16 terms.
    row: Vec<bf16>,
    row_pitch: usize,
    /// Transposed gradients: terms, tiles of filters, steps.
    transposed: Buffer<u8>,
    /// Interleaved inputs: frames of a ring buffer, terms, columns, rows by their residue modulo the stride, pairs.
    interleaved: Buffer<u8>,
    column_pitch: usize,
    /// Which band and frame of the input each slot of the ring buffer holds.
    holds: Vec<Option<(usize, usize)>>,
}

impl<'a> Task<'a> {
    fn new(
        p: &'a Conv3d,
        tiling: &'a Tiling,
        x: Numbers<'a>,
        prologue: Option<&'a Lines>,
        dy: Numbers<'a>,
        share: usize,
    ) -> Self {
        let win = &p.geometry.window;
        let span = (p.out[2] - 1) * win.stride[2] + (p.kernel[2] - 1) * win.dilation[2] + 1;
        let row_pitch = (span.max(p.input[2] + win.pad[2]) * p.c + 2 * SIDE).next_multiple_of(2 * SIDE);
        let phases = win.stride[1].min(phase_rows(p, tiling.rows));
        let phase = phase_rows(p, tiling.rows).div_ceil(win.stride[1]) * tiling.pairs + SIDE;
        let column_pitch = phases * phase * 64;
        let steps = (tiling.rows * tiling.pairs).div_ceil(SIDE);
        let split = matches!(dy, Numbers::F32(..));
        let filters = share * tiling.filters * SIDE..((share + 1) * tiling.filters * SIDE).min(p.k);
        let tiles = filters.len().div_ceil(SIDE);
        Task {
            p,
            tiling,
            x,
            prologue,
            dy,
            filters,
            tiles,
            parts: vec![bf16::ZERO; if split { dy.parts() * tiling.rows * p.out[2] * p.k } else { 0 }],
            row: vec![bf16::ZERO; x.parts() * row_pitch],
            row_pitch,
            transposed: Buffer::workspace(dy.parts() * tiles * steps * TILE),
            interleaved: Buffer::workspace(tiling.ring * x.parts() * tiling.columns * column_pitch),
            column_pitch,
            holds: vec![None; tiling.ring],
        }
    }

    /// # Safety
    /// `Isa::Amx` is available.
    unsafe fn run(&mut self, set: usize, sums: &mut [f32]) {
        let (p, tiling) = (self.p, self.tiling);
        let frames = p.out[0];
        let all = p.n * tiling.bands * frames;
        let mut started = vec![false; p.kernel[0]];
        let size = sums.len() / p.kernel[0];
        // SAFETY: as the caller vouches; no other task runs on this thread in between, as nothing here waits for one.
        unsafe {
            let tiles = Tiles::new(DEPTH);
            let items = all * set / tiling.sets..all * (set + 1) / tiling.sets;
            for i in items.clone() {
                let item = self.item(i);
                if item.taps.is_empty() {
                    continue;
                }
                self.transpose(&item);
                for &(_, frame) in &item.taps {
                    let place = frame % tiling.ring;
                    if self.holds[place] != Some((item.band, frame)) {
                        self.interleave(&item, frame, place);
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
        let (p, tiling) = (self.p, self.tiling);
        let (band, t) = (i / p.out[0], i % p.out[0]);
        let first = band % tiling.bands * tiling.rows;
        let rows = first..(first + tiling.rows).min(p.out[1]);
        let taps = (0..p.kernel[0]).filter_map(|a| Some((a, self.frame(t, a)?))).collect();
        Item { band, n: band / tiling.bands, t, steps: (rows.len() * tiling.pairs).div_ceil(SIDE), rows, taps }
    }

    /// The gradients of an item: index of the first, and their number.
    fn gradients(&self, item: &Item) -> (usize, usize) {
        let p = self.p;
        let row = (item.n * p.out[0] + item.t) * p.out[1] + item.rows.start;
        (row * p.out[2] * p.k, item.rows.len() * p.out[2] * p.k)
    }

    /// Memory that an item reads and that is not in the cache yet, for prefetching.
    fn places(&self, item: &Item) -> Vec<Range<*const u8>> {
        let (p, win) = (self.p, &self.p.geometry.window);
        let (first, len) = self.gradients(item);
        let row = p.input[2] * p.c;
        let end = (item.rows.start * win.stride[1] + phase_rows(p, item.rows.len())).saturating_sub(win.pad[1]);
        let rows = (item.rows.start * win.stride[1]).saturating_sub(win.pad[1])..end.min(p.input[1]);
        let absent =
            item.taps.iter().filter(|(_, frame)| self.holds[frame % self.tiling.ring] != Some((item.band, *frame)));
        let inputs = absent.map(|(_, frame)| {
            let first = (item.n * p.input[0] + frame) * p.input[1] + rows.start;
            self.x.place(first * row, rows.len() * row)
        });
        std::iter::once(self.dy.place(first, len)).chain(inputs).filter(|place| !place.is_empty()).collect()
    }

    /// The input frame that output frame `t` reads at tap `a`.
    fn frame(&self, t: usize, a: usize) -> Option<usize> {
        let win = &self.p.geometry.window;
        let frame = (t * win.stride[0] + a * win.dilation[0]).checked_sub(win.pad[0])?;
        (frame < self.p.input[0]).then_some(frame)
    }

    /// Transposes the gradients of some rows, with zeros for the unused positions at the end of a row and of the last
    /// step.
    unsafe fn transpose(&mut self, item: &Item) {
        let (p, pairs) = (self.p, self.tiling.pairs);
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
                let to = &mut self.transposed.as_mut_slice()[(part * self.tiles * steps + step) * TILE..];
                // SAFETY: every position has all filters; the array has a tile for each term, tile of filters and step.
                unsafe {
                    transpose(
                        &at,
                        at[0].wrapping_add(2 * SIDE * p.k),
                        self.filters.len(),
                        to.as_mut_ptr(),
                        steps * TILE,
                    )
                };
            }
        }
    }

    /// Interleaves what some rows of positions read of a frame.
    unsafe fn interleave(&mut self, item: &Item, frame: usize, place: usize) {
        let (p, tiling, rows) = (self.p, self.tiling, item.rows.clone());
        let [_, height, width] = p.input;
        let win = &p.geometry.window;
        let (stride, pad) = (win.stride[1], win.pad[1]);
        let phase = self.phase(rows.len());
        let from_row = win.pad[2] * p.c;
        // Whether tiles read only numbers inside a row of the input.
        let whole = win.pad[2] == 0 && tiling.run.is_multiple_of(SIDE);
        // Whether they read only some pixels of a row, which are then copied one by one.
        let thin = !(whole && self.x.parts() == 1 && self.prologue.is_none())
            && p.kernel[2] == 1
            && win.stride[2] > 1
            && win.pad[2] == 0;
        let (copies, apart, len) = if thin { (p.out[2], win.stride[2] * p.c, p.c) } else { (1, 0, width * p.c) };
        let step = if thin { p.c } else { win.stride[2] * p.c };
        let interleaved = place * self.x.parts() * tiling.columns * self.column_pitch;
        for i in 0..phase_rows(p, rows.len()) {
            if (0..p.kernel[1]).all(|b| b * win.dilation[1] % stride != i % stride) {
                continue; // no tap reads rows of this residue class
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
            let to = interleaved + (i % stride * phase + i / stride * tiling.pairs) * 64;
            for part in 0..self.x.parts() {
                for piece in 0..tiling.pieces {
                    let first = part * tiling.columns + piece * tiling.piece_columns;
                    let to = &mut self.interleaved.as_mut_slice()[to + first * self.column_pitch..];
                    if input.is_none() {
                        for column in 0..tiling.piece_columns {
                            to[column * self.column_pitch..][..tiling.pairs * 64].fill(0);
                        }
                        continue;
                    }
                    let from = &row[part * self.row_pitch + piece * tiling.piece_step..];
                    let (columns, pitch) = (tiling.piece_columns, self.column_pitch);
                    // SAFETY: the row has all taps of all positions, and a tile's columns more.
                    unsafe { interleave(from.as_ptr(), step, p.out[2], columns, to.as_mut_ptr(), pitch) };
                }
            }
        }
        // The last step also reads past the last row. Those inputs are multiplied by zeros, so they must be finite.
        for column in 0..self.x.parts() * tiling.columns {
            for remainder in 0..stride.min(phase_rows(p, rows.len())) {
                let last = (phase_rows(p, rows.len()) - remainder).div_ceil(stride) * tiling.pairs;
                let at = interleaved + column * self.column_pitch + (remainder * phase + last) * 64;
                self.interleaved.as_mut_slice()[at..at + (phase - last) * 64].fill(0);
            }
        }
    }

    /// Pairs of all rows of one residue class.
    fn phase(&self, rows: usize) -> usize {
        phase_rows(self.p, rows).div_ceil(self.p.geometry.window.stride[1]) * self.tiling.pairs + SIDE
    }

    /// Adds the products of a band to the sums.
    unsafe fn multiply(&self, tiles: &Tiles, item: &Item, next: Option<Item>, started: &[bool], sums: &mut [f32]) {
        let (p, tiling, steps, taps) = (self.p, self.tiling, item.steps, &item.taps);
        let win = &p.geometry.window;
        let (phase, parts) = (self.phase(item.rows.len()), self.x.parts());
        let stretches = steps.div_ceil(STRETCH);
        let mut list = Vec::with_capacity(STRETCH);
        let calls = stretches * self.tiles.div_ceil(2) * tiling.columns.div_ceil(2) * taps.len() * p.kernel[1];
        let mut ahead = next.map_or_else(Prefetcher::default, |next| Prefetcher::new(self.places(&next), calls));
        for stretch in 0..stretches {
            list.clear();
            let own = steps * stretch / stretches..steps * (stretch + 1) / stretches;
            list.extend(own.map(|step| Offsets { a: (step * TILE) as isize, b: (step * TILE) as isize }));
            for tile in (0..self.tiles).step_by(2) {
                for column in (0..tiling.columns).step_by(2) {
                    for &(a, frame) in taps {
                        for b in 0..p.kernel[1] {
                            let row = b * win.dilation[1];
                            let from = ((frame % tiling.ring) * parts * tiling.columns + column) * self.column_pitch
                                + (row % win.stride[1] * phase + row / win.stride[1] * tiling.pairs) * 64;
                            let to = (((a * p.kernel[1] + b) * tiling.columns.div_ceil(2) + column / 2)
                                * tiling.filters
                                + tile)
                                * 2
                                * SIDE
                                * SIDE;
                            let product = Product {
                                steps: &list,
                                parts,
                                a: self.transposed.as_slice()[tile * steps * TILE..].as_ptr(),
                                a_stride: 64,
                                a_second: (steps * TILE) as isize,
                                a_part: (self.tiles * steps * TILE) as isize,
                                b: self.interleaved.as_slice()[from..].as_ptr(),
                                b_second: self.column_pitch as isize,
                                b_part: (tiling.columns * self.column_pitch) as isize,
                                c: sums[to..].as_mut_ptr(),
                                fresh: stretch == 0 && !started[a],
                            };
                            ahead.prefetch();
                            // SAFETY: the bands' arrays hold all steps of all tiles, and the sums all blocks.
                            unsafe {
                                match (tile + 1 < self.tiles, column + 1 < tiling.columns) {
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
