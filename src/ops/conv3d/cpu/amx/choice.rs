//! Whether tiles form a pass's products, and of how many parts.

use super::super::super::{Conv3d, Products};
use super::correlate_plan::Plan;
use crate::cpu::Isa;
use crate::cpu::amx::{DEPTH, SIDE};
use crate::tensor::{DType, Tensor};

/// A convolution's three passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Pass {
    Fprop,
    Dgrad,
    Wgrad,
}

/// In how many parts tiles take the numbers of these tensors; `None` where they do not multiply them. Depends on the shape,
/// the types and the processor alone.
pub(in super::super) fn parts(isa: Isa, p: &Conv3d, pass: Pass, operands: [&Tensor; 2]) -> Option<usize> {
    let any = [p.x_shape(), p.w_shape(), p.y_shape()].iter().all(|s| !s.is_empty());
    if isa.or_less() != Isa::Amx || p.geometry.groups != 1 || !any || !moderate(p) {
        return None;
    }
    match operands.map(Tensor::dtype) {
        [DType::BF16, DType::BF16] => Some(1),
        [DType::F32, DType::F32] => match p.geometry.products {
            Products::F32 => pays(p, pass).then_some(3),
            Products::Fma => None,
            Products::Bf16x3 => Some(2),
            Products::Bf16x6 => Some(3),
        },
        _ => None,
    }
}

/// Whether the window's numbers are of a size that copies with the padding written out are made for.
fn moderate(p: &Conv3d) -> bool {
    let window = &p.geometry.window;
    (0..3).all(|a| {
        window.pad[a].max(window.stride[a]).max(window.dilation[a] * (p.kernel[a] - 1)) <= MOST
            && p.out[a] <= 2 * (p.input[a] + MOST)
    })
}

/// The largest number of a window that tiles take.
const MOST: usize = 1 << 10;

/// Whether six products of parts in tiles are clearly faster than multiply-adds of f32.
///
/// Both are costed in picoseconds, fitted to the passes of five networks (two cores with two 512-bit units each); only
/// ratios matter. Tiles multiply faster, but numbers must be split first: those of an activation, where few channels
/// come of them, and the filters, where few positions use them, cost more than is gained.
fn pays(p: &Conv3d, pass: Pass) -> bool {
    let [inputs, outputs] = [p.input, p.out].map(|axes| (p.n * axes.iter().product::<usize>()) as f64);
    let (c, k, taps) = (p.c as f64, p.k as f64, p.taps() as f64);
    let filters = taps * c * k;
    // Multiply-adds come in vectors of results, at least two side by side.
    let vectors = |results: usize| results.next_multiple_of(SIDE).max(2 * SIDE) as f64;
    // Tiles multiply whole steps; of few channels, the taps of a row share one.
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
        Pass::Fprop => (
            4.7 * outputs * taps * c * vectors(p.k),
            2.7 * outputs * tiled(p.c, p.k) + 115.0 * inputs * c + 1000.0 * filters,
        ),
        Pass::Dgrad => (
            4.7 * outputs * taps * k * vectors(p.c),
            2.7 * outputs * tiled(p.k, p.c) + 115.0 * outputs * k + 950.0 * filters,
        ),
        // Here channels and filters are rows and columns, and a few of either fill no tile.
        Pass::Wgrad if p.c < SIDE || p.k < SIDE => return false,
        Pass::Wgrad => (
            4.7 * outputs * filters,
            3.1 * Plan::new(p, 3).stepped as f64 * filters + 80.0 * (inputs * c + outputs * k) + 250.0 * filters,
        ),
    };
    tiles < 0.95 * multiply_adds
}
