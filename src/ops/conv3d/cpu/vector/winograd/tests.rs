//! On shapes too small to be chosen, too: against the definition, exactly on small integers and within a derived bound otherwise.

use super::super::super::super::{Geometry, reference};
use super::*;
use crate::ops::reference::Bounded;
use crate::shape::Window;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `n t h w c`, filters, taps in time, stride in time, padding.
type Row = ([usize; 5], usize, usize, usize, [usize; 3]);

const ROWS: [Row; 9] = [
    ([1, 1, 2, 2, 1], 1, 1, 1, [0, 1, 1]),     // one tile, most of it padding
    ([2, 3, 5, 7, 5], 7, 3, 1, [1, 1, 1]),     // odd extents: tiles beyond the last row and column
    ([1, 4, 6, 4, 33], 40, 3, 2, [1, 1, 1]),   // a stride in time
    ([1, 3, 5, 6, 17], 35, 2, 1, [0, 0, 0]),   // no padding, an even number of taps in time
    ([1, 2, 4, 5, 16], 32, 1, 1, [0, 2, 2]),   // the largest padding
    ([1, 2, 3, 9, 20], 18, 3, 1, [2, 2, 0]),   // other padding on each axis, more than there are frames
    ([3, 1, 9, 8, 70], 65, 1, 1, [0, 1, 1]),   // several blocks of channels on both sides
    ([1, 2, 26, 27, 33], 34, 3, 1, [1, 1, 1]), // several strips of a sample
    ([2, 9, 4, 4, 8], 96, 1, 1, [0, 1, 1]),    // several frames in a strip; parts of the filters are tasks
];

fn problem((x, k, taps, stride, pad): Row) -> Conv3d {
    let window = Window { stride: [stride, 1, 1], pad, dilation: [1; 3] };
    Conv3d::new("conv3d", x.into(), [k, taps, 3, 3, x[4]].into(), &Geometry::new(window)).unwrap()
}

fn numbers(seed: u64, len: usize, integers: bool) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || if integers { rng.random_range(-4i8..=4).into() } else { rng.random_range(-1.0f32..1.0) };
    (0..len).map(|_| draw()).collect()
}

/// `x`, `w` and `dy`.
fn operands(p: &Conv3d, integers: bool) -> [Vec<f32>; 3] {
    let lengths = [p.x_shape().len(), p.w_shape().len(), p.y_shape().len()];
    [0, 1, 2].map(|i| numbers(i as u64, lengths[i], integers))
}

/// The passes, of which dgrad exists for a stride of 1 in time.
fn passes(isa: Isa, p: &Conv3d, [x, w, dy]: &[Vec<f32>; 3]) -> [Vec<f32>; 3] {
    let [mut y, mut dx, mut dw] = [p.y_shape(), p.x_shape(), p.w_shape()].map(|s| vec![f32::NAN; s.len()]);
    fprop(isa, p, x, w, &mut y, &mut Finish::none()).unwrap();
    if p.geometry.window.stride[0] == 1 {
        dgrad(isa, p, dy, w, &mut dx, &mut Finish::none()).unwrap();
    }
    wgrad(isa, p, x, dy, &mut dw).unwrap();
    [y, dx, dw]
}

/// Halves and quarters of small integers are exact, and so is every sum of their products here.
#[test]
fn exact_on_integers_with_any_number_of_threads() {
    for row in ROWS {
        let p = problem(row);
        let d = operands(&p, true);
        let [x, w, dy] = &d;
        let want = [reference::fprop(&p, x, w), reference::dgrad(&p, dy, w), reference::wgrad(&p, x, dy)];
        for &isa in Isa::available() {
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let got = pool.install(|| passes(isa, &p, &d));
                for ((got, want), pass) in got.iter().zip(&want).zip(["fprop", "dgrad", "wgrad"]) {
                    if pass == "dgrad" && p.geometry.window.stride[0] > 1 {
                        continue;
                    }
                    let wrong = got.iter().zip(&want.value).position(|(a, b)| a != b);
                    assert_eq!(wrong, None, "{row:?} {pass} {isa:?}");
                }
            }
        }
    }
}

/// The absolute values of a map's entries, for bounds.
type Map<const I: usize, const O: usize> = [[f64; I]; O];
const B: Map<4, 4> = [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]];
const G: Map<3, 4> = [[1.0, 0.0, 0.0], [0.5; 3], [0.5; 3], [0.0, 0.0, 1.0]];
const A: Map<2, 4> = [[1.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 1.0]];

/// `m v mᵀ`.
fn both<const I: usize, const O: usize>(m: &Map<I, O>, v: impl Fn(usize, usize) -> f64) -> [[f64; O]; O] {
    let mut to = [[0.0; O]; O];
    for (i, row) in to.iter_mut().enumerate() {
        for (j, to) in row.iter_mut().enumerate() {
            *to = (0..I * I).map(|e| m[i][e / I] * m[j][e % I] * v(e / I, e % I)).sum();
        }
    }
    to
}

/// `mᵀ v m`.
fn back<const I: usize, const O: usize>(m: &Map<I, O>, v: &[[f64; O]; O]) -> [[f64; I]; I] {
    let mut to = [[0.0; I]; I];
    for (i, row) in to.iter_mut().enumerate() {
        for (j, to) in row.iter_mut().enumerate() {
            *to = (0..O * O).map(|e| m[e / O][i] * m[e % O][j] * v[e / O][e % O]).sum();
        }
    }
    to
}

/// The magnitudes that errors of fprop and of wgrad are relative to: the formula with the absolute values of all its numbers.
fn magnitudes(p: &Conv3d, [x, w, dy]: &[Vec<f32>; 3]) -> [Vec<f64>; 2] {
    let of = Problem::fprop(p);
    let size = |v: &[f32], i: usize| f64::from(v[i].abs());
    let (mut y, mut dw) = (vec![0.0; p.y_shape().len()], vec![0.0; p.w_shape().len()]);
    let [row, frame, sample] = Problem::steps(p.input, p.c);
    let [y_row, y_frame, y_sample] = Problem::steps(p.out, p.k);
    let [rows, columns] = of.tiles();
    let filter = |k: usize, tap: usize, c: usize| {
        move |i: usize, j: usize| (((k * p.kernel[0] + tap) * 3 + i) * 3 + j) * p.c + c
    };
    for (n, t, tile) in (0..p.n * p.out[0] * rows * columns)
        .map(|i| (i / (p.out[0] * rows * columns), i / (rows * columns) % p.out[0], i % (rows * columns)))
    {
        let (top, left) = (TILE * (tile / columns), TILE * (tile % columns));
        let result = |k: usize| {
            move |i: usize, j: usize| {
                let inside = top + i < p.out[1] && left + j < p.out[2];
                inside.then(|| n * y_sample + t * y_frame + (top + i) * y_row + (left + j) * p.k + k)
            }
        };
        for k in 0..p.k {
            let z = both(&A, |i, j| result(k)(i, j).map_or(0.0, |at| size(dy, at)));
            let mut sum = [[0.0; 4]; 4];
            for &(tap, from) in &of.frames[t] {
                for c in 0..p.c {
                    let v = both(&B, |i, j| {
                        let (h, w) = (
                            (top + i).checked_sub(p.geometry.window.pad[1]),
                            (left + j).checked_sub(p.geometry.window.pad[2]),
                        );
                        match (h.filter(|h| *h < p.input[1]), w.filter(|w| *w < p.input[2])) {
                            (Some(h), Some(w)) => size(x, n * sample + from * frame + h * row + w * p.c + c),
                            _ => 0.0,
                        }
                    });
                    let u = both(&G, |i, j| size(w, filter(k, tap, c)(i, j)));
                    let mut product = [[0.0; 4]; 4];
                    for e in 0..PRODUCTS {
                        sum[e / 4][e % 4] += u[e / 4][e % 4] * v[e / 4][e % 4];
                        product[e / 4][e % 4] = z[e / 4][e % 4] * v[e / 4][e % 4];
                    }
                    for (e, v) in back(&G, &product).as_flattened().iter().enumerate() {
                        dw[filter(k, tap, c)(e / 3, e % 3)] += v;
                    }
                }
            }
            for (e, v) in back(&A, &sum).as_flattened().iter().enumerate() {
                if let Some(at) = result(k)(e / 2, e % 2) {
                    y[at] = *v;
                }
            }
        }
    }
    [y, dw]
}

/// Each number passes through two additions for each axis of its transform (one for inputs), a rounded product, the sum, and two
/// additions for each axis on the way back: `γ` of so many roundings, times the magnitude.
#[test]
fn errors_are_within_the_bound_of_the_formula() {
    for row in ROWS {
        let p = problem(row);
        let d = operands(&p, false);
        let [x, w, dy] = d.each_ref().map(|v| v.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>());
        let [y, dw] = magnitudes(&p, &d);
        let want: [Bounded<f64>; 2] = [reference::fprop(&p, &x, &w), reference::wgrad(&p, &x, &dy)];
        let tiles = Problem::fprop(&p).tiles().iter().product::<usize>() * p.n * p.out[0];
        for &isa in Isa::available() {
            let [got_y, _, got_dw] = passes(isa, &p, &d);
            for (got, want, magnitude, sum) in
                [(got_y, &want[0], &y, p.kernel[0] * p.c), (got_dw, &want[1], &dw, tiles)]
            {
                let nu = (sum + 11) as f64 * f64::from(f32::EPSILON) / 2.0;
                for ((got, want), magnitude) in got.iter().zip(&want.value).zip(magnitude) {
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= nu / (1.0 - nu) * magnitude, "{row:?} {isa:?}: {error:e} of {magnitude:e}");
                }
            }
        }
    }
}

/// The choice for fprop must not depend on the batch, or the bits of a clip's features would.
#[test]
fn the_choice_for_fprop_does_not_depend_on_the_batch() {
    let mut chosen = [0; 2];
    for row in super::super::super::super::cases::LAYERS {
        let of = |n: usize| {
            let mut row = *row;
            row.x[0] = n;
            applies(&row.problem(), Operator::Fprop)
        };
        let one = of(1);
        chosen[usize::from(one)] += 1;
        assert!([2, 4, 7, 32].into_iter().all(|n| of(n) == one), "{}", row.name);
    }
    assert!(chosen.iter().all(|count| *count > 0), "both choices are met: {chosen:?}");
}
