//! The `raw` forms of operations, on device addresses, against the forms on tensors: the same bits.

use crate::support::numbers::{bits, noise};
use crate::support::sim::on_gpu;
use tubelet::driver::Gpu;
use tubelet::error::{ErrorKind, Result};
use tubelet::ops::Workspace;
use tubelet::ops::batch_norm::{self, Incoming, Moments, ReluMask, Stats, raw as norms};
use tubelet::ops::conv3d::{Conv3d, Geometry, raw as convs};
use tubelet::ops::pool3d::{self, Pool, raw as pools};
use tubelet::ops::reduce::{self, raw as sums};
use tubelet::ops::sgd::{self, Sgd, raw as updates};
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Device, Tensor};

pub const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

pub fn at(tensor: &Tensor) -> u64 {
    tensor.address().unwrap()
}

pub fn gpu(device: &Device) -> &Gpu {
    let Device::Cuda(gpu) = device else { panic!("{device} is no GPU") };
    gpu
}

/// Numbers of `dtype` on the device.
pub fn given(device: &Device, seed: u64, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    noise(seed, shape.into().dims()).cast(dtype).unwrap().to(device).unwrap()
}

/// Memory for a result, not a number everywhere.
pub fn result(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    Tensor::full(shape, f32::NAN).cast(dtype).unwrap().to(device).unwrap()
}

/// Working space of that many bytes, and what keeps it.
pub fn space(device: &Device, bytes: usize) -> (Tensor, Workspace) {
    let kept = result(device, [bytes.div_ceil(4).max(1)], DType::F32);
    let ptr = at(&kept);
    (kept, Workspace { ptr, bytes })
}

#[test]
pub fn raw_batch_norm_on_a_device() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for (shape, parts) in [([4, 2, 5, 5, 16], 1), ([4, 3, 7, 6, 24], 2), ([6, 1, 9, 31, 7], 1)] {
            for dtype in DTYPES {
                for residual in [false, true] {
                    seen.extend(one_batch_norm(device, shape.into(), parts, dtype, residual));
                }
            }
        }
        seen
    });
}

/// Forward pass with running averages, backward pass, and inference.
fn one_batch_norm(device: &Device, shape: Shape, parts: usize, dtype: DType, residual: bool) -> Vec<Vec<u32>> {
    let (gpu, c, eps) = (gpu(device), shape.last(), 1e-5);
    let (x, dy) = (given(device, 1, shape, dtype), given(device, 2, shape, dtype));
    let r = residual.then(|| given(device, 3, shape, dtype));
    let vector = |seed| given(device, seed, [c], DType::F32);
    let (gamma, beta) = (vector(4), vector(5));
    let averages = || (vector(6), Tensor::full([c], 0.7).to(device).unwrap());

    let (mut running_mean, mut running_var) = averages();
    let running = batch_norm::Running { mean: &mut running_mean, var: &mut running_var, momentum: 0.1 };
    let formed = Moments::of(&x, parts).unwrap().statistics(&x, eps, Some(running)).unwrap();
    let stats = Stats::Formed(&formed);
    let (y, norm, _) = batch_norm::forward(&x, &gamma, &beta, stats, eps, r.as_ref(), true).unwrap();

    let layout = norms::Layout { x: shape, parts, dtype };
    let (y_raw, mean, inv_std) = (
        result(device, shape, dtype),
        result(device, [parts * c], DType::F32),
        result(device, [parts * c], DType::F32),
    );
    let (mean_raw, var_raw) = averages();
    let (_kept, workspace) = space(device, layout.forward_workspace().unwrap());
    let (kept_signs, signs) = space(device, shape.len().div_ceil(8));
    let signs = (residual && dtype == DType::BF16 && c.is_multiple_of(8)).then_some(signs);
    let forward = norms::Forward {
        x: at(&x),
        gamma: at(&gamma),
        beta: at(&beta),
        residual: r.as_ref().map(at),
        y: at(&y_raw),
        signs: signs.map(|signs| signs.ptr),
        mean: at(&mean),
        inv_std: at(&inv_std),
        moments: None,
        running: Some(norms::Running { mean: at(&mean_raw), var: at(&var_raw), momentum: 0.1 }),
    };
    // SAFETY: the tensors have the layout's extents and live to the end of this function, which waits for their contents.
    unsafe { norms::forward(gpu, &layout, &forward, eps, true, workspace).unwrap() };
    for (what, raw, want) in [
        ("y", &y_raw, &y),
        ("mean", &mean, norm.mean()),
        ("inv_std", &inv_std, norm.inv_std()),
        ("running mean", &mean_raw, &running_mean),
        ("running variance", &var_raw, &running_var),
    ] {
        assert_eq!(bits(raw), bits(want), "{what} of {shape} {}", dtype.name());
    }
    if signs.is_some() {
        let mut bytes: Vec<u8> = bits(&kept_signs).into_iter().flat_map(u32::to_le_bytes).collect();
        bytes.truncate(shape.len() / 8);
        assert_eq!(bytes, signs_of(&y), "signs of {shape}");
        // The same from the result.
        let (kept, again) = space(device, bytes.len());
        // SAFETY: as above.
        unsafe { norms::signs(gpu, shape.len(), at(&y), again.ptr).unwrap() };
        assert_eq!(bits(&kept), bits(&kept_signs));
    }

    let mask = if residual { ReluMask::FromResult(&y) } else { ReluMask::FromInput };
    let want = batch_norm::backward(&x, &norm, mask, residual, &Incoming::Result(dy.clone())).unwrap();
    let (dx, dz) = (result(device, shape, dtype), result(device, shape, dtype));
    let (dgamma, dbeta) = (result(device, [c], DType::F32), result(device, [c], DType::F32));
    let (_kept, workspace) = space(device, layout.backward_workspace().unwrap());
    let mask = if residual { norms::Mask::FromResult { y: at(&y), dz: at(&dz) } } else { norms::Mask::FromInput };
    let backward = norms::Backward {
        x: at(&x),
        dy: at(&dy),
        mean: at(&mean),
        inv_std: at(&inv_std),
        gamma: at(&gamma),
        beta: at(&beta),
        mask,
        dx: at(&dx),
        dgamma: at(&dgamma),
        dbeta: at(&dbeta),
    };
    // SAFETY: as above.
    unsafe { norms::backward(gpu, &layout, &backward, workspace).unwrap() };
    assert_eq!(bits(&dx), bits(&want.dx), "dx of {shape} {}", dtype.name());
    assert_eq!((bits(&dgamma), bits(&dbeta)), (bits(&want.dgamma), bits(&want.dbeta)));
    if let Some(dresidual) = &want.dresidual {
        assert_eq!(bits(&dz), bits(dresidual));
    }

    let fixed = Stats::Fixed { mean: &running_mean, var: &running_var };
    let (want, ..) = batch_norm::forward(&x, &gamma, &beta, fixed, eps, r.as_ref(), false).unwrap();
    let layout = norms::Layout { parts: 1, ..layout };
    let y_raw = result(device, shape, dtype);
    let (_kept, workspace) = space(device, layout.inference_workspace().unwrap());
    let inference = norms::Inference {
        x: at(&x),
        mean: at(&running_mean),
        var: at(&running_var),
        gamma: at(&gamma),
        beta: at(&beta),
        residual: r.as_ref().map(at),
        y: at(&y_raw),
    };
    // SAFETY: as above.
    unsafe { norms::inference(gpu, &layout, &inference, eps, false, workspace).unwrap() };
    assert_eq!(bits(&y_raw), bits(&want), "inference of {shape} {}", dtype.name());
    vec![bits(&y), bits(&dx), bits(&y_raw)]
}

#[test]
pub fn raw_pools_on_a_device() {
    on_gpu(|device| {
        let gpu = gpu(device);
        let mut seen = Vec::new();
        for (x_shape, kernel, stride) in
            [([2, 3, 7, 8, 16], [1, 3, 3], [1, 2, 2]), ([1, 4, 5, 5, 5], [2, 2, 2], [2, 1, 2])]
        {
            let window = Window { stride, ..Window::UNIT };
            let p = Pool::new("pool", x_shape.into(), kernel, &window).unwrap();
            for dtype in DTYPES {
                let (x, dy) = (given(device, 1, x_shape, dtype), given(device, 2, p.out_shape(), dtype));
                let (y, choice) = pool3d::max_forward(&x, kernel, &window).unwrap();
                let max = [y, pool3d::max_backward(&dy, &choice).unwrap()];
                let mean = pool3d::avg_forward(&x, kernel, &window).unwrap();
                let avg = [mean, pool3d::avg_backward(&dy, x_shape.into(), kernel, &window).unwrap()];

                let results = || [result(device, p.out_shape(), dtype), result(device, x_shape, dtype)];
                let taps = result(device, [p.out_shape().len()], DType::BF16); // 16 bits each, as indices of taps
                let (max_raw, avg_raw) = (results(), results());
                // SAFETY: the tensors have the pool's shapes, and live until their contents were waited for.
                unsafe {
                    pools::max_forward(gpu, &p, dtype, at(&x), at(&max_raw[0]), at(&taps)).unwrap();
                    pools::max_backward(gpu, &p, dtype, at(&dy), at(&taps), at(&max_raw[1])).unwrap();
                    pools::avg_forward(gpu, &p, dtype, at(&x), at(&avg_raw[0])).unwrap();
                    pools::avg_backward(gpu, &p, dtype, at(&dy), at(&avg_raw[1])).unwrap();
                }
                assert_eq!(max_raw.each_ref().map(bits), max.each_ref().map(bits));
                assert_eq!(avg_raw.each_ref().map(bits), avg.each_ref().map(bits));
                seen.extend(max.iter().chain(&avg).map(bits));
            }
        }
        for (x_shape, dtype) in [([2, 4, 30, 40, 8], DType::BF16), ([3, 2, 3, 3, 5], DType::F32)] {
            let (n, c) = (x_shape[0], x_shape[4]);
            let (x, dy) = (given(device, 1, x_shape, dtype), given(device, 2, [n, c], dtype));
            let (y, dx) = (result(device, [n, c], dtype), result(device, x_shape, dtype));
            let bytes = pools::global_workspace(x_shape.into(), dtype).unwrap();
            let (_kept, workspace) = space(device, bytes);
            // SAFETY: as above.
            unsafe {
                pools::global_forward(gpu, x_shape.into(), dtype, at(&x), at(&y), workspace).unwrap();
                pools::global_backward(gpu, x_shape.into(), dtype, at(&dy), at(&dx)).unwrap();
            }
            assert_eq!(bits(&y), bits(&pool3d::global_forward(&x).unwrap()));
            assert_eq!(bits(&dx), bits(&pool3d::global_backward(&dy, x_shape.into()).unwrap()));
            seen.extend([bits(&y), bits(&dx)]);
        }
        seen
    });
}

#[test]
pub fn raw_sums_of_rows_on_a_device() {
    on_gpu(|device| {
        let mut worked = 0;
        let mut seen = Vec::new();
        for ([rows, c], x_type, y_type) in [
            ([3000, 24], DType::F32, DType::F32),
            ([700, 32], DType::BF16, DType::BF16),
            ([40_000, 1], DType::F32, DType::F32),
            ([5, 3], DType::BF16, DType::F32),
        ] {
            let layout = sums::Layout { rows, c, x: x_type, y: y_type };
            let (x, y) = (given(device, 1, [rows, c], x_type), result(device, [c], y_type));
            let bytes = layout.workspace().unwrap();
            worked += usize::from(bytes > 0);
            let (_kept, workspace) = space(device, bytes);
            // SAFETY: the tensors have the layout's extents, and live until their contents were waited for.
            unsafe { sums::sum_rows(gpu(device), &layout, at(&x), at(&y), workspace).unwrap() };
            // Widening is exact, so f32 sums of bf16 are those of the widened numbers wherever both are added in one order:
            // few rows are.
            let want = reduce::sum_to_forward(&x.cast(y_type).unwrap(), [1, c].into()).unwrap();
            assert_eq!(bits(&y), bits(&want), "{rows} rows of {c}");
            seen.push(bits(&y));
        }
        assert!(worked > 0, "some of these are summed in parts");
        seen
    });
}

#[test]
pub fn raw_updates_on_a_device() {
    on_gpu(|device| {
        let (gpu, p, lr, m) = (gpu(device), Sgd { weight_decay: 0.01, ..Sgd::default() }, 0.1, 0.9);
        let len = 20_000;
        let vector = |seed, len: usize| given(device, seed, [len], DType::F32);

        let (mut w, grad, mut v) = (vector(1, 1003), vector(2, 1003), vector(3, 1003));
        let (w_raw, v_raw) = (vector(1, 1003), vector(3, 1003));
        sgd::update(&p, lr, &mut w, &grad, &mut v, false).unwrap();
        let gradient = updates::Gradient { grad: at(&grad), velocity: at(&v_raw), decays: false };
        // SAFETY: the tensors are that long, and live until their contents were waited for.
        unsafe { updates::update(gpu, &p, lr, 1003, at(&w_raw), gradient).unwrap() };
        assert_eq!((bits(&w_raw), bits(&v_raw)), (bits(&w), bits(&v)));

        // Of two tensors, the first is trained and has a key; the second is rounded alone.
        let arrays = || [vector(1, len), vector(3, len), vector(4, len)];
        let halves = || [(); 2].map(|()| result(device, [len], DType::BF16));
        let (grad, fixed, mut fixed_half) = (vector(2, len), vector(5, 7), result(device, [7], DType::BF16));
        let ([mut w, mut v, mut key], [mut half, mut key_half]) = (arrays(), halves());
        let mut safe = [
            sgd::Update {
                w: sgd::Weights::Trained(&mut w),
                update: Some((&grad, &mut v, true)),
                key: Some(&mut key),
                half: Some(&mut half),
                key_half: Some(&mut key_half),
            },
            sgd::Update {
                w: sgd::Weights::Fixed(&fixed),
                update: None,
                key: None,
                half: Some(&mut fixed_half),
                key_half: None,
            },
        ];
        let (guard, rate) = (vector(6, 1), Tensor::full([1], lr).to(device).unwrap());
        sgd::update_all(&p, sgd::Rate::In(&rate), m, Some(&guard), &mut safe).unwrap();

        let ([w_raw, v_raw, key_raw], [half_raw, key_half_raw]) = (arrays(), halves());
        let fixed_raw = result(device, [7], DType::BF16);
        let all = [
            updates::Update {
                len,
                w: at(&w_raw),
                gradient: Some(updates::Gradient { grad: at(&grad), velocity: at(&v_raw), decays: true }),
                key: Some(at(&key_raw)),
                half: Some(at(&half_raw)),
                key_half: Some(at(&key_half_raw)),
            },
            updates::Update {
                len: 7,
                w: at(&fixed),
                gradient: None,
                key: None,
                half: Some(at(&fixed_raw)),
                key_half: None,
            },
        ];
        // SAFETY: as above.
        unsafe { updates::update_all(gpu, &p, updates::Rate::At(at(&rate)), m, Some(at(&guard)), &all).unwrap() };
        let pairs = [
            (&w_raw, &w),
            (&v_raw, &v),
            (&key_raw, &key),
            (&half_raw, &half),
            (&key_half_raw, &key_half),
            (&fixed_raw, &fixed_half),
        ];
        for (i, (raw, want)) in pairs.into_iter().enumerate() {
            assert_eq!(bits(raw), bits(want), "array {i}");
        }
        bits(&w)
    });
}

/// A bit for each element, whether it is positive.
fn signs_of(y: &Tensor) -> Vec<u8> {
    let positive: Vec<bool> = y.load().unwrap().iter().map(|v| *v > 0.0).collect();
    assert!(positive.contains(&true) && positive.contains(&false));
    positive.chunks(8).map(|eight| eight.iter().rev().fold(0, |byte, &on| byte << 1 | u8::from(on))).collect()
}

/// Calls that must be refused before anything is launched: `a` is an address of a few kilobytes. Run by
/// `host::wrong_addresses`, which counts launches.
pub fn refusals(gpu: &Gpu, a: u64) {
    let param = |what: &str, refused: Result<()>| {
        let error = refused.expect_err(what);
        assert!(matches!(error.kind(), ErrorKind::Param { .. } | ErrorKind::Shape { .. }), "{what}: {error}");
    };
    let odd = a + 8;
    let layout = norms::Layout { x: [2, 4, 4, 8].into(), parts: 1, dtype: DType::F32 };
    let bytes = layout.forward_workspace().unwrap();
    let enough = Workspace { ptr: a, bytes: 1 << 14 };
    let forward = norms::Forward {
        x: a,
        gamma: a,
        beta: a,
        residual: None,
        y: a,
        signs: None,
        mean: a,
        inv_std: a,
        moments: None,
        running: None,
    };
    let norm = |layout: &norms::Layout, at: &norms::Forward, eps, workspace| {
        // SAFETY (of all calls here): nothing is launched.
        unsafe { norms::forward(gpu, layout, at, eps, false, workspace) }
    };
    param("short", norm(&layout, &forward, 1e-5, Workspace { ptr: a, bytes: bytes - 1 }));
    param("no space", norm(&layout, &forward, 1e-5, Workspace::NONE));
    param("unaligned space", norm(&layout, &forward, 1e-5, Workspace { ptr: a + 16, ..enough }));
    param("x", norm(&layout, &norms::Forward { x: odd, ..forward }, 1e-5, enough));
    param("null", norm(&layout, &norms::Forward { y: 0, ..forward }, 1e-5, enough));
    param("residual", norm(&layout, &norms::Forward { residual: Some(odd), ..forward }, 1e-5, enough));
    param("eps", norm(&layout, &forward, 0.0, enough));
    param("parts", norm(&norms::Layout { parts: 3, ..layout }, &forward, 1e-5, enough));
    param("one value", norm(&norms::Layout { x: [1, 8].into(), ..layout }, &forward, 1e-5, enough));
    let moments = Some(norms::Moments { sums: a, tiles: 0, near: a });
    param("tiles", norm(&layout, &norms::Forward { moments, ..forward }, 1e-5, enough));
    let signs = Some(a);
    param("no residual", norm(&layout, &norms::Forward { signs, ..forward }, 1e-5, enough));
    let both = norms::Forward { signs, residual: Some(a), ..forward };
    param("signs of f32", norm(&layout, &both, 1e-5, enough));
    // SAFETY: as above.
    param("signs of seven", unsafe { norms::signs(gpu, 7, a, a) });
    let running = Some(norms::Running { mean: a, var: a, momentum: 1.5 });
    param("momentum", norm(&layout, &norms::Forward { running, ..forward }, 1e-5, enough));

    let pool = Pool::new("pool", [1, 2, 4, 4, 8].into(), [1, 2, 2], &Window::UNIT).unwrap();
    let x_shape = Shape::from([1, 2, 40, 40, 8]);
    let sgd = Sgd::default();
    let update = updates::Update { len: 8, w: a, gradient: None, key: None, half: None, key_half: None };
    let all = |rate, m, updates: &[updates::Update]| unsafe { updates::update_all(gpu, &sgd, rate, m, None, updates) };
    let g = Geometry::new(Window::same([1, 1, 1]));
    let grouped = Conv3d::new("conv3d", [2, 1, 4, 4, 8].into(), [8, 1, 1, 1, 4].into(), &Geometry { groups: 2, ..g });
    let (grouped, layout) = (grouped.unwrap(), sums::Layout { rows: 5000, c: 8, x: DType::F32, y: DType::F32 });
    let fused = convs::FpropMoments { x: a, w: a, near: a, y: a, sums: a };
    unsafe {
        param("taps", pools::max_forward(gpu, &pool, DType::F32, a, a, odd));
        param("dx", pools::max_backward(gpu, &pool, DType::F32, a, a, odd));
        param("mean", pools::avg_forward(gpu, &pool, DType::F32, odd, a));
        param("space of means", pools::global_forward(gpu, x_shape, DType::F32, a, a, Workspace::NONE));
        param("space of sums", sums::sum_rows(gpu, &layout, a, a, Workspace::NONE));
        param("no rows", sums::sum_rows(gpu, &sums::Layout { rows: 0, ..layout }, a, a, enough));
        let gradient = updates::Gradient { grad: odd, velocity: a, decays: true };
        param("gradient", updates::update(gpu, &sgd, 0.1, 8, a, gradient));
        param("groups", convs::fprop_moments(gpu, &grouped, 1, &fused, enough));
    }
    param("no key", all(updates::Rate::Value(0.1), 0.9, &[updates::Update { key_half: Some(a), ..update }]));
    // The last of many is refused before the first is launched.
    let mut many = vec![update; 600];
    many.push(updates::Update { w: odd, ..update });
    param("one of many", all(updates::Rate::Value(0.1), 0.9, &many));
    param("rate", all(updates::Rate::At(0), 0.9, &[update]));
    param("average", all(updates::Rate::Value(0.1), 2.0, &[update]));
}
