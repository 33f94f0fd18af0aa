//! Filters as tiles: which numbers a step multiplies, and the panels of B in the order of the steps.

use super::super::plan::Plan;
use super::number::{BLOCK, Number, turn};
use super::slab::Layout;
use crate::cpu::amx::{DEPTH, SIDE, Step};
use half::bf16;
use std::ops::Range;

/// Pixels that a position's taps read side by side, and which taps those are.
#[derive(Clone, Debug)]
struct Run {
    /// Column of the first, from the position's.
    delta: isize,
    taps: Vec<usize>,
}

/// A step of all parts: taps in time and along rows, run, and the piece of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    t: usize,
    h: usize,
    run: usize,
    piece: usize,
}

/// Positions that share their taps (all of fprop's, one class of remainders of dgrad's) and the steps that give them.
#[derive(Debug)]
pub(super) struct Class {
    pub plan: Plan,
    runs: Vec<Run>,
    /// Numbers of a run, and of a step.
    len: usize,
    pub depth: usize,
    places: Vec<Place>,
    /// Places that are multiplied before the next block of channels is.
    pub segments: Vec<Range<usize>>,
    channels: usize,
    planes: usize,
}

/// Bytes of the input that one block's steps read: they stay in the first-level cache beside the panels passing by.
const KEPT: usize = 28 << 10;

/// Which parts of two numbers are multiplied, small products first.
pub(super) fn products(planes: usize) -> &'static [[usize; 2]] {
    match planes {
        1 => &[[0, 0]],
        2 => &[[0, 1], [1, 0], [0, 0]],
        _ => &[[0, 2], [2, 0], [1, 1], [0, 1], [1, 0], [0, 0]],
    }
}

impl Class {
    pub fn new(plan: Plan, layout: &Layout) -> Self {
        let [at, ah, aw] = &plan.axes;
        // Neighbouring pixels make one run where that saves steps and there is nothing between them.
        let side_by_side = layout.every == 1 && aw.taps.windows(2).all(|t| t[1].delta == t[0].delta + 1);
        let merged = side_by_side && layout.pitch == layout.channels && !layout.channels.is_multiple_of(DEPTH);
        let runs: Vec<Run> = if merged {
            vec![Run { delta: aw.taps[0].delta, taps: aw.taps.iter().map(|t| t.index).collect() }]
        } else {
            aw.taps.iter().map(|t| Run { delta: t.delta, taps: vec![t.index] }).collect()
        };
        let pixel = if layout.direct { plan.pitch } else { layout.channels };
        let len = runs[0].taps.len() * pixel;
        let (depth, pieces) = (len.min(DEPTH), len.div_ceil(DEPTH));

        // What a piece of all taps reads of the pixels around a block: whole pixels apart, so its bytes are its own.
        let rows = BLOCK.div_ceil(layout.across) + ah.taps.len();
        let pixels = if ah.taps.len() == 1 { BLOCK } else { (rows * layout.across).min(BLOCK * ah.taps.len()) };
        let of_piece = at.taps.len() * pixels * layout.column_step * 2 * DEPTH * layout.planes;
        let at_once = (KEPT / of_piece).clamp(1, pieces);
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
        Class { channels: pixel, planes: layout.planes, plan, runs, len, depth, places, segments }
    }

    /// The first number that a piece reads: the last ends with its run.
    fn start(&self, piece: usize) -> usize {
        (piece * DEPTH).min(self.len - self.depth)
    }

    /// Numbers of a tile of B.
    fn tile(&self) -> usize {
        self.depth * SIDE
    }

    /// Numbers of one block's panel.
    pub fn panel(&self) -> usize {
        self.places.len() * self.planes * 2 * self.tile()
    }

    /// Bytes from the first tile of B to the second.
    pub fn second(&self) -> isize {
        (2 * self.tile()) as isize
    }

    /// The steps of one segment for positions of which the taps in time `inside` count.
    pub fn steps(&self, layout: &Layout, segment: &Range<usize>, inside: &[bool]) -> Vec<Step> {
        let mut steps = Vec::new();
        for (i, place) in segment.clone().zip(&self.places[segment.clone()]).filter(|(_, p)| inside[p.t]) {
            let [at, ah, _] = &self.plan.axes;
            let within = layout.offset(ah.taps[place.h].delta, self.runs[place.run].delta) + self.start(place.piece);
            for &[of_x, of_w] in products(self.planes) {
                let a = at.taps[place.t].delta * layout.frame_pitch as isize;
                let a = 2 * (a + (within + of_x * layout.plane_pitch) as isize);
                let b = 2 * (i * self.planes + of_w) * 2 * self.tile();
                steps.push(Step { a, b: b as isize });
            }
        }
        steps
    }

    /// Packs the filters of output channels `block·32..` of `w`. With `turned`, contraction is over the first index of `w`
    /// and the last is the result's.
    ///
    /// # Safety
    /// `Isa::Amx` is available; `panel` has [`Class::panel`] numbers.
    pub unsafe fn pack<S: Number>(&self, w: &[S], turned: bool, block: usize, panel: &mut [bf16]) {
        let (c, k) = (self.plan.pitch, self.plan.out_pitch);
        let taps: usize = self.plan.kernel.iter().product();
        let [_, kh, kw] = self.plan.kernel;
        let [at, ah, _] = &self.plan.axes;
        let pieces = panel.chunks_exact_mut(self.planes * 2 * self.tile());
        for (place, to) in self.places.iter().zip(pieces) {
            let run = &self.runs[place.run];
            let tap = (at.taps[place.t].index * kh + ah.taps[place.h].index) * kw;
            let start = self.start(place.piece);
            // Numbers before these are another piece's, too.
            let fresh = place.piece * DEPTH..(start + self.depth).min(self.len);
            for side in 0..2 {
                let first = block * BLOCK + side * SIDE;
                let columns = k.saturating_sub(first).min(SIDE);
                if columns == 0 {
                    continue;
                }
                let mut parts = [[[bf16::ZERO; BLOCK]; SIDE]; 3];
                // Stretches of one tap's channels.
                let mut e = fresh.start;
                while e < fresh.end {
                    let (of_run, channel) = (e / self.channels, e % self.channels);
                    let end = fresh.end.min((of_run + 1) * self.channels);
                    let count = (end - e).min(c.saturating_sub(channel));
                    let tap = tap + run.taps[of_run];
                    let flat = parts.as_flattened_mut().as_flattened_mut();
                    if turned {
                        for i in 0..count {
                            let from = &w[((channel + i) * taps + tap) * k + first..][..columns];
                            // Two rows of 16 make one of 32 here, so that pairs can be taken from it.
                            let at = (e - start + i) * SIDE;
                            // SAFETY: as the caller vouches.
                            unsafe { S::spread(from, &mut flat[at..], SIDE * BLOCK, self.planes) };
                        }
                    } else {
                        for j in 0..columns {
                            let from = &w[((first + j) * taps + tap) * c + channel..][..count];
                            // SAFETY: as the caller vouches.
                            unsafe { S::spread(from, &mut flat[j * BLOCK + e - start..], SIDE * BLOCK, self.planes) };
                        }
                    }
                    e = end;
                }
                for (plane, part) in parts.iter().enumerate().take(self.planes) {
                    let to = &mut to[(plane * 2 + side) * self.tile()..][..self.tile()];
                    if turned {
                        let rows = part.as_flattened().chunks_exact(2 * SIDE);
                        for (pair, to) in rows.zip(to.chunks_exact_mut(2 * SIDE)) {
                            for j in 0..SIDE {
                                (to[2 * j], to[2 * j + 1]) = (pair[j], pair[SIDE + j]);
                            }
                        }
                    } else {
                        // SAFETY: as the caller vouches.
                        unsafe { turn(part, to, self.depth) };
                    }
                }
            }
        }
    }
}
