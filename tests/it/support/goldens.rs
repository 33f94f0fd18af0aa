//! Golden values: files that PyTorch, OpenCV and others made, and numbers that both sides compute from names.

use super::close::assert_norm;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use tubelet::nn::{Params, Role};
use tubelet::shape::Shape;
use tubelet::tensor::Tensor;
use tubelet::weights::from_pytorch;

/// Numbers in [-1, 1) from a hash of the name and the index, as the generator of the fixture computes them.
pub fn fill(name: &str, count: usize) -> Vec<f64> {
    let offset = 0xCBF29CE484222325u64;
    let h = name.bytes().fold(offset, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100000001B3));
    let mix = |i: u64| {
        let mut z = h.wrapping_add(i.wrapping_mul(0x9E3779B97F4A7C15));
        z ^= z >> 32;
        z = z.wrapping_mul(0xD6E8FEB86659FD93);
        z ^= z >> 32;
        (z >> 40) as f64 / 2f64.powi(23) - 1.0
    };
    (0..count as u64).map(mix).collect()
}

/// Parameters by their names and what they are for, as the generator of the fixture computes them.
pub fn fill_params(params: &mut Params) {
    for (_, p) in params.iter_mut() {
        let shape = p.value.shape();
        let fan_in = shape.len() / shape.dims()[0];
        let (mean, deviation) = match p.role {
            Role::ConvWeight | Role::LinearWeight => (0.0, (6.0 / fan_in as f64).sqrt()),
            Role::NormScale => (0.5, 0.1),
            Role::NormShift | Role::Bias => (1.5, 0.1),
            Role::RunningMean => (0.0, 0.1),
            Role::RunningVar => (1.0, 0.5),
        };
        let values: Vec<f32> = fill(&p.name, shape.len()).iter().map(|v| (mean + deviation * v) as f32).collect();
        p.value = from_pytorch(p.role, shape, &values).unwrap();
    }
}

/// [`fill`] as a tensor.
pub fn filled(name: &str, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let data: Vec<f32> = fill(name, shape.len()).iter().map(|v| *v as f32).collect();
    Tensor::from_f32(shape, &data).unwrap()
}

/// A file of golden values. They are part of the program, which may run where the repository is not.
pub struct Goldens(SafeTensors<'static>);

macro_rules! files {
    ($name:ident, $($file:literal)*) => {
        match $name {
            $($file => include_bytes!(concat!("../../fixtures/", $file, ".safetensors")).as_slice(),)*
            other => panic!("support/goldens.rs lists no {other}"),
        }
    };
}

impl Goldens {
    /// The file `tests/fixtures/<name>.safetensors`.
    pub fn open(name: &str) -> Self {
        let file = files!(name, "augment" "augment_pil" "batch_norm" "conv3d" "image_moco" "image_resnet" "infonce" "maclr" "mcl" "motion_map"
            "networks" "p3d" "pool3d" "probe" "probe_two" "rand_augment" "sgd" "sgd_probe" "svm" "tvl1");
        Goldens(SafeTensors::deserialize(file).unwrap())
    }

    fn view(&self, key: &str) -> TensorView<'static> {
        self.0.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"))
    }

    /// The numbers of `key`.
    pub fn get(&self, key: &str) -> Vec<f32> {
        bytemuck::pod_collect_to_vec(self.view(key).data())
    }

    /// The bytes of `key`.
    pub fn bytes(&self, key: &str) -> &'static [u8] {
        self.view(key).data()
    }

    /// The numbers of `key` in their shape.
    pub fn tensor(&self, key: &str) -> Tensor {
        Tensor::from_f32(Shape::new(self.view(key).shape()), &self.get(key)).unwrap()
    }

    /// Asserts that `got` is near the float64 golden. PyTorch's own float32 error is stored beside each golden; another
    /// order of summation may do worse where a batch statistic amplifies rounding, so 30 times that is allowed, and
    /// 1e-5 where PyTorch happened to be nearly exact.
    #[track_caller]
    pub fn check(&self, key: &str, got: &[f32]) {
        let own = f64::from(self.get(&format!("{key}.error"))[0]);
        assert_norm(key, got, &self.get(key), (30.0 * own).max(1e-5));
    }
}
