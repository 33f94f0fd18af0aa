//! Whether a pass runs on AMX tiles, and with how many bf16 terms per number.

use super::super::super::{Conv3d, Operator, Products};
use super::super::vector::saves_products;
use super::correlate_tiling::Tiling;
use crate::cpu::Isa;
use crate::cpu::amx::{DEPTH, SIDE};
use crate::tensor::{DType, Tensor};

/// Number of bf16 terms into which AMX tiles split the numbers of these tensors; `None` where AMX is not used. Depends
/// only on the shape (for fprop without the number of samples), the data types and the processor.
pub(in super::super) fn parts(isa: Isa, p: &Conv3d, pass: Operator, operands: [&Tensor; 2]) -> Option<usize> {
    let any = [p.x_shape(), p.w_shape(), p.y_shape()].iter().all(|s| !s.is_empty());
    if isa.or_less() != Isa::Amx || p.geometry.groups != 1 || !any || !moderate(p) {
        return None;
    }
    match operands.map(Tensor::dtype) {
        [DType::BF16, DType::BF16] => Some(1),
        [DType::F32, DType::F32] => match p.geometry.products {
            // 16 multiply-adds instead of 36 are ahead of six products on tiles instead of one.
            Products::F32 => (!saves_products(p, pass) && pays(p, pass)).then_some(3),
            Products::Fma => None,
            Products::Bf16x3 => Some(2),
            Products::Bf16x6 => Some(3),
        },
        _ => None,
    }
}

/// Whether the window is small enough for copies with the padding written out.
fn moderate(p: &Conv3d) -> bool {
    let window = &p.geometry.window;
    (0..3).all(|a| {
        window.pad[a].max(window.stride[a]).max(window.dilation[a] * (p.kernel[a] - 1)) <= MOST
            && p.out[a] <= 2 * (p.input[a] + MOST)
    })
}

/// The largest stride, padding and extent of a dilated kernel that AMX tiles are used for.
const MOST: usize = 1 << 10;

/// Samples that the splitting of filters is spread over in the choice for fprop: the smallest batch that networks train
/// with. With more, multiply-adds that are chosen lose less to tiles than tiles would lose to them here.
const CLIPS: usize = 2;

/// Whether six AMX products of bf16 terms are clearly faster than f32 multiply-adds.
///
/// Both costs are in picoseconds, fitted to the passes of five networks (two cores with two 512-bit units each); only
/// their ratio matters. Tiles multiply faster, but operands must be split first: splitting costs more than is gained
/// for an activation that few output channels use, and for filters that few positions use.
///
/// fprop is judged as if it were of [`CLIPS`] samples, whatever their number: otherwise the bits of a clip's features would
/// depend on how many clips they are computed with.
fn pays(p: &Conv3d, pass: Operator) -> bool {
    let n = if pass == Operator::Fprop { CLIPS } else { p.n };
    let [inputs, outputs] = [p.input, p.out].map(|axes| (n * axes.iter().product::<usize>()) as f64);
    let (c, k, taps) = (p.c as f64, p.k as f64, p.taps() as f64);
    let filters = taps * c * k;
    // Multiply-adds compute vectors of results, at least two side by side.
    let vectors = |results: usize| results.next_multiple_of(SIDE).max(2 * SIDE) as f64;
    // Tiles multiply in steps of fixed depth; with few channels, the taps of a row share a step.
    let steps = |contracted: usize| {
        if contracted < DEPTH {
            let [kt, kh, kw] = p.kernel;
            kt * kh * (kw * contracted.next_multiple_of(2)).next_multiple_of(DEPTH)
        } else {
            p.taps() * contracted.next_multiple_of(DEPTH)
        }
    };
    let tiled = |contracted: usize, results: usize| (steps(contracted) * results.next_multiple_of(SIDE)) as f64;
    let (multiply_adds, tiles) = match pass {
        Operator::Fprop => (
            4.7 * outputs * taps * c * vectors(p.k),
            2.7 * outputs * tiled(p.c, p.k) + 115.0 * inputs * c + 1000.0 * filters,
        ),
        Operator::Dgrad => (
            4.7 * outputs * taps * k * vectors(p.c),
            2.7 * outputs * tiled(p.k, p.c) + 115.0 * outputs * k + 950.0 * filters,
        ),
        // Here channels and filters are rows and columns of tiles, and a few of either leave a tile mostly empty.
        Operator::Wgrad if p.c < SIDE || p.k < SIDE => return false,
        Operator::Wgrad => (
            4.7 * outputs * filters,
            3.1 * Tiling::new(p, 3).stepped as f64 * filters + 80.0 * (inputs * c + outputs * k) + 250.0 * filters,
        ),
    };
    tiles < 0.95 * multiply_adds
}

#[cfg(test)]
mod tests {
    use super::super::super::super::cases::{Case, LAYERS};
    use super::*;

    /// What `f32_goes_the_fastest_way` of the integration tests counts on where there are tiles.
    #[test]
    fn tiles_are_chosen_for_temporal_layers() {
        let temporal = LAYERS.iter().find(|row| row.name == "r21d-2t").unwrap();
        for (x, pays_off) in [([2, 8, 28, 28, 64], true), ([1, 2, 7, 7, 64], false)] {
            let p = Case { x, k: 64, ..*temporal }.problem();
            for pass in [Operator::Fprop, Operator::Dgrad, Operator::Wgrad] {
                assert!(pays(&p, pass) == pays_off && !saves_products(&p, pass), "{pass:?} of {x:?}");
            }
        }
    }

    /// A pure function of the shape, so this holds it on processors without AMX too.
    #[test]
    fn the_choice_for_fprop_does_not_depend_on_the_batch() {
        let mut chosen = [0; 2];
        for row in LAYERS {
            let of = |n: usize| {
                let mut row = *row;
                row.x[0] = n;
                pays(&row.problem(), Operator::Fprop)
            };
            let one = of(1);
            chosen[usize::from(one)] += 1;
            assert!([2, 4, 7, 32].into_iter().all(|n| of(n) == one), "{}", row.name);
        }
        assert!(chosen.iter().all(|count| *count > 0), "both choices are met: {chosen:?}");
    }
}
