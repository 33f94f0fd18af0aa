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
    /// Tiles of one frame of the result.
    pub frame_tiles: u32,
    /// Stages of the ring of filters.
    pub filter_stages: u32,
}

/// Dynamic shared memory of a block: what the device grants (227 KiB) less the static part.
const SHARED: usize = (227 << 10) - 256;
/// The longest ring of filters, and the shortest that hides the time of a copy.
const STAGES: [usize; 2] = [3, 8];
/// Extents of a box of TMA are at most this.
const MOST: usize = 256;

/// Extents `h w` of a frame of the grid of rows, and how far the taps reach beyond a pixel.
fn frame(p: &Conv3d, pass: Operator) -> ([usize; 2], [usize; 2]) {
    let grid = if pass == Operator::Dgrad { p.input } else { p.out };
    let reach = |a: usize| (p.kernel[a] - 1) * p.geometry.window.dilation[a];
    ([grid[1], grid[2]], [reach(1), reach(2)])
}

impl Halo {
    /// Positions of a frame: its lines with their halo.
    pub fn positions(p: &Conv3d, pass: Operator) -> usize {
        let ([h, w], [_, reach]) = frame(p, pass);
        h * (w + reach)
    }

    /// The cut for tiles of `m` positions and `n` columns, if there is one: the stride is 1, several taps are within a
    /// frame, and the lines fit into shared memory.
    pub fn new(p: &Conv3d, pass: Operator, [m, n]: [usize; 2]) -> Option<Halo> {
        let several = p.kernel[1] * p.kernel[2] > 1;
        if pass == Operator::Wgrad || p.geometry.window.stride != [1; 3] || !several {
            return None;
        }
        let ([h, w], [reach_h, reach_w]) = frame(p, pass);
        let pitch = w + reach_w;
        // The first row of a tile may be the last position of a line.
        let lines = (m + pitch - 1 + reach_w).div_ceil(pitch) + reach_h;
        let columns = if m == 256 { 32 } else { 64 };
        let staged = m * (columns * 2 + 16) + 1024;
        let left = SHARED.checked_sub(staged + 2 * (pitch * lines * 128).next_multiple_of(1024))?;
        let stages = (left / (n * 128)).min(STAGES[1]);
        let [pitch, lines, frame_tiles, filter_stages] =
            [pitch, lines, (h * pitch).div_ceil(m), stages].map(|v| v as u32);
        let fits = stages >= STAGES[0] && pitch.max(lines) as usize <= MOST;
        fits.then_some(Halo { pitch, lines, frame_tiles, filter_stages })
    }

    /// Pixels that are copied for one tile and frame of the window, for each tap of the frame.
    pub fn pixels_of_tap(&self, p: &Conv3d) -> usize {
        (self.pitch as usize * self.lines as usize).div_ceil(p.kernel[1] * p.kernel[2])
    }
}
