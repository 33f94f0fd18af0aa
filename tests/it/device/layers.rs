//! Plain layers on a device: functions, rectifier, sums, unit rows, and the queue, each against its definition.

use crate::support::close::{assert_bounded, assert_norm};
use crate::support::numbers::{bits, data, integers, noise, wide};
use crate::support::sim::{Sim, on_gpu};
use proptest::prelude::*;
use ptxsim::Order;
use tubelet::ops::batch_norm::Stats;
use tubelet::ops::reference::Bounded;
use tubelet::ops::unary::{self, Unary};
use tubelet::ops::{self, l2_norm, reduce, relu};
use tubelet::shape::{Shape, Window};
use tubelet::ssl::queue::Queue;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Integers, Tensor};

pub const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Values that went through a function good to a few roundings.
fn rounded(value: Vec<f64>, terms: usize) -> Bounded<f64> {
    Bounded { magnitude: value.iter().map(|v| v.abs()).collect(), value, terms }
}

#[test]
pub fn functions_on_a_device() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for f in [Unary::Exp, Unary::Ln, Unary::Sqrt, Unary::Recip] {
            for len in [1, 1003, 4096 + 7] {
                for dtype in DTYPES {
                    let v: Vec<f32> = data(&noise(1, &[len])).iter().map(|v| v + 2.5).collect();
                    let x = Tensor::from_f32([len], &v).unwrap().cast(dtype).unwrap();
                    let y = unary::forward(f, &x.to(device).unwrap()).unwrap();
                    let want = rounded(unary::reference::apply(f, &wide(&x)), 2);
                    assert_bounded(f.name(), &data(&y), &want, dtype);
                    seen.push(bits(&y));
                }
            }
        }
        // Over the whole range: arguments whose results are normal numbers.
        let x: Vec<f32> = (-870..880).map(|i| i as f32 * 0.1).collect();
        let x = Tensor::from_f32([x.len()], &x).unwrap();
        let y = unary::forward(Unary::Exp, &x.to(device).unwrap()).unwrap();
        assert_bounded("exp, far", &data(&y), &rounded(unary::reference::apply(Unary::Exp, &wide(&x)), 2), DType::F32);
        let back = unary::forward(Unary::Ln, &y).unwrap();
        assert_bounded("ln, far", &data(&back), &rounded(unary::reference::apply(Unary::Ln, &wide(&y)), 2), DType::F32);
        let odd = Tensor::from_f32([4], &[0.0, -1.0, f32::INFINITY, f32::NAN]).unwrap().to(device).unwrap();
        let ln = data(&unary::forward(Unary::Ln, &odd).unwrap());
        assert_eq!((ln[0], ln[2]), (f32::NEG_INFINITY, f32::INFINITY));
        assert!(ln[1].is_nan() && ln[3].is_nan());
        seen
    });
}

#[test]
pub fn the_rectifier_on_a_device() {
    on_gpu(|device| {
        for len in [1, 1003, 4096 + 7] {
            for (dx, dy) in [(0, 0), (1, 1), (0, 1), (1, 0)] {
                let x = integers(1, &[len]).cast(DTYPES[dx]).unwrap();
                let d = noise(2, &[len]).cast(DTYPES[dy]).unwrap();
                let y = relu::forward(&x.to(device).unwrap()).unwrap();
                assert_eq!(wide(&y), relu::reference::relu(&wide(&x)));
                let g = relu::backward(&d.to(device).unwrap(), &y).unwrap();
                assert_eq!(g.dtype(), d.dtype());
                assert_eq!(wide(&g), relu::reference::backward(&wide(&y), &wide(&d)));
            }
        }
        let odd = Tensor::from_f32([4], &[f32::NAN, -0.0, f32::INFINITY, f32::NEG_INFINITY]).unwrap();
        let y = data(&relu::forward(&odd.to(device).unwrap()).unwrap());
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [0.0, f32::INFINITY, 0.0]);
    });
}

/// Sums and repetition between two shapes.
fn sums(device: &Device, what: &str, from: &[usize], to: &[usize]) -> Vec<Vec<u32>> {
    let (from, to) = (Shape::new(from), Shape::new(to));
    let mut seen = Vec::new();
    for dtype in DTYPES {
        let a = noise(1, from.dims()).cast(dtype).unwrap();
        let y = reduce::sum_to_forward(&a.to(device).unwrap(), to).unwrap();
        assert_eq!((y.shape(), y.dtype()), (to, dtype), "{what}");
        assert_bounded(what, &data(&y), &reduce::reference::sum_to(&wide(&a), from, to), dtype);
        let b = noise(2, to.dims()).cast(dtype).unwrap();
        let again = reduce::broadcast_to_forward(&b.to(device).unwrap(), from).unwrap();
        assert_eq!(wide(&again), reduce::reference::broadcast_to(&wide(&b), to, from), "{what}");
        seen.push(bits(&y));
    }
    seen
}

#[test]
pub fn sums_on_a_device() {
    on_gpu(|device| {
        let table = reduce::cases::CASES.iter().map(|c| (c.name, c.from, c.to));
        let more: [(&str, &[usize], &[usize]); 7] = [
            ("wide channels", &[37, 64], &[1, 64]),
            ("wide groups", &[3, 301, 24], &[3, 1, 24]),
            ("long rows", &[5, 1024], &[5, 1]),
            ("long ragged rows", &[2, 1031], &[2, 1]),
            ("many chunks", &[9000, 8], &[1, 8]),
            ("apart and wide", &[3, 4, 5, 16], &[1, 4, 1, 16]),
            ("nothing", &[0, 4], &[1, 4]),
        ];
        table.chain(more).map(|(what, from, to)| sums(device, what, from, to)).collect::<Vec<_>>()
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_sum_on_a_device(dims in prop::collection::vec((1usize..12, any::<bool>()), 1..6), seed in 0u64..1000) {
        let from: Vec<usize> = dims.iter().map(|d| d.0).collect();
        let to: Vec<usize> = dims.iter().map(|d| if d.1 { 1 } else { d.0 }).collect();
        sums(&Sim::new(Order::Shuffled(seed)).device(), "any", &from, &to);
    }
}

#[test]
pub fn unit_rows_on_a_device() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        let table = l2_norm::cases::CASES.iter().map(|c| (c.name, c.n, c.d));
        for (what, n, d) in table.chain([("long", 3, 1304), ("long and ragged", 2, 701), ("whole", 9, 512)]) {
            for dtype in DTYPES {
                let x = noise(1, &[n, d]).cast(dtype).unwrap();
                let dy = noise(2, &[n, d]).cast(dtype).unwrap();
                let (there, grad) = (x.to(device).unwrap(), dy.to(device).unwrap());
                let y = l2_norm::forward(&there).unwrap();
                assert_bounded(what, &data(&y), &l2_norm::reference::forward(&wide(&x), d), dtype);
                let dx = l2_norm::backward(&there, &grad).unwrap();
                assert_bounded(what, &data(&dx), &l2_norm::reference::backward(&wide(&x), &wide(&dy), d), dtype);
                seen.extend([bits(&y), bits(&dx)]);
            }
        }
        // Rows of zeros stay; what is huge or tiny neither overflows nor vanishes.
        let x = Tensor::from_f32([4, 2], &[0.0, 0.0, 3.0, 4.0, 3e30, -4e30, 3e-11, 4e-11]).unwrap();
        let y = data(&l2_norm::forward(&x.to(device).unwrap()).unwrap());
        assert_eq!(y[..4], [0.0, 0.0, 0.6, 0.8]);
        assert_eq!(y, data(&l2_norm::forward(&x).unwrap()));
        seen
    });
}

#[test]
pub fn unit_rows_have_gradients_of_gradients_on_a_device() {
    for (dtype, rel) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
        for d in [16, 12, 7] {
            let twice = |device: &Device| {
                // The second row is zero, and divided by the floor.
                let mut values = data(&noise(1, &[3, d]));
                values[d..2 * d].fill(0.0);
                let there = |x: Tensor| x.cast(dtype).unwrap().to(device).unwrap();
                let t = Tape::new();
                let x = t.leaf(there(Tensor::from_f32([3, d], &values).unwrap()));
                let w = Var::constant(there(noise(2, &[3, d])));
                let inner = |a: &Var, b: &Var| ops::sum_to(&t, &ops::mul(&t, a, b)?, [1, 1].into());
                let once = || t.grad(&inner(&ops::l2_norm(&t, &x)?, &w)?, &[&x], Mode::Keep);
                let first = once().unwrap().remove(0).unwrap();
                let second = t.grad(&inner(&first, &w).unwrap(), &[&x], Mode::Free).unwrap().remove(0).unwrap();
                [data(first.value()), data(second.value())]
            };
            let here = twice(&Device::Cpu);
            for (order, (there, here)) in on_gpu(twice).iter().zip(&here).enumerate() {
                // Beside the row of zeros, whose gradient is as large as the floor is small.
                let whole = |v: &[f32]| [&v[..d], &v[2 * d..]].concat();
                assert_norm(&format!("{dtype:?} {d}: gradient {order}"), &whole(there), &whole(here), rel);
            }
        }
    }
}

#[test]
pub fn a_queue_on_a_device_holds_what_one_on_the_cpu_holds() {
    on_gpu(|device| {
        for d in [8, 5] {
            let mut here = Queue::new(7, d).unwrap();
            let mut there = here.to(device).unwrap();
            for (i, n) in [3, 3, 0, 7, 12, 1].into_iter().enumerate() {
                let keys = noise(i as u64, &[n, d]);
                let owners = Integers::new((0..n as u32).map(|o| 100 * i as u32 + o).collect());
                here.push(&keys, &owners).unwrap();
                there.push(&keys.to(device).unwrap(), &owners).unwrap();
                assert_eq!(bits(there.keys()), bits(here.keys()), "after push {i}");
                assert_eq!((there.owners(), there.at()), (here.owners(), here.at()));
            }
            // A copy goes its own way.
            let mut copy = there.clone();
            let before = bits(there.keys());
            copy.push(&noise(9, &[2, d]).to(device).unwrap(), &Integers::new(vec![1, 2])).unwrap();
            assert_eq!(bits(there.keys()), before);
            here.push(&noise(8, &[4, d]), &Integers::new(vec![1, 2, 3, 4])).unwrap();
            there.push(&noise(8, &[4, d]).to(device).unwrap(), &Integers::new(vec![1, 2, 3, 4])).unwrap();
            assert_eq!(bits(there.keys()), bits(here.keys()), "after a copy was made");
        }
    });
}

/// Layers of a network one after another, recorded: the loss, and the gradients of everything, under a mode.
fn network(device: &Device, dtype: DType, mode: Mode) -> Vec<Vec<f32>> {
    let t = Tape::new();
    let there = |seed, shape: &[usize]| t.leaf(noise(seed, shape).to(device).unwrap());
    let leaves = [there(1, &[2, 2, 6, 5, 8]), there(2, &[8]), there(3, &[8]), there(4, &[2, 2, 6, 5, 8])];
    let [x, gamma, beta, residual] = &leaves;
    let loss = || {
        let [x, r] = [x, residual].map(|v| ops::cast(&t, v, dtype));
        let stats = Stats::Batch { parts: 2 };
        let (y, _) = ops::batch_norm(&t, &x?, gamma, beta, stats, 1e-5, Some(&r?), true)?;
        let window = Window { stride: [1, 2, 2], pad: [0, 1, 1], dilation: [1; 3] };
        let y = ops::max_pool(&t, &y, [1, 3, 3], &window)?;
        let y = ops::avg_pool(&t, &y, [2, 1, 1], &Window::UNIT)?;
        let (y, _) =
            ops::batch_norm(&t, &ops::relu(&t, &y)?, gamma, beta, Stats::Batch { parts: 1 }, 1e-5, None, true)?;
        let y = ops::global_avg_pool(&t, &y)?;
        let y = ops::l2_norm(&t, &ops::cast(&t, &y, DType::F32)?)?;
        let z = ops::exp(&t, &ops::scale(&t, &y, 0.5)?)?;
        let s = ops::sum_to(&t, &ops::mul(&t, &z, &y)?, [1, 1].into())?;
        ops::cross_entropy(&t, &ops::add(&t, &ops::broadcast_to(&t, &s, [2, 8].into())?, &y)?, &[3, 6])
    };
    let loss: Var = loss().unwrap();
    let grads = t.grad(&loss, &leaves.each_ref(), mode).unwrap();
    std::iter::once(data(loss.value())).chain(grads.into_iter().map(|g| data(g.unwrap().value()))).collect()
}

#[test]
fn gradients_of_a_network_on_a_device() {
    for (dtype, rel) in [(DType::F32, 1e-5), (DType::BF16, 2e-2)] {
        for mode in [Mode::Free, Mode::Keep] {
            let here = network(&Device::Cpu, dtype, mode);
            let there = on_gpu(|device| network(device, dtype, mode));
            for (i, (there, here)) in there.iter().zip(&here).enumerate() {
                assert_norm(&format!("{dtype:?} {mode:?}: part {i}"), there, here, rel);
            }
        }
    }
}

/// Bytes asked for by loads and stores of the launches of an operation, over the fewest possible.
fn traffic(fewest: usize, work: impl FnOnce(&Device)) -> f64 {
    let sim = Sim::new(Order::Forward);
    work(&sim.device());
    let moved: u64 = sim.machine.totals().values().map(|c| c.global_bytes_loaded + c.global_bytes_stored).sum();
    let sectors: u64 = sim.machine.totals().values().map(|c| c.global_sectors_loaded + c.global_sectors_stored).sum();
    let ideal: u64 = sim.machine.totals().values().map(|c| c.ideal_sectors).sum();
    assert!(sectors as f64 <= 1.01 * ideal as f64, "{sectors} sectors for {ideal}");
    moved as f64 / fewest as f64
}

/// What goes element by element reads and writes each byte once.
#[test]
fn elementwise_kernels_move_no_byte_twice() {
    let n = 16_384;
    for dtype in DTYPES {
        let b = dtype.size() * n;
        let go = |name: &str, fewest: usize, f: &dyn Fn(&Tensor)| {
            let ratio = traffic(fewest, |d| f(&noise(1, &[n / 64, 64]).cast(dtype).unwrap().to(d).unwrap()));
            println!("{name} {}: {ratio:.4} of the fewest bytes", dtype.name());
            assert!((1.0..1.1).contains(&ratio), "{name} {}: {ratio} of the fewest bytes", dtype.name());
        };
        go("exp", 2 * b, &|x| drop(unary::forward(Unary::Exp, x).unwrap()));
        go("relu", 2 * b, &|x| drop(relu::forward(x).unwrap()));
        go("relu backward", 3 * b, &|x| drop(relu::backward(x, x).unwrap()));
        go("cast", 6 * n, &|x| drop(x.cast(if dtype == DType::F32 { DType::BF16 } else { DType::F32 }).unwrap()));
        go("l2_norm", 2 * b, &|x| drop(l2_norm::forward(x).unwrap()));
        go("l2_norm backward", 3 * b, &|x| drop(l2_norm::backward(x, x).unwrap()));
        go("sum", b, &|x| drop(reduce::sum_to_forward(x, [1, 1].into()).unwrap()));
        go("sum over rows", b, &|x| drop(reduce::sum_to_forward(x, [1, 64].into()).unwrap()));
        go("sum over columns", b, &|x| drop(reduce::sum_to_forward(x, [n / 64, 1].into()).unwrap()));
    }
}
