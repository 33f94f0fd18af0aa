//! Tensors on a device, the memory under them, and the smallest kernels: arithmetic, conversion, rows.

use crate::support::numbers::{bits, noise};
use crate::support::sim::{Sim, on_gpu};
use proptest::prelude::*;
use ptxsim::Order;
use tubelet::error::ErrorKind;
use tubelet::ops::arith::{self, Arith, cases::CASES};
use tubelet::shape::Shape;
use tubelet::tensor::{DType, Device, Tensor};

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

#[test]
fn numbers_come_back_as_they_went() {
    on_gpu(|device| {
        for dtype in DTYPES {
            let x = noise(1, &[3, 5, 7]).cast(dtype).unwrap();
            let there = x.to(device).unwrap();
            assert_eq!((there.shape(), there.dtype(), there.device()), (x.shape(), dtype, device.clone()));
            assert_eq!(bits(&there), bits(&x));
            assert!(matches!(there.f32().unwrap_err().kind(), ErrorKind::Device { .. } | ErrorKind::DType { .. }));
        }
        assert_eq!(Tensor::full_on(device, [1003], 0.3).unwrap().load().unwrap()[..], vec![0.3; 1003]);
        assert_eq!(Tensor::zeros_on(device, [5]).unwrap().load().unwrap()[..], [0.0; 5]);
        assert!(Tensor::zeros_on(device, [0, 3]).unwrap().load().unwrap().is_empty());
    });
}

#[test]
pub fn arithmetic_on_a_device_is_that_of_the_cpu_to_the_bit() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for case in CASES {
            for (da, db) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let a = noise(1, case.a).cast(DTYPES[da]).unwrap();
                let b = arith::forward(Arith::Add, &noise(2, case.b), &Tensor::full(Shape::new(case.b), 3.0)).unwrap();
                let b = b.cast(DTYPES[db]).unwrap();
                for op in [Arith::Add, Arith::Sub, Arith::Mul, Arith::Div] {
                    let here = arith::forward(op, &a, &b).unwrap();
                    let there = arith::forward(op, &a.to(device).unwrap(), &b.to(device).unwrap()).unwrap();
                    assert_eq!(bits(&there), bits(&here), "{} {}", case.name, op.name());
                    seen.push(bits(&there));
                }
            }
        }
        seen
    });
}

#[test]
pub fn conversion_scaling_and_rows_on_a_device() {
    on_gpu(|device| {
        for len in [1, 7, 1003, 4096] {
            for dtype in DTYPES {
                let x = noise(3, &[len]).cast(dtype).unwrap();
                let there = x.to(device).unwrap();
                for to in DTYPES {
                    assert_eq!(bits(&there.cast(to).unwrap()), bits(&x.cast(to).unwrap()));
                }
                let scaled = arith::scale_forward(&there, -0.7).unwrap();
                assert_eq!(bits(&scaled), bits(&arith::scale_forward(&x, -0.7).unwrap()));
            }
        }
        for shape in [[6, 5, 3], [6, 4, 8], [6, 300, 4]] {
            for dtype in DTYPES {
                let x = noise(4, &shape).cast(dtype).unwrap();
                let order = [5, 0, 0, 3];
                assert_eq!(bits(&x.to(device).unwrap().rows(&order).unwrap()), bits(&x.rows(&order).unwrap()));
            }
        }
        let parts: Vec<Tensor> = (0..30).map(|i| noise(i, &[(i as usize * 13) % 40])).collect();
        let there: Vec<Tensor> = parts.iter().map(|p| p.to(device).unwrap()).collect();
        let (here, there) = (Tensor::collect(&parts.iter().collect::<Vec<_>>()), there.iter().collect::<Vec<_>>());
        assert_eq!(bits(&Tensor::collect(&there).unwrap()), bits(&here.unwrap()));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn broadcasting_on_a_device(dims in prop::collection::vec((1usize..6, 0u8..4), 1..6), seed in 0u64..1000) {
        let extent = |side: u8| dims.iter().map(|&(d, one)| if one == side { 1 } else { d }).collect::<Vec<_>>();
        let (sa, sb) = (extent(0), extent(1));
        let (a, b) = (noise(seed, &sa), noise(seed + 1, &sb));
        let want = arith::forward(Arith::Mul, &a, &b).unwrap();
        let sim = Sim::new(Order::Shuffled(seed));
        let y = arith::forward(Arith::Mul, &a.to(&sim.device()).unwrap(), &b.to(&sim.device()).unwrap()).unwrap();
        prop_assert_eq!(bits(&y), bits(&want));
    }
}

/// Memory returns to the pool and is used again; what is shared is copied before it is written.
#[test]
fn memory_is_recycled() {
    let sim = Sim::new(Order::Forward);
    let x = noise(1, &[1000]).to(&sim.device()).unwrap();
    let step = || drop(arith::scale_forward(&arith::scale_forward(&x, 2.0).unwrap(), 0.5).unwrap());
    step();
    let before = sim.gpu.usage();
    (0..5).for_each(|_| step());
    let after = sim.gpu.usage();
    assert_eq!((before.allocations, before.live, before.peak), (after.allocations, after.live, after.peak));
    assert!(after.peak >= 3 * 4000 && after.live >= 4000 && after.held >= after.peak);
    sim.gpu.trim().unwrap();
    assert_eq!(sim.gpu.usage().held, sim.gpu.usage().live);
}

/// Memory that waits in the pool serves other sizes before a device counts as full; then it is one sentence, and what
/// there was is still there.
#[test]
fn a_full_device_is_one_sentence() {
    let sim = Sim::with_memory(Order::Forward, 11_000);
    let device = sim.device();
    let kept = Tensor::full_on(&device, [512], 3.0).unwrap();
    drop(Tensor::zeros_on(&device, [1536]).unwrap());
    let other = Tensor::zeros_on(&device, [1900]).unwrap(); // the waiting 6 kB are given back for it
    assert_eq!(sim.gpu.usage().held, 2048 + 8192);
    let e = Tensor::zeros_on(&device, [1000]).unwrap_err();
    let said = "the simulator has no 4096 bytes left (10240 are in use); make the batch or the clips smaller";
    assert_eq!((e.to_string().as_str(), sim.gpu.usage().live), (said, 10240));
    drop(other);
    assert_eq!(Tensor::zeros_on(&device, [1000]).unwrap().load().unwrap()[..], [0.0; 1000]);
    assert_eq!(kept.load().unwrap()[..], [3.0; 512]);
}

/// A graph does its launches again, on the same addresses, which nobody else gets meanwhile.
#[test]
fn a_graph_repeats_its_work() {
    let sim = Sim::new(Order::Forward);
    let device = sim.device();
    let x = noise(1, &[100]).to(&device).unwrap();
    let mut total = Tensor::zeros_on(&device, [100]).unwrap();
    let work = |total: &Tensor| arith::forward(Arith::Add, &arith::scale_forward(&x, 2.0).unwrap(), total).unwrap();
    total = work(&total);
    let mut sum = None;
    let graph = sim.gpu.graph(|| {
        sum = Some(work(&total));
        Ok(())
    });
    let (graph, sum) = (graph.unwrap(), sum.unwrap());
    assert!(graph.bytes() >= 400, "the scaled copy in between");
    let other = Tensor::full_on(&device, [100], 7.0).unwrap();
    graph.replay().unwrap();
    graph.replay().unwrap();
    let want: Vec<f32> = x.load().unwrap().iter().map(|v| 2.0 * v + 2.0 * v).collect();
    assert_eq!(sum.load().unwrap()[..], want);
    assert_eq!(other.load().unwrap()[..], [7.0; 100], "not the graph's memory");
    let e = sim.gpu.graph(|| noise(1, &[77]).to(&device).map(drop)).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Driver { .. }), "{e}");
    total = work(&total);
    assert_eq!(total.shape().len(), 100, "the stream works again");
}

#[test]
fn tensors_of_two_devices_are_refused() {
    let (a, b) = (Sim::new(Order::Forward), Sim::new(Order::Forward));
    let (x, y) = (noise(1, &[3]).to(&a.device()).unwrap(), noise(1, &[3]).to(&b.device()).unwrap());
    for (x, y) in [(&x, &y), (&x, &noise(1, &[3])), (&noise(1, &[3]), &y)] {
        let e = arith::forward(Arith::Add, x, y).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::Device { op: "add", arg: "b", .. }), "{e}");
    }
    assert_eq!(bits(&x.to(&b.device()).unwrap()), bits(&y));
    assert_eq!(bits(&x.to(&Device::Cpu).unwrap()), bits(&x));
}
