//! Networks that start from a file of weights, whatever names they have themselves.

use crate::networks::r3d::trunk;
use crate::support::goldens::fill_params;
use std::path::PathBuf;
use tubelet::error::ErrorKind;
use tubelet::nn::nets::Naming;
use tubelet::nn::{Encoder, Net, P3d, Params};
use tubelet::tensor::Device;
use tubelet::train::maclr::Recipe;
use tubelet::weights::{ImageHead, inflate, save_weights, start_from};

/// Weights of a small image ResNet, by torchvision's names.
fn image() -> PathBuf {
    crate::root().join("tests/fixtures/image_resnet.safetensors")
}

fn net() -> Net {
    P3d { width: 6, blocks: vec![2, 1], bottleneck: false, ..P3d::default() }.net().unwrap()
}

/// A network like MaCLR's visual one in its names and its head.
fn encoder(net: &Net) -> Params {
    Encoder::new(net, 8, 4, 1).unwrap().1
}

fn values(params: &Params) -> Vec<Vec<f32>> {
    params.iter().map(|(_, p)| p.value.load().unwrap().into_owned()).collect()
}

#[test]
fn an_image_network_starts_a_network_of_any_names_alike() {
    let (_, mut twin) = trunk(&net());
    let want = inflate(&image(), &mut twin, ImageHead::Dropped).unwrap();
    for naming in [Naming::SlowFast { pathway: 0 }, Naming::PytorchVideo, Naming::Image] {
        let net = Net { naming, ..net() };
        let (first, mut params) = (values(&encoder(&net)), encoder(&net));
        let done = start_from(&image(), &net, &mut params, ImageHead::Dropped).unwrap();
        assert_eq!((&done.copied, &done.made, &done.left_over), (&want.copied, &want.made, &want.left_over));
        assert_eq!(done.kept.len(), 4, "two linear layers of the head: {:?}", done.kept);
        let (got, trunk) = (values(&params), twin.len());
        assert!(got[..trunk] == values(&twin)[..], "{naming:?}");
        assert!(got[trunk..] == first[trunk..], "the head keeps its first weights");
    }
}

#[test]
fn weights_of_a_run_start_another_and_leave_its_head() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weights.safetensors");
    let net = Net { naming: Naming::SlowFast { pathway: 0 }, ..net() };
    let (mut old, mut motion) = (encoder(&net), encoder(&net));
    fill_params(&mut old);
    fill_params(&mut motion);
    save_weights(&file, &[("encoder_q.", &old), ("motion.encoder_q.", &motion)]).unwrap();
    let mut params = encoder(&net);
    let done = start_from(&file, &net, &mut params, ImageHead::Dropped).unwrap();
    let trunk = trunk(&net).1.len();
    assert_eq!((done.copied.len(), done.made.len(), done.kept.len()), (trunk, 0, 4));
    assert!(done.left_over.iter().any(|name| name.starts_with("motion.")), "{:?}", done.left_over);
    assert!(values(&params)[..trunk] == values(&old)[..trunk]);
    assert!(values(&params)[trunk..] == values(&encoder(&net))[trunk..]);
    let e = start_from(&file, &net, &mut params, ImageHead::Inter).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Param { name: "head", .. }), "{e}");
}

#[test]
fn weights_of_another_network_are_refused_and_change_nothing() {
    let net = Net { naming: Naming::SlowFast { pathway: 0 }, ..P3d { width: 8, ..P3d::default() }.net().unwrap() };
    let mut params = encoder(&net);
    let first = values(&params);
    let e = start_from(&image(), &net, &mut params, ImageHead::Dropped).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Format { .. }) && e.to_string().contains("another network"), "{e}");
    assert!(values(&params) == first);
    let wrong = Recipe { init: Some("absent.safetensors".into()), ..Recipe::small() };
    assert!(matches!(wrong.check_init().unwrap_err().kind(), ErrorKind::Io { .. }));
    assert!(wrong.pathways(64, 0, &Device::Cpu).is_err());
}

#[test]
fn maclrs_visual_network_starts_from_the_file_and_its_motion_network_does_not() {
    let recipe = Recipe { visual: Net { naming: Naming::SlowFast { pathway: 0 }, ..net() }, ..Recipe::small() };
    let plain = recipe.pathways(64, 3, &Device::Cpu).unwrap();
    let with = Recipe { init: Some(image()), ..recipe };
    assert!(with.check_init().unwrap().is_some_and(|i| !i.copied.is_empty()));
    let started = with.pathways(64, 3, &Device::Cpu).unwrap();
    assert!(values(started.visual.query()) != values(plain.visual.query()));
    let [a, b] = [&started, &plain].map(|p| values(p.motion.as_ref().unwrap().query()));
    assert!(a == b);
    // The key network starts as the query network does.
    let key = started.visual.followers()[0].1;
    assert!(values(key) == values(started.visual.query()));
}
