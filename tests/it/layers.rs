//! Layers: fused kernels against their definitions, and against their compositions.

use crate::close::assert_norm;
use crate::grad::normal;
use tubelet::ops::{self, batch_norm::Stats};
use tubelet::tape::{Mode, Tape};
use tubelet::tensor::Tensor;

#[test]
fn batch_norm_fused_and_composed_gradients_agree() {
    for (groups, relu, with_residual, fixed) in [
        (1, false, false, false),
        (2, true, false, false),
        (2, true, true, false),
        (1, false, true, true),
        (1, true, false, true),
    ] {
        let shape = [4, 2, 3, 3, 5];
        let t = Tape::new();
        let leaf = |seed, shape: &[usize]| t.leaf(normal(seed, shape));
        let (x, r) = (leaf(1, &shape), leaf(2, &shape));
        let (gamma, beta) = (leaf(3, &[5]), leaf(4, &[5]));
        let (mean, var) = ([0.1, 0.2, -0.1, 0.0, 0.3], [1.0, 0.5, 2.0, 1.5, 0.7]);
        let stats = if fixed { Stats::Fixed { mean: &mean, var: &var } } else { Stats::Batch { groups } };
        let residual = with_residual.then_some(&r);
        let (y, _) = ops::batch_norm(&t, &x, &gamma, &beta, stats, 1e-5, residual, relu).unwrap();
        let dy = tubelet::tape::Var::constant(normal(5, &shape));
        let wanted = [&x, &gamma, &beta, &r];
        let keep = t.grad_from(&y, dy.clone(), &wanted, Mode::Keep).unwrap();
        let free = t.grad_from(&y, dy, &wanted, Mode::Free).unwrap();
        for (i, (k, f)) in keep.iter().zip(&free).enumerate() {
            let value = |v: &Option<tubelet::tape::Var>| v.as_ref().map(|v| v.value().load().into_owned());
            match (value(k), value(f)) {
                (Some(k), Some(f)) => assert_norm(&format!("gradient {i}"), &k, &f, 1e-5),
                (k, f) => assert_eq!(k, f),
            }
        }
        let _ = Tensor::scalar(0.0);
    }
}
