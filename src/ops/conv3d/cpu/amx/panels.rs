//! Packed filters: which numbers each step multiplies, and the panels of tiles of B in the order of the steps.

use super::super::loop_nest::LoopNest;
use super::number::{self, BLOCK, Number};
use super::slab::Layout;
use crate::cpu::amx::{DEPTH, Offsets, SIDE};
use half::bf16;
use std::ops::Range;

/// Adjacent pixels that the taps of a position read, and which taps those are.
#[derive(Clone, Debug)]
struct Run {
    /// Column of the first pixel, relative to the position's.
    delta: isize,
    taps: Vec<usize>,
}

/// A step: its tap along time, its tap along the rows of a frame, its run, and the piece of the run.
#[derive(Clone, Copy, Debug)]
struct Place {
    t: usize,
    h: usize,
    run: usize,
    piece: usize,
}

/// Positions that share their taps (all of fprop's, one residue class of dgrad's), and the steps that compute them.
#[derive(Debug)]
pub(super) struct Class {
    pub nest: LoopNest,
    runs: Vec<Run>,
    /// Numbers per run, and per step.
    len: usize,
    pub depth: usize,
    places: Vec<Place>,
    /// Steps that are multiplied for one block of channels before the next block.
    pub segments: Vec<Range<usize>>,
    channels: usize,
    planes: usize,
}

/// Bytes of the input that the steps of a segment read, so that they stay in the L1 cache while all blocks of filters
/// use them.
const KEPT: usize = 14 << 10;

/// Minimum number of steps of a segment, since its sums are loaded and stored once per segment.
const STEPS: usize = 18;

impl Class {
    pub fn new(nest: LoopNest, layout: &Layout) -> Self {
        let [at, ah, aw] = &nest.axes;
        // Adjacent pixels are merged into one run where that saves steps and the pixels are contiguous.
        let side_by_side = layout.every == 1 && aw.taps.windows(2).all(|t| t[1].delta == t[0].delta + 1);
        let merged = side_by_side && layout.pitch == layout.channels && !layout.channels.is_multiple_of(DEPTH);
        let runs: Vec<Run> = if merged {
            vec![Run { delta: aw.taps[0].delta, taps: aw.taps.iter().map(|t| t.index).collect() }]
        } else {
            aw.taps.iter().map(|t| Run { delta: t.delta, taps: vec![t.index] }).collect()
        };
        let pixel = if layout.direct { nest.pitch } else { layout.channels };
        let len = runs[0].taps.len() * pixel;
        let (depth, pieces) = (len.min(DEPTH), len.div_ceil(DEPTH));

        // Bytes that one piece of all taps reads around a block of positions. Pixels are far apart, so no cache lines
        // are shared between pieces.
        let rows = BLOCK.div_ceil(layout.across) + ah.taps.len();
        let pixels = if ah.taps.len() == 1 { BLOCK } else { (rows * layout.across).min(BLOCK * ah.taps.len()) };
        let of_piece = at.taps.len() * pixels * layout.column_step * 2 * DEPTH;
        // Segments cost loads and stores of sums in memory. With several bf16 terms there are more products per loaded
        // number, and with adjacent taps neighbouring positions read the same numbers: then reading from the L2 cache
        // is cheaper than segments, unless a piece is small.
        let beside = ah.taps.len() * runs.len() > 1;
        let strided = ah.step * aw.step > 1;
        let at_once = if layout.planes > 1 || beside && (strided || of_piece > KEPT) {
            pieces
        } else {
            let steps = at.taps.len() * ah.taps.len() * runs.len();
            (KEPT / of_piece).max(STEPS.div_ceil(steps)).min(pieces)
        };
        let groups = pieces.div_ceil(at_once);
        let (mut places, mut segments) = (Vec::new(), Vec::new());
        for group in 0..groups {
            let first = places.len();
            for t in 0..at.taps.len() {
                for h in 0..ah.taps.len() {
                    for run in 0..runs.len() {
                        let own = pieces * group / groups..pieces * (group + 1) / groups;
                        places.extend(own.map(|piece| Place { t, h, run, piece }));
                    }
                }
            }
            segments.push(first..places.len());
        }
        Class { channels: pixel, planes: layout.planes, nest, runs, len, depth, places, segments }
    }

    /// The first number that a piece reads: the last piece ends where its run ends.
    fn start(&self, piece: usize) -> usize {
        (piece * DEPTH).min(self.len - self.depth)
    }

    /// Numbers per tile of B.
    fn tile(&self) -> usize {
        self.depth * SIDE
    }

    /// Numbers per panel of one block.
    pub fn panel(&self) -> usize {
        self.places.len() * self.planes * 2 * self.tile()
    }

    /// Bytes from the first tile of B to the second.
    pub fn second(&self) -> isize {
        (2 * self.tile()) as isize
    }

    /// The steps of one segment, for positions at which the taps along time that are `inside` read the clip.
    pub fn steps(&self, layout: &Layout, segment: &Range<usize>, inside: &[bool]) -> Vec<Offsets> {
        let mut steps = Vec::new();
        for (i, place) in segment.clone().zip(&self.places[segment.clone()]).filter(|(_, p)| inside[p.t]) {
            let [at, ah, _] = &self.nest.axes;
            let within = layout.offset(ah.taps[place.h].delta, self.runs[place.run].delta) + self.start(place.piece);
            let a = 2 * (at.taps[place.t].delta * layout.frame_pitch as isize + within as isize);
            let b = 2 * i * self.planes * 2 * self.tile();
            steps.push(Offsets { a, b: b as isize });
        }
        steps
    }

    /// Packs the filters of output channels `block·32..` of `w`. If `transposed`, the filters are transposed: the
    /// contraction is over the first index of `w`, and the last index is the output channel.
    ///
    /// # Safety
    /// `Isa::Amx` is available; `panel` has [`Class::panel`] numbers.
    pub unsafe fn pack<S: Number>(&self, w: &[S], transposed: bool, block: usize, panel: &mut [bf16]) {
        let (c, k) = (self.nest.pitch, self.nest.out_pitch);
        let taps: usize = self.nest.kernel.iter().product();
        let [_, kh, kw] = self.nest.kernel;
        let [at, ah, _] = &self.nest.axes;
        let pieces = panel.chunks_exact_mut(self.planes * 2 * self.tile());
        let mut parts = vec![bf16::ZERO; self.planes * DEPTH * BLOCK];
        let stored: Option<*const bf16> = S::STORED.then(|| w.as_ptr().cast());
        for (place, to) in self.places.iter().zip(pieces) {
            let run = &self.runs[place.run];
            let tap = (at.taps[place.t].index * kh + ah.taps[place.h].index) * kw;
            let start = self.start(place.piece);
            // Numbers before these belong to another piece, too.
            let fresh = place.piece * DEPTH - start..(start + self.depth).min(self.len) - start;
            // Where the filters of number `e` begin; `None` for the padding of an odd pixel.
            let at = |e: usize, row: usize| {
                let (of_run, channel) = ((start + e) / self.channels, (start + e) % self.channels);
                let (tap, own) = (tap + run.taps[of_run], channel < c);
                let [outer, inner] = if transposed { [channel, row] } else { [row, channel] };
                own.then(|| (outer * taps + tap) * if transposed { k } else { c } + inner)
            };
            let columns = (k - block * BLOCK).min(BLOCK);
            if transposed {
                for plane in 0..self.planes {
                    if stored.is_none() && plane == 0 {
                        for e in fresh.clone() {
                            if let Some(at) = at(e, block * BLOCK) {
                                let to = &mut parts[e * BLOCK..];
                                // SAFETY: as the caller vouches.
                                unsafe { S::spread(&w[at..at + columns], to, DEPTH * BLOCK, self.planes) };
                            }
                        }
                    }
                    let row = |e: usize| match (fresh.contains(&e).then(|| at(e, block * BLOCK)).flatten(), stored) {
                        (None, _) => std::ptr::null(),
                        (Some(at), Some(w)) => w.wrapping_add(at),
                        (Some(_), None) => parts[(plane * DEPTH + e) * BLOCK..].as_ptr(),
                    };
                    for pair in 0..self.depth / 2 {
                        let to = &mut to[plane * 2 * self.tile() + pair * BLOCK..][..self.tile() + BLOCK];
                        // SAFETY: as the caller vouches; `columns` numbers of a row are there.
                        unsafe {
                            number::pair([row(2 * pair), row(2 * pair + 1)], columns, to.as_mut_ptr(), self.tile())
                        };
                    }
                }
                continue;
            }
            for side in 0..columns.div_ceil(SIDE) {
                let first = block * BLOCK + side * SIDE;
                let rows = (columns - side * SIDE).min(SIDE);
                let together = self.channels == c || run.taps.len() == 1;
                if let (Some(w), true) = (stored, together) {
                    let from = w.wrapping_add(at(fresh.start, first).unwrap_or(0)).wrapping_sub(fresh.start);
                    let whole = fresh.start..fresh.end.min(if run.taps.len() == 1 { c - start } else { DEPTH });
                    // SAFETY: as the caller vouches; the numbers of a run are contiguous in a filter.
                    unsafe {
                        number::transpose(from, taps * c, rows, whole, &mut to[side * self.tile()..], self.depth)
                    };
                    continue;
                }
                parts.fill(bf16::ZERO);
                for j in 0..rows {
                    let mut e = fresh.start;
                    while e < fresh.end {
                        // A range of channels of one tap.
                        let end = fresh.end.min(((start + e) / self.channels + 1) * self.channels - start);
                        if let Some(at) = at(e, first + j) {
                            let count = (end - e).min(c - (start + e) % self.channels);
                            let to = &mut parts[j * DEPTH + e..];
                            // SAFETY: as the caller vouches.
                            unsafe { S::spread(&w[at..at + count], to, DEPTH * BLOCK, self.planes) };
                        }
                        e = end;
                    }
                }
                for plane in 0..self.planes {
                    let from = parts[plane * DEPTH * BLOCK..].as_ptr();
                    let to = &mut to[(plane * 2 + side) * self.tile()..];
                    // SAFETY: as the caller vouches; there are 32 numbers for each of 32 rows.
                    unsafe { number::transpose(from, DEPTH, rows, 0..DEPTH, to, self.depth) };
                }
            }
        }
    }
}
