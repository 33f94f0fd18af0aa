//! The input as AMX tiles read it: rows with their padding written out, in bf16, for a band of rows of some frames at a
//! time.
//!
//! In a *slab* every tap is at a constant distance from a position, and consecutive positions are equally far apart
//! even across the ends of rows, so that 16 positions are always the 16 rows of a tile. For filters with a stride along
//! rows, rows of the same residue class modulo the stride are stored together. Positions past the end of a row are
//! computed too, and their results discarded.

use super::super::loop_nest::{Axis, LoopNest};
use super::Input;
use super::number::Number;
use crate::cpu::amx::SIDE;
use half::bf16;
use std::ops::Range;

/// Output positions computed from one slab: some frames and rows of one sample.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub n: usize,
    pub t: Range<usize>,
    pub h: Range<usize>,
}

/// How a slab is laid out. All distances are in numbers, not bytes.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Whether there is no slab: the input itself has a suitable layout.
    pub direct: bool,
    /// bf16 terms per number, each stored in an array of its own.
    pub planes: usize,
    pub plane_pitch: usize,
    pub frame_pitch: usize,
    pub row_pitch: usize,
    pub pitch: usize,
    /// Channels per pixel, and how many are read: rounded up to an even number.
    c: usize,
    pub channels: usize,
    /// Residues of rows, modulo the step, that taps read.
    phases: Vec<usize>,
    /// Rows of one residue class in a frame.
    pub rows: usize,
    /// The first row of a slab, and the number of rows beyond the positions'.
    h_first: isize,
    h_more: usize,
    h_step: usize,
    /// Column `j` of a slab is column `every·j + w_first` of the input.
    pub every: usize,
    w_first: isize,
    pub columns: usize,
    /// Columns from one position to the next, and positions per row, including those past the end.
    pub column_step: usize,
    pub across: usize,
    extent: [usize; 3],
    /// Frames per slab.
    frames: usize,
}

/// Strides that are multiples of this many bytes map to too few cache sets.
const ALIASED: usize = 2048;

impl Layout {
    /// The layout for all `nests`, which read the same array, with units of up to `t` frames and `h` rows.
    pub fn new(nests: &[LoopNest], planes: usize, stored: bool, [t, h]: [usize; 2]) -> Self {
        let [at, ah, aw] = &nests[0].axes;
        let c = nests[0].pitch;
        let channels = c.next_multiple_of(2);
        let deltas = |axis: usize| nests.iter().flat_map(move |p| p.axes[axis].taps.iter().map(|t| t.delta));
        let of = |axis: usize| (deltas(axis).min().unwrap_or(0), deltas(axis).max().unwrap_or(0));
        let (h_step, w_step) = (ah.step, aw.step);
        let mut phases: Vec<usize> = deltas(1).map(|d| d.rem_euclid(h_step as isize) as usize).collect();
        phases.sort_unstable();
        phases.dedup();
        let (h_min, h_max) = (of(1).0.div_euclid(h_step as isize), of(1).1.div_euclid(h_step as isize));
        let h_more = (h_max - h_min) as usize;
        let (w_min, w_max) = of(2);
        // Where all taps read the same residue class, the columns between are omitted.
        let same = deltas(2).all(|d| (d - w_min).rem_euclid(w_step as isize) == 0);
        let (every, column_step) = if same { (w_step, 1) } else { (1, w_step) };
        let across = widest(nests, 2);
        let columns = (across - 1) * column_step + (w_max - w_min) as usize / every + 1;
        let columns = columns.next_multiple_of(column_step);

        let plain = |a: &Axis| a.step == 1 && a.count == a.extent && a.taps.iter().all(|t| t.delta == 0);
        let whole = nests.iter().all(|p| plain(&p.axes[1]) && plain(&p.axes[2]));
        // With an odd number of channels and few of them, pixels cannot be read in pairs of numbers without reading a
        // neighbour's.
        let enough = ah.extent * aw.extent >= SIDE; // for a tile, in one frame
        let direct = stored
            && planes == 1
            && whole
            && enough
            && (c >= 32 || c.is_multiple_of(2))
            && !(2 * c).is_multiple_of(ALIASED);
        let padded = !direct && channels.is_multiple_of(32) && (2 * channels).is_multiple_of(ALIASED / 2);
        let pitch = if direct { c } else { channels + if padded { 32 } else { 0 } };
        let rows = if direct { ah.extent } else { h + h_more };
        let row_pitch = columns * pitch;
        let frame_pitch = phases.len() * rows * row_pitch;
        let (t_min, t_max) = of(0);
        let frames = (t - 1) * at.step + (t_max - t_min) as usize + 1;
        // Tiles read up to 31 positions past the last.
        let plane_pitch = (frames * frame_pitch + 32 * column_step * pitch + 32).next_multiple_of(32);
        let extent = [0, 1, 2].map(|a| nests[0].axes[a].extent);
        let (h_first, w_first) = (h_min, w_min);
        Layout {
            direct,
            planes,
            plane_pitch,
            frame_pitch,
            row_pitch,
            pitch,
            c,
            channels,
            phases,
            rows,
            h_first,
            h_more,
            h_step,
            every,
            w_first,
            columns,
            column_step,
            across: columns / column_step,
            extent,
            frames: frames.min(extent[0].max(1)),
        }
    }

    /// Numbers per slab, all planes together.
    pub fn len(&self) -> usize {
        if self.direct { 0 } else { self.planes * self.plane_pitch }
    }

    /// Distance from one position to the next.
    pub fn step(&self) -> usize {
        self.column_step * self.pitch
    }

    /// Whether the positions of one frame end where those of the next begin.
    pub fn gapless(&self) -> bool {
        self.direct || (self.phases.len() == 1 && self.h_more == 0 && self.columns == self.across * self.column_step)
    }

    /// Pixels copied per unit.
    pub fn copied(&self) -> usize {
        if self.direct { 0 } else { self.frames * self.phases.len() * self.rows * self.columns }
    }

    /// Distance of a tap, given by its row and column, from a position's first number.
    pub fn offset(&self, row: isize, column: isize) -> usize {
        let (phase, m) =
            (row.rem_euclid(self.h_step as isize) as usize, row.div_euclid(self.h_step as isize) - self.h_first);
        let phase = self.phases.iter().position(|&p| p == phase).unwrap_or(0);
        (phase * self.rows + m as usize) * self.row_pitch + (column - self.w_first) as usize / self.every * self.pitch
    }

    /// The input frames that a unit reads.
    pub fn frames(&self, nests: &[LoopNest], unit: &Unit) -> Range<usize> {
        let (first, last) = (unit.t.start, unit.t.end - 1);
        let all = || nests.iter().flat_map(|p| p.axes[0].taps.iter().map(|t| (p.axes[0].step, t.delta)));
        let extent = self.extent[0] as isize;
        let from = all().map(|(s, d)| (first * s) as isize + d).min().unwrap_or(0).clamp(0, extent) as usize;
        let to = all().map(|(s, d)| (last * s) as isize + d + 1).max().unwrap_or(0).clamp(0, extent) as usize;
        from..to.max(from)
    }

    /// Copies what `unit` reads into the slab.
    ///
    /// # Safety
    /// `Isa::Amx` is available; `slab` has [`Layout::len`] numbers.
    pub unsafe fn fill<S: Number>(&self, nests: &[LoopNest], unit: &Unit, x: &Input<S>, slab: &mut [bf16]) {
        let [t, h, w] = self.extent;
        let frames = self.frames(nests, unit);
        debug_assert!(frames.len() <= self.frames && slab.len() >= self.len());
        // Columns inside the input: from column `left` of the slab on, `inside` of them.
        let left = (-self.w_first).max(0).unsigned_abs().div_ceil(self.every).min(self.columns);
        let first = (left * self.every) as isize + self.w_first; // not negative
        let inside = (w as isize - first).max(0).unsigned_abs().div_ceil(self.every).min(self.columns - left);
        let mut row_parts: Vec<bf16> = Vec::new();
        for f in frames.clone() {
            let needed = |p: &LoopNest| {
                let a = &p.axes[0];
                a.taps.iter().any(|tap| {
                    let q = f as isize - tap.delta;
                    q >= 0 && q % a.step as isize == 0 && unit.t.contains(&(q as usize / a.step))
                })
            };
            if !nests.iter().any(needed) {
                continue;
            }
            for (phase, &rest) in self.phases.iter().enumerate() {
                for j in 0..unit.h.len() + self.h_more {
                    let row = ((unit.h.start + j) as isize + self.h_first) * self.h_step as isize + rest as isize;
                    let to = (f - frames.start) * self.frame_pitch + (phase * self.rows + j) * self.row_pitch;
                    let outside = row < 0 || row >= h as isize || inside == 0;
                    for plane in 0..self.planes {
                        let to = &mut slab[plane * self.plane_pitch + to..][..self.row_pitch];
                        if outside {
                            to.fill(bf16::ZERO);
                        } else {
                            to[..left * self.pitch].fill(bf16::ZERO);
                            to[(left + inside) * self.pitch..].fill(bf16::ZERO);
                        }
                    }
                    if outside {
                        continue;
                    }
                    let from = (((unit.n * t + f) * h + row as usize) * w + first as usize) * self.c;
                    let to = &mut slab[to + left * self.pitch..];
                    // SAFETY: as the caller vouches.
                    unsafe { self.row(x, from, inside, to, &mut row_parts) };
                }
            }
        }
    }

    /// Copies `inside` pixels, `every` apart, the first at `from`, into all planes.
    unsafe fn row<S: Number>(&self, x: &Input<S>, from: usize, inside: usize, to: &mut [bf16], parts: &mut Vec<bf16>) {
        let (c, pitch) = (self.c, self.pitch);
        if self.every == 1 && pitch == c {
            // SAFETY: as the caller vouches.
            return unsafe { x.spread(from, inside * c, to, self.plane_pitch, self.planes) };
        }
        if self.every > 1 || c >= 32 {
            for i in 0..inside {
                // SAFETY: as the caller vouches.
                unsafe { x.spread(from + i * self.every * c, c, &mut to[i * pitch..], self.plane_pitch, self.planes) };
                for plane in 0..self.planes {
                    to[plane * self.plane_pitch + i * pitch + c..][..self.channels - c].fill(bf16::ZERO);
                }
            }
            return;
        }
        // Few channels, padded to an even number: split the row first, then copy pixel by pixel.
        let len = inside * c;
        parts.resize(self.planes * len, bf16::ZERO);
        // SAFETY: as the caller vouches.
        unsafe { x.spread(from, len, parts, len, self.planes) };
        for (plane, part) in parts.chunks_exact(len).enumerate() {
            // SAFETY: as the caller vouches; `inside` pixels of either pitch are there.
            unsafe { super::number::widen_pixels(part, c, &mut to[plane * self.plane_pitch..], pitch, inside) };
        }
    }
}

/// The largest number of positions of any nest along an axis.
pub(super) fn widest(nests: &[LoopNest], axis: usize) -> usize {
    nests.iter().map(|p| p.axes[axis].count).max().unwrap_or(0)
}
