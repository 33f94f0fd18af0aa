//! TV-L1 flow: against its definition, OpenCV and Middlebury's truth; what it must do on images of known motion.

use crate::support::close::{assert_near_as_f32, assert_pixels};
use crate::support::goldens::Goldens;
use crate::support::numbers::{data, wide};
use crate::support::videos::middlebury;
use proptest::prelude::*;
use std::path::Path;
use tubelet::error::ErrorKind;
use tubelet::flow::{Flow, Gray, flo};
use tubelet::ops::tvl1::{self, Tvl1, Workspace, cases, reference};

fn gray(path: &Path) -> Gray {
    let picture = image::open(path).expect("a picture").to_rgb8();
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    Gray::from_rgb(picture.as_raw(), h, w).expect("a whole picture")
}

/// An image of smooth waves, moved by `(dx, dy)` pixels.
fn waves(h: usize, w: usize, dx: f64, dy: f64) -> Gray {
    let pixel = |i: usize| {
        let (y, x) = ((i / w) as f64 - dy, (i % w) as f64 - dx);
        let sum = (0.31 * x + 0.2 * y).sin() + (0.17 * x - 0.4 * y + 1.0).sin() + (0.05 * x + 0.6 * y).cos();
        (127.0 + 35.0 * sum) as f32
    };
    Gray::new(h, w, (0..h * w).map(pixel).collect()).unwrap()
}

fn mirrored(x: &Gray) -> Gray {
    let data = x.data().chunks_exact(x.w()).flat_map(|row| row.iter().rev().copied()).collect();
    Gray::new(x.h(), x.w(), data).unwrap()
}

/// Few iterations: every one more lets roundings grow, in the definition as in the fast path.
fn short() -> Tvl1 {
    Tvl1 { warps: 2, inner_iterations: 8, outer_iterations: 2, epsilon: 0.0, ..Tvl1::default() }
}

fn assert_is_definition(what: &str, a: &Gray, b: &Gray, p: &Tvl1) {
    let got = Workspace::new().flow(a, b, p).expect("a flow");
    let (u, v) = reference::flow::<f64>(&wide(a.data()), &wide(b.data()), a.h(), a.w(), p);
    let single = reference::flow::<f32>(a.data(), b.data(), a.h(), a.w(), p);
    assert_near_as_f32(what, [got.u(), got.v()], [&single.0, &single.1], [&u, &v]);
}

#[test]
fn cases_follow_the_definition() {
    for case in cases::CASES.iter().filter(|c| c.h < 200) {
        let (a, b) = case.pair();
        for median in [1, 3, 5] {
            assert_is_definition(case.name, &a, &b, &Tvl1 { median, ..short() });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_and_parameters_follow_the_definition(
        h in 3usize..44,
        w in 3usize..70,
        (dx, dy) in (-2.0..2.0, -2.0..2.0),
        (lambda, theta, scale_step) in (0.05..0.5, 0.1..0.5, 0.5..0.9),
        (scales, warps, median) in (1usize..5, 1usize..3, prop::sample::select(vec![1usize, 3, 5])),
    ) {
        let p = Tvl1 { lambda, theta, scale_step, scales, warps, median, ..short() };
        assert_is_definition("waves", &waves(h, w, 0.0, 0.0), &waves(h, w, dx, dy), &p);
    }

    #[test]
    fn a_still_image_does_not_flow(h in 3usize..40, w in 3usize..40, dx in -9.0..9.0) {
        let image = waves(h, w, dx, 0.0);
        prop_assert_eq!(tvl1::flow(&image, &image, &Tvl1::default()).unwrap(), Flow::zeros(h, w));
    }
}

#[test]
fn goldens_of_opencv() {
    let goldens = Goldens::open("tvl1");
    let get = |name: &str| goldens.tensor(name);
    let exact = Tvl1 { epsilon: 0.0, ..Tvl1::default() };
    // OpenCV rounds the position of a warp to 1/32 pixel, which the first warp from rest does not feel.
    let parameters = [
        (
            "alternation",
            1e-5,
            Tvl1 { scales: 1, warps: 1, inner_iterations: 20, outer_iterations: 1, median: 1, ..exact },
        ),
        ("median", 1e-5, Tvl1 { scales: 1, warps: 1, inner_iterations: 5, outer_iterations: 4, ..exact }),
        ("levels", 0.02, Tvl1 { scales: 4, warps: 2, inner_iterations: 10, outer_iterations: 2, ..exact }),
        ("default", 0.05, Tvl1::default()),
    ];
    for crop in ["whale", "grove"] {
        let [a, b] = ["a", "b"].map(|name| get(&format!("{crop}.{name}")));
        let (h, w) = (a.dims()[0], a.dims()[1]);
        let [a, b] = [a, b].map(|t| Gray::new(h, w, data(&t)).unwrap());
        for (name, px, p) in &parameters {
            let got = tvl1::flow(&a, &b, p).unwrap();
            let want = wide(&get(&format!("{crop}.{name}")));
            assert_pixels(&format!("{crop}, {name}"), [got.u(), got.v()], [&want[..h * w], &want[h * w..]], *px);
        }
    }
}

#[test]
fn middlebury_error_is_no_worse_than_opencv() {
    let Some(root) = middlebury() else { return };
    for (name, opencv) in [("RubberWhale", 0.156), ("Dimetrodon", 0.180), ("Grove2", 0.157), ("Urban2", 3.572)] {
        let folder = root.join(name);
        let (a, b) = (gray(&folder.join("frame10.png")), gray(&folder.join("frame11.png")));
        let truth = flo::read(folder.join("flow10.flo")).unwrap();
        let error = tvl1::flow(&a, &b, &Tvl1::default()).unwrap().end_point_error(&truth).unwrap();
        println!("{name}: {error:.4} px (OpenCV {opencv})");
        assert!(error <= 1.02 * opencv, "{name}: end-point error {error:.4} px, OpenCV's is {opencv}");
    }
}

#[test]
fn a_translation_is_recovered() {
    for (dx, dy) in [(1.0, 0.0), (0.0, -2.0), (3.0, 1.0), (-2.0, 2.0)] {
        let (h, w) = (60, 75);
        let flow = tvl1::flow(&waves(h, w, 0.0, 0.0), &waves(h, w, dx, dy), &Tvl1::default()).unwrap();
        // Away from the border, where what moves in or out has nothing to match.
        let inside =
            |x: &[f32]| -> Vec<f32> { (8..h - 8).flat_map(|y| x[y * w + 8..(y + 1) * w - 8].to_vec()).collect() };
        let (u, v) = (inside(flow.u()), inside(flow.v()));
        let n = u.len();
        assert_pixels(&format!("moved by {dx}, {dy}"), [&u, &v], [&vec![dx; n], &vec![dy; n]], 0.05);
    }
}

#[test]
fn mirrored_images_flow_the_other_way() {
    let (a, b) = (waves(48, 64, 0.0, 0.0), waves(48, 64, 1.5, -0.5));
    let flow = tvl1::flow(&a, &b, &Tvl1::default()).unwrap();
    let back = tvl1::flow(&mirrored(&a), &mirrored(&b), &Tvl1::default()).unwrap();
    let unmirror = |x: &[f32]| mirrored(&Gray::new(48, 64, x.to_vec()).unwrap()).data().to_vec();
    let u: Vec<f64> = wide(&unmirror(back.u())).iter().map(|u| -u).collect();
    // Differences are taken forwards, so the two are equal only where the iteration has settled.
    assert_pixels("mirrored", [flow.u(), flow.v()], [&u, &wide(&unmirror(back.v()))], 0.05);
}

#[test]
fn bits_do_not_depend_on_threads_or_on_what_was_computed_before() {
    let p = Tvl1 { warps: 2, scales: 2, ..Tvl1::default() };
    let large = cases::CASES.iter().find(|c| c.name == "224x224").unwrap().pair();
    let small = cases::CASES.iter().find(|c| c.name == "21x48").unwrap().pair();
    let bits = |f: &Flow| -> Vec<u32> { f.u().iter().chain(f.v()).map(|x| x.to_bits()).collect() };
    let mut workspace = Workspace::new();
    let [mut alone_large, mut alone_small] = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        alone_large = bits(&workspace.flow(&large.0, &large.1, &p).unwrap());
        alone_small = bits(&workspace.flow(&small.0, &small.1, &p).unwrap());
    }
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (one, many) = pool.install(|| {
            let pairs = [(&small.0, &small.1), (&large.0, &large.1), (&small.0, &small.1)];
            (tvl1::flow(&large.0, &large.1, &p).unwrap(), tvl1::flow_pairs(&pairs, &p).unwrap())
        });
        assert_eq!(bits(&one), alone_large, "{threads} threads");
        assert_eq!(many.iter().map(bits).collect::<Vec<_>>(), [&alone_small[..], &alone_large, &alone_small]);
    }
}

#[test]
fn bad_input_is_refused_in_a_sentence() {
    let good = waves(8, 9, 0.0, 0.0);
    let p = Tvl1::default();
    let refused = |a: &Gray, b: &Gray, p: &Tvl1, word: &str| {
        let error = tvl1::flow(a, b, p).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Shape { .. } | ErrorKind::Param { .. }), "{error}");
        assert!(error.to_string().contains(word), "{error} does not name {word}");
    };
    refused(&good, &waves(9, 8, 0.0, 0.0), &p, "9x8");
    refused(&waves(2, 9, 0.0, 0.0), &waves(2, 9, 0.0, 0.0), &p, "2x9");
    let holed = |with: f32| {
        let mut data = good.data().to_vec();
        data[10] = with;
        Gray::new(8, 9, data).unwrap()
    };
    refused(&good, &holed(f32::NAN), &p, "row 1, column 1");
    refused(&holed(f32::INFINITY), &good, &p, "inf");
    for (wrong, name) in [
        (Tvl1 { tau: 0.0, ..p.clone() }, "tau"),
        (Tvl1 { tau: f64::NAN, ..p.clone() }, "tau"),
        (Tvl1 { lambda: -1.0, ..p.clone() }, "lambda"),
        (Tvl1 { theta: 0.0, ..p.clone() }, "theta"),
        (Tvl1 { scale_step: 1.0, ..p.clone() }, "scale_step"),
        (Tvl1 { epsilon: f64::INFINITY, ..p.clone() }, "epsilon"),
        (Tvl1 { scales: 0, ..p.clone() }, "scales"),
        (Tvl1 { warps: usize::MAX, ..p.clone() }, "warps"),
        (Tvl1 { inner_iterations: 0, ..p.clone() }, "inner_iterations"),
        (Tvl1 { outer_iterations: 0, ..p.clone() }, "outer_iterations"),
        (Tvl1 { median: 4, ..p.clone() }, "median"),
    ] {
        refused(&good, &good, &wrong, name);
    }
}
