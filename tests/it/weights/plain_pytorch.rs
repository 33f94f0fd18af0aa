//! Exported networks, built by their `model.py` and computed by PyTorch: the same output as this crate's. Runs where
//! `TUBELET_TEST_PYTHON` (or else `python3`) has torch and safetensors.

use crate::support::close::assert_norm;
use crate::support::goldens::{fill_params, filled};
use crate::support::skip::absent;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use std::path::Path;
use std::process::Command;
use tubelet::nn::{ARCHES, Classifier, Encoder, HeadSpec, MclEncoder, Mode, Net, P3d, Params, Pass, SmallR3d};
use tubelet::tape::{Tape, Var};
use tubelet::train::views::ViewSpec;
use tubelet::weights::{Config, check_export, export};

/// Builds what is in each folder, and writes what PyTorch makes of its clip.
pub const COMPUTE: &str = "
import pathlib, sys, importlib.util, torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(2)
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    spec = importlib.util.spec_from_file_location('model', folder / 'model.py')
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    want = load_file(folder / 'want.safetensors')
    net = model.load(folder)
    with torch.no_grad():
        features = net(want['clip'].permute(0, 4, 1, 2, 3))
        got = {'features': features, **net.codes(features)}
        if 'logits' in want:
            got['logits'] = net.classify(features)
    save_file({k: v.contiguous() for k, v in got.items()}, folder / 'got.safetensors')
";

/// The python that has these packages.
pub fn python(packages: &str) -> Option<String> {
    let python = std::env::var("TUBELET_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    import.is_ok_and(|o| o.status.success()).then_some(python)
}

/// What a network makes of a clip, by name.
type Outputs<'a> = &'a dyn Fn(&mut Pass, &Var) -> Vec<(&'static str, Var)>;

/// Writes the exported network, a clip and what the network makes of it.
fn write(folder: &Path, config: &Config, params: &mut Params, outputs: Outputs) {
    fill_params(params);
    let clip = filled("x", [2, 8, 36, 44, config.network.in_channels]);
    let tape = Tape::no_grad();
    let mut tensors = vec![("clip", clip.clone())];
    let made = outputs(&mut Pass::new(&tape, params, Mode::Eval), &Var::constant(clip));
    tensors.extend(made.into_iter().map(|(name, v)| (name, v.value().clone())));
    export(folder, params, config).unwrap();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, t)| bytemuck::cast_slice(&t.load().unwrap()).to_vec()).collect();
    let entry = tensors.iter().zip(&bytes);
    let views: Vec<_> =
        entry.map(|((name, t), b)| (*name, TensorView::new(Dtype::F32, t.dims().to_vec(), b).unwrap())).collect();
    std::fs::write(folder.join("want.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn exported_networks_compute_the_same_in_plain_pytorch() {
    let Some(python) = python("torch, safetensors.torch") else {
        return absent("a Python with torch and safetensors", "exported networks in plain PyTorch");
    };
    let home = tempfile::tempdir().unwrap();
    let small = SmallR3d { residual: true, convs: 2, ..SmallR3d::default() }.net().unwrap();
    let p3d = P3d { width: 8, blocks: vec![1, 2], bottleneck: true, ..P3d::default() }.net().unwrap();
    let nets = ARCHES.iter().map(|a| (a.name, a.net())).chain([("small", small.clone()), ("small_p3d", p3d.clone())]);
    for (name, net) in nets {
        let config = Config::new(&net, "A test").classifier(7);
        let (classifier, mut params) = Classifier::new(&net, 7, 1).unwrap();
        write(&home.path().join(name), &config, &mut params, &|pass, x| {
            let features = classifier.trunk.forward(pass, x).unwrap();
            let logits = classifier.forward(pass, x).unwrap();
            vec![("features", features), ("logits", logits)]
        });
    }
    for normalised in [false, true] {
        let head = HeadSpec { hidden: 24, code: 16, normalised };
        let config = Config::new(&small, "A test").maclr(head);
        let new = if normalised { Encoder::normalised } else { Encoder::new };
        let (encoder, mut params) = new(&small, 24, 16, 1).unwrap();
        write(&home.path().join(format!("maclr_{normalised}")), &config, &mut params, &|pass, x| {
            let features = encoder.trunk.forward(pass, x).unwrap();
            vec![("head.projection", encoder.head.forward(pass, &features).unwrap()), ("features", features)]
        });
        let config = Config::new(&p3d, "A test").mcl(head);
        let (encoder, mut params) = MclEncoder::new(&p3d, head, 1).unwrap();
        write(&home.path().join(format!("mcl_{normalised}")), &config, &mut params, &|pass, x| {
            let codes = encoder.forward(pass, x).unwrap();
            let features = encoder.trunk.forward(pass, x).unwrap();
            let [inter, intra, order] = ["nce_inter_head.head", "nce_intra_head.head", "order_head.head"];
            vec![(inter, codes.inter), (intra, codes.intra), (order, codes.order), ("features", features)]
        });
    }
    let ran = Command::new(python).args(["-c", COMPUTE]).arg(home.path()).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(compare(home.path()), 2 * (ARCHES.len() + 2) + 2 * (2 + 4));
}

/// Compares `got.safetensors` with `want.safetensors` in each folder of `home`; returns how many tensors there are.
pub fn compare(home: &Path) -> usize {
    let mut compared = 0;
    for folder in std::fs::read_dir(home).unwrap() {
        let folder = folder.unwrap().path();
        let [got, want] =
            ["got", "want"].map(|name| std::fs::read(folder.join(name).with_extension("safetensors")).unwrap());
        let [got, want] = [&got, &want].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        let names = want.names().into_iter().filter(|name| *name != "clip");
        for name in names {
            let of =
                |file: &SafeTensors| -> Vec<f32> { bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data()) };
            assert_norm(&format!("{} {name}", folder.display()), &of(&got), &of(&want), 1e-5);
            compared += 1;
        }
        assert_eq!(got.len() + 1, want.len(), "{}", folder.display());
    }
    compared
}

/// A program that reads `config.json` can rely on it; a file that was edited to something else is refused by a sentence.
#[test]
fn a_description_is_read_back_and_checked() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("config.json");
    for arch in ARCHES {
        let config = Config::new(&arch.net(), "A test");
        assert_eq!(config.arch, Some(arch.name.to_owned()));
        std::fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
        assert_eq!(Config::load(&path).unwrap(), config);
    }
    let good = serde_json::to_value(Config::new(&Net::r3d_18(), "A test")).unwrap();
    let edits: [(&str, serde_json::Value, &str); 13] = [
        // Each extent is allowed, all together are 10^13 numbers.
        (
            "/network/stages/3",
            json!({"kind": {"whole": {"convs": 4, "residual": true}}, "count": 4, "out": 16_384, "temporal": 255, "stride": [1, 1, 1]}),
            "the number of its parameters",
        ),
        (
            "/heads",
            json!({"head.projection": {"hidden": 1u64 << 60, "code": 8, "normalised": false}}),
            "its heads have",
        ),
        ("/classifier", json!({"name": "fc", "from": 512, "to": u64::MAX}), "its heads have"),
        ("/classifier", json!({"name": "fc", "from": 7, "to": 3}), "`classifier` is not one of the `features`"),
        ("/classifier", json!({"name": "fc", "from": 512, "to": 0}), "`classifier` is not one of the `features`"),
        ("/norm/eps", 0.5.into(), "its batch norm is not that of eps"),
        (
            "/input",
            json!({"kind": "rgb", "frames": 8, "stride": 1.0, "fps": null, "side": 8, "mean": [1e300], "std": [1.0], "layout": "n c"}),
            "number out of range",
        ),
        ("/format", "tubelet-network-9".into(), "`tubelet-network-9`, and `tubelet-network-1` is read"),
        ("/features", 7.into(), "`layers` or `features` are not those of its `network`"),
        ("/layers/stem/0/to", 7.into(), "`layers` or `features` are not those of its `network`"),
        ("/network/in_channels", 0.into(), "in_channels"),
        ("/network/stages/1/count", (1u64 << 60).into(), "stages.count"),
        ("/network/stages/0/stride/1", 0.into(), "stages.stride"),
    ];
    for (place, value, words) in edits {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("config.json"), "{error}");
    }
    // The clips, and the names of classes, each field of which is named.
    let mut good = Config::new(&Net::r3d_18(), "A test").classes(&["a".into(), "b".into()]);
    good.input = Some(ViewSpec::small().inputs()[0].clone());
    std::fs::write(&path, serde_json::to_vec(&good).unwrap()).unwrap();
    assert_eq!(Config::load(&path).unwrap(), good);
    let good = serde_json::to_value(&good).unwrap();
    let edits: [(&str, serde_json::Value); 20] = [
        ("std", json!([0.0, 0.0, 0.0])),
        ("std", json!([0.2, -0.2, 0.2])),
        ("std", json!([0.2, 0.2])),
        ("std", json!([1e-40, 0.2, 0.2])),
        ("mean", json!([0.5])),
        ("mean", json!([0.5, 0.5, 1e30])),
        ("stride", 1e300.into()),
        ("stride", 0.into()),
        ("stride", (-4).into()),
        ("stride", 0.4.into()),
        ("fps", 0.into()),
        ("fps", (-30).into()),
        ("fps", 1e300.into()),
        ("frames", 0.into()),
        ("frames", 1_000_000.into()),
        ("side", 0.into()),
        ("side", 1_000_000.into()),
        ("short_side", 40.into()),
        ("short_side", 1_000_000.into()),
        ("kind", "RGB".into()),
    ];
    for (field, value) in edits {
        let mut bad = good.clone();
        bad["input"][field] = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        let words = format!("config.json: its `input.{field}` is ");
        assert!(error.contains(&words) && error.contains(", and must be "), "{error}");
    }
    for (field, value, words) in [
        ("classes", json!(["a"]), "its `classes` are 1 names, and its `classifier` has 2 outputs"),
        ("classifier", json!(null), "its `classes` are 2 names, and its `classifier` has 0 outputs"),
        ("input", json!({"kind": "rgb"}), "missing field `frames`"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("config.json"), "{error}");
    }
    for text in ["", "[]", "{}", "{\"format\": 3}"] {
        std::fs::write(&path, text).unwrap();
        let error = Config::load(&path).unwrap_err().to_string();
        assert!(error.contains("this does not describe a network"), "{error}");
    }
}

/// Killed between any two of its writes, an export leaves a folder that the same command completes.
#[test]
fn an_interrupted_export_is_completed_and_folders_of_others_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let (config, whole) = (Config::new(&Net::motion_r2d50(16).unwrap(), "A test"), home.path().join("whole"));
    let params = config.params().unwrap();
    export(&whole, &params, &config).unwrap();
    let files = ["model.safetensors", "model.py", "README.md", "config.json"];
    for (done, begun) in files.iter().enumerate() {
        let folder = home.path().join(format!("until {begun}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(format!("{begun}.writing")), "half of i").unwrap();
        for file in &files[..done] {
            std::fs::copy(whole.join(file), folder.join(file)).unwrap();
        }
        export(&folder, &params, &config).unwrap();
        for file in files {
            let [a, b] = [&whole, &folder].map(|folder| std::fs::read(folder.join(file)).unwrap());
            assert!(a == b, "{file} in {}", folder.display());
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), files.len());
    }
    // What bears the same names but is not of this program: weights without its checksum, or texts alone.
    let bytes = safetensors::serialize([("w", TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap())], None).unwrap();
    for (file, content) in [("model.safetensors", &bytes[..]), ("README.md", b"mine"), ("notes.txt", b"mine")] {
        let folder = home.path().join(format!("mine {file}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(file), content).unwrap();
        let error = check_export(&folder).unwrap_err().to_string();
        assert!(error.contains("this folder holds other files"), "{error}");
    }
}
