//! The linear layer trained by SGD. Goldens: `tests/fixtures/sgd_probe.safetensors`, made by
//! `tests/fixtures/make/sgd_probe.py`.

use crate::support::close::assert_norm;
use crate::support::goldens::Goldens;
use rand::RngExt;
use rand::seq::SliceRandom;
use tubelet::eval::Features;
use tubelet::eval::sgd::{Sgd, sgd};
use tubelet::rng::{Purpose, stream};

const D: usize = 6;
const ROWS: usize = 2;

/// PyTorch computes in f64 from the same f32 features; the file holds f32.
#[test]
fn the_layer_equals_that_of_torch_sgd_with_nesterov_and_a_cosine() {
    let goldens = Goldens::open("sgd_probe");
    let how = Sgd { lr: 0.7, epochs: 4, batch: 5, seed: 3 };
    let labels: Vec<usize> = goldens.get("y").iter().map(|label| *label as usize).collect();
    let samples = labels.len() / ROWS;
    assert_ne!(samples % how.batch, 0, "the last step of a pass has fewer samples");
    let order: Vec<f32> = (0..how.epochs)
        .flat_map(|epoch| {
            let mut rng = stream(how.seed, epoch, 0, Purpose::Probe);
            let mut order: Vec<usize> = (0..samples).map(|i| i * ROWS + rng.random_range(0..ROWS)).collect();
            order.shuffle(&mut rng);
            order
        })
        .map(|row| row as f32)
        .collect();
    assert_eq!(order, goldens.get("order"), "the order in which the golden was made");
    let train = Features::new(D, goldens.get("x"), labels).unwrap();
    let layer = sgd(&train, ROWS, &how).unwrap();
    let weights: Vec<f32> = layer.weights.iter().map(|w| *w as f32).collect();
    assert_norm("weights", &weights, &goldens.get("weights"), 1e-6);
    assert_norm("loss", &[layer.loss as f32], &goldens.get("loss"), 1e-6);
}
