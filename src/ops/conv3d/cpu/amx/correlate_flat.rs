//! wgrad on AMX tiles for many channels and few positions: deep layers, whose sums exceed a core's cache.
//!
//! Positions are numbered consecutively, time outermost, ignoring row boundaries, so that only the last step is partly
//! empty. Gradients are transposed once, for all jobs. Then each job computes some filters, some channels and one tap:
//! it interleaves what that tap reads at every position, multiplies, and writes a part of the result that no other job
//! writes. A tap that reads outside the clip at some frames skips those frames.

use super::super::super::Conv3d;
use super::correlate_operands::Numbers;
use super::correlate_pack::{Prefetcher, interleave_places, interleave_split, transpose};
use super::correlate_tiling::STRETCH;
use crate::cpu::amx::{DEPTH, Offsets, Product, SIDE, TILE, Tiles, split};
use crate::cpu::traffic::{self, Temporary, Work};
use crate::tensor::Buffer;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

/// Steps whose operands are in memory at the same time.
const HELD: usize = 50;

/// Bytes of the interleaved inputs of a job, so that they stay in the L2 cache.
const INTERLEAVED: usize = 3 << 18;

/// Maximum number of filters per job.
const FILTERS: usize = 512;

/// Filters and columns per block of the sums.
const BLOCK: usize = 2 * SIDE;

/// The result, to which all jobs write.
struct Target(*mut f32);

// SAFETY: jobs write disjoint ranges.
unsafe impl Sync for Target {}

/// `dw` (`k kt kh kw c`, one group).
///
/// # Safety
/// `Isa::Amx` is available; the operands are of `p`, and not empty.
pub(super) unsafe fn run(p: &Conv3d, x: Numbers, dy: Numbers, dw: &mut [f32]) {
    let taps: Vec<Tap> = (0..p.taps()).map(|i| Tap::new(p, i)).collect();
    if taps.iter().any(|tap| tap.frames.is_empty()) {
        dw.fill(0.0);
    }
    let frame = p.n * p.out[1] * p.out[2];
    let steps = (frame * p.out[0]).div_ceil(DEPTH);
    let chunks = steps.div_ceil(HELD);
    let parts = x.parts();

    // Channels and filters per job. The channels are many, since the gradients are read again for each lot of channels.
    let mut channels = 256.min(p.c.next_multiple_of(BLOCK));
    while channels > BLOCK && channels * parts * HELD.min(steps) * 64 > INTERLEAVED {
        channels = (channels / 2).next_multiple_of(BLOCK);
    }
    let lots = p.c.div_ceil(channels);
    let channels = p.c.div_ceil(lots).next_multiple_of(BLOCK);
    let pairs = p.k.div_ceil(BLOCK);
    let of_job = pairs.div_ceil(p.k.div_ceil(FILTERS));
    let jobs = Jobs { lots, channels, pairs: of_job, of_filters: pairs.div_ceil(of_job) };

    // Every job reads the inputs that its tap does, and the gradients of its filters.
    let (readers, positions) = (taps.len() * jobs.of_filters, p.n * p.out.iter().product::<usize>());
    traffic::more(|| Work::moves(dy.bytes() + readers * x.bytes(), 0, chunks * (pairs + taps.len() * lots)));
    let of_transposed = pairs * parts * steps * 2 * TILE;
    traffic::temporary(Temporary::Layout, taps.len() * lots * of_transposed, of_transposed);
    traffic::cached(2 * parts * readers * positions * p.c);

    let mut transposed = Buffer::<u8>::workspace(pairs * parts * steps.div_ceil(chunks) * 2 * TILE);
    let target = Target(dw.as_mut_ptr());
    for chunk in 0..chunks {
        let held = steps * chunk / chunks..steps * (chunk + 1) / chunks;
        let of_pair = parts * held.len() * 2 * TILE;
        let transposed = &mut transposed.as_mut_slice()[..pairs * of_pair];
        // SAFETY: as the caller vouches; jobs write disjoint ranges of `dw`.
        transposed
            .par_chunks_mut(of_pair)
            .enumerate()
            .for_each(|(pair, to)| unsafe { transpose_pair(p, dy, pair, &held, to) });
        (0..taps.len() * jobs.lots * jobs.of_filters).into_par_iter().for_each(|job| unsafe {
            let (tap, job) = (&taps[job / (jobs.lots * jobs.of_filters)], job % (jobs.lots * jobs.of_filters));
            Job { p, tap, transposed, held: held.clone() }.run(x, &jobs, job, &target);
        });
    }
}

/// A tap of the filters.
struct Tap {
    /// Its index on each axis.
    at: [usize; 3],
    index: usize,
    /// Output frames at which it reads inside the clip.
    frames: Range<usize>,
}

impl Tap {
    fn new(p: &Conv3d, index: usize) -> Self {
        let [_, kh, kw] = p.kernel;
        let at = [index / (kh * kw), index / kw % kh, index % kw];
        let inside = |t: &usize| source(p, 0, *t, at[0]).is_some();
        let first = (0..p.out[0]).find(inside).unwrap_or(0);
        let last = (first..p.out[0]).take_while(inside).count();
        Tap { at, index, frames: first..first + last }
    }
}

/// The input index that output `o` reads at `tap`, on one axis.
fn source(p: &Conv3d, axis: usize, o: usize, tap: usize) -> Option<usize> {
    let win = &p.geometry.window;
    let i = (o * win.stride[axis] + tap * win.dilation[axis]).checked_sub(win.pad[axis])?;
    (i < p.input[axis]).then_some(i)
}

/// Transposes the gradients of 32 filters at some steps: terms, steps, two tiles.
///
/// # Safety
/// As [`run`].
unsafe fn transpose_pair(p: &Conv3d, dy: Numbers, pair: usize, held: &Range<usize>, to: &mut [u8]) {
    let filters = pair * BLOCK..((pair + 1) * BLOCK).min(p.k);
    let frame = p.out[1] * p.out[2];
    let zeros = [0.0f32; BLOCK];
    let mut rows = [[[bf16::ZERO; BLOCK]; DEPTH]; 3];
    for (i, step) in held.clone().enumerate() {
        // Where the filters of each position begin; `None` after the last position.
        let mut places = [None; DEPTH];
        for (i, place) in places.iter_mut().enumerate() {
            let q = step * DEPTH + i;
            let (t, n) = (q / (frame * p.n), q / frame % p.n);
            *place = (t < p.out[0]).then_some(((n * p.out[0] + t) * frame + q % frame) * p.k + filters.start);
        }
        let mut to = to[i * 2 * TILE..].as_mut_ptr();
        for part in 0..dy.parts() {
            let mut at = [zeros.as_ptr().cast::<bf16>(); DEPTH];
            match dy {
                Numbers::Bf16(all) => {
                    at.iter_mut().zip(places).for_each(|(at, place)| {
                        if let Some(place) = place {
                            *at = all[place..].as_ptr();
                        }
                    });
                }
                Numbers::F32(all, parts) => {
                    if part == 0 {
                        let [a, b, c] = &mut rows;
                        for (i, place) in places.iter().enumerate() {
                            let from = place.map_or(&zeros[..filters.len()], |place| &all[place..][..filters.len()]);
                            let [a, b, c] = [&mut a[i], &mut b[i], &mut c[i]].map(|r| &mut r[..filters.len()]);
                            // SAFETY: as the caller vouches.
                            unsafe { if parts == 2 { split(from, [a, b]) } else { split(from, [a, b, c]) } }
                        }
                    }
                    at.iter_mut().zip(&rows[part]).for_each(|(at, row)| *at = row.as_ptr());
                }
            }
            // SAFETY: every place has these filters, and each term and step two tiles.
            unsafe {
                transpose(&at, at[0], filters.len(), to, TILE);
                to = to.wrapping_add(held.len() * 2 * TILE);
            }
        }
    }
}

/// How channels and filters are distributed over jobs.
struct Jobs {
    lots: usize,
    /// Channels per lot.
    channels: usize,
    /// Pairs of tiles of filters.
    pairs: usize,
    of_filters: usize,
}

/// The products of one tap over some steps.
struct Job<'a> {
    p: &'a Conv3d,
    tap: &'a Tap,
    transposed: &'a [u8],
    held: Range<usize>,
}

impl Job<'_> {
    /// # Safety
    /// As [`run`]; no other job has the same number.
    unsafe fn run(&self, x: Numbers, jobs: &Jobs, job: usize, target: &Target) {
        let (p, parts) = (self.p, x.parts());
        let frame = p.n * p.out[1] * p.out[2];
        // Steps at which this tap reads inside the clip: of all, and of those in memory.
        let all = self.tap.frames.start * frame / DEPTH..(self.tap.frames.end * frame).div_ceil(DEPTH);
        let steps = all.start.max(self.held.start)..all.end.min(self.held.end);
        if self.tap.frames.is_empty() || steps.is_empty() {
            return;
        }
        let fresh = all.start >= self.held.start;
        let lot = job / jobs.of_filters * jobs.channels;
        let channels = lot..(lot + jobs.channels).min(p.c);
        let pairs = job % jobs.of_filters * jobs.pairs;
        let pairs = pairs..(pairs + jobs.pairs).min(p.k.div_ceil(BLOCK));

        // One cache line more than the tiles of a column, so that columns do not map to the same cache sets.
        let pitch = steps.len() * TILE + 64;
        let columns = channels.len().div_ceil(SIDE);
        let mut interleaved = Buffer::<u8>::workspace(parts * columns * pitch);
        // SAFETY: as the caller vouches; the array has that many columns for each term.
        unsafe {
            self.interleave(x, &channels, &steps, interleaved.as_mut_slice().as_mut_ptr(), pitch, columns * pitch)
        };

        let blocks = columns.div_ceil(2);
        let mut sums = Buffer::<f32>::workspace(blocks * BLOCK * BLOCK);
        let of_pair = parts * self.held.len() * 2 * TILE;
        let stretches = steps.len().div_ceil(STRETCH);
        let cut = |stretch: usize| steps.len() * stretch / stretches;
        let step =
            |i: usize| Offsets { a: ((steps.start - self.held.start + i) * 2 * TILE) as isize, b: (i * TILE) as isize };
        let lists: Vec<Vec<Offsets>> = (0..stretches).map(|s| (cut(s)..cut(s + 1)).map(step).collect()).collect();
        for pair in pairs {
            let filters = pair * BLOCK..((pair + 1) * BLOCK).min(p.k);
            // The results' memory is not in the cache, so it is prefetched.
            let places = filters.clone().map(|filter| {
                let first = target.0.wrapping_add((filter * p.taps() + self.tap.index) * p.c + channels.start);
                first.cast_const().cast()..first.wrapping_add(channels.len()).cast_const().cast()
            });
            let mut ahead = Prefetcher::new(places.collect(), stretches * blocks);
            // SAFETY: as the caller vouches; nothing here waits for other jobs.
            let tiles = unsafe { Tiles::new(DEPTH) };
            for (stretch, list) in lists.iter().enumerate() {
                for (block, sums) in sums.as_mut_slice().chunks_exact_mut(BLOCK * BLOCK).enumerate() {
                    let product = Product {
                        steps: list,
                        parts,
                        a: self.transposed[pair * of_pair..].as_ptr(),
                        a_stride: 64,
                        a_second: TILE as isize,
                        a_part: (self.held.len() * 2 * TILE) as isize,
                        b: interleaved.as_slice()[2 * block * pitch..].as_ptr(),
                        b_second: pitch as isize,
                        b_part: (columns * pitch) as isize,
                        c: sums.as_mut_ptr(),
                        fresh: stretch == 0,
                    };
                    ahead.prefetch();
                    // SAFETY: both arrays have all steps, the sums 32 rows of 32.
                    unsafe {
                        match (filters.len() > SIDE, 2 * block + 1 < columns) {
                            (true, true) => tiles.multiply::<2, 2>(&product),
                            (true, false) => tiles.multiply::<2, 1>(&product),
                            (false, true) => tiles.multiply::<1, 2>(&product),
                            (false, false) => tiles.multiply::<1, 1>(&product),
                        }
                    }
                }
            }
            drop(tiles);
            for (row, filter) in filters.enumerate() {
                let to = (filter * p.taps() + self.tap.index) * p.c + channels.start;
                // SAFETY: these channels of this tap of these filters belong to this job alone.
                let to = unsafe { std::slice::from_raw_parts_mut(target.0.add(to), channels.len()) };
                for (to, sums) in to.chunks_mut(BLOCK).zip(sums.as_slice().chunks_exact(BLOCK * BLOCK)) {
                    let from = &sums[row * BLOCK..][..to.len()];
                    if fresh {
                        to.copy_from_slice(from);
                    } else {
                        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
                    }
                }
            }
        }
    }

    /// Interleaves what the tap reads at some steps.
    ///
    /// # Safety
    /// As [`run`]; `to` is writable for all terms and columns.
    unsafe fn interleave(
        &self,
        x: Numbers,
        channels: &Range<usize>,
        steps: &Range<usize>,
        to: *mut u8,
        pitch: usize,
        part: usize,
    ) {
        let len = channels.len();
        let zeros = vec![0.0f32; len];
        // SAFETY: the places have these channels.
        unsafe {
            match x {
                Numbers::Bf16(x) => {
                    let places = self.places(x, channels, steps, zeros.as_ptr().cast());
                    interleave_places(&places, len, to, pitch);
                }
                Numbers::F32(x, 2) => {
                    interleave_split::<2>(&self.places(x, channels, steps, zeros.as_ptr()), len, to, pitch, part);
                }
                Numbers::F32(x, _) => {
                    interleave_split::<3>(&self.places(x, channels, steps, zeros.as_ptr()), len, to, pitch, part);
                }
            }
        }
    }

    /// Where the channels begin that the tap reads at every position of some steps; zeros for positions outside.
    fn places<T>(&self, x: &[T], channels: &Range<usize>, steps: &Range<usize>, zeros: *const T) -> Vec<*const T> {
        let p = self.p;
        let [height, width] = [p.out[1], p.out[2]];
        let end = steps.end * DEPTH;
        let mut q = steps.start * DEPTH;
        let mut places = Vec::with_capacity(end - q);
        while q < end {
            let (row, first) = (q / width, q % width);
            let (oh, n, t) = (row % height, row / height % p.n, row / height / p.n);
            if t >= p.out[0] {
                places.resize(places.len() + end - q, zeros);
                break;
            }
            let last = width.min(first + end - q);
            let rows = source(p, 0, t, self.tap.at[0]).zip(source(p, 1, oh, self.tap.at[1]));
            if let Some((frame, row)) = rows {
                let row = ((n * p.input[0] + frame) * p.input[1] + row) * p.input[2];
                let place = |o: usize| {
                    let at = source(p, 2, o, self.tap.at[2]).map(|i| &x[(row + i) * p.c + channels.start..]);
                    at.map_or(zeros, |at| at.as_ptr())
                };
                places.extend((first..last).map(place));
            } else {
                places.resize(places.len() + last - first, zeros);
            }
            q += last - first;
        }
        places
    }
}
