//! One pass; elements are independent.

use rayon::prelude::*;

/// Elements a task takes at once.
const CHUNK: usize = 1 << 15;

pub(super) fn update(key: &mut [f32], query: &[f32], m: f32) {
    let fresh = 1.0 - m;
    key.par_chunks_mut(CHUNK).zip(query.par_chunks(CHUNK)).for_each(|(key, query)| {
        for (k, q) in key.iter_mut().zip(query) {
            *k = m * *k + fresh * q;
        }
    });
}
