//! The support vector machine. Goldens: `tests/fixtures/svm.safetensors`, made by `tests/fixtures/make/svm.py`.

use crate::support::close::assert_norm;
use crate::support::goldens::Goldens;
use tubelet::eval::{Features, svm::svm};

const D: usize = 10;

/// The rows of the golden sets whose labels are below `classes`.
fn sets(goldens: &Goldens, classes: usize) -> [Features; 2] {
    [("x", "y"), ("x_test", "y_test")].map(|(x, y)| {
        let (x, y) = (goldens.get(x), goldens.get(y));
        let rows = x.chunks_exact(D).zip(&y).filter(|(_, label)| (**label as usize) < classes);
        let (rows, labels): (Vec<_>, Vec<_>) = rows.map(|(row, label)| (row, *label as usize)).unzip();
        Features::new(D, rows.concat(), labels).unwrap()
    })
}

/// liblinear stops at a relative gradient of 1e-8, and the file holds f32.
#[test]
fn the_support_vector_machine_equals_scikit_learns_linear_svc() {
    let goldens = Goldens::open("svm");
    for (name, classes) in [("four", 4), ("two", 2)] {
        let [train, test] = sets(&goldens, classes);
        for c in [1.0, 0.03] {
            let key = format!("{name}/{c:?}");
            let found = svm(&train, &test, c).unwrap();
            assert!(found.converged, "{key}");
            let rows: Vec<f32> = found.weights.iter().map(|&w| w as f32).collect();
            let want = goldens.get(&format!("{key}/coef"));
            assert_norm(&key, &rows[rows.len() - want.len()..], &want, 1e-5);
            let predicted: Vec<usize> = goldens.get(&format!("{key}/predicted")).iter().map(|&p| p as usize).collect();
            assert_eq!(found.scores.predicted(), predicted, "{key}");
            let right = predicted.iter().zip(test.labels()).filter(|(p, l)| p == l).count();
            assert_eq!(found.scores.top(1), right as f64 / test.len() as f64, "{key}");
        }
    }
}

#[test]
fn what_has_no_support_vector_machine_is_refused() {
    let set = |labels: &[usize]| Features::new(1, vec![1.0; labels.len()], labels.to_vec()).unwrap();
    let refused = |train: &[usize], test: &[usize], c| svm(&set(train), &set(test), c).unwrap_err().to_string();
    assert!(refused(&[0, 1], &[0], 0.0).contains("finite and above 0"));
    assert!(refused(&[0, 1], &[0], f64::NAN).contains("finite and above 0"));
    assert!(refused(&[3, 3], &[3], 1.0).contains("the only class of the training samples is 3"));
    assert!(refused(&[0, 1], &[2], 1.0).contains("a class to be tested needs a training sample"));
}

/// Rows that cannot be told apart still have a minimum: the prior of the classes alone.
#[test]
fn equal_rows_converge() {
    let train = Features::new(2, vec![0.5; 8], vec![0, 0, 0, 1]).unwrap();
    let found = svm(&train, &train, 1.0).unwrap();
    assert!(found.converged);
    assert_eq!(found.scores.predicted(), [0; 4]);
}
