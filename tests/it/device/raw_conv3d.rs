//! The `raw` forms of convolutions, on device addresses, against the forms on tensors: the same bits.

use super::conv3d_sm90::took_part;
use super::raw::{DTYPES, at, given, gpu, result, space};
use crate::support::numbers::{bits, data};
use crate::support::sim::{on_gpu, on_hopper};
use tubelet::ops::batch_norm::{self, Incoming, ReluMask, Stats, raw as norms};
use tubelet::ops::conv3d::fusion::{self, Epilogue, GradEpilogue, Prologue};
use tubelet::ops::conv3d::{self, Conv3d, Geometry, Operator, raw as convs};
use tubelet::ops::linear;
use tubelet::shape::Window;
use tubelet::tape::{Tape, Var};
use tubelet::tensor::{DType, Device};

/// A block `conv -> batch norm -> ReLU -> conv` on addresses: moments in fprop's epilogue, mask and sums in dgrad's.
#[test]
pub fn raw_fused_convolutions_on_a_device() {
    on_gpu(|device| fused(device, [2, 2, 9, 10, 16], [24, 8], [1, 3, 3]));
}

/// The same with the kernels of Hopper, and each pass alone, a bias included.
#[test]
pub fn raw_convolutions_on_hopper() {
    on_hopper(|device| {
        let mut seen = fused(device, [2, 8, 12, 13, 64], [64, 64], [3, 1, 1]);
        for (x, k, kernel) in [
            ([1, 1, 132, 132, 64], 64, [1, 1, 1]),
            ([2, 2, 28, 28, 64], 72, [1, 3, 3]),
            ([2, 4, 20, 20, 136], 64, [3, 1, 1]),
        ] {
            seen.extend(plain(device, DType::BF16, x, k, kernel));
        }
        seen.push(with_a_bias(device, DType::BF16, [132 * 132, 64], 64));
        seen
    });
    took_part(&["conv3d_fprop_sm90_", "conv3d_fprop_halo_sm90_"]);
    took_part(&["conv3d_dgrad_sm90_", "conv3d_dgrad_halo_sm90_", "conv3d_wgrad_halo_sm90_"]);
}

#[test]
pub fn raw_convolutions_on_a_device() {
    on_gpu(|device| DTYPES.map(|dtype| plain(device, dtype, [2, 3, 9, 10, 16], 24, [3, 1, 3])));
}

/// Each pass alone.
fn plain(device: &Device, dtype: DType, x: [usize; 5], k: usize, [t, h, w]: [usize; 3]) -> Vec<Vec<u32>> {
    let (gpu, g) = (gpu(device), Geometry::new(Window::same([t, h, w])));
    let p = Conv3d::new("conv3d", x.into(), [k, t, h, w, x[4]].into(), &g).unwrap();
    let [x, w, dy] = [(1, p.x_shape()), (2, p.w_shape()), (3, p.y_shape())].map(|(i, s)| given(device, i, s, dtype));
    let want = [
        conv3d::fprop(&x, &w, &g).unwrap(),
        conv3d::dgrad(&dy, &w, p.x_shape(), &g).unwrap(),
        conv3d::wgrad(&x, &dy, p.w_shape(), &g).unwrap(),
    ];
    let raw = [(p.y_shape(), dtype), (p.x_shape(), dtype), (p.w_shape(), DType::F32)];
    let raw = raw.map(|(shape, dtype)| result(device, shape, dtype));
    for (i, pass) in [Operator::Fprop, Operator::Dgrad, Operator::Wgrad].into_iter().enumerate() {
        let (_kept, workspace) = space(device, convs::workspace(gpu, &p, pass, dtype).unwrap());
        let to = at(&raw[i]);
        // SAFETY: the tensors have the problem's shapes, and live until their contents were waited for.
        unsafe {
            match pass {
                Operator::Fprop => convs::fprop(gpu, &p, dtype, at(&x), at(&w), to, workspace),
                Operator::Dgrad => convs::dgrad(gpu, &p, dtype, at(&dy), at(&w), to, workspace),
                Operator::Wgrad => convs::wgrad(gpu, &p, dtype, at(&x), at(&dy), to, workspace),
            }
            .unwrap();
        }
        assert_eq!(bits(&raw[i]), bits(&want[i]), "{pass:?} of {:?}", p.x_shape());
    }
    raw.iter().map(bits).collect()
}

fn fused(device: &Device, x_shape: [usize; 5], [k, k_next]: [usize; 2], kernel: [usize; 3]) -> Vec<Vec<u32>> {
    let (gpu, parts, dtype, f32s) = (gpu(device), 2, DType::BF16, DType::F32);
    let g = Geometry::new(Window::same(kernel));
    let filters = |k, c| [k, kernel[0], kernel[1], kernel[2], c].into();
    let p = Conv3d::new("conv3d", x_shape.into(), filters(k, x_shape[4]), &g).unwrap();
    let x = given(device, 1, p.x_shape(), dtype);
    let w = given(device, 2, p.w_shape(), dtype);
    let near = given(device, 3, [p.k()], f32s);
    let (y, moments) = fusion::fprop(&x, &w, &g, Prologue::None, Epilogue::Moments { parts, near: &near }).unwrap();
    let moments = moments.unwrap();

    let needs = convs::with_sums(gpu, &p, Operator::Fprop, parts).unwrap();
    let (y_raw, sums) = (result(device, p.y_shape(), dtype), result(device, [parts, needs.tiles, 2, p.k()], f32s));
    let (_kept, workspace) = space(device, needs.workspace);
    let at_fprop = convs::FpropMoments { x: at(&x), w: at(&w), near: at(&near), y: at(&y_raw), sums: at(&sums) };
    // SAFETY (of all calls here): the tensors have the problem's shapes, and live until their contents were waited for.
    unsafe { convs::fprop_moments(gpu, &p, parts, &at_fprop, workspace).unwrap() };
    assert_eq!(bits(&y_raw), bits(&y));
    assert_eq!(bits(&sums), bits(moments.shifted().unwrap().1));

    // The batch norm that follows forms its statistics from those sums.
    let (gamma, beta) = (given(device, 4, [p.k()], f32s), given(device, 5, [p.k()], f32s));
    let stats = Stats::Moments(&moments);
    let (z, norm, _) = batch_norm::forward(&y, &gamma, &beta, stats, 1e-5, None, true).unwrap();
    let layout = norms::Layout { x: p.y_shape(), parts, dtype };
    let (z_raw, mean, inv_std) = (
        result(device, p.y_shape(), dtype),
        result(device, [parts * p.k()], f32s),
        result(device, [parts * p.k()], f32s),
    );
    let (_kept, workspace) = space(device, layout.forward_workspace().unwrap());
    let forward = norms::Forward {
        x: at(&y_raw),
        gamma: at(&gamma),
        beta: at(&beta),
        residual: None,
        y: at(&z_raw),
        signs: None,
        mean: at(&mean),
        inv_std: at(&inv_std),
        moments: Some(norms::Moments { sums: at(&sums), tiles: needs.tiles, near: at(&near) }),
        running: None,
    };
    unsafe { norms::forward(gpu, &layout, &forward, 1e-5, true, workspace).unwrap() };
    assert_eq!((bits(&z_raw), bits(&mean)), (bits(&z), bits(norm.mean())));

    // The next convolution's dgrad, and the batch norm's backward pass.
    let next = Conv3d::new("conv3d", p.y_shape(), filters(k_next, p.k()), &g).unwrap();
    let (w2, dy) = (given(device, 6, next.w_shape(), dtype), given(device, 7, next.y_shape(), dtype));
    let add = given(device, 8, next.x_shape(), dtype);
    for (from_result, adds) in [(false, false), (true, true)] {
        let relu = if from_result { ReluMask::FromResult(&z) } else { ReluMask::FromInput };
        let epilogue = GradEpilogue::NormRelu { x: &y, norm: &norm, relu, signs: None, add: adds.then_some(&add) };
        let incoming = fusion::dgrad(&dy, &w2, next.x_shape(), &g, epilogue).unwrap();
        let Incoming::PastRelu { dz, sums } = &incoming else { panic!("a GPU fuses this") };
        let want = batch_norm::backward(&y, &norm, relu, false, &incoming).unwrap();

        let needs = convs::with_sums(gpu, &next, Operator::Dgrad, parts).unwrap();
        let dz_raw = result(device, next.x_shape(), dtype);
        let sums_raw = result(device, [parts, needs.tiles, 2, next.c()], f32s);
        let (_kept, workspace) = space(device, needs.workspace);
        let (_kept_signs, signs) = space(device, next.x_shape().len() / 8);
        unsafe { norms::signs(gpu, next.x_shape().len(), at(&z), signs.ptr).unwrap() };
        let at_dgrad = convs::DgradNormRelu {
            dy: at(&dy),
            w: at(&w2),
            add: adds.then(|| at(&add)),
            signs: from_result.then_some(signs.ptr),
            x: at(&y),
            mean: at(&mean),
            inv_std: at(&inv_std),
            gamma: at(&gamma),
            beta: at(&beta),
            dz: at(&dz_raw),
            sums: at(&sums_raw),
        };
        unsafe { convs::dgrad_norm_relu(gpu, &next, parts, &at_dgrad, workspace).unwrap() };
        assert_eq!((bits(&dz_raw), bits(&sums_raw)), (bits(dz), bits(sums)));

        let (dx, dgamma, dbeta) =
            (result(device, p.y_shape(), dtype), result(device, [p.k()], f32s), result(device, [p.k()], f32s));
        let (_kept, workspace) = space(device, layout.backward_workspace().unwrap());
        let backward = norms::Backward {
            x: at(&y),
            dy: at(&dz_raw),
            mean: at(&mean),
            inv_std: at(&inv_std),
            gamma: at(&gamma),
            beta: at(&beta),
            mask: norms::Mask::Applied { sums: at(&sums_raw), tiles: needs.tiles },
            dx: at(&dx),
            dgamma: at(&dgamma),
            dbeta: at(&dbeta),
        };
        unsafe { norms::backward(gpu, &layout, &backward, workspace).unwrap() };
        assert_eq!(bits(&dx), bits(&want.dx));
        assert_eq!((bits(&dgamma), bits(&dbeta)), (bits(&want.dgamma), bits(&want.dbeta)));
    }
    vec![bits(&y), bits(&z)]
}

#[test]
pub fn raw_convolution_with_a_bias_on_a_device() {
    on_gpu(|device| DTYPES.map(|dtype| with_a_bias(device, dtype, [37, 24], 10)));
}

/// A linear layer, which is a convolution of one tap.
fn with_a_bias(device: &Device, dtype: DType, [rows, c]: [usize; 2], k: usize) -> Vec<u32> {
    let (x, w) = (given(device, 1, [rows, c], dtype), given(device, 2, [k, c], dtype));
    let b = given(device, 3, [k], DType::F32);
    let [vx, vw, vb] = [&x, &w, &b].map(|t| Var::constant(t.clone()));
    let want = linear(&Tape::no_grad(), &vx, &vw, Some(&vb)).unwrap();
    let g = Geometry::new(Window::UNIT);
    let p = Conv3d::new("conv3d", [rows, 1, 1, 1, c].into(), [k, 1, 1, 1, c].into(), &g).unwrap();
    let y = result(device, p.y_shape(), dtype);
    let (_kept, workspace) = space(device, convs::workspace(gpu(device), &p, Operator::Fprop, dtype).unwrap());
    // SAFETY: the tensors have the problem's shapes, and live until their contents were waited for.
    unsafe { convs::fprop_bias(gpu(device), &p, dtype, [at(&x), at(&w), at(&b)], at(&y), workspace).unwrap() };
    assert_eq!(bits(&y), bits(want.value()));
    let plain = conv3d::fprop(&x.reshape([rows, 1, 1, 1, c]).unwrap(), &w.reshape([k, 1, 1, 1, c]).unwrap(), &g);
    assert_ne!(data(&y), data(&plain.unwrap()), "the bias is added");
    bits(&y)
}
