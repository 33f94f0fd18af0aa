//! How frames are cut into tiles whose pixels are copied with the halo around them: `cuda/conv3d/halo_sm90.cuh`.

use super::super::{Conv3d, Operator};
use bytemuck::{Pod, Zeroable};

/// The kernel's parameters, field for field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Halo {
    /// Pixels of a line with its halo.
    pub pitch: u32,
    /// Lines that the rows of one tile meet.
    pub lines: u32,
    /// Parts of a line, of `pitch` pixels each.
    pub parts: u32,
    /// Tiles of one part of a frame of the result.
    pub part_tiles: u32,
    /// Stages of the ring of filters.
    pub filter_stages: u32,
}

/// Dynamic shared memory of a block: what the device grants (227 KiB) less the static part.
pub(super) const SHARED: usize = (227 << 10) - 256;
/// The shortest ring of filters that hides the time of a copy, and the longest.
const STAGES: [usize; 2] = [3, 8];
/// The same of the ring of wgrad, whose stages are longer.
const UNITS: [usize; 2] = [2, 8];
/// Extents of a box of TMA are at most this.
const MOST: usize = 256;

/// The problem as the kernel is given it: a convolution over time alone is one of a single frame, whose lines are frames.
pub(super) fn flat(p: &Conv3d) -> Conv3d {
    let mut flat = *p;
    let window = &mut flat.geometry.window;
    if p.kernel[1..] == [1, 1] && window.pad[1..] == [0, 0] && window.stride == [1; 3] {
        let lines = |extents: [usize; 3]| [1, extents[0], extents[1] * extents[2]];
        (flat.input, flat.out, flat.kernel) = (lines(p.input), lines(p.out), [1, p.kernel[0], 1]);
        (window.pad, window.dilation) = ([0, window.pad[0], 0], [1, window.dilation[0], 1]);
    }
    flat
}

/// Extents of the grid of rows of a pass.
fn grid(p: &Conv3d, pass: Operator) -> [usize; 3] {
    if pass == Operator::Dgrad { p.input } else { p.out }
}

impl Halo {
    /// The cut for tiles of `m` positions and `n` columns, if there is one: the stride is 1, several taps are within a
    /// frame (of [`flat`]), and the lines fit into shared memory.
    pub fn new(p: &Conv3d, pass: Operator, [m, n]: [usize; 2]) -> Option<Halo> {
        let p = flat(p);
        let several = p.kernel[1] * p.kernel[2] > 1;
        if pass == Operator::Wgrad || p.geometry.window.stride != [1; 3] || !several {
            return None;
        }
        let [_, h, w] = grid(&p, pass);
        if h * w == 0 {
            return None; // an input of padding alone
        }
        let reach = |a: usize| (p.kernel[a] - 1) * p.geometry.window.dilation[a];
        // Where no tap reaches along a line, a tile has all lines, and of each so many pixels that it is full.
        let pitch = if reach(2) == 0 { w.min((m / h).max(8)) } else { w + reach(2) };
        // The first row of a tile may be the last position of a line, unless a tile begins with the first line. The operand
        // of a tap has all rows of the tile, also where the frame has fewer: lines outside of it are zero.
        let before = if (h * pitch) <= m { 0 } else { pitch - 1 };
        let lines = (m + before + reach(2)).div_ceil(pitch) + reach(1);
        // As `HaloTile` in the source: columns of a part of the result that is staged, and the bytes of its rows.
        let columns = match [m, n] {
            [256, 144] => 16,
            [256, _] => 32,
            _ => 64,
        };
        let staged = m * (columns * 2 + 16) + 1024;
        let left = SHARED.checked_sub(staged + 2 * (pitch * lines * 128).next_multiple_of(1024))?;
        let stages = (left / (n * 128)).min(STAGES[1]);
        let parts = if reach(2) == 0 { w.div_ceil(pitch) } else { 1 };
        let [pitch, lines, parts, part_tiles, filter_stages] =
            [pitch, lines, parts, (h * pitch).div_ceil(m), stages].map(|v| v as u32);
        let fits = stages >= STAGES[0] && pitch.max(lines) as usize <= MOST;
        fits.then_some(Halo { pitch, lines, parts, part_tiles, filter_stages })
    }

    /// The cut of wgrad for tiles of `m` filters and `n` columns, if there is one: the stride is 1, and the filter has three
    /// lines of one or three taps (of [`flat`]), as the tile has. `lines` are those of x in a unit of the reduction, `part_tiles`
    /// the units of a part of a frame, and `filter_stages` the stages of units.
    pub fn of_wgrad(p: &Conv3d, [m, n]: [usize; 2]) -> Option<Halo> {
        let p = flat(p);
        let window = &p.geometry.window;
        // Columns are lines of the filter, their taps, and channels.
        let channels = match (p.kernel, n) {
            ([_, 3, 3], 576) | ([_, 3, 1], 192) => 64_usize,
            ([_, 3, 1], 432) => 144,
            _ => return None,
        };
        if window.stride != [1; 3] {
            return None;
        }
        // Copies have 64 channels.
        let blocks = channels.div_ceil(64);
        let [_, h, w] = p.out;
        let reach = |a: usize| (p.kernel[a] - 1) * window.dilation[a];
        let cut = |pitch: usize, lines: usize| {
            let of_x = lines + reach(1);
            // Sixteen positions are multiplied at a time, and a box of TMA has at most 256 of an extent.
            if !(pitch * lines).is_multiple_of(16) || pitch.max(of_x) > MOST {
                return None;
            }
            let of_block = ((pitch * of_x + reach(2)) * 128).next_multiple_of(1024);
            let stage = m / 64 * pitch * lines * 128 + blocks * of_block;
            let stages = ((SHARED - 1024) / stage).min(UNITS[1]);
            let parts = if reach(2) == 0 { w.div_ceil(pitch) } else { 1 };
            let halo = [pitch, of_x, parts, h.div_ceil(lines), stages].map(|v| v as u32);
            let [pitch, lines, parts, part_tiles, filter_stages] = halo;
            (stages >= UNITS[0]).then_some(Halo { pitch, lines, parts, part_tiles, filter_stages })
        };
        let pitches = if reach(2) == 0 { 1..=w.min(MOST) } else { w + reach(2)..=w + reach(2) + 15 };
        // Bytes for each tile: blocks of 64 channels of x, and of 64 filters of dy. Of equals the longest units.
        let bytes = |halo: &Halo| {
            let units = (halo.parts * halo.part_tiles) as usize;
            let lines = halo.lines as usize;
            units * halo.pitch as usize * (blocks * lines + m / 64 * (lines - reach(1)))
        };
        let all = pitches.flat_map(|pitch| (1..=h).filter_map(move |lines| cut(pitch, lines)));
        all.min_by_key(|halo| (bytes(halo), std::cmp::Reverse(halo.lines)))
    }

    /// Of a cut of wgrad: positions of dy in a unit, of x for them, and the units of all samples.
    pub fn units(&self, p: &Conv3d) -> [usize; 3] {
        let flat = flat(p);
        let reach = (flat.kernel[1] - 1) * flat.geometry.window.dilation[1];
        let [pitch, lines] = [self.pitch, self.lines].map(|v| v as usize);
        let units = flat.n * flat.out[0] * (self.parts * self.part_tiles) as usize;
        [pitch * (lines - reach), pitch * lines, units]
    }

    /// Tiles of the rows of `n` samples.
    pub fn tiles(&self, p: &Conv3d, pass: Operator, n: usize) -> usize {
        n * grid(&flat(p), pass)[0] * (self.parts * self.part_tiles) as usize
    }

    /// Pixels that are copied for one tile and frame of the window, for each tap of the frame.
    pub fn pixels_of_tap(&self, p: &Conv3d) -> usize {
        let [_, h, w] = flat(p).kernel;
        (self.pitch as usize * self.lines as usize).div_ceil(h * w)
    }
}
