//! Convolutions of bf16 tensors with every instruction set: exact sums rounded once, whatever they are multiplied with.

use crate::support::close::assert_bounded;
use crate::support::numbers::{Draw, bits, drawn, integer, real, seeded, wide};
use tubelet::cpu::Isa;
use tubelet::ops::conv3d::cases::SMALL;
use tubelet::ops::conv3d::{Conv3d, Geometry, dgrad_with, fprop_with, reference, wgrad_with};
use tubelet::ops::reference::Bounded;
use tubelet::shape::Window;
use tubelet::tensor::{DType, Tensor};

const PASSES: [&str; 3] = ["fprop", "dgrad", "wgrad"];

/// What small problems do not reach where two numbers are multiplied at once: `n t h w c`, `k`, the kernel, and the stride along
/// rows.
const LARGER: [([usize; 5], usize, [usize; 3], usize); 12] = [
    ([1, 2, 14, 14, 64], 80, [1, 3, 3], 1), // three taps of a row at once, several blocks
    ([1, 2, 9, 20, 45], 33, [1, 3, 3], 1),  // the same taps of an odd number of channels
    ([2, 3, 4, 5, 461], 40, [3, 1, 1], 1),  // more of them, one position more than pairs in a row
    ([1, 2, 5, 6, 40], 461, [1, 3, 3], 2),  // an odd number of filters, residue classes
    ([1, 2, 11, 12, 3], 64, [1, 7, 7], 2),  // taps of a row merged
    ([1, 2, 11, 12, 3], 20, [1, 3, 3], 1),  // a merged row that begins at odd numbers
    ([1, 2, 9, 9, 1], 70, [1, 3, 3], 1),    // a single channel
    ([1, 2, 9, 9, 70], 1, [1, 3, 3], 1),    // a single filter
    ([1, 2, 48, 48, 33], 70, [1, 1, 3], 1), // several sets and stretches
    ([3, 2, 9, 10, 70], 300, [1, 3, 1], 1), // several parts of the tiles
    ([2, 3, 5, 5, 37], 30, [3, 3, 3], 2),   // rows that some taps do not read, an odd number of positions
    ([1, 1, 1, 5001, 3], 61, [1, 1, 1], 1), // more sets than rows
];

fn problems() -> Vec<(String, Conv3d)> {
    let larger = LARGER.iter().map(|&(x, k, [t, h, w], step)| {
        let g = Geometry::new(Window::same([t, h, w]).strided([1, 1, step]));
        let p = Conv3d::new("conv3d", x.into(), [k, t, h, w, x[4]].into(), &g).unwrap();
        (format!("{x:?} to {k}, {t}x{h}x{w}"), p)
    });
    SMALL.iter().map(|case| (case.name.to_owned(), case.problem())).chain(larger).collect()
}

/// `x`, `w` and `dy`.
fn operands(p: &Conv3d, draw: Draw) -> [Tensor; 3] {
    let mut r = seeded(1);
    [p.x_shape(), p.w_shape(), p.y_shape()].map(|shape| drawn(&mut r, shape, draw).cast(DType::BF16).unwrap())
}

fn passes(isa: Isa, p: &Conv3d, [x, w, dy]: &[Tensor; 3]) -> [Tensor; 3] {
    let g = p.geometry();
    [
        fprop_with(isa, x, w, g).unwrap(),
        dgrad_with(isa, dy, w, p.x_shape(), g).unwrap(),
        wgrad_with(isa, x, dy, p.w_shape(), g).unwrap(),
    ]
}

fn definition(p: &Conv3d, d: &[Tensor; 3]) -> [Bounded<f64>; 3] {
    let [x, w, dy] = d.each_ref().map(wide);
    [reference::fprop(p, &x, &w), reference::dgrad(p, &dy, &w), reference::wgrad(p, &x, &dy)]
}

#[test]
fn exact_sums_are_rounded_once() {
    for (name, p) in problems() {
        let d = operands(&p, integer);
        let want = definition(&p, &d);
        for &isa in Isa::available() {
            for ((got, want), pass) in passes(isa, &p, &d).iter().zip(&want).zip(PASSES) {
                let value: Vec<f32> = want.value.iter().map(|&v| v as f32).collect();
                let want = Tensor::from_f32(got.shape(), &value).unwrap().cast(got.dtype()).unwrap();
                let (got, want) = (got.load().unwrap(), want.load().unwrap());
                let wrong = got.iter().zip(&*want).position(|(a, b)| a != b);
                assert_eq!(wrong, None, "{name} {pass} {isa:?}: {:?}", wrong.map(|i| (got[i], want[i])));
            }
        }
    }
}

#[test]
fn sums_have_the_errors_of_f32() {
    for (name, p) in problems() {
        let d = operands(&p, real);
        let want = definition(&p, &d);
        for &isa in Isa::available() {
            for ((got, want), pass) in passes(isa, &p, &d).iter().zip(&want).zip(PASSES) {
                assert_bounded(&format!("{name} {pass} {isa:?}"), &got.load().unwrap(), want, got.dtype());
            }
        }
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    for (name, p) in problems() {
        let d = operands(&p, real);
        for &isa in Isa::available() {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| passes(isa, &p, &d).each_ref().map(bits))
            };
            let one = on(1);
            assert!(one == on(2) && one == on(3), "{name} {isa:?}");
        }
    }
}

/// A number that is not finite spoils every result that it is a term of. In fprop and dgrad it spoils no other; wgrad may multiply
/// an input with the zeros beside a gradient, and a gradient with padding, which spoils results of the same channel.
#[test]
fn what_is_not_finite_stays_with_its_channel() {
    for (name, p) in problems() {
        let d = operands(&p, integer);
        for (operand, bad) in [(0, f32::NAN), (2, f32::INFINITY)] {
            let mut d = d.clone();
            let mut data = d[operand].load().unwrap().into_owned();
            let at = data.len() / 2;
            data[at] = bad;
            d[operand] = Tensor::from_f32(d[operand].shape(), &data).unwrap().cast(DType::BF16).unwrap();
            let want = definition(&p, &d);
            let (groups, filter) = (p.geometry().groups, p.taps() * p.c_group());
            for &isa in Isa::available() {
                for ((got, want), pass) in passes(isa, &p, &d).iter().zip(&want).zip(PASSES) {
                    for (j, (got, want)) in got.load().unwrap().iter().zip(&want.value).enumerate() {
                        let k = j / filter;
                        let channel = match operand {
                            0 => k / p.k_group() * p.c_group() + j % p.c_group() == at % p.c(),
                            _ => k == at % p.k(),
                        };
                        let may = pass == "wgrad" && channel;
                        let what =
                            || format!("{name} in {groups} groups, {pass} {isa:?}: {bad} at {at} of operand {operand}");
                        assert!(got.is_finite() || !want.is_finite() || may, "{}: spreads to {j}", what());
                        assert!(!got.is_finite() || want.is_finite(), "{}: is lost at {j}", what());
                    }
                }
            }
        }
    }
}
