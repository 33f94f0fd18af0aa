//! Sums over leading axes (down to one row of channels) and over everything are blocked; other patterns index.

use crate::ops::arith::reference::offset;
use crate::shape::Shape;
use rayon::prelude::*;

/// Rows summed by one task. Fixed, so that the order of the additions does not depend on the thread count.
const ROWS: usize = 1024;

pub(super) fn sum_to(a: &[f32], from: Shape, to: Shape, y: &mut [f32]) {
    let rows_of_channels = to.len() == to.last() && to.last() == from.last() && !y.is_empty();
    if rows_of_channels {
        let row = y.len();
        let parts: Vec<Vec<f32>> = a
            .par_chunks(ROWS * row)
            .map(|chunk| {
                let mut part = vec![0.0; row];
                for r in chunk.chunks_exact(row) {
                    part.iter_mut().zip(r).for_each(|(p, v)| *p += v);
                }
                part
            })
            .collect();
        y.fill(0.0);
        for part in &parts {
            y.iter_mut().zip(part).for_each(|(y, p)| *y += p);
        }
    } else if to.len() == 1 {
        let parts: Vec<f32> = a.par_chunks(ROWS).map(|c| c.iter().sum()).collect();
        y[0] = parts.iter().sum();
    } else {
        y.fill(0.0);
        for (i, v) in a.iter().enumerate() {
            y[offset(i, from, to)] += v;
        }
    }
}

pub(super) fn broadcast_to(a: &[f32], from: Shape, to: Shape, y: &mut [f32]) {
    y.par_chunks_mut(ROWS).enumerate().for_each(|(i, y)| {
        for (j, y) in y.iter_mut().enumerate() {
            *y = a[offset(i * ROWS + j, to, from)];
        }
    });
}
