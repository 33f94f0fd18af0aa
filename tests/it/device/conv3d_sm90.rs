//! The convolutions with TMA and wgmma against the definition, on the simulator's Hopper.

use super::conv3d::{Kernels, chain_of_gradients, check, statistics_of, tiles_of};
use super::coverage::executed;
use crate::support::numbers::{bits, drawn, real, seeded};
use crate::support::sim::{Sim, on_hopper};
use proptest::prelude::*;
use ptxsim::Order;
use tubelet::error::ErrorKind;
use tubelet::ops::batch_norm::{Norm, ReluMask, Signs};
use tubelet::ops::conv3d::fusion::{self, GradEpilogue};
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, on_tile, operands_begin, tiles};
use tubelet::shape::Window;
use tubelet::tensor::{DType, Device, Tensor};

/// Tiles of the portable kernels, which come first, and those with TMA and wgmma for every window behind them: the first is that of
/// 128x256, which the last has for pairs of blocks.
const PORTABLE: usize = 4;
const TILES: usize = 5;

fn problem(x: [usize; 5], k: usize, kernel: [usize; 3], window: Window) -> Option<Conv3d> {
    let w = [k, kernel[0], kernel[1], kernel[2], x[4]];
    Conv3d::new("conv3d", x.into(), w.into(), &Geometry::new(window)).ok()
}

#[test]
pub fn every_tile_of_hopper() {
    for (name, x, k, kernel, stride, pairs) in [
        ("dense", [1, 3, 9, 10, 24], 136, [1, 3, 3], [1, 1, 1], 0),
        // More than one k-block of channels, more than one column of tiles, samples that end within a tile.
        ("deep", [3, 2, 7, 6, 136], 264, [1, 1, 1], [1, 1, 1], 0),
        ("strided", [1, 4, 9, 8, 136], 24, [3, 1, 1], [2, 1, 2], 0),
        ("odd", [2, 2, 7, 7, 19], 67, [1, 3, 1], [1, 1, 1], 2),
        ("temporal", [2, 5, 9, 7, 40], 72, [3, 1, 1], [1, 1, 1], 2),
        // More channels and filters than the tiles of 144 have.
        ("broad", [1, 4, 5, 7, 152], 152, [3, 1, 1], [1, 1, 1], 1),
        // Pairs of tiles with halos that are of two frames, one of which meets fewer frames of the filter.
        ("volume", [1, 4, 12, 26, 72], 16, [3, 3, 3], [1, 1, 1], 2),
    ] {
        let p = problem(x, k, kernel, Window::same(kernel).strided(stride)).unwrap();
        // Tiles with halos are for strides of 1 and several taps, in wgrad for three lines of three, or of one; those of pairs
        // of blocks where there is an even number.
        let halo = stride == [1; 3] && kernel != [1; 3];
        for (pass, tiles) in tiles_of(name, &p, Kernels::Hopper, PORTABLE) {
            let more = match pass {
                Operator::Fprop => 5 + pairs,
                Operator::Dgrad => 4 + pairs,
                Operator::Wgrad => 1 + usize::from(kernel[2] == 1),
            };
            // Nor are there pairs for dgrad in several launches.
            let all = if pass == Operator::Dgrad && stride != [1; 3] { TILES - 1 } else { TILES };
            assert_eq!(tiles, if halo { TILES + more } else { all }, "{name} {pass:?}");
        }
    }
}

/// A smaller one, for mistakes that are made on purpose.
#[test]
pub fn every_tile_of_hopper_on_a_small_problem() {
    let p = problem([1, 2, 5, 6, 72], 40, [1, 3, 3], Window::same([1, 3, 3])).unwrap();
    tiles_of("small", &p, Kernels::Hopper, PORTABLE);
}

/// The assumption of the kernels with halos, on hardware or in the simulator; and a device on which it does not hold.
#[test]
fn operands_begin_at_any_row_or_kernels_with_halos_are_left_out() {
    let p = problem([1, 2, 12, 13, 72], 40, [1, 3, 3], Window::same([1, 3, 3])).unwrap();
    let passes = [Operator::Fprop, Operator::Dgrad, Operator::Wgrad];
    on_hopper(|device| {
        let Device::Cuda(gpu) = device else { panic!("a GPU") };
        assert_eq!(operands_begin(gpu).unwrap().wrong, [[0; 8]; 3]);
        assert_eq!(passes.map(|pass| tiles(gpu, &p, pass).unwrap()), [16, 15, 10]);
    });
    let other = Sim::reading_by_operand();
    let wrong = operands_begin(&other.gpu).unwrap().wrong;
    for form in wrong {
        assert!(form[0] == 0 && form[1..].iter().all(|wrong| *wrong > 0), "{wrong:?}");
    }
    assert_eq!(passes.map(|pass| tiles(&other.gpu, &p, pass).unwrap()), [PORTABLE + TILES; 3]);
    // What remains computes the right numbers.
    check("without halos", &p, [DType::BF16; 3], &other.device());
    let ran: Vec<String> = other.machine.totals().into_keys().collect();
    assert!(!ran.iter().any(|name| name.contains("_halo_")), "{ran:?}");
}

/// Where the question fails, for lack of memory, kernels with halos are left out until it can be asked.
#[test]
fn a_question_that_fails_is_asked_again() {
    let p = problem([1, 2, 12, 13, 72], 40, [1, 3, 3], Window::same([1, 3, 3])).unwrap();
    let sim = Sim::hopper_with_memory(1 << 20);
    let all = Tensor::zeros([1 << 18]).to(&sim.device()).unwrap();
    let of = |pass| tiles(&sim.gpu, &p, pass).unwrap();
    assert_eq!(of(Operator::Fprop), PORTABLE + TILES);
    drop(all);
    assert_eq!(of(Operator::Fprop), 16);
}

/// Pairs of blocks that copy for each other multiply the same numbers in the same order as blocks by themselves.
#[test]
pub fn a_pair_has_the_bits_of_two_blocks() {
    for (x, k, kernel, stride) in [
        // One tile of rows, beside which there is nothing; several, and several of columns.
        ([1, 1, 9, 10, 72], 40, [1, 3, 3], [1, 1, 1]),
        ([2, 3, 17, 15, 72], 264, [3, 1, 1], [2, 2, 1]),
        ([1, 1, 16, 24, 264], 264, [1, 1, 1], [1, 1, 1]),
    ] {
        let p = problem(x, k, kernel, Window::same(kernel).strided(stride)).unwrap();
        let [x, w, dy] = [p.x_shape(), p.w_shape(), p.y_shape()].map(|s| drawn(&mut seeded(3), s, real));
        for (pass, operands) in
            [(Operator::Fprop, [&x, &w]), (Operator::Dgrad, [&dy, &w]), (Operator::Wgrad, [&x, &dy])]
        {
            on_hopper(|device| {
                let [a, b] = operands.map(|t| t.cast(DType::BF16).unwrap().to(device).unwrap());
                let of = |tile: usize| on_tile(&p, pass, tile, [&a, &b]).unwrap().map(|t| bits(&t));
                let (alone, pair) = (of(PORTABLE), of(PORTABLE + TILES - 1));
                assert_eq!(pair.is_none(), pass == Operator::Dgrad && stride != [1; 3]);
                assert!(pair.is_none() || alone == pair, "{pass:?} of {}", p.x_shape());
                pair
            });
        }
    }
    took_part(&["conv3d_fprop_sm90_128x256_pair", "conv3d_dgrad_sm90_128x256_pair", "conv3d_wgrad_sm90_128x256_pair"]);
}

/// The same with halos, where the tiles of a pair are of one frame or of two.
#[test]
pub fn a_pair_with_halos_has_the_bits_of_two_blocks() {
    for (x, k, kernel) in [([1, 4, 12, 26, 72], 16, [3, 3, 3]), ([2, 5, 9, 7, 40], 72, [3, 1, 1])] {
        let p = problem(x, k, kernel, Window::same(kernel)).unwrap();
        let [x, w, dy] = [p.x_shape(), p.w_shape(), p.y_shape()].map(|s| drawn(&mut seeded(4), s, real));
        for (pass, operands) in [(Operator::Fprop, [&x, &w]), (Operator::Dgrad, [&dy, &w])] {
            on_hopper(|device| {
                let Device::Cuda(gpu) = device else { panic!("a GPU") };
                let [a, b] = operands.map(|t| t.cast(DType::BF16).unwrap().to(device).unwrap());
                let of = |tile: usize| bits(&on_tile(&p, pass, tile, [&a, &b]).unwrap().unwrap());
                // Those of 128x128 and 256x64 are the third and fourth, and for pairs the last.
                let (first, end) = (PORTABLE + TILES, tiles(gpu, &p, pass).unwrap());
                let pairs = [of(end - 2), of(end - 1)];
                assert!(pairs == [of(first + 2), of(first + 3)], "{pass:?} of {}", p.x_shape());
                pairs
            });
        }
    }
    took_part(&["conv3d_fprop_halo_sm90_128x128_pair", "conv3d_fprop_halo_sm90_256x64_pair"]);
    took_part(&["conv3d_dgrad_halo_sm90_128x128_pair", "conv3d_dgrad_halo_sm90_256x64_pair"]);
}

/// More tiles than the grid has blocks, which each compute several then, with a ring of stages that goes on.
#[test]
fn blocks_compute_several_tiles() {
    let p = problem([1, 2, 105, 97, 8], 8, [1, 1, 1], Window::same([1, 1, 1])).unwrap();
    tiles_of("many", &p, Kernels::Hopper, PORTABLE);
}

#[test]
pub fn statistics_leave_with_the_result_of_hopper() {
    statistics_of(Kernels::Hopper, HOPPER_STATISTICS);
    took_part(&["conv3d_fprop_sm90_", "conv3d_fprop_sm90_128x256_pair", "conv3d_fprop_halo_sm90_"]);
    took_part(&["conv3d_fprop_halo_sm90_256x144"]);
}

/// In the simulator, kernels of each of these sorts have run in this test: the plan chose them.
pub fn took_part(sorts: &[&str]) {
    let simulated = std::env::var_os("TUBELET_TEST_DEVICE").is_none();
    for sort in sorts {
        assert!(!simulated || executed(sort) > 0, "no kernel {sort} took part");
    }
}

const HOPPER_STATISTICS: &[([usize; 5], usize, [usize; 3])] = &[
    ([2, 3, 5, 7, 16], 24, [1, 3, 3]),
    ([2, 1, 92, 92, 64], 64, [1, 1, 1]),
    ([2, 1, 40, 40, 64], 264, [1, 1, 1]),
    // An odd number of tiles in each part, so that a pair has sums of no rows.
    ([2, 1, 67, 65, 64], 256, [1, 1, 1]),
    ([2, 8, 12, 13, 64], 64, [3, 1, 1]),
    ([2, 3, 28, 28, 64], 64, [3, 3, 3]),
    // So many positions that the plan takes the tile of 144 filters.
    ([2, 4, 60, 54, 8], 144, [1, 3, 3]),
];

#[test]
pub fn a_chain_of_gradients_in_one_launch_of_hopper() {
    chain_of_gradients(
        Kernels::Hopper,
        false,
        &[
            ([2, 3, 6, 7, 72], 64, [1, 3, 3], [1, 2, 2], 2),
            ([1, 1, 132, 132, 64], 64, [1, 1, 1], [1, 1, 1], 1),
            ([2, 1, 67, 65, 256], 64, [1, 1, 1], [1, 1, 1], 2),
            ([2, 8, 12, 13, 64], 64, [3, 1, 1], [1, 1, 1], 2),
        ],
    );
    chain_of_gradients(
        Kernels::Hopper,
        true,
        &[([2, 2, 28, 28, 72], 64, [1, 3, 3], [1, 1, 1], 2), ([1, 1, 40, 40, 264], 64, [1, 1, 1], [1, 1, 1], 1)],
    );
    took_part(&["conv3d_dgrad_sm90_", "conv3d_dgrad_sm90_128x256_pair", "conv3d_dgrad_halo_sm90_"]);
}

/// Any window that TMA can gather, and some that it cannot, for which there are only portable tiles.
fn any_problem() -> impl Strategy<Value = Conv3d> {
    let axis = || (1usize..=9, 1usize..=3, 1usize..=3, 0usize..=3, 1usize..=2);
    (1usize..=2, 5usize..=140, 1usize..=140, axis(), axis(), axis()).prop_filter_map(
        "the filter fits",
        |(n, c, k, t, h, w)| {
            let window = Window { stride: [t.2, h.2, w.2], pad: [t.3, h.3, w.3], dilation: [t.4, h.4, w.4] };
            problem([n, t.0, h.0, w.0, c], k, [t.1, h.1, w.1], window)
        },
    )
}

/// The same with strides of 1.
fn any_dense_problem() -> impl Strategy<Value = Conv3d> {
    let axis = |most: usize| (1..=most, 1usize..=3, 0usize..=2, 1usize..=2);
    (1usize..=2, 5usize..=80, 1usize..=80, axis(4), axis(12), axis(30)).prop_filter_map(
        "the filter fits",
        |(n, c, k, t, h, w)| {
            let window = Window { stride: [1; 3], pad: [t.2, h.2, w.2], dilation: [t.3, h.3, w.3] };
            problem([n, t.0, h.0, w.0, c], k, [t.1, h.1, w.1], window)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5))]

    #[test]
    fn any_dense_shape(p in any_dense_problem()) {
        tiles_of("dense", &p, Kernels::Hopper, PORTABLE);
    }

    #[test]
    fn any_shape(p in any_problem()) {
        tiles_of("any", &p, Kernels::Hopper, PORTABLE);
    }
}

#[test]
fn signs_of_another_device_are_refused() {
    let [here, there] = [0; 2].map(|_| Sim::new(Order::Forward).device());
    let half = |shape: [usize; 5]| Tensor::full(shape, 1.0).cast(DType::BF16).unwrap().to(&here).unwrap();
    let (x, w, one) = (half([1, 1, 2, 2, 8]), half([8, 1, 1, 1, 8]), Tensor::full([8], 1.0).to(&here).unwrap());
    let norm = Norm::new(&one, &one, &one, &one).unwrap();
    let signs = Signs::of(&x.to(&there).unwrap()).unwrap();
    let epilogue =
        GradEpilogue::NormRelu { x: &x, norm: &norm, relu: ReluMask::FromResult(&x), signs: Some(&signs), add: None };
    let error = fusion::dgrad(&x, &w, x.shape(), &Geometry::new(Window::UNIT), epilogue).err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Device { arg: "signs", .. }), "{error}");
}
