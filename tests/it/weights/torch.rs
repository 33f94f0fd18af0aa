//! Files as PyTorch writes them, made by `tests/fixtures/make/weights.py`: every format gives the same numbers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use tubelet::nn::{Params, Role};
use tubelet::tensor::Tensor;
use tubelet::weights::{Dtype, Format, Matching, Source, load_weights};

pub fn fixture(name: &str) -> PathBuf {
    crate::root().join("tests/fixtures/weights").join(name)
}

const FILES: [(&str, Format); 4] = [
    ("objects.pth", Format::TorchZip),
    ("objects_protocol4.pth", Format::TorchZip),
    ("objects_old.pth", Format::TorchStream),
    ("objects_old_protocol4.pth", Format::TorchStream),
];

/// `0, 1, 2, …` divided by `by`.
fn ramp(count: usize, by: f32) -> Vec<f32> {
    (0..count).map(|i| i as f32 / by).collect()
}

#[test]
fn the_tensors_of_every_format_are_found_with_their_shapes() {
    for (file, format) in FILES {
        let source = Source::open(&fixture(file)).unwrap();
        assert_eq!(source.format(), format, "{file}");
        let found: Vec<(&str, Dtype, &[usize])> =
            source.tensors().iter().map(|(name, i)| (name.as_str(), i.dtype, &i.shape[..])).collect();
        let want: [(&str, Dtype, &[usize]); 20] = [
            ("optimizer.state.0.momentum_buffer", Dtype::F32, &[2, 3]),
            ("shared.again", Dtype::F32, &[12]),
            ("shared.part", Dtype::F32, &[4]),
            ("shared.whole", Dtype::F32, &[12]),
            ("state_dict.module.0.weight", Dtype::F32, &[3, 2, 1, 2, 2]),
            ("state_dict.module.1.bias", Dtype::F32, &[3]),
            ("state_dict.module.1.num_batches_tracked", Dtype::I64, &[]),
            ("state_dict.module.1.running_mean", Dtype::F32, &[3]),
            ("state_dict.module.1.running_var", Dtype::F32, &[3]),
            ("state_dict.module.1.weight", Dtype::F32, &[3]),
            ("tensors.0", Dtype::F64, &[2, 3]),
            ("tensors.1", Dtype::F16, &[2, 3]),
            ("tensors.2", Dtype::BF16, &[2, 3]),
            ("tensors.3", Dtype::F32, &[3, 2]),
            ("tensors.4", Dtype::F32, &[2, 4]),
            ("tensors.5", Dtype::F32, &[2, 3]),
            ("tensors.6", Dtype::F32, &[3]),
            ("tensors.7", Dtype::F32, &[0, 4]),
            ("tensors.8", Dtype::F32, &[]),
            ("tensors.9", Dtype::Bool, &[2]),
        ];
        assert_eq!(found, want, "{file}");
    }
}

#[test]
fn numbers_come_row_by_row_whatever_their_type_strides_and_offset() {
    for (file, _) in FILES {
        let mut source = Source::open(&fixture(file)).unwrap();
        source.verify().unwrap();
        let mut is = |name: &str, want: &[f32]| assert_eq!(source.f32(name).unwrap(), want, "{file}: {name}");
        is("tensors.0", &(0..6).map(|i| (f64::from(i) / 7.0) as f32).collect::<Vec<f32>>());
        is("tensors.1", &ramp(6, 4.0));
        is("tensors.2", &ramp(6, 4.0));
        is("tensors.3", &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        is("tensors.4", &[6.0, 7.0, 8.0, 9.0, 16.0, 17.0, 18.0, 19.0]);
        is("tensors.5", &[1.5; 6]);
        is("tensors.6", &ramp(3, 1.0));
        is("tensors.7", &[]);
        is("tensors.8", &[2.5]);
        is("shared.whole", &ramp(12, 1.0));
        is("shared.part", &[3.0, 4.0, 5.0, 6.0]);
        is("shared.again", &ramp(12, 1.0));
        is("optimizer.state.0.momentum_buffer", &ramp(6, 1.0));
        is("state_dict.module.1.running_var", &[400.0, 401.0, 402.0]);
        assert_eq!(source.i64("state_dict.module.1.num_batches_tracked").unwrap(), 500);
        let error = source.f32("tensors.9").unwrap_err().to_string();
        assert!(error.contains("`tensors.9` is of type Bool, but must be floating point"), "{error}");
        assert!(source.f32("absent").unwrap_err().to_string().contains("no tensor `absent`"));
    }
}

/// The one loader takes them as it takes safetensors: filters in this crate's layout, batch counts.
#[test]
fn a_wrapped_state_dict_is_loaded() {
    for (file, _) in FILES {
        let mut params = Params::new();
        params.push("0.weight", Tensor::zeros([3, 1, 2, 2, 2]), Role::ConvWeight);
        params.push("1.weight", Tensor::zeros([3]), Role::NormScale);
        params.push("1.running_var", Tensor::zeros([3]), Role::RunningVar);
        let matching = Matching { strip: &["state_dict.", "module."], allow_extra: true };
        load_weights(&fixture(file), &mut [("", &mut params)], &matching).unwrap();
        let values: Vec<Vec<f32>> = params.iter().map(|(_, p)| p.value.load().unwrap().into_owned()).collect();
        assert_eq!(values[0][..8], [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
        assert_eq!((&values[1][..], &values[2][..]), (&[100.0, 101.0, 102.0][..], &[400.0, 401.0, 402.0][..]));
        assert_eq!(params.batches, 500);
    }
}

#[test]
fn what_is_no_weights_is_refused_by_name() {
    for (file, words) in [
        ("module.pth", "it wants to use `torch.nn.modules.linear.Linear`"),
        ("module_old.pth", "it wants to use `torch.nn.modules.linear.Linear`"),
        ("sparse.pth", "it wants to use `torch._utils._rebuild_sparse_tensor`"),
        ("script.pt", "this is a TorchScript program"),
    ] {
        let error = Source::open(&fixture(file)).err().expect(file).to_string();
        assert!(error.contains(file) && error.contains(words), "{error}");
    }
}

#[test]
fn an_archive_without_checksums_is_read_and_one_with_wrong_ones_refused() {
    let mut source = Source::open(&fixture("no_sums.pth")).unwrap();
    source.verify().unwrap();
    assert_eq!(source.f32("a").unwrap(), [1.0, 1.0]);
    let mut bytes = std::fs::read(fixture("objects.pth")).unwrap();
    // The numbers 0, 1, … of a float storage.
    let ramp: Vec<u8> = ramp(12, 1.0).iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(ramp.len()).position(|w| w == ramp).unwrap();
    bytes[at + 6] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("damaged.pth");
    std::fs::write(&file, bytes).unwrap();
    let error = Source::open(&file).unwrap().verify().unwrap_err().to_string();
    assert!(error.contains("damaged.pth: the file is damaged"), "{error}");
}

#[test]
fn the_fixtures_are_all_looked_at() {
    let found: BTreeSet<String> =
        std::fs::read_dir(fixture("")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let known = ["module.pth", "module_old.pth", "names", "no_sums.pth", "script.pt", "sparse.pth"];
    assert_eq!(found, FILES.iter().map(|(name, _)| *name).chain(known).map(str::to_owned).collect());
}
