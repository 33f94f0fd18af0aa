//! The definition: plain loops.

use num_traits::Float;

/// One step: the new weights and the new velocities. `decay` is 0 where no weight decay applies.
pub fn update<F: Float>(
    momentum: F,
    nesterov: bool,
    decay: F,
    lr: F,
    w: &[F],
    grad: &[F],
    v: &[F],
) -> (Vec<F>, Vec<F>) {
    w.iter()
        .zip(grad)
        .zip(v)
        .map(|((&w, &g), &v)| {
            let g = g + decay * w;
            let v = momentum * v + g;
            let along = if nesterov { g + momentum * v } else { v };
            (w - lr * along, v)
        })
        .unzip()
}
