//! TV-L1's device code in the simulator: against the definition, and against itself cut otherwise.

use crate::support::close::assert_near_as_f32;
use crate::support::numbers::data;
use crate::support::sim::{Sim, on_gpu};
use ptxsim::Order;
use tubelet::flow::Gray;
use tubelet::ops::tvl1::{self, Plan, Pointers, Tvl1, reference};
use tubelet::tensor::{Device, Tensor};

/// A smooth pattern and the same moved by a smooth field of about a pixel; `seed` moves it otherwise.
pub fn pair(h: usize, w: usize, seed: usize) -> (Gray, Gray) {
    let (_, a) = tvl1::cases::Case { name: "", h, w, why: "" }.pair();
    let moved = |y: usize, x: usize| {
        let (dy, dx) = ((seed % 3) as f32 * 0.4 - 0.3, 0.8 - (seed % 2) as f32);
        let (py, px) = ((y as f32 + dy).clamp(0.0, (h - 1) as f32), (x as f32 + dx).clamp(0.0, (w - 1) as f32));
        let (y0, x0) = (py as usize, px as usize);
        let (y1, x1, ty, tx) = ((y0 + 1).min(h - 1), (x0 + 1).min(w - 1), py - y0 as f32, px - x0 as f32);
        let at = |y: usize, x: usize| a.data()[y * w + x];
        let mix = |a: f32, b: f32, t: f32| a + (b - a) * t;
        mix(mix(at(y0, x0), at(y0, x1), tx), mix(at(y1, x0), at(y1, x1), tx), ty)
    };
    let b = Gray::new(h, w, (0..h * w).map(|i| moved(i / w, i % w)).collect()).unwrap();
    (a, b)
}

fn batch(pairs: &[(Gray, Gray)]) -> [Tensor; 2] {
    let (h, w) = (pairs[0].0.h(), pairs[0].0.w());
    let stack = |pick: fn(&(Gray, Gray)) -> &Gray| {
        let all: Vec<f32> = pairs.iter().flat_map(|p| pick(p).data().iter().copied()).collect();
        Tensor::from_f32([pairs.len(), h, w], &all).unwrap()
    };
    [stack(|p| &p.0), stack(|p| &p.1)]
}

fn on(device: &Device, [a, b]: &[Tensor; 2], p: &Tvl1) -> Vec<f32> {
    data(&tvl1::flow_batch(&a.to(device).unwrap(), &b.to(device).unwrap(), p).unwrap())
}

/// The definition in both precisions, u and v one after the other.
fn definition<F: num_traits::Float>((a, b): &(Gray, Gray), p: &Tvl1) -> [Vec<F>; 2] {
    let wide = |x: &Gray| -> Vec<F> { x.data().iter().map(|&v| F::from(v).unwrap()).collect() };
    let (u, v) = reference::flow(&wide(a), &wide(b), a.h(), a.w(), p);
    [u, v]
}

#[track_caller]
fn meets(what: &str, flow: &[f32], pairs: &[(Gray, Gray)], p: &Tvl1) {
    for (flow, pair) in flow.chunks_exact(2 * pairs[0].0.data().len()).zip(pairs) {
        let (u, v) = flow.split_at(flow.len() / 2);
        let ([wu, wv], [su, sv]) = (definition::<f64>(pair, p), definition::<f32>(pair, p));
        assert_near_as_f32(what, [u, v], [&su, &sv], [&wu, &wv]);
    }
}

pub fn brief() -> Tvl1 {
    Tvl1 { warps: 2, inner_iterations: 5, outer_iterations: 2, epsilon: 0.0, ..Tvl1::default() }
}

/// One level and several, rows of whole sectors and not, one tile and several, every window of the median.
#[test]
pub fn tvl1_on_a_gpu_meets_the_definition() {
    let shapes = [(3, 3, 5), (20, 24, 3), (33, 40, 1), (48, 64, 5), (17, 90, 3), (70, 21, 5)];
    for (h, w, median) in shapes {
        let p = Tvl1 { median, ..brief() };
        let pairs: Vec<(Gray, Gray)> = (0..2).map(|i| pair(h, w, i)).collect();
        let images = batch(&pairs);
        let flow = on_gpu(|device| on(device, &images, &p));
        meets(&format!("{h}x{w}, median {median}"), &flow, &pairs, &p);
    }
}

/// What is written down for the CPU holds here: the batch function agrees with the pictures' one.
#[test]
fn a_batch_on_the_cpu_is_its_pairs() {
    let pairs: Vec<(Gray, Gray)> = (0..3).map(|i| pair(20, 24, i)).collect();
    let all = on(&Device::Cpu, &batch(&pairs), &brief());
    for (flow, (a, b)) in all.chunks_exact(2 * 20 * 24).zip(&pairs) {
        let [u, v] = tvl1::flow(a, b, &brief()).unwrap().into_planes();
        assert_eq!(flow, [u, v].concat());
    }
}

/// Runs the raw layer with `per_load` iterations for each time the planes are read.
fn raw(sim: &Sim, [a, b]: &[Tensor; 2], p: &Tvl1, per_load: usize) -> Vec<f32> {
    let &[pairs, h, w] = a.dims() else { unreachable!() };
    let plan = Plan::with_iterations(pairs, h, w, p, per_load).unwrap();
    let (a, b) = (a.to(&sim.device()).unwrap(), b.to(&sim.device()).unwrap());
    let flow = Tensor::zeros_on(&sim.device(), [pairs, 2, h, w]).unwrap();
    let work = sim.gpu.alloc(plan.workspace()).unwrap();
    let address = |x: &Tensor| x.address().unwrap();
    let at = Pointers { a: address(&a), b: address(&b), flow: address(&flow), workspace: work.ptr() };
    // SAFETY: the tensors have the plan's extents and live to the end of this function.
    unsafe { tvl1::launch(&sim.gpu, &plan, p, &at).unwrap() };
    data(&flow)
}

/// However many iterations go between two loads, and however the tiles lie, a pixel's arithmetic is the same: the same bits.
/// The early stop included: what ran beyond the criterion is undone, so each pair stops at its own iteration, also where the
/// launch that ran too far began with the median.
#[test]
pub fn iterations_per_load_change_no_bit() {
    let pairs: Vec<(Gray, Gray)> = (0..3).map(|i| pair(40, 90, i)).collect();
    let images = batch(&pairs);
    for (epsilon, median) in [(0.0, 5), (0.02, 5), (0.05, 3), (0.1, 5)] {
        let p =
            Tvl1 { scales: 1, warps: 2, inner_iterations: 11, outer_iterations: 2, epsilon, median, ..Tvl1::default() };
        let sim = Sim::new(Order::Forward);
        let one = raw(&sim, &images, &p, 1);
        for per_load in [4, 8, 15] {
            assert_eq!(one, raw(&sim, &images, &p, per_load), "{per_load} a load, epsilon {epsilon}, median {median}");
        }
    }
}

/// Pairs stop for themselves where the definition does: the flow of a stopped pair is that of its own count of iterations,
/// also when it shares a batch with one that goes on.
#[test]
fn a_pair_stops_where_the_definition_stops() {
    let p = Tvl1 {
        scales: 1,
        warps: 1,
        median: 1,
        inner_iterations: 16,
        outer_iterations: 1,
        epsilon: 0.0,
        ..Tvl1::default()
    };
    let pairs: Vec<(Gray, Gray)> = (0..2).map(|i| pair(24, 30, i)).collect();
    let images = batch(&pairs);
    // The change of each iteration, from the definition run with one iteration more at a time.
    let counts = 1..=16;
    let runs: Vec<Vec<[Vec<f64>; 2]>> = counts
        .map(|n| pairs.iter().map(|pair| definition(pair, &Tvl1 { inner_iterations: n, ..p.clone() })).collect())
        .collect();
    let change = |n: usize, i: usize| -> f64 {
        let zero = [vec![0.0; 720], vec![0.0; 720]];
        let (now, before) = (&runs[n][i], if n > 0 { &runs[n - 1][i] } else { &zero });
        (0..2).flat_map(|k| now[k].iter().zip(&before[k])).map(|(a, b)| (a - b) * (a - b)).sum()
    };
    // Each pair's fifth iteration as the last: a criterion between the changes around it.
    for (i, stop_at) in [(0, 4), (1, 6)] {
        let (before, at) = (change(stop_at - 1, i), change(stop_at, i));
        assert!(before > 1.02 * at, "the changes decrease: {before} {at}");
        let epsilon = ((before * at).sqrt() / 720.0).sqrt();
        let early = Tvl1 { epsilon, ..p.clone() };
        let flow = on_gpu(|device| on(device, &images, &early));
        meets("stopped", &flow, &pairs, &early);
        let stopped = &flow[i * 1440..(i + 1) * 1440];
        let short = Tvl1 { inner_iterations: stop_at + 1, ..p.clone() };
        let sim = Sim::new(Order::Forward);
        let exact = on(&sim.device(), &images, &short);
        assert_eq!(stopped, &exact[i * 1440..(i + 1) * 1440], "pair {i} stops after iteration {stop_at}");
    }
}

/// Bytes that the iterations ask of memory for each iteration and pixel, from the simulator's counters.
#[test]
fn iterating_moves_a_fifth_of_the_bytes() {
    let (h, w) = (224, 224);
    let images = batch(&[pair(h, w, 0)]);
    let p = Tvl1 {
        scales: 1,
        warps: 1,
        median: 1,
        inner_iterations: 8,
        outer_iterations: 1,
        epsilon: 0.0,
        ..Tvl1::default()
    };
    let per_iteration = |per_load: usize| {
        let sim = Sim::new(Order::Forward);
        raw(&sim, &images, &p, per_load);
        let c = &sim.machine.totals()["tvl1_iterate_f32"];
        let plan = Plan::with_iterations(1, h, w, &p, per_load).unwrap();
        let moved = c.global_bytes_loaded + c.global_bytes_stored;
        let planned = plan.levels[0].bytes(1) * p.inner_iterations.div_ceil(per_load) as u64;
        // States, and the changes of each iteration and tile, are the rest.
        assert!(moved >= planned && (moved - planned) as f64 <= 0.01 * planned as f64, "{moved}, planned {planned}");
        assert_eq!(c.bank_conflict_cycles, 0);
        // What is shipped writes whole sectors: its overlap is a multiple of eight numbers.
        let sectors = c.global_sectors_loaded + c.global_sectors_stored;
        assert!(per_load != 8 || sectors as f64 <= 1.001 * c.ideal_sectors as f64, "{sectors} of {}", c.ideal_sectors);
        moved as f64 / (p.inner_iterations * h * w) as f64
    };
    let (one, eight) = (per_iteration(1), per_iteration(8));
    println!("bytes a pixel and iteration: {one:.2} one at a time, {eight:.2} eight at a time");
    // Ten numbers read and six written, without any overlap of tiles, is the least one iteration at a time can do.
    assert!(5.0 * eight <= 64.0 && 5.0 * eight <= one, "{one} and {eight}");
}

/// More pairs than a batch: the same bits as all at once. A recorded flow is that of its images, also when an earlier result
/// is still in use.
#[test]
fn many_pairs_and_recorded_ones_have_the_same_flow() {
    let sim = Sim::new(Order::Forward);
    let device = sim.device();
    let pairs: Vec<(Gray, Gray)> = (0..tvl1::PAIRS + 1).map(|i| pair(5, 7, i)).collect();
    let of: Vec<(&Gray, &Gray)> = pairs.iter().map(|(a, b)| (a, b)).collect();
    let p = Tvl1 { inner_iterations: 3, ..brief() };
    let flows = tvl1::flow_pairs_on(&device, &of, &p).unwrap();
    let flat =
        |flows: &[tubelet::flow::Flow]| -> Vec<f32> { flows.iter().flat_map(|f| [f.u(), f.v()].concat()).collect() };
    assert_eq!(flat(&flows), on(&device, &batch(&pairs), &p));

    let recorded = tvl1::Recorded::new(&device, [1, 5, 7], &p).unwrap();
    let images = [0, 1].map(|i| batch(&pairs[i..=i]).map(|x| x.to(&device).unwrap()));
    let [first, second] = [0, 1].map(|i| recorded.of(&images[i][0], &images[i][1]).unwrap());
    assert_eq!(data(&first), flat(&flows[..1]));
    assert_eq!(data(&second), flat(&flows[1..2]));
    assert!(recorded.of(&Tensor::zeros_on(&device, [2, 5, 7]).unwrap(), &images[0][1]).is_err());
    assert!(tvl1::Recorded::new(&Device::Cpu, [1, 5, 7], &p).is_err());
}

/// The flow of a batch does not wait for the host, so it can be recorded and replayed.
#[test]
fn tvl1_can_be_recorded() {
    let sim = Sim::new(Order::Forward);
    let images = batch(&[pair(20, 24, 0)]);
    let p = brief();
    let want = raw(&sim, &images, &p, 8);
    let [a, b] = images.map(|x| x.to(&sim.device()).unwrap());
    let plan = Plan::new(1, 20, 24, &p).unwrap();
    let flow = Tensor::zeros_on(&sim.device(), [1, 2, 20, 24]).unwrap();
    let work = sim.gpu.alloc(plan.workspace()).unwrap();
    let address = |x: &Tensor| x.address().unwrap();
    let at = Pointers { a: address(&a), b: address(&b), flow: address(&flow), workspace: work.ptr() };
    // SAFETY: the tensors have the plan's extents and live to the end of this function.
    let graph = sim.gpu.graph(|| unsafe { tvl1::launch(&sim.gpu, &plan, &p, &at) }).unwrap();
    assert!(data(&flow).iter().all(|v| *v == 0.0), "nothing was done yet");
    graph.replay().unwrap();
    assert_eq!(data(&flow), want);
}

#[test]
fn pairs_of_pictures_go_through_a_device() {
    let pairs: Vec<(Gray, Gray)> = (0..2).map(|i| pair(20, 24, i)).collect();
    let of: Vec<(&Gray, &Gray)> = pairs.iter().map(|(a, b)| (a, b)).collect();
    let p = brief();
    on_gpu(|device| {
        let flows = tvl1::flow_pairs_on(device, &of, &p).unwrap();
        let whole: Vec<f32> = flows.iter().flat_map(|f| [f.u(), f.v()].concat()).collect();
        assert_eq!(whole, on(device, &batch(&pairs), &p), "{device}");
        let other = pair(22, 24, 3);
        let e = tvl1::flow_pairs_on(device, &[of[0], (&other.0, &other.1)], &p).unwrap_err();
        assert!(e.to_string().contains("all of 20 x 24 pixels"), "{e}");
        flows.len()
    });
    assert_eq!(tvl1::flow_pairs_on(&Device::Cpu, &of, &p).unwrap(), tvl1::flow_pairs(&of, &p).unwrap());
}
