//! Where a network lies in a file: behind the prefixes of published files, beside key networks, heads and queues.

use super::torch::fixture;
use crate::networks::r3d::trunk;
use crate::support::goldens::fill_params;
use std::path::{Path, PathBuf};
use tubelet::nn::nets::Naming;
use tubelet::nn::{Net, P3d, Params, Role};
use tubelet::tensor::Tensor;
use tubelet::weights::names::{self, PUBLISHED};
use tubelet::weights::{ImageHead, InputSpec, Loaded, Source, Start, save_weights, start_from};

/// A small bottleneck network with these names.
fn net(naming: Naming) -> Net {
    Net { naming, ..Net::motion_r2d50(16).unwrap() }
}

/// Its trunk with numbers made from its names.
fn filled(naming: Naming) -> Params {
    let mut params = trunk(&net(naming)).1;
    fill_params(&mut params);
    params
}

fn values(params: &Params) -> Vec<Vec<f32>> {
    params.iter().map(|(_, p)| p.value.load().unwrap().into_owned()).collect()
}

const RGB: Naming = Naming::SlowFast { pathway: 0 };
const MOTION: Naming = Naming::SlowFast { pathway: 1 };

fn one(name: &str, dims: &[usize]) -> Params {
    let mut params = Params::new();
    params.push(name, Tensor::zeros(tubelet::shape::Shape::new(dims)), Role::LinearWeight);
    params
}

/// A file as MaCLR's release has it: both pathways, heads, key networks, queues.
fn maclr(dir: &Path) -> PathBuf {
    let file = dir.join("maclr.safetensors");
    let (rgb, motion, head) = (filled(RGB), filled(MOTION), one("head.pathway0_projection_0.weight", &[4, 4]));
    let (key, queue) = (trunk(&net(RGB)).1, one("queue", &[2, 2]));
    let (q, k) = ("model_state.encoder_q.", "model_state.encoder_k.");
    save_weights(&file, &[(q, &rgb), (q, &motion), (q, &head), (k, &key), ("model_state.", &queue)]).unwrap();
    file
}

fn load(file: &Path, naming: Naming) -> (Params, Loaded) {
    let mut params = trunk(&net(naming)).1;
    let done = start_from(file, &net(naming), &mut params, ImageHead::Dropped).unwrap();
    (params, done)
}

#[test]
fn each_pathway_of_maclrs_release_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = maclr(dir.path());
    for naming in [RGB, MOTION] {
        let (params, done) = load(&file, naming);
        assert!(values(&params) == values(&filled(naming)), "{naming}");
        assert_eq!((done.copied.len(), done.missing.len(), done.kept.len()), (params.len(), 0, 0));
        for name in ["model_state.encoder_q.head.pathway0_projection_0.weight", "model_state.queue"] {
            assert!(done.left_over.iter().any(|n| n == name), "{:?}", done.left_over);
        }
    }
    // A network with names of its own takes the RGB pathway.
    let (params, _) = load(&file, Naming::PytorchVideo);
    assert!(values(&params) == values(&filled(RGB)));
    let source = Source::open(&file).unwrap();
    let places = names::find(source.tensors());
    let known: Vec<&str> = places.iter().filter_map(|p| Some(p.published(source.tensors())?.arch)).collect();
    assert_eq!((places.len(), known), (3, vec!["cvrl_r3d50", "cvrl_r3d50"]));
    assert_eq!(places.iter().filter(|p| p.is_average()).count(), 1);
}

/// The prefixes of the published files, and averages beside them.
#[test]
fn a_network_is_found_behind_every_known_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("model_state.backbone.", "model_state.backbone_hist.", RGB),
        ("model_state.", "ema.", RGB),
        ("model_state.", "", Naming::PytorchVideo),
        ("", "", Naming::Torchvision),
        ("state_dict.module.encoder_q.", "state_dict.module.encoder_k.", Naming::Image),
        ("model.module.backbone.", "model_ema.module.backbone.", Naming::Image),
        ("encoder_q.", "motion.encoder_q.", Naming::Torchvision),
    ];
    for (i, (prefix, other, naming)) in cases.into_iter().enumerate() {
        let file = dir.path().join(format!("{i}.safetensors"));
        let (params, average) = (filled(naming), trunk(&net(naming)).1);
        let both = [(prefix, &params), (other, &average)];
        save_weights(&file, if other.is_empty() { &both[..1] } else { &both }).unwrap();
        for wanted in [naming, Naming::PytorchVideo, RGB] {
            assert!(values(&load(&file, wanted).0) == values(&params), "{prefix} for {wanted}");
        }
    }
    assert!(
        PUBLISHED
            .iter()
            .all(|p| cases.iter().any(|(prefix, ..)| *prefix == p.prefix) || p.prefix == "model_state.encoder_q.")
    );
}

#[test]
fn of_several_networks_one_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("two.safetensors");
    let (a, b) = (filled(RGB), trunk(&net(RGB)).1);
    save_weights(&file, &[("left.", &a), ("right.", &b)]).unwrap();
    let mut params = trunk(&net(RGB)).1;
    let error = start_from(&file, &net(RGB), &mut params, ImageHead::Dropped).unwrap_err().to_string();
    assert!(error.contains("several networks") && error.contains("below `left.`, below `right.`"), "{error}");
    let find =
        |at| Start::find(Source::open(&file).unwrap(), &net(RGB), &trunk(&net(RGB)).1, ImageHead::Dropped, Some(at));
    for (at, want) in [("left", &a), ("right.", &b)] {
        find(at).unwrap().fill(&mut params).unwrap();
        assert!(values(&params) == values(want), "{at}");
    }
    let error = find("middle").err().unwrap().to_string();
    assert!(error.contains("no network below `middle`"), "{error}");
}

#[test]
fn a_network_that_does_not_fit_is_refused_with_what_is_wrong_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = maclr(dir.path());
    let wide = Net { naming: RGB, ..Net::motion_r2d50(8).unwrap() };
    let fresh = trunk(&wide).1;
    let mut params = fresh.clone();
    let start = Start::find(Source::open(&file).unwrap(), &wide, &params, ImageHead::Dropped, None).unwrap();
    assert!(start.report().other_shape.len() > 100 && start.report().missing.is_empty());
    let error = start.fill(&mut params).unwrap_err().to_string();
    assert!(error.contains("of another shape (first `s1.pathway0_stem.conv.weight` is [4, 3, 1, 7, 7]"), "{error}");
    assert!(values(&params) == values(&fresh));
    // A stem of two convolutions has no names in SlowFast.
    let two = Net::r2plus1d_18();
    let error = start_from(&file, &two, &mut trunk(&two).1, ImageHead::Dropped).unwrap_err().to_string();
    assert!(error.contains("another network: its stem is one convolution"), "{error}");
    let error = start_from(&fixture("objects.pth"), &wide, &mut params, ImageHead::Dropped).unwrap_err().to_string();
    assert!(error.contains("no network is found in it"), "{error}");
}

/// An image network, found behind MoCo's prefixes and inflated, is a file of clips from then on.
#[test]
fn an_image_network_in_a_container_is_inflated() {
    let spec = P3d { width: 4, blocks: vec![1, 2, 1], ..P3d::default() };
    let image = crate::root().join("tests/fixtures/image_moco.safetensors");
    let net = spec.net().unwrap();
    let mut params = trunk(&net).1;
    let done = start_from(&image, &net, &mut params, ImageHead::Dropped).unwrap();
    assert_eq!((done.copied.len() + done.made.len(), done.made.len()), (params.len(), 4));
}

/// The recipes of the published networks: `docs/weights.md` has the same table.
#[test]
fn a_published_network_brings_the_clips_that_it_was_trained_with() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&maclr(dir.path())).unwrap();
    let tensors = source.tensors();
    assert_eq!(names::recognise(tensors, None).map(|known| known.arch), Some("cvrl_r3d50"));
    assert_eq!(names::recognise(tensors, Some("model_state.encoder_k")), None, "a key network is none of the table");
    let inputs: Vec<_> = names::find(tensors).iter().map(|place| (place.naming, place.input(tensors))).collect();
    assert!(inputs.iter().any(|(naming, input)| *naming == RGB && input.is_some()));
    assert!(inputs.iter().all(|(naming, input)| *naming != MOTION || input.is_none()), "{inputs:?}");
    let of = |name: &str| InputSpec::from(PUBLISHED.iter().find(|p| p.name.contains(name)).unwrap().input).to_string();
    let grey = "minus [0.45, 0.45, 0.45] divided by [0.225, 0.225, 0.225]";
    let imagenet = "minus [0.485, 0.456, 0.406] divided by [0.229, 0.224, 0.225]";
    let kinetics = "minus [0.43216, 0.394666, 0.37645] divided by [0.22803, 0.22145, 0.216989]";
    for (names, begin, end) in [
        (&["MaCLR", "PySlowFast", "ρMoCo", "slow_r50"][..], "8 frames (rgb) 8 apart in a video at 30 frames", grey),
        (&["MCL's", "MoCo of", "resnet50"], "16 frames (rgb) 2 apart in the video, 224 x 224", imagenet),
        (&["r3d_18", "r2plus1d_18"], "16 frames (rgb) 1 apart in a video at 15 frames per second, 112 x 112", kinetics),
    ] {
        for name in names {
            let text = of(name);
            assert!(text.starts_with(begin) && text.ends_with(end), "{name}: {text}");
        }
    }
}
