//! The linear probe and nearest neighbours.

use crate::support::close::assert_norm;
use crate::support::goldens::Goldens;
use rand::RngExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use tubelet::error::{Error, ErrorKind};
use tubelet::eval::{Features, knn::knn, probe::probe, probe::probe_while, svm::svm_while};
use tubelet::rng::{Purpose, stream};

fn golden(name: &str) -> Vec<f32> {
    Goldens::open("probe").get(name)
}

fn golden_two(name: &str) -> Vec<f32> {
    Goldens::open("probe_two").get(name)
}

fn labels(name: &str) -> Vec<usize> {
    golden(name).into_iter().map(|v| v as usize).collect()
}

fn golden_sets() -> (Features, Features) {
    let set = |x, y| Features::new(12, golden(x), labels(y)).unwrap();
    (set("x", "y"), set("x_test", "y_test"))
}

/// `n` samples of `d` numbers around one centre a class; `spread` is their distance from it.
fn clouds(n: usize, d: usize, c: usize, spread: f32, seed: u64) -> Features {
    let mut centres = stream(0, 0, 0, Purpose::Test);
    let centres: Vec<f32> = (0..c * d).map(|_| centres.random_range(-1.0..1.0)).collect();
    let mut rng = stream(seed, 1, 0, Purpose::Test);
    let labels: Vec<usize> = (0..n).map(|i| i % c).collect();
    let values =
        (0..n * d).map(|i| centres[labels[i / d] * d + i % d] + spread * rng.random_range(-1.0f32..1.0)).collect();
    Features::new(d, values, labels).unwrap()
}

#[test]
fn probe_equals_scikit_learn() {
    let (train, test) = golden_sets();
    let l2 = f64::from(golden("l2")[0]);
    let r = probe(&train, &test, l2).unwrap();
    assert!(r.converged, "{} iterations", r.iterations);
    let (coef, intercept) = (golden("coef"), golden("intercept"));
    let want: Vec<f32> = coef.chunks_exact(12).zip(intercept).flat_map(|(w, b)| [w, &[b]].concat()).collect();
    let got: Vec<f32> = r.weights.iter().map(|&v| v as f32).collect();
    assert_norm("weights", &got, &want, 1e-4);
    let right = labels("predicted").iter().zip(test.labels()).filter(|(p, l)| p == l).count();
    assert_eq!(r.top1, right as f64 / test.len() as f64);
    let counts: Vec<usize> = (0..4).map(|c| test.labels().iter().filter(|l| **l == c).count()).collect();
    let per_class = r.scores.per_class();
    assert_eq!(per_class.iter().map(|(n, _)| *n).collect::<Vec<_>>(), counts);
    assert_eq!(per_class.iter().map(|(_, right)| right).sum::<usize>(), right);
}

#[test]
fn the_probe_of_two_classes_equals_scikit_learns_single_row() {
    let index = |name| -> Vec<usize> { golden_two(name).into_iter().map(|v| v as usize).collect() };
    let set = |x, y| Features::new(10, golden_two(x), index(y)).unwrap();
    let (train, test) = (set("x", "y"), set("x_test", "y_test"));
    let r = probe(&train, &test, f64::from(golden_two("l2")[0])).unwrap();
    assert!(r.converged, "{} iterations", r.iterations);
    let (first, second) = r.weights.split_at(11);
    let row: Vec<f32> = first.iter().zip(second).map(|(a, b)| (b - a) as f32).collect();
    assert_norm("weights", &row, &[golden_two("coef"), golden_two("intercept")].concat(), 1e-4);
    let predicted = index("predicted");
    let right = predicted.iter().zip(test.labels()).filter(|(p, l)| p == l).count();
    assert_eq!(r.top1, right as f64 / test.len() as f64);
    let ones = |labels: &[usize]| labels.iter().sum::<usize>();
    let confusion = r.scores.confusion();
    assert_eq!(confusion[1] + confusion[3], ones(&predicted), "the same samples are called class 1");
}

#[test]
fn nearest_neighbour_equals_scikit_learn() {
    let (train, test) = golden_sets();
    assert_eq!(knn(&train, &test, 1).unwrap().predicted, labels("nearest"));
}

#[test]
fn separable_classes_are_separated() {
    let (train, test) = (clouds(130, 20, 13, 0.2, 1), clouds(65, 20, 13, 0.2, 2));
    let r = probe(&train, &test, 1e-4).unwrap();
    assert_eq!((r.top1, r.train_top1, r.converged), (1.0, 1.0, true));
    assert_eq!(knn(&train, &test, 1).unwrap().top1, 1.0);
    assert_eq!(knn(&train, &test, 20).unwrap().top1, 1.0);
}

#[test]
fn probe_does_not_see_scale_or_offset() {
    let (train, test) = (clouds(90, 6, 3, 1.5, 1), clouds(60, 6, 3, 1.5, 2));
    let change = |f: &Features| {
        let values = f.values().iter().enumerate().map(|(i, v)| v * [0.125, 1024.0, 2.0][i % 3] + [0.0, 8.0][i % 2]);
        Features::new(f.d(), values.collect(), f.labels().to_vec()).unwrap()
    };
    let (plain, changed) = (probe(&train, &test, 1e-2).unwrap(), probe(&change(&train), &change(&test), 1e-2).unwrap());
    let narrow = |w: &[f64]| w.iter().map(|&v| v as f32).collect::<Vec<_>>();
    assert_norm("weights", &narrow(&changed.weights), &narrow(&plain.weights), 1e-4);
    assert_eq!(plain.scores.confusion(), changed.scores.confusion());
}

#[test]
fn a_constant_feature_changes_nothing() {
    let (train, test) = (clouds(60, 4, 3, 1.0, 1), clouds(30, 4, 3, 1.0, 2));
    let with = |f: &Features| {
        let values = f.values().chunks_exact(4).flat_map(|r| [r, &[0.1]].concat()).collect();
        Features::new(5, values, f.labels().to_vec()).unwrap()
    };
    let (plain, more) = (probe(&train, &test, 1e-2).unwrap(), probe(&with(&train), &with(&test), 1e-2).unwrap());
    assert_eq!(plain.scores.confusion(), more.scores.confusion());
}

#[test]
fn the_same_bits_on_any_pool() {
    let (train, test) = (clouds(333, 17, 5, 1.5, 1), clouds(150, 17, 5, 1.5, 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| (probe(&train, &test, 1e-3).unwrap(), knn(&train, &test, 5).unwrap()))
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[test]
fn labels_need_not_be_dense() {
    let renamed = |f: Features| {
        let labels = f.labels().iter().map(|l| [3, 40, 100][*l]).collect();
        Features::new(f.d(), f.values().to_vec(), labels).unwrap()
    };
    let (train, test) = (renamed(clouds(30, 8, 3, 0.1, 1)), renamed(clouds(9, 8, 3, 0.1, 2)));
    let r = probe(&train, &test, 1e-3).unwrap();
    assert_eq!((r.classes, r.top1), (vec![3, 40, 100], 1.0));
    assert_eq!(knn(&train, &test, 1).unwrap().predicted, test.labels());
}

#[test]
fn votes_are_weighed_by_nearness() {
    // Two neighbours of class 1 at 60°, one of class 0 in line: with k = 3 the near one outweighs the two.
    let (s, c) = (60f32.to_radians().sin(), 60f32.to_radians().cos());
    let train = Features::new(2, vec![1.0, 0.0, c, s, c, -s], vec![0, 1, 1]).unwrap();
    let test = Features::new(2, vec![2.0, 0.0], vec![0]).unwrap();
    assert_eq!(knn(&train, &test, 3).unwrap().predicted, [0]);
}

#[test]
fn bad_input_is_named() {
    let (train, test) = (clouds(12, 4, 3, 0.5, 1), clouds(6, 4, 3, 0.5, 2));
    let none = Features::new(4, vec![], vec![]).unwrap();
    let wide = clouds(6, 5, 3, 0.5, 1);
    let one = Features::new(4, vec![1.0; 8], vec![2, 2]).unwrap();
    let unseen = Features::new(4, vec![1.0; 4], vec![9]).unwrap();
    let shape = |e: tubelet::error::Error, arg: &str| {
        assert!(matches!(e.kind(), ErrorKind::Shape { arg: a, .. } if *a == arg), "{e}");
    };
    let param = |e: tubelet::error::Error, name: &str| {
        assert!(matches!(e.kind(), ErrorKind::Param { name: n, .. } if *n == name), "{e}");
    };
    shape(probe(&none, &test, 1.0).unwrap_err(), "train");
    shape(probe(&train, &none, 1.0).unwrap_err(), "test");
    shape(probe(&train, &wide, 1.0).unwrap_err(), "test");
    shape(knn(&train, &none, 1).unwrap_err(), "test");
    param(probe(&train, &test, 0.0).unwrap_err(), "l2");
    param(probe(&train, &unseen, 1.0).unwrap_err(), "class");
    param(knn(&train, &unseen, 1).unwrap_err(), "class");
    param(probe(&one, &one, 1.0).unwrap_err(), "classes");
    param(knn(&train, &test, 0).unwrap_err(), "k");
    param(knn(&train, &test, 13).unwrap_err(), "k");
    param(Features::new(2, vec![0.0, f32::NAN], vec![0]).unwrap_err(), "value");
    param(Features::new(0, vec![], vec![0]).unwrap_err(), "d");
    shape(Features::new(2, vec![0.0], vec![0]).unwrap_err(), "values");
}

/// A search for a minimum is left within a pass over the samples, by every thread of it.
#[test]
fn a_fit_ends_with_the_error_of_what_is_asked_in_each_pass() {
    let (train, test) = (clouds(60, 5, 3, 1.5, 1), clouds(9, 5, 3, 1.5, 2));
    let stopping = |asked: &AtomicUsize| match asked.fetch_add(1, Ordering::Relaxed) {
        ..4 => Ok(()),
        _ => Err(Error::from(ErrorKind::Stopped { path: "here".into(), what: "asked".into() })),
    };
    for fit in ["logistic", "svm"] {
        let asked = AtomicUsize::new(0);
        let go_on = || stopping(&asked);
        let error = match fit {
            "logistic" => probe_while(&train, &test, 1e-3, &go_on).unwrap_err(),
            _ => svm_while(&train, &test, 1.0, &go_on).unwrap_err(),
        };
        let passes = asked.load(Ordering::Relaxed);
        assert!(matches!(error.kind(), ErrorKind::Stopped { .. }) && (5..8).contains(&passes), "{fit}: {passes}");
    }
}
