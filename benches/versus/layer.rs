//! Other layers: normalisation, pools, the loss, the update of the weights.

use crate::case::{Case, Unit, Work};
use crate::memory::extra_mib;
use crate::noise::noise;
use serde_json::json;
use std::hint::black_box;
use tubelet::nn::{Net, Trunk};
use tubelet::ops::batch_norm::Stats;
use tubelet::ops::sgd::{Rate, Sgd, Update, Weights, update_all};
use tubelet::ops::{self, infonce, l2_norm, pool3d};
use tubelet::shape::Window;
use tubelet::tape::{self, Tape, Var};
use tubelet::tensor::{DType, Tensor};

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for x in [[2, 8, 56, 56, 256], [2, 16, 56, 56, 144], [2, 8, 14, 14, 1024]] {
            cases.extend(["fwd", "fwd_bwd"].map(|pass| batch_norm(pass, x, dtype)));
        }
        for x in [[2, 8, 112, 112, 64], [2, 4, 112, 112, 64]] {
            cases.extend(["max_fwd", "max_bwd"].map(|pass| max_pool(pass, x, dtype)));
        }
        cases.push(global_pool([2, 8, 7, 7, 2048], dtype));
    }
    cases.push(loss(256, 65536, 128));
    cases.push(update());
    cases
}

fn extents(x: [usize; 5]) -> String {
    x.map(|e| e.to_string()).join("x")
}

/// With a residual and ReLU, as at the end of a block.
fn batch_norm(pass: &'static str, x: [usize; 5], dtype: DType) -> Case {
    let numbers = x.iter().product::<usize>() as u64;
    let backward = pass == "fwd_bwd";
    // Forward reads x twice (statistics first) and the residual and writes y; backward reads x and dy twice and y, and
    // writes dx and the gradient of the residual.
    let passes = if backward { 11 } else { 4 };
    Case {
        name: format!("batch_norm/{pass}/{}/{}/cpu", extents(x), dtype.name()),
        problem: json!({"op": "batch_norm", "pass": pass, "x": x, "dtype": dtype.name()}),
        flops: 0,
        bytes: passes * numbers * dtype.size() as u64,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let [x0, residual, dy] = [1, 2, 3].map(|seed| noise(x, seed).cast(dtype));
            let (x0, residual, dy) = (x0?, residual?, dy?);
            let (gamma, beta) = (Tensor::full([x[4]], 1.0), Tensor::full([x[4]], 0.1));
            let run = move || {
                let tape = Tape::new();
                let [x, r, g, b] = [&x0, &residual, &gamma, &beta].map(|v| tape.leaf(v.clone()));
                let stats = Stats::Batch { parts: 1 };
                let (y, _) = ops::batch_norm(&tape, &x, &g, &b, stats, 1e-5, Some(&r), true)?;
                if backward {
                    let dy = Var::constant(dy.clone());
                    black_box(tape.grad_from(&y, dy, &[&x, &r, &g, &b], tape::Mode::Free)?);
                }
                Ok(())
            };
            Ok(Work { run: Box::new(run), check: None })
        }),
    }
}

fn max_pool(pass: &'static str, x: [usize; 5], dtype: DType) -> Case {
    let (kernel, window) = ([1, 3, 3], Window::same([1, 3, 3]).strided([1, 2, 2]));
    let numbers = x.iter().product::<usize>() as u64;
    Case {
        name: format!("pool3d/{pass}/{}/{}/cpu", extents(x), dtype.name()),
        problem: json!({"op": "max_pool", "pass": pass, "x": x, "dtype": dtype.name()}),
        flops: 0,
        bytes: numbers * dtype.size() as u64 * 5 / 4,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let x = noise(x, 1).cast(dtype)?;
            let (dy, choice) = pool3d::max_forward(&x, kernel, &window)?;
            let run: Box<dyn FnMut() -> _> = match pass {
                "max_fwd" => Box::new(move || pool3d::max_forward(&x, kernel, &window).map(|y| drop(black_box(y)))),
                _ => Box::new(move || pool3d::max_backward(&dy, &choice).map(|dx| drop(black_box(dx)))),
            };
            Ok(Work { run, check: None })
        }),
    }
}

fn global_pool(x: [usize; 5], dtype: DType) -> Case {
    Case {
        name: format!("pool3d/global_fwd/{}/{}/cpu", extents(x), dtype.name()),
        problem: json!({"op": "global_pool", "x": x, "dtype": dtype.name()}),
        flops: 0,
        bytes: (x.iter().product::<usize>() * dtype.size()) as u64,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let x = noise(x, 1).cast(dtype)?;
            Ok(Work { run: Box::new(move || pool3d::global_forward(&x).map(|y| drop(black_box(y)))), check: None })
        }),
    }
}

/// InfoNCE with a queue and the gradient by the queries, and the memory it needs.
fn loss(n: usize, queue: usize, d: usize) -> Case {
    const TAU: f32 = 0.1;
    Case {
        name: format!("infonce/{n}x{queue}x{d}/f32/cpu"),
        problem: json!({"op": "infonce", "n": n, "queue": queue, "d": d, "tau": TAU, "dtype": "f32"}),
        flops: infonce::cases::Case { name: "", n, d, m: queue, tau: TAU, why: "" }.flops(),
        bytes: (4 * d * (queue + 3 * n)) as u64,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let unit = |rows, seed| l2_norm::forward(&noise([rows, d], seed));
            let (q, k, far) = (unit(n, 1)?, unit(n, 2)?, unit(queue, 3)?);
            let once = move || infonce::forward_backward(&q, &k, &far, TAU).map(|r| drop(black_box(r)));
            let mut again = once.clone();
            let check = move || Ok(extra_mib(&mut again)?.map_or(json!({}), |mib| json!({"extra_mib": mib})));
            Ok(Work { run: Box::new(once), check: Some(Box::new(check)) })
        }),
    }
}

/// SGD with momentum on all weights of R(2+1)D-18, and the moving average of the key network.
fn update() -> Case {
    let net = Net::r2plus1d_18();
    let (_, params) = Trunk::with_params(&net, 1);
    let shapes: Vec<_> = params.trainable().map(|(_, p)| p.value.shape()).collect();
    let numbers: usize = shapes.iter().map(|s| s.len()).sum();
    Case {
        name: "update/sgd_ema/r2plus1d_18/f32/cpu".into(),
        problem: json!({
            "op": "update", "dtype": "f32", "sizes": shapes.iter().map(|s| s.dims().to_vec()).collect::<Vec<_>>(),
        }),
        flops: 0,
        bytes: (4 * 7 * numbers) as u64,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let filled = |seed| shapes.iter().map(|&s| noise(s, seed)).collect::<Vec<Tensor>>();
            let (mut w, grads, mut velocity, mut key) = (filled(1), filled(2), filled(3), filled(4));
            let run = move || {
                let all = w.iter_mut().zip(&grads).zip(&mut velocity).zip(&mut key);
                let mut steps: Vec<Update> = all
                    .map(|(((w, g), v), key)| Update {
                        w: Weights::Trained(w),
                        update: Some((g, v, true)),
                        key: Some(key),
                        half: None,
                        key_half: None,
                    })
                    .collect();
                update_all(&Sgd::default(), Rate::Value(1e-6), 0.999, None, &mut steps)
            };
            Ok(Work { run: Box::new(run), check: None })
        }),
    }
}
