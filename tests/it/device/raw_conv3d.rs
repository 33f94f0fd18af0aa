//! The `raw` forms of convolutions, on device addresses, against the forms on tensors: the same bits.

use super::raw::{DTYPES, at, given, gpu, result, space};
use crate::support::numbers::{bits, data};
use crate::support::sim::on_gpu;
use tubelet::ops::batch_norm::{self, Incoming, ReluMask, Stats, raw as norms};
use tubelet::ops::conv3d::fusion::{self, Epilogue, GradEpilogue, Prologue};
use tubelet::ops::conv3d::{self, Conv3d, Geometry, Operator, raw as convs};
use tubelet::ops::linear;
use tubelet::shape::Window;
use tubelet::tape::{Tape, Var};
use tubelet::tensor::DType;

/// A block `conv -> batch norm -> ReLU -> conv` on addresses: moments in fprop's epilogue, mask and sums in dgrad's.
#[test]
pub fn raw_fused_convolutions_on_a_device() {
    on_gpu(|device| {
        let (gpu, parts, dtype, f32s) = (gpu(device), 2, DType::BF16, DType::F32);
        let g = Geometry::new(Window::same([1, 3, 3]));
        let p = Conv3d::new("conv3d", [2, 2, 9, 10, 16].into(), [24, 1, 3, 3, 16].into(), &g).unwrap();
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
        let next = Conv3d::new("conv3d", p.y_shape(), [8, 1, 3, 3, p.k()].into(), &g).unwrap();
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
    });
}

#[test]
pub fn raw_convolution_with_a_bias_on_a_device() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for dtype in DTYPES {
            // A linear layer is a convolution of one tap.
            let (x, w) = (given(device, 1, [37, 24], dtype), given(device, 2, [10, 24], dtype));
            let b = given(device, 3, [10], DType::F32);
            let [vx, vw, vb] = [&x, &w, &b].map(|t| Var::constant(t.clone()));
            let want = linear(&Tape::no_grad(), &vx, &vw, Some(&vb)).unwrap();
            let g = Geometry::new(Window::UNIT);
            let p = Conv3d::new("conv3d", [37, 1, 1, 1, 24].into(), [10, 1, 1, 1, 24].into(), &g).unwrap();
            let y = result(device, p.y_shape(), dtype);
            let bytes = convs::workspace(gpu(device), &p, Operator::Fprop, dtype).unwrap();
            let (_kept, workspace) = space(device, bytes);
            // SAFETY: the tensors have the problem's shapes, and live until their contents were waited for.
            unsafe {
                convs::fprop_bias(gpu(device), &p, dtype, [at(&x), at(&w), at(&b)], at(&y), workspace).unwrap();
            }
            assert_eq!(bits(&y), bits(want.value()));
            let plain =
                conv3d::fprop(&x.reshape([37, 1, 1, 1, 24]).unwrap(), &w.reshape([10, 1, 1, 1, 24]).unwrap(), &g);
            assert_ne!(data(&y), data(&plain.unwrap()), "the bias is added");
            seen.push(bits(&y));
        }
        seen
    });
}
