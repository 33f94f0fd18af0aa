//! Channel maps and alignment losses on a device, against their definitions.

use crate::kernels::alignment::{maps, rows, ways};
use crate::support::close::{assert_bounded, assert_norm};
use crate::support::numbers::{bits, data, noise, wide};
use crate::support::sim::{Sim, on_gpu};
use proptest::prelude::*;
use ptxsim::Order;
use tubelet::error::Result;
use tubelet::ops;
use tubelet::ops::alignment::cases::{BATCH, CASES};
use tubelet::ops::alignment::{self, Cosines, TargetNorm, Terms, reference};
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

/// The map and its adjoints.
fn map(device: &Device, what: &str, x: [usize; 5], seed: u64) -> Vec<Vec<u32>> {
    let (g, f, d) = (noise(seed, &x), noise(seed + 1, &x), noise(seed + 2, &x[..4]));
    let [gw, fw, dw] = [&g, &f, &d].map(wide);
    let [g, f, d] = [g, f, d].map(|v| v.to(device).unwrap());
    let m = alignment::map_forward(&g, &f).unwrap();
    let df = alignment::map_backward_f(&g, &d).unwrap();
    let dg = alignment::map_backward_g(&d, &f).unwrap();
    assert_eq!(m.dims(), &x[..4]);
    assert_bounded(what, &data(&m), &reference::map(rows(x), &gw, &fw), DType::F32);
    assert_bounded(what, &data(&df), &reference::map_backward_f(rows(x), &gw, &dw), DType::F32);
    assert_bounded(what, &data(&dg), &reference::map_backward_g(rows(x), &dw, &fw), DType::F32);
    vec![bits(&m), bits(&df), bits(&dg)]
}

fn cosines(device: &Device, what: &str, dims: [usize; 4], seed: u64, how: &Cosines) -> Vec<Vec<u32>> {
    let [n, t, h, w] = dims;
    let grid = [n, t, h * w];
    let ((p, y), u, dy) = (maps(seed, dims), noise(seed + 2, &dims), Tensor::scalar(0.7));
    let [pw, yw, uw] = [&p, &y, &u].map(wide);
    let [p, y, u, dy] = [p, y, u, dy].map(|v| v.to(device).unwrap());
    let (loss, stats) = alignment::forward(&p, &y, how).unwrap();
    let figures = [data(&loss), data(&stats)].concat();
    assert_bounded(what, &figures, &reference::align(grid, &pw, &yw, how), DType::F32);
    let dp = alignment::backward(&p, &y, how, &dy).unwrap();
    assert_bounded(what, &data(&dp), &reference::align_grad(grid, &pw, &yw, how, 0.7f32.into()), DType::F32);
    let hu = alignment::double_backward(&p, &y, how, &dy, &u).unwrap();
    let want = reference::align_hvp(grid, &pw, &yw, how, 0.7f32.into(), &uw);
    assert_bounded(what, &data(&hu), &want, DType::F32);
    vec![figures.iter().map(|v| v.to_bits()).collect(), bits(&dp), bits(&hu)]
}

#[test]
pub fn channel_maps_on_a_device() {
    on_gpu(|device| {
        let more: [(&str, [usize; 5]); 3] = [
            ("several tiles, the last in part", [1, 2, 3, 3, 148]),
            ("several tiles of single channels", [2, 1, 2, 5, 99]),
            ("more positions than lines of threads", [1, 1, 13, 11, 8]),
        ];
        let cases = CASES.iter().filter(|c| c.flops() < 1_000_000).map(|c| (c.name, c.x));
        cases.chain(more).map(|(what, x)| map(device, what, x, 1)).collect::<Vec<_>>()
    });
}

#[test]
pub fn alignment_losses_on_a_device() {
    on_gpu(|device| {
        let more = [("many frames", [2, 70, 2, 1]), ("many cells", [1, 3, 20, 17]), ("one of each", [3, 1, 1, 1])];
        let cases = CASES.iter().map(|c| (c.name, c.map())).chain(more);
        let each = cases.map(|(what, dims)| {
            // All switches where it is cheap, else the defaults and all of them at once.
            let small = dims.iter().product::<usize>() < 60;
            let ways = ways().into_iter().filter(|w| small || w.terms == Terms::default());
            ways.flat_map(|how| cosines(device, what, dims, 1, &how)).collect::<Vec<_>>()
        });
        each.collect::<Vec<_>>()
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_map_on_a_device(n in 1usize..3, t in 1usize..4, h in 1usize..6, w in 1usize..6, c in 1usize..80, seed in 0u64..1000) {
        map(&Sim::new(Order::Shuffled(seed)).device(), "any", [n, t, h, w, c], seed);
    }

    #[test]
    fn any_losses_on_a_device(n in 1usize..3, t in 1usize..12, h in 1usize..9, w in 1usize..9, seed in 0u64..1000, way in 0usize..16) {
        cosines(&Sim::new(Order::Shuffled(seed)).device(), "any", [n, t, h, w], seed, &ways()[way]);
    }
}

/// What no sum over numbers shows: nothing at all, flat maps, weights of frames that are next to nothing.
#[test]
pub fn corners_of_the_losses_on_a_device() {
    let dims = [1, 4, 3, 3];
    let y = Tensor::from_f32(dims, &data(&noise(3, &dims)).iter().map(|v| v.abs() + 0.1).collect::<Vec<_>>()).unwrap();
    let far: Vec<f32> = data(&y).iter().enumerate().map(|(i, v)| v * [1.0, 30.0, 3e3, 1e20][i / 9]).collect();
    let far = Tensor::from_f32(dims, &far).unwrap();
    let rounded: Vec<f32> = (0..36).map(|i| 0.3 * (1.0 + (i % 3) as f32 * 0.5f32.powi(22))).collect();
    let rounded = Tensor::from_f32(dims, &rounded).unwrap();
    let zero = Tensor::zeros(dims);
    let tiny = Tensor::full(dims, 1e-20);
    on_gpu(|device| {
        let there = |v: &Tensor| v.to(device).unwrap();
        let mut seen = Vec::new();
        for how in ways() {
            for (what, p, y) in [
                ("no map", &zero, &y),
                ("no target", &y, &zero),
                ("nothing", &zero, &zero),
                ("a flat map", &rounded, &y),
                ("far apart", &y, &far),
                ("below the floor", &tiny, &y),
            ] {
                let what = format!("{what} {how:?}");
                let one = Tensor::scalar(1.0);
                let (p, y, u, one) = (there(p), there(y), there(&rounded), there(&one));
                let here = |v: &Tensor| v.to_cpu().unwrap();
                let got = alignment::forward(&p, &y, &how).unwrap();
                let want = reference::align([1, 4, 9], &wide(&p), &wide(&y), &how);
                assert_bounded(&what, &[data(&got.0), data(&got.1)].concat(), &want, DType::F32);
                let dp = alignment::backward(&p, &y, &how, &one).unwrap();
                let want = reference::align_grad([1, 4, 9], &wide(&p), &wide(&y), &how, 1.0);
                assert_bounded(&what, &data(&dp), &want, DType::F32);
                let hu = alignment::double_backward(&p, &y, &how, &one, &u).unwrap();
                let want = reference::align_hvp([1, 4, 9], &wide(&p), &wide(&y), &how, 1.0, &wide(&u));
                assert_bounded(&what, &data(&hu), &want, DType::F32);
                assert!(data(&hu).iter().chain(&data(&dp)).all(|v| v.is_finite()), "{what}");
                let cpu = alignment::backward(&here(&p), &here(&y), &how, &here(&one)).unwrap();
                assert_eq!(data(&cpu).iter().any(|v| *v != 0.0), data(&dp).iter().any(|v| *v != 0.0), "{what}");
                seen.push(bits(&dp));
            }
        }
        seen
    });
}

/// The chain of MCL's loss on a device and on the CPU: a map, its rectifier, its cosines, and gradients of gradients.
#[test]
fn gradients_of_gradients_on_a_device() {
    let x = [2, 3, 3, 2, 12];
    let how = Cosines { target_norm: TargetNorm::Raw, ..Cosines::default() };
    let chain = |device: &Device| -> Result<Vec<Vec<f32>>> {
        let t = Tape::new();
        let there = |v: Tensor| v.to(device).map(|v| t.leaf(v));
        let (g, f, y) = (there(noise(1, &x))?, there(noise(2, &x))?, maps(3, [2, 3, 3, 2]).1.to(device)?);
        let mut all = Vec::new();
        for (g, f) in [(&g, &g), (&g, &f)] {
            let p = ops::relu(&t, &ops::channel_map(&t, g, f)?)?;
            let loss = ops::map_alignment(&t, &p, &y, &how)?;
            all.extend([data(loss.loss.value()), data(&loss.stats)]);
            let first = t.grad(&loss.loss, &[g], Mode::Keep)?.remove(0).expect("it depends on g");
            all.push(data(first.value()));
            let u = Var::constant(noise(7, &x).to(device)?);
            for mode in [Mode::Keep, Mode::Free] {
                let second = t.grad_from(&first, u.clone(), &[g], mode)?.remove(0).expect("it does so too");
                all.push(data(second.value()));
            }
        }
        Ok(all)
    };
    let here = chain(&Device::Cpu).unwrap();
    let there = on_gpu(|device| chain(device).unwrap());
    for (i, (there, here)) in there.iter().zip(&here).enumerate() {
        assert_norm(&format!("part {i}"), there, here, 2e-5);
    }
}

/// Bytes that a launch asks for, over the fewest: inputs once, the result once.
#[test]
fn maps_move_no_byte_twice_that_they_can_hold() {
    let [n, t, h, w, c] = BATCH.x;
    let x = [1, t, h, w, c];
    let (features, cells) = (4 * x.iter().product::<usize>() as u64, 4 * (t * h * w) as u64);
    let weights = 4 * (t * c) as u64;
    assert_eq!(n, 8, "counted on one of the clips");
    let sim = Sim::new(Order::Forward);
    let there = |v: Tensor| v.to(&sim.device()).unwrap();
    let (g, d) = (there(noise(1, &x)), there(noise(2, &x[..4])));
    alignment::map_forward(&g, &g).unwrap();
    alignment::map_backward_f(&g, &d).unwrap();
    alignment::map_backward_g(&d, &g).unwrap();
    let totals = sim.machine.totals();
    let moved = |entry: &str| {
        let c = &totals[entry];
        assert!(100 * (c.global_sectors_loaded + c.global_sectors_stored) <= 102 * c.ideal_sectors, "{entry}: {c:?}");
        c.global_bytes_loaded + c.global_bytes_stored
    };
    // The weights of a frame are read by each of its cells, out of the cache: as many bytes again as the features.
    let fewest = [
        ("alignment_map_weights_wide_f32", features + weights),
        ("alignment_map_forward_wide_f32", 2 * features + cells),
        ("alignment_map_backward_f_wide_f32", 2 * features),
        ("alignment_map_backward_g_wide_f32", 2 * features),
    ];
    for (entry, fewest) in fewest {
        let ratio = moved(entry) as f64 / fewest as f64;
        println!("{entry}: {ratio:.4} of {fewest} bytes");
        assert!((1.0..1.04).contains(&ratio), "{entry}: {ratio} of the fewest bytes");
    }
}

#[test]
fn what_does_not_fit_on_a_device_is_refused() {
    let sim = Sim::new(Order::Forward);
    let there = |v: &Tensor| v.to(&sim.device()).unwrap();
    let (p, how) = (noise(1, &[1, 449, 1, 1]), Cosines::default());
    assert!(alignment::forward(&p, &p, &how).is_ok(), "the CPU has no such limit");
    let e = alignment::forward(&there(&p), &there(&p), &how).err().unwrap();
    let want = "map_alignment: `p` must be n t h w with at most 448 frames on a GPU, but it is 449 frames";
    assert_eq!(e.to_string(), want);
    let e = alignment::forward(&there(&p), &p, &how).err().unwrap();
    assert_eq!(e.to_string(), "map_alignment: `y` must be on the simulator, but it is on the CPU");
}
