//! The cases: the tables of the operations, at the batch size of a training step on a GPU, and batch norm over the
//! output of every layer. For some of them the simulator counts memory accesses (tests/it/device/counters.rs).

use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tubelet::error::{Error, ErrorKind, Result};
use tubelet::flow::Gray;
use tubelet::ops::{self, alignment, batch_norm::Stats, conv3d, infonce, l2_norm, linear, pool3d, tvl1};
use tubelet::shape::Shape;
use tubelet::tape::{Mode, Tape, Var};
use tubelet::tensor::{DType, Device, Tensor};

/// One case.
pub struct Case {
    /// `<op>/<pass>/<case>/<dtype>`.
    pub name: String,
    pub dtype: DType,
    /// Description for the peer to build the same case.
    pub problem: Value,
    pub flops: u64,
    /// Minimum memory traffic in bytes.
    pub bytes: u64,
    /// Creates the inputs on a device.
    pub make: Make,
}

/// Creates the inputs.
pub type Make = Box<dyn Fn(&Device) -> Result<Work>>;
/// Prepares one run, untimed; the returned function is timed.
pub type Work = Box<dyn FnMut() -> Result<Timed>>;
/// Runs, and returns the device of the result.
pub type Timed = Box<dyn FnOnce() -> Result<Device>>;

/// Every case except complete steps, with the tables' batches multiplied by `clips`.
pub fn all(clips: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::BF16, DType::F32] {
        convolutions(dtype, clips, &mut cases);
        norms(dtype, clips, &mut cases);
        pools(dtype, clips, &mut cases);
        projections(dtype, &mut cases);
        contrast(dtype, &mut cases);
    }
    alignments(clips, &mut cases);
    flows(clips, &mut cases);
    cases
}

/// Random numbers in [-1, 1): with equal or small operands the GPU would use less power, and run faster.
pub fn random(shape: impl Into<Shape>, dtype: DType, device: &Device, seed: u32) -> Result<Tensor> {
    let shape = shape.into();
    let hash = |i: usize| {
        let mut h = (i as u32 ^ seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
        h = (h ^ (h >> 15)).wrapping_mul(0xC2B2_AE35);
        ((h ^ (h >> 13)) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let data: Vec<f32> = (0..shape.len()).into_par_iter().map(hash).collect();
    Tensor::from_f32(shape, &data)?.cast(dtype)?.to(device)
}

fn bytes(dtype: DType, elements: usize) -> u64 {
    (elements * dtype.size()) as u64
}

/// The layers of the table with the GPU's batch size.
pub fn layers(clips: usize) -> impl Iterator<Item = conv3d::cases::Case> {
    conv3d::cases::LAYERS.iter().map(move |case| {
        let mut case = *case;
        case.x[0] *= clips;
        case
    })
}

fn convolutions(dtype: DType, clips: usize, cases: &mut Vec<Case>) {
    for row in layers(clips) {
        let p = row.problem();
        let (g, xs, ws, ys) = (*p.geometry(), p.x_shape(), p.w_shape(), p.y_shape());
        let passes: &[&str] = if row.x[4] <= 3 { &["fprop", "wgrad"] } else { &["fprop", "dgrad", "wgrad"] };
        for &pass in passes {
            let make = move |device: &Device| -> Result<Work> {
                let (a, b) = match pass {
                    "fprop" => (random(xs, dtype, device, 1)?, random(ws, dtype, device, 2)?),
                    "dgrad" => (random(ys, dtype, device, 3)?, random(ws, dtype, device, 2)?),
                    _ => (random(xs, dtype, device, 1)?, random(ys, dtype, device, 3)?),
                };
                Ok(Box::new(move || {
                    let (a, b) = (a.clone(), b.clone());
                    Ok(Box::new(move || {
                        let y = match pass {
                            "fprop" => conv3d::fprop(&a, &b, &g),
                            "dgrad" => conv3d::dgrad(&a, &b, xs, &g),
                            _ => conv3d::wgrad(&a, &b, ws, &g),
                        };
                        Ok(y?.device())
                    }))
                }))
            };
            cases.push(Case {
                name: format!("conv3d/{pass}/{}/{}", row.name, dtype.name()),
                dtype,
                problem: json!({
                    "op": "conv3d", "pass": pass, "x": row.x, "k": row.k, "kernel": row.kernel,
                    "stride": g.window.stride, "pad": g.window.pad, "dilation": g.window.dilation, "groups": g.groups,
                }),
                flops: p.flops(),
                bytes: bytes(dtype, xs.len() + ws.len() + ys.len()),
                make: Box::new(make),
            });
        }
    }
}

/// A recorded operation of some tensors, where either the forward or the backward pass is timed.
fn recorded(
    inputs: impl Fn(&Device) -> Result<Vec<Tensor>> + 'static,
    backward: bool,
    run: impl Fn(&Tape, &[Var]) -> Result<Var> + Clone + 'static,
) -> Make {
    Box::new(move |device| {
        let (inputs, run) = (inputs(device)?, run.clone());
        let mut dy = None;
        Ok(Box::new(move || {
            if !backward {
                let (inputs, run) = (inputs.clone(), run.clone());
                return Ok(Box::new(move || {
                    let vars: Vec<Var> = inputs.into_iter().map(Var::constant).collect();
                    Ok(run(&Tape::no_grad(), &vars)?.value().device())
                }));
            }
            let tape = Tape::new();
            let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            let y = run(&tape, &vars)?;
            let dy = match &dy {
                Some(dy) => Tensor::clone(dy),
                None => dy.insert(random(y.shape(), y.value().dtype(), &y.value().device(), 9)?).clone(),
            };
            Ok(Box::new(move || {
                let wanted: Vec<&Var> = vars.iter().collect();
                let grads = tape.grad_from(&y, Var::constant(dy), &wanted, Mode::Free)?;
                let first = grads.into_iter().flatten().next();
                first.map(|g| g.value().device()).ok_or_else(|| nothing("no gradient came back"))
            }))
        }))
    })
}

fn nothing(what: &str) -> Error {
    ErrorKind::Driver { action: "run a case", what: what.into() }.into()
}

/// Batch norm with ReLU over the output of each layer: forward, and backward after it.
fn norms(dtype: DType, clips: usize, cases: &mut Vec<Case>) {
    let mut seen = BTreeSet::new();
    for row in layers(clips) {
        let shape = row.problem().y_shape();
        let c = shape.last();
        if !seen.insert((shape.len(), c)) {
            continue;
        }
        // Forward: read once for the statistics, once to apply them, written once. Backward: `x` and `dy` twice, `dx`
        // once.
        for (pass, passes) in [("fwd_relu", 3), ("bwd_relu", 5)] {
            let inputs = move |device: &Device| {
                let gamma = Tensor::full([c], 1.0).to(device)?;
                Ok(vec![random(shape, dtype, device, 1)?, gamma.clone(), gamma])
            };
            let run = |t: &Tape, v: &[Var]| {
                Ok(ops::batch_norm(t, &v[0], &v[1], &v[2], Stats::Batch { parts: 1 }, 1e-5, None, true)?.0)
            };
            cases.push(Case {
                name: format!("batch_norm/{pass}/{}/{}", row.name, dtype.name()),
                dtype,
                problem: json!({"op": "batch_norm", "pass": pass, "x": shape.dims()}),
                flops: 8 * shape.len() as u64,
                bytes: passes * bytes(dtype, shape.len()),
                make: recorded(inputs, pass == "bwd_relu", run),
            });
        }
    }
}

fn pools(dtype: DType, clips: usize, cases: &mut Vec<Case>) {
    for row in pool3d::cases::CASES.iter().filter(|c| c.x.iter().product::<usize>() > 100_000) {
        let mut x = row.x;
        x[0] *= clips;
        let (kernel, window) = (row.kernel, row.window);
        for pass in ["max_fwd", "max_bwd"] {
            let inputs = move |device: &Device| Ok(vec![random(x, dtype, device, 1)?]);
            let run = move |t: &Tape, v: &[Var]| ops::max_pool(t, &v[0], kernel, &window);
            let outputs: usize = x.iter().product::<usize>() / window.stride.iter().product::<usize>();
            cases.push(Case {
                name: format!("pool3d/{pass}/{}/{}", row.name, dtype.name()),
                dtype,
                problem: json!({
                    "op": "max_pool", "pass": pass, "x": x, "kernel": kernel, "stride": window.stride,
                    "pad": window.pad, "dilation": window.dilation,
                }),
                flops: (outputs * kernel.iter().product::<usize>()) as u64,
                bytes: bytes(dtype, x.iter().product::<usize>() + outputs),
                make: recorded(inputs, pass == "max_bwd", run),
            });
        }
    }
}

/// The last layer of a projection head.
fn projections(dtype: DType, cases: &mut Vec<Case>) {
    for row in linear::cases::CASES.iter().filter(|c| c.name == "project") {
        let [n, c, k] = row.extents;
        for pass in ["fwd", "bwd"] {
            let inputs =
                move |device: &Device| Ok(vec![random([n, c], dtype, device, 1)?, random([k, c], dtype, device, 2)?]);
            cases.push(Case {
                name: format!("linear/{pass}/{}/{}", row.name, dtype.name()),
                dtype,
                problem: json!({"op": "linear", "pass": pass, "extents": row.extents}),
                flops: row.flops() as u64 * if pass == "bwd" { 2 } else { 1 },
                bytes: bytes(dtype, n * c + c * k + n * k),
                make: recorded(inputs, pass == "bwd", |t, v| ops::linear(t, &v[0], &v[1], None)),
            });
        }
    }
    for row in l2_norm::cases::CASES.iter().filter(|c| c.name == "codes") {
        let (n, d) = (row.n, row.d);
        for pass in ["fwd", "bwd"] {
            let inputs = move |device: &Device| Ok(vec![random([n, d], dtype, device, 1)?]);
            cases.push(Case {
                name: format!("l2_norm/{pass}/{}/{}", row.name, dtype.name()),
                dtype,
                problem: json!({"op": "l2_norm", "pass": pass, "x": [n, d]}),
                flops: row.flops(),
                bytes: bytes(dtype, 2 * n * d),
                make: recorded(inputs, pass == "bwd", |t, v| ops::l2_norm(t, &v[0])),
            });
        }
    }
}

/// InfoNCE, with codes and queue of `dtype`, at the paper's size and at larger batch sizes.
fn contrast(dtype: DType, cases: &mut Vec<Case>) {
    for row in infonce::cases::CASES.iter().filter(|c| c.m >= 65536) {
        for n in [row.n, 2 * row.n, 4 * row.n] {
            let (d, m, tau) = (row.d, row.m, row.tau);
            let make = move |device: &Device| -> Result<Work> {
                let unit = |rows: usize, seed| l2_norm::forward(&random([rows, d], DType::F32, &Device::Cpu, seed)?);
                let [q, k, queue] = [unit(n, 1)?, unit(n, 2)?, unit(m, 3)?];
                let [q, k, queue] = [q, k, queue].map(|x| x.cast(dtype)?.to(device));
                let (q, k, queue) = (q?, k?, queue?);
                Ok(Box::new(move || {
                    let (q, k, queue) = (q.clone(), k.clone(), queue.clone());
                    Ok(Box::new(move || {
                        let tape = Tape::new();
                        let q = tape.leaf(q);
                        let loss = ops::infonce(&tape, &q, &k, &queue, tau)?.loss;
                        let dq = tape.grad(&loss, &[&q], Mode::Free)?.into_iter().flatten().next();
                        dq.map(|g| g.value().device()).ok_or_else(|| nothing("no gradient came back"))
                    }))
                }))
            };
            // Logits and their gradient by the queries: two products.
            let flops = 2 * 2 * (n * d * m) as u64;
            cases.push(Case {
                name: format!("infonce/fwd_bwd/{}-{n}/{}", row.name, dtype.name()),
                dtype,
                problem: json!({"op": "infonce", "n": n, "d": d, "m": m, "tau": tau}),
                flops,
                bytes: bytes(dtype, (m + 2 * n) * d) + bytes(DType::F32, n * d),
                make: Box::new(make),
            });
        }
    }
}

/// MCL's released map of a gradient with itself, and its losses; f32 only.
fn alignments(clips: usize, cases: &mut Vec<Case>) {
    let row = alignment::cases::CASES.iter().find(|c| c.name == "p3d-50").expect("a row of the table");
    let (mut x, mut map) = (row.x, row.map());
    x[0] *= clips;
    map[0] *= clips;
    let (features, cells) = (x.iter().product::<usize>(), map.iter().product::<usize>());
    for pass in ["map_fwd", "map_bwd"] {
        let inputs = move |device: &Device| Ok(vec![random(x, DType::F32, device, 1)?]);
        cases.push(Case {
            name: format!("alignment/{pass}/{}/f32", row.name),
            dtype: DType::F32,
            problem: json!({"op": "channel_map", "pass": pass, "x": x}),
            flops: row.flops() * clips as u64,
            // Backward: the gradient is read for each of its two contributions, which are then added.
            bytes: bytes(DType::F32, if pass == "map_fwd" { features } else { 3 * features } + cells),
            make: recorded(inputs, pass == "map_bwd", |t, v| ops::channel_map(t, &v[0], &v[0])),
        });
    }
    for pass in ["loss_fwd", "loss_bwd"] {
        let inputs = move |device: &Device| Ok(vec![random(map, DType::F32, device, 1)?]);
        let run = move |t: &Tape, v: &[Var]| {
            // The map is its own target, since the time does not depend on the numbers.
            Ok(ops::map_alignment(t, &v[0], v[0].value(), &alignment::Cosines::default())?.loss)
        };
        cases.push(Case {
            name: format!("alignment/{pass}/{}/f32", row.name),
            dtype: DType::F32,
            problem: json!({"op": "map_alignment", "pass": pass, "x": map}),
            flops: 30 * cells as u64,
            bytes: bytes(DType::F32, if pass == "loss_fwd" { 2 } else { 3 } * cells),
            make: recorded(inputs, pass == "loss_bwd", run),
        });
    }
}

/// TV-L1 of a batch of pairs with OpenCV's defaults, with early stopping; so no minimum work is stated.
fn flows(pairs: usize, cases: &mut Vec<Case>) {
    static ROWS: [tvl1::cases::Case; 8] = tvl1::cases::CASES;
    for row in ROWS.iter().filter(|c| c.h >= 64) {
        let make = move |device: &Device| -> Result<Work> {
            let (a, b) = row.pair();
            let batch = |image: &Gray| {
                let all = image.data().repeat(pairs);
                Tensor::from_f32([pairs, row.h, row.w], &all)?.to(device)
            };
            let (a, b) = (batch(&a)?, batch(&b)?);
            Ok(Box::new(move || {
                let (a, b) = (a.clone(), b.clone());
                Ok(Box::new(move || Ok(tvl1::flow_batch(&a, &b, &tvl1::Tvl1::default())?.device())))
            }))
        };
        cases.push(Case {
            name: format!("tvl1/flow/{}x{pairs}/f32", row.name),
            dtype: DType::F32,
            problem: json!({"op": "tvl1", "pairs": pairs, "h": row.h, "w": row.w}),
            flops: 0,
            bytes: 0,
            make: Box::new(make),
        });
    }
}
