//! One pass over memory; elements are independent.

use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 1 << 15;

pub(super) fn blend(key: &mut [f32], query: &[f32], keep: f32, fresh: f32) {
    key.par_chunks_mut(CHUNK).zip(query.par_chunks(CHUNK)).for_each(|(key, query)| {
        for (k, q) in key.iter_mut().zip(query) {
            *k = keep * *k + fresh * q;
        }
    });
}
