//! The demand of a tiled product that is described by its tile, for kernels whose code is not here: those of others, by
//! which the model is tested.

use super::cost::Demand;

/// The threadblock tile of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// Rows, columns and depth of a k-block.
    pub block: [usize; 3],
    /// Rows and columns of a warp, for `mma.sync` and `ldmatrix`; `None` for `wgmma`, which reads shared memory itself.
    pub warp: Option<[usize; 2]>,
    /// Bytes of one copy to shared memory by a thread; of no account for `wgmma` with the tensor memory accelerator.
    pub vector: usize,
    /// Blocks of a cluster that share the loads of one operand.
    pub cluster: usize,
}

/// Instructions per copy of a thread: the copy, its address, its bounds [assumed, from the iterators of CUTLASS 2.x].
const PER_COPY: f64 = 6.0;
/// Instructions of a warp per k-block for loop, barrier and stage [assumed].
const PER_K_BLOCK: f64 = 12.0;

impl Tile {
    /// `wgmma`, fed by the tensor memory accelerator, in clusters of two.
    pub const fn hopper(rows: usize, columns: usize) -> Tile {
        Tile { block: [rows, columns, 64], warp: None, vector: 16, cluster: 2 }
    }

    /// `mma.sync` with warp tiles of 64x64 or less, fed by `cp.async`.
    pub const fn ampere(rows: usize, columns: usize) -> Tile {
        let warp = [if rows < 128 { 32 } else { 64 }, if columns < 128 { 32 } else { 64 }];
        Tile { block: [rows, columns, 32], warp: Some(warp), vector: 16, cluster: 1 }
    }

    /// The demand of `rows x columns x depth`, its depth in `splits` parts, which moves `hbm` bytes. `written` of them are
    /// results.
    pub fn demand(&self, [rows, columns, depth]: [usize; 3], splits: usize, hbm: f64, written: f64) -> Demand {
        let [m, n, k] = self.block;
        let blocks = (rows.div_ceil(m) * columns.div_ceil(n) * splits) as f64;
        let k_blocks = depth.div_ceil(splits).div_ceil(k) as f64;
        let copied = ((m + n) * k * 2) as f64;
        let operations = (2 * m * n * k) as f64;
        // Of two blocks in a cluster, each loads all of one operand and half of the other.
        let requested = (n * k * 2) as f64 / self.cluster as f64 + (m * k * 2) as f64;
        let mut demand =
            Demand { blocks, resident: 1, hbm, l2: blocks * k_blocks * requested + written, ..Demand::default() };
        match self.warp {
            Some([wm, wn]) => {
                let warps = (m / wm * (n / wn)) as f64;
                let steps = (k / 16) as f64;
                let fragments = ((wm + wn) * 16 * 2) as f64;
                let (products, loads) = ((wm / 16 * (wn / 8)) as f64, ((wm + wn) / 16) as f64);
                let copies = copied / self.vector as f64 / 32.0;
                demand.mma = k_blocks * operations;
                demand.shared = k_blocks * (warps * steps * fragments + copied);
                demand.issued = k_blocks * (warps * (steps * (products + loads) + PER_K_BLOCK) + copies * PER_COPY);
            }
            None => {
                // A warpgroup's product has 64 rows and all columns.
                let fragments = (m / 64 * (64 + n) * k * 2) as f64;
                demand.wgmma = k_blocks * operations;
                demand.shared = k_blocks * (fragments + copied);
            }
        }
        demand
    }
}
