//! Launch plans shared by several operations: pure functions of the shape, which therefore fixes the order of every
//! sum.

use crate::driver::Spread;
use crate::tensor::DType;

/// Threads per block.
pub(super) const BLOCK: u32 = 256;

/// Elements of a type in sixteen bytes, which a thread accesses at once.
pub(super) fn wide(dtype: DType) -> usize {
    16 / dtype.size()
}

/// Blocks for `n` elements, sixteen bytes per thread.
pub(super) fn elements(n: usize, dtype: DType) -> Spread {
    Spread::cover(n.div_ceil(wide(dtype)), BLOCK)
}

/// Minimum number of blocks, where there is work for them: a few per multiprocessor of the largest devices.
const BLOCKS: usize = 512;

/// Passes over a matrix of `groups · rows` rows of `c` channels by blocks of 256 threads: `2^shift` threads along the
/// channels, each handling `width` adjacent channels, and the remaining threads along the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Parts of the rows that are processed separately.
    pub groups: usize,
    /// Rows per group.
    pub rows: usize,
    /// Channels.
    pub c: usize,
    /// Channels per thread: sixteen bytes where the number of channels is a multiple of that, else 1.
    pub width: usize,
    /// Logarithm of the number of threads along the channels.
    pub shift: u32,
    /// Number of blocks that cover the channels.
    pub tiles: usize,
    /// Rows per chunk, which one block processes.
    pub span: usize,
    /// Chunks per group.
    pub chunks: usize,
}

impl Columns {
    /// The plan for extents above 0. A block reads between 4 and 64 times as many rows as it has threads along the
    /// rows; fewer where there are fewer blocks.
    pub fn new(groups: usize, rows: usize, c: usize, dtype: DType) -> Columns {
        let width = if c.is_multiple_of(wide(dtype)) { wide(dtype) } else { 1 };
        let across = c / width;
        // 128 adjacent bytes fill a cache line; single elements take the width of a warp.
        let shift = across.next_power_of_two().trailing_zeros().min(if width > 1 { 3 } else { 5 });
        let tiles = across.div_ceil(1 << shift);
        let step = BLOCK as usize >> shift;
        let lines = rows.div_ceil(step);
        let chunks = BLOCKS.div_ceil(tiles * groups);
        let span = lines.div_ceil(chunks).clamp(4, 64) * step;
        Columns { groups, rows, c, width, shift, tiles, span, chunks: rows.div_ceil(span) }
    }

    /// Whether threads access single elements.
    pub fn single(&self) -> bool {
        self.width == 1
    }

    /// A block for each tile of each chunk of each group.
    pub fn spread(&self) -> Spread {
        Spread::line((self.tiles * self.chunks * self.groups) as u32, BLOCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    /// How often each element is read, by the index arithmetic of `Block` and `lane_of` in the kernels.
    fn reads(p: &Columns) -> Vec<u32> {
        let mut seen = vec![0; p.groups * p.rows * p.c];
        for block in 0..p.spread().grid[0] as usize {
            let (tile, part) = (block % p.tiles, block / p.tiles);
            let (chunk, group) = (part % p.chunks, part / p.chunks);
            for thread in 0..BLOCK as usize {
                let channel = ((tile << p.shift) + (thread & ((1 << p.shift) - 1))) * p.width;
                let (first, end) = (chunk * p.span + (thread >> p.shift), p.rows.min((chunk + 1) * p.span));
                if channel < p.c {
                    for row in (first..end).step_by(BLOCK as usize >> p.shift) {
                        let at = (group * p.rows + row) * p.c + channel;
                        seen[at..at + p.width].iter_mut().for_each(|s| *s += 1);
                    }
                }
            }
        }
        seen
    }

    /// By the index arithmetic of `for_elements` in the kernels.
    #[test]
    fn elements_are_worked_on_once() {
        for case in 0..64 {
            let (n, dtype) = (stream(case, 0, 0, Purpose::Test).random_range(1..20_000), dtype(case));
            let (spread, width, mut seen) = (elements(n, dtype), wide(dtype), vec![0; n]);
            for thread in 0..(spread.grid[0] * spread.block[0]) as usize {
                seen[n.min(thread * width)..n.min((thread + 1) * width)].iter_mut().for_each(|s| *s += 1);
            }
            assert!(seen.iter().all(|s| *s == 1), "{n} {}", dtype.name());
            assert!((spread.grid[0] - 1) as usize * BLOCK as usize * width < n, "no block is idle");
        }
    }

    #[test]
    fn columns_read_each_element_once() {
        for case in 0..64 {
            let mut rng = stream(case, 0, 0, Purpose::Test);
            let [groups, rows, c] = [4, 3000, 150].map(|end| rng.random_range(1..end));
            let p = Columns::new(groups, rows, c, dtype(case));
            assert!(reads(&p).iter().all(|n| *n == 1), "{p:?}");
            assert!(p.width << p.shift <= 64, "{p:?}");
        }
    }

    fn dtype(case: u64) -> DType {
        if case.is_multiple_of(2) { DType::F32 } else { DType::BF16 }
    }
}
