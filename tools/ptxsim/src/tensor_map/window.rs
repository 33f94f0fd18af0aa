//! Which bytes of global memory an instruction transfers through a tensor map.

use super::{TensorMap, Window};

/// A row of the window in shared memory, and the part of it that lies inside the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Address of the first byte that lies inside.
    pub address: u64,
    /// Bytes of the row before it.
    pub skip: u64,
    /// Bytes inside; 0 where the row lies outside.
    pub bytes: u64,
}

impl TensorMap {
    /// The rows of the window at some coordinates, in the order of shared memory; for im2col with its offsets.
    pub(crate) fn window_at(&self, at: &[i64], offsets: Option<&[i64]>) -> Result<Vec<Row>, String> {
        match (&self.window, offsets) {
            (Window::Tiled { extent }, None) => Ok(self.tile(at, extent)),
            (Window::Im2col { lower, upper, channels, pixels }, Some(offsets)) => {
                self.column(at, offsets, (lower, upper), *channels, *pixels)
            }
            (Window::Tiled { .. }, Some(_)) => Err("im2col through a tensor map of tiles".into()),
            (Window::Im2col { .. }, None) => Err("a tile through a tensor map of im2col".into()),
        }
    }

    /// The row of `inner` elements whose first one is at `at`.
    fn row(&self, at: &[i64], inner: u32) -> Row {
        let inside = |(c, e): (&i64, &u64)| *c >= 0 && (*c as u64) < *e;
        let first = at[0].max(0);
        let end = (at[0] + i64::from(inner)).min(self.extents[0] as i64);
        if first >= end || !at.iter().zip(&self.extents).skip(1).all(inside) {
            return Row { address: 0, skip: 0, bytes: 0 };
        }
        let size = self.element.size();
        let outer = at[1..].iter().zip(&self.strides).map(|(c, s)| *c as u64 * s).sum::<u64>();
        Row {
            address: self.address + outer + first as u64 * size,
            skip: (first - at[0]) as u64 * size,
            bytes: (end - first) as u64 * size,
        }
    }

    fn tile(&self, at: &[i64], extent: &[u32]) -> Vec<Row> {
        let counts: Vec<u32> = extent.iter().zip(&self.steps).map(|(e, s)| e.div_ceil(*s)).collect();
        let (_, rows) = self.rows();
        let mut position = at.to_vec();
        let mut index = vec![0; counts.len()];
        let mut out = Vec::with_capacity(rows as usize);
        for _ in 0..rows {
            out.push(self.row(&position, extent[0]));
            for i in 1..counts.len() {
                index[i] += 1;
                position[i] += i64::from(self.steps[i]);
                if index[i] < counts[i] {
                    break;
                }
                (index[i], position[i]) = (0, at[i]);
            }
        }
        out
    }

    /// Pixels one after another through the box of first pixels, whose corners are relative to the tensor's; an offset is added
    /// to each.
    fn column(
        &self,
        at: &[i64],
        offsets: &[i64],
        (lower, upper): (&[i32], &[i32]),
        channels: u32,
        pixels: u32,
    ) -> Result<Vec<Row>, String> {
        let spatial = lower.len();
        let last: Vec<i64> = (0..spatial).map(|i| self.extents[1 + i] as i64 - 1 + i64::from(upper[i])).collect();
        for i in 0..spatial {
            let (c, low) = (at[1 + i], i64::from(lower[i]));
            if c < low || c > last[i] {
                return Err(format!(
                    "coordinate {c} of dimension {} lies outside the bounding box from {low} to {}",
                    1 + i,
                    last[i]
                ));
            }
        }
        let mut first = at.to_vec();
        let mut out = Vec::with_capacity(pixels as usize);
        for _ in 0..pixels {
            let mut position = first.clone();
            position[1..].iter_mut().zip(offsets).for_each(|(p, o)| *p += o);
            out.push(self.row(&position, channels));
            let mut carried = true;
            for i in 0..spatial {
                first[1 + i] += i64::from(self.steps[1 + i]);
                if first[1 + i] <= last[i] {
                    carried = false;
                    break;
                }
                first[1 + i] = i64::from(lower[i]);
            }
            if carried {
                first[1 + spatial] += i64::from(self.steps[1 + spatial]);
            }
        }
        Ok(out)
    }
}
