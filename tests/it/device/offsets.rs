//! Offsets beyond 2³¹ bytes. Tensors of up to 2³¹ elements are zero except for their end, and the simulator executes the last
//! blocks of each launch, whose results are those of the end alone: of the last image, or of the last elements.

use crate::support::close::{assert_bounded, assert_tensor_cores};
use crate::support::numbers::{bits, drawn, real, seeded, wide};
use crate::support::sim::Sim;
use half::bf16;
use tubelet::ops::arith::{self, Arith};
use tubelet::ops::batch_norm::{self, Incoming, ReluMask, Stats};
use tubelet::ops::conv3d::{Conv3d, Geometry, Operator, on_tile, reference};
use tubelet::ops::reference::Bounded;
use tubelet::ops::{pool3d, relu};
use tubelet::shape::{Shape, Window};
use tubelet::tensor::{DType, Tensor};

/// Elements of the largest tensors: of bf16, 2³² bytes; of f32, more than that.
const fn most(dtype: DType) -> usize {
    match dtype {
        DType::BF16 => (1 << 31) - 1,
        _ => (5 << 28) - 1,
    }
}

fn reals(seed: u64, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    drawn(&mut seeded(seed), shape, real).cast(dtype).unwrap()
}

/// A simulated GPU with large tensors, of whose launches the last blocks are executed.
struct Far(Sim);

impl Far {
    fn new(blocks: u64) -> Far {
        Far(Sim::of_last_blocks(blocks))
    }

    /// The tensor of this shape that ends with the elements of `end` and is zero before.
    fn ending(&self, shape: impl Into<Shape>, end: &Tensor) -> Tensor {
        let (shape, dtype) = (shape.into(), end.dtype());
        let bytes = (shape.len() * dtype.size()) as u64;
        let ptr = self.0.machine.alloc(bytes).unwrap();
        let last: &[u8] = match dtype {
            DType::F32 => bytemuck::cast_slice(end.f32().unwrap()),
            _ => bytemuck::cast_slice(end.bf16().unwrap()),
        };
        self.0.machine.write(ptr + bytes - last.len() as u64, last).unwrap();
        // SAFETY: the memory was just allocated, and lives as long as the simulator.
        unsafe { Tensor::borrow_gpu(&self.0.gpu, ptr, dtype, shape) }.unwrap()
    }

    /// The last `n` elements.
    fn end(&self, x: &Tensor, n: usize) -> Vec<f32> {
        let size = x.dtype().size();
        let mut bytes = vec![0; n * size];
        let at = x.address().unwrap() + ((x.shape().len() - n) * size) as u64;
        self.0.machine.read(at, &mut bytes).unwrap();
        match x.dtype() {
            DType::F32 => bytemuck::pod_collect_to_vec(&bytes),
            _ => bytemuck::pod_collect_to_vec::<u8, bf16>(&bytes).iter().map(|v| v.to_f32()).collect(),
        }
    }

    /// The bits of the last `n` elements as f32.
    fn end_bits(&self, x: &Tensor, n: usize) -> Vec<u32> {
        self.end(x, n).iter().map(|v| v.to_bits()).collect()
    }

    fn small(&self, x: &Tensor) -> Tensor {
        x.to(&self.0.device()).unwrap()
    }
}

/// Many small images under one filter.
struct Images {
    name: &'static str,
    image: [usize; 4],
    k: usize,
    kernel: [usize; 3],
    stride: [usize; 3],
    groups: usize,
    dtype: DType,
    /// Elements of the largest tensor, at most.
    elements: usize,
    /// Elements at the end of `dw` that the last blocks compute.
    last_of_dw: usize,
}

impl Images {
    fn problem(&self, n: usize) -> Conv3d {
        let ([t, h, w, c], [kt, kh, kw]) = (self.image, self.kernel);
        let window = Window::same(self.kernel).strided(self.stride);
        let g = Geometry { groups: self.groups, ..Geometry::new(window) };
        Conv3d::new("conv3d", [n, t, h, w, c].into(), [self.k, kt, kh, kw, c / self.groups].into(), &g).unwrap()
    }

    /// Every tile of the passes, on as many images as fit.
    fn check(&self, passes: &[Operator]) {
        let one = self.problem(1);
        let n = self.elements / one.x_shape().len().max(one.y_shape().len());
        let p = self.problem(n);
        let (x, w, dy) = (
            reals(1, one.x_shape(), self.dtype),
            reals(2, one.w_shape(), self.dtype),
            reals(3, one.y_shape(), self.dtype),
        );
        for pass in passes {
            let far = Far::new(1);
            let (want, width, last) = match pass {
                Operator::Fprop => (reference::fprop(&one, &wide(&x), &wide(&w)), one.k(), one.y_shape().len()),
                Operator::Dgrad => (reference::dgrad(&one, &wide(&dy), &wide(&w)), one.c(), one.x_shape().len()),
                Operator::Wgrad => (reference::wgrad(&one, &wide(&x), &wide(&dy)), 1, self.last_of_dw),
            };
            let [a, b] = match pass {
                Operator::Fprop => [far.ending(p.x_shape(), &x), far.small(&w)],
                Operator::Dgrad => [far.ending(p.y_shape(), &dy), far.small(&w)],
                Operator::Wgrad => [far.ending(p.x_shape(), &x), far.ending(p.y_shape(), &dy)],
            };
            // The last blocks compute the channels of the last group.
            let of_last_group = |i: &usize| i % width >= width - width.div_ceil(self.groups);
            let end = want.value.len() - last;
            let pick = |v: &[f64]| -> Vec<f64> { (0..last).filter(of_last_group).map(|i| v[end + i]).collect() };
            let want = Bounded { value: pick(&want.value), magnitude: pick(&want.magnitude), terms: want.terms };
            let mut tiles = 0;
            for tile in 0.. {
                let Some(y) = on_tile(&p, *pass, tile, [&a, &b]).unwrap() else { break };
                let got = far.end(&y, last);
                let got: Vec<f32> = (0..last).filter(of_last_group).map(|i| got[i]).collect();
                let what = format!("{} {pass:?} tile {tile} of {n} images", self.name);
                let sum_of_tensor_cores = self.dtype == DType::BF16 && self.groups == 1;
                let hold = if sum_of_tensor_cores { assert_tensor_cores } else { assert_bounded };
                hold(&what, &got, &want, y.dtype());
                tiles += 1;
            }
            assert!(tiles > 0, "{}: no tile", self.name);
        }
    }
}

/// For fprop and dgrad, whose blocks are alike however many there are.
const DENSE: Images = Images {
    name: "dense",
    image: [1, 8, 8, 64],
    k: 64,
    kernel: [1, 3, 3],
    stride: [1; 3],
    groups: 1,
    dtype: DType::BF16,
    elements: most(DType::BF16),
    last_of_dw: 0,
};
const GROUPED: Images = Images { name: "grouped", k: 48, groups: 2, ..DENSE };
/// For wgrad, of which a block adds up as many pixels as there are for each of four blocks on every multiprocessor: few taps,
/// so that one tile is the whole filter, and no more elements than make 2.4 GB of bf16 and 4.8 GB of f32.
const POINTWISE: Images = Images { name: "pointwise", kernel: [1; 3], elements: 9 << 27, last_of_dw: 256, ..DENSE };
const STEM: Images = Images { name: "stem", image: [1, 8, 8, 4], stride: [1, 4, 4], kernel: [1, 3, 3], ..POINTWISE };

use Operator::{Dgrad, Fprop, Wgrad};

#[test]
pub fn fprop_and_dgrad_beyond_two_gigabytes() {
    DENSE.check(&[Fprop, Dgrad]);
}

#[test]
pub fn wgrad_beyond_two_gigabytes() {
    POINTWISE.check(&[Wgrad]);
}

#[test]
pub fn stems_beyond_two_gigabytes() {
    STEM.check(&[Fprop, Wgrad]);
}

#[test]
pub fn exact_passes_beyond_two_gigabytes() {
    Images { name: "exact", dtype: DType::F32, elements: most(DType::F32), ..DENSE }.check(&[Fprop, Dgrad]);
    Images { name: "exact", dtype: DType::F32, ..POINTWISE }.check(&[Wgrad]);
    GROUPED.check(&[Fprop, Dgrad]);
}

#[test]
pub fn elementwise_operations_beyond_two_gigabytes() {
    for dtype in [DType::F32, DType::BF16] {
        // Neither whole blocks nor whole vectors; of a broadcast, a block has 256 elements.
        let (far, n, last) = (Far::new(2), most(dtype), 256);
        let (a, b) = (reals(4, [last], dtype), reals(5, [last], dtype));
        let [fa, fb] = [&a, &b].map(|t| far.ending([n], t));
        let same = |what: &str, far_y: &Tensor, y: &Tensor| assert_eq!(far.end_bits(far_y, last), bits(y), "{what}");
        for op in [Arith::Add, Arith::Sub, Arith::Mul, Arith::Div] {
            same(op.name(), &arith::forward(op, &fa, &fb).unwrap(), &arith::forward(op, &a, &b).unwrap());
        }
        same("scale", &arith::scale_forward(&fa, 0.3).unwrap(), &arith::scale_forward(&a, 0.3).unwrap());
        same("relu", &relu::forward(&fa).unwrap(), &relu::forward(&a).unwrap());
        same("relu backward", &relu::backward(&fa, &fb).unwrap(), &relu::backward(&a, &b).unwrap());
        let (c, row) = (64, reals(6, [1, 64], dtype));
        let (fa, a) = (far.ending([n / c, c], &a), a.reshape([last / c, c]).unwrap());
        let broadcast = arith::forward(Arith::Mul, &fa, &far.small(&row)).unwrap();
        same("broadcast", &broadcast, &arith::forward(Arith::Mul, &a, &row).unwrap());
        // No more elements than fit into memory as f32.
        let other = if dtype == DType::F32 { DType::BF16 } else { DType::F32 };
        let fa = far.ending([most(DType::F32)], &a);
        same("cast", &fa.cast(other).unwrap(), &a.cast(other).unwrap());
    }
}

#[test]
pub fn pools_beyond_two_gigabytes() {
    // The results are almost as large as the input.
    let (image, kernel, window) = ([2, 6, 6, 8], [1, 2, 2], Window::UNIT);
    for dtype in [DType::F32, DType::BF16] {
        let far = Far::new(2);
        let images = |n: usize| [n, image[0], image[1], image[2], image[3]];
        let x = reals(7, images(1), dtype);
        let all = images(most(dtype) / x.shape().len());
        let fx = far.ending(all, &x);
        let same = |what: &str, far_y: &Tensor, y: &Tensor| {
            assert_eq!(far.end_bits(far_y, y.shape().len()), bits(y), "{what} {dtype:?}");
        };
        let ((y, choice), (fy, far_choice)) =
            (pool3d::max_forward(&x, kernel, &window).unwrap(), pool3d::max_forward(&fx, kernel, &window).unwrap());
        same("max", &fy, &y);
        let dy = reals(8, y.shape(), dtype);
        let fdy = far.ending(fy.shape(), &dy);
        let dx = pool3d::max_backward(&dy, &choice).unwrap();
        same("max backward", &pool3d::max_backward(&fdy, &far_choice).unwrap(), &dx);
        same("gather", &pool3d::gather(&fx, &far_choice).unwrap(), &pool3d::gather(&x, &choice).unwrap());
        let y = pool3d::avg_forward(&fx, kernel, &window).unwrap();
        let p = pool3d::Pool::new("pool", x.shape(), kernel, &window).unwrap();
        assert_bounded("avg", &far.end(&y, dy.shape().len()), &pool3d::reference::avg(&p, &wide(&x)), dtype);
        let dx = pool3d::avg_backward(&fdy, fx.shape(), kernel, &window).unwrap();
        let want = pool3d::reference::avg_back(&p, &wide(&dy));
        assert_bounded("avg backward", &far.end(&dx, x.shape().len()), &want, dtype);
    }
}

#[test]
pub fn batch_norm_beyond_two_gigabytes() {
    let (c, last) = (64, 64);
    for dtype in [DType::F32, DType::BF16] {
        let (far, rows) = (Far::new(2), most(dtype) / c);
        let (x, dy) = (reals(9, [last, c], dtype), reals(10, [last, c], dtype));
        let [gamma, beta] = [11, 12].map(|seed| reals(seed, [c], DType::F32));
        let [fx, fdy] = [&x, &dy].map(|t| far.ending([rows, c], t));
        let eps = 1.0;
        let stats = Stats::Batch { parts: 1 };
        let (y, norm, batch) =
            batch_norm::forward(&fx, &far.small(&gamma), &far.small(&beta), stats, eps, None, false).unwrap();
        let batch = batch.unwrap();
        let got = batch_norm::backward(&fx, &norm, ReluMask::None, false, &Incoming::Result(fdy)).unwrap();

        // All other rows are zero: they count among the rows and add nothing to a sum.
        let (x, dy, gamma, beta, n) = (wide(&x), wide(&dy), wide(&gamma), wide(&beta), rows as f64);
        // Of each channel, from a term of each of its last rows; besides the sum, a few products and quotients.
        let sums = |f: &dyn Fn(usize, usize) -> f64, over: f64| {
            let of = |c0: usize| (0..last).map(move |r| f(r * c + c0, c0) / over);
            Bounded {
                value: (0..c).map(|c0| of(c0).sum()).collect(),
                magnitude: (0..c).map(|c0| of(c0).map(f64::abs).sum()).collect(),
                terms: last + 16,
            }
        };
        let mean = sums(&|i, _| x[i], n);
        let square = sums(&|i, _| x[i] * x[i], n);
        let var: Vec<f64> = square.value.iter().zip(&mean.value).map(|(s, m)| s - m * m).collect();
        let inv: Vec<f64> = var.iter().map(|v| 1.0 / (v + f64::from(eps)).sqrt()).collect();
        let xhat = |i: usize, c0: usize| (x[i] - mean.value[c0]) * inv[c0];
        let (dbeta, dgamma) = (sums(&|i, _| dy[i], 1.0), sums(&|i, c0| dy[i] * xhat(i, c0), 1.0));
        assert_bounded("mean", &batch.mean.load().unwrap(), &mean, DType::F32);
        // PyTorch's convention: the variance over n - 1.
        let unbiased = |v: &[f64]| v.iter().map(|v| v * n / (n - 1.0)).collect();
        let want = Bounded { value: unbiased(&var), magnitude: unbiased(&square.value), terms: last + 16 };
        assert_bounded("var", &batch.var.load().unwrap(), &want, DType::F32);
        assert_bounded("dbeta", &got.dbeta.load().unwrap(), &dbeta, DType::F32);
        assert_bounded("dgamma", &got.dgamma.load().unwrap(), &dgamma, DType::F32);
        // The results, each from a few terms.
        let results = |terms: &dyn Fn(usize, usize) -> [f64; 3]| {
            let of: Vec<[f64; 3]> = (0..last * c).map(|i| terms(i, i % c)).collect();
            Bounded {
                value: of.iter().map(|t| t.iter().sum()).collect(),
                magnitude: of.iter().map(|t| t.iter().map(|v| v.abs()).sum()).collect(),
                terms: 12,
            }
        };
        let want = results(&|i, c0| {
            let scale = gamma[c0] * inv[c0];
            [scale * x[i], -scale * mean.value[c0], beta[c0]]
        });
        assert_bounded("y", &far.end(&y, last * c), &want, dtype);
        let want = results(&|i, c0| {
            let scale = gamma[c0] * inv[c0];
            [scale * dy[i], -scale * dbeta.value[c0] / n, -scale * xhat(i, c0) * dgamma.value[c0] / n]
        });
        assert_bounded("dx", &far.end(&got.dx, last * c), &want, dtype);
    }
}
