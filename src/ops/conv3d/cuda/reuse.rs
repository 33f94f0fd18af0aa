//! How much of what a block reads is already in its first-level cache: neighbouring taps read mostly the same pixels.

use super::super::Operator;

/// The operand that a pass gathers: windows of pixels, by the rows of the product in fprop and dgrad, by the columns in
/// wgrad.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// The pass.
    pub pass: Operator,
    /// Extents `t h w` of `x` and of `y`.
    pub input: [usize; 3],
    /// Extents of `y`.
    pub out: [usize; 3],
    /// Extents of the filters.
    pub kernel: [usize; 3],
    /// Strides.
    pub stride: [usize; 3],
    /// Distances between taps.
    pub dilation: [usize; 3],
    /// Channels of a row of the operand in memory.
    pub channels: usize,
}

impl Gather {
    /// The share of the pixels that a tile of `rows` x `columns` reads in all its taps that no earlier tap has read. The rest
    /// is taken to be in the first-level cache, which holds the pixels of 32 channels of a tile several times: fprop and
    /// dgrad read the taps of 32 channels one after another if channels are a multiple of 32 (`taps_first` in
    /// `cuda/conv3d/problem.cuh`), and the taps in a tile of wgrad read neighbouring pixels at the same time.
    #[must_use]
    pub fn fresh(&self, [rows, columns]: [usize; 2]) -> f64 {
        if self.pass == Operator::Wgrad { self.fresh_columns(columns) } else { self.fresh_rows(rows) }
    }

    fn fresh_rows(&self, rows: usize) -> f64 {
        if !self.channels.is_multiple_of(32) {
            return 1.0;
        }
        let dgrad = self.pass == Operator::Dgrad;
        let grid = [0, 1, 2].map(|a| if dgrad { self.input[a].div_ceil(self.stride[a]) } else { self.out[a] }.max(1));
        let [t, h, w] = grid;
        // A tile has whole lines and frames, as many as it takes.
        let tile = [rows.div_ceil(h * w).min(t), rows.div_ceil(w).min(h), rows.min(w)];
        let (mut asked, mut distinct) = (rows as f64, rows.div_ceil(t * h * w) as f64);
        for (a, extent) in tile.into_iter().enumerate() {
            // In dgrad a residue class meets every stride-th tap, and its pixels lie side by side.
            let (taps, step) =
                if dgrad { (self.kernel[a].div_ceil(self.stride[a]), 1) } else { (self.kernel[a], self.stride[a]) };
            asked *= taps as f64;
            distinct *= (extent * taps).min((extent - 1) * step + (taps - 1) * self.dilation[a] + 1) as f64;
        }
        (distinct / asked).min(1.0)
    }

    fn fresh_columns(&self, columns: usize) -> f64 {
        let taps = columns.div_ceil(self.channels.max(1)).min(self.kernel.iter().product());
        let across = self.kernel[2].max(1);
        // Lines of the filter that the tile's taps are of, with one more where they do not begin with a line; along a line
        // pixels overlap, unless the stride is as long.
        let lines = taps.div_ceil(across) + usize::from(!taps.is_multiple_of(across) && taps > across);
        ((lines * self.stride[2].min(across)) as f64 / taps.max(1) as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(pass: Operator, kernel: [usize; 3], stride: usize, channels: usize) -> Gather {
        let out = [8, 16, 16].map(|e: usize| e / stride);
        Gather { pass, input: [8, 16, 16], out, kernel, stride: [stride; 3], dilation: [1; 3], channels }
    }

    #[test]
    fn taps_share_pixels() {
        let fresh = |g: Gather, tile| (g.fresh(tile) * 1e4).round() * 1e-4;
        // 256 rows are a frame: 18x18 pixels in each of three frames, instead of nine times 256 in each.
        assert_eq!(fresh(gather(Operator::Fprop, [3, 3, 3], 1, 64), [256, 128]), 0.1406);
        assert_eq!(fresh(gather(Operator::Fprop, [1, 1, 1], 1, 64), [256, 128]), 1.0);
        assert_eq!(fresh(gather(Operator::Fprop, [3, 3, 3], 1, 40), [256, 128]), 1.0, "other channels come between");
        // A stride as long as the filter: no pixel is read twice.
        assert_eq!(fresh(gather(Operator::Fprop, [2, 2, 2], 2, 64), [64, 64]), 1.0);
        assert_eq!(fresh(gather(Operator::Dgrad, [2, 2, 2], 2, 64), [64, 64]), 1.0);
        // Four taps of 64 channels: three of one line and one of the next.
        assert_eq!(fresh(gather(Operator::Wgrad, [3, 3, 3], 1, 64), [128, 256]), 0.75);
        assert_eq!(fresh(gather(Operator::Wgrad, [3, 3, 3], 1, 256), [128, 256]), 1.0);
        assert_eq!(fresh(gather(Operator::Wgrad, [1, 1, 1], 1, 64), [128, 256]), 1.0);
    }
}
