//! P3D-A: sizes, names, parity with PyTorch; and image networks inflated into it.
//!
//! Goldens: `tests/fixtures/p3d.safetensors`, and two files as users would hand them over, `image_resnet.safetensors` and
//! `image_moco.safetensors`; made by the scripts of these names in `tests/fixtures/make`.

use crate::networks::r3d::{parity_in, trunk};
use crate::support::close::assert_norm;
use crate::support::goldens::{Goldens, fill_params, filled};
use crate::support::numbers::data;
use std::path::PathBuf;
use tubelet::nn::{Grid, HeadSpec, MclEncoder, Mode, Net, P3d, Params, Pass, Trunk};
use tubelet::tape::{Tape, Var};
use tubelet::tensor::Tensor;
use tubelet::weights::{ImageHead, inflate};

/// mcl.md 2.1: parameters of 50 layers. Those of 18 were counted in PyTorch.
#[test]
fn sizes_are_the_papers() {
    let (net, params) = trunk(&Net::p3d_a50());
    assert_eq!(params.count(), 27_308_672);
    for (frames, want) in [(16, [4, 7, 7]), (32, [8, 7, 7])] {
        let grids = net.grids(&params, [frames, 224, 224]).unwrap();
        let at = |module: &str| grids.iter().find(|g| g.module == module).unwrap().clone();
        let quarter = frames / 4;
        let first = Grid { module: "conv1".into(), extents: [quarter, 112, 112], channels: 64 };
        let third = Grid { module: "layer3.5".into(), extents: [quarter, 14, 14], channels: 1024 };
        assert_eq!((grids[0].clone(), at("layer3.5")), (first, third));
        assert_eq!(at("layer1.0").extents, [quarter, 56, 56]);
        let hooked = Grid { module: "layer4.2.conv3".into(), extents: want, channels: 2048 };
        assert_eq!((at("layer4.2.conv3"), grids.last().unwrap().extents), (hooked, want));
    }
    assert!(net.grids(&params, [3, 224, 224]).is_err(), "fewer frames than the stem takes at once");

    let (net, params) = trunk(&Net::p3d_a18());
    assert_eq!(params.count(), 15_382_656);
    let last = net.grids(&params, [16, 224, 224]).unwrap().pop().unwrap();
    assert_eq!(last, Grid { module: "layer4.1".into(), extents: [4, 7, 7], channels: 512 });

    // mcl.md 2.3: the encoder with its heads.
    let heads = HeadSpec { hidden: 2048, code: 128, normalised: false };
    let (_, params) = MclEncoder::new(&Net::p3d_a50(), heads, 1).unwrap();
    assert_eq!(params.count(), 27_308_672 + 3 * 4_458_624 + 770);
}

#[test]
fn names_are_those_of_the_release() {
    let (net, params) = trunk(&Net::p3d_a50());
    let names = [
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv2.weight",
        "layer1.0.conv2_t.weight",
        "layer1.0.bn2.weight",
        "layer1.0.downsample.0.weight",
        "layer2.0.downsample.1.bias",
        "layer4.2.bn3.weight",
    ];
    for name in names {
        assert!(params.find(name).is_some(), "{name}");
    }
    assert!(net.check_module(&params, "layer4.2.conv3").is_ok());
    assert!(params.find("layer1.1.downsample.0.weight").is_none());
    let (_, params) = trunk(&Net::p3d_a18());
    for name in ["layer1.0.conv1_t.weight", "layer1.0.conv2_t.weight", "layer2.0.bn2.weight"] {
        assert!(params.find(name).is_some(), "{name}");
    }
}

fn bottleneck() -> P3d {
    P3d { width: 4, blocks: vec![1, 2, 1], ..P3d::default() }
}

fn basic() -> P3d {
    P3d { width: 6, blocks: vec![2, 1], bottleneck: false, ..P3d::default() }
}

#[test]
fn bottlenecks_agree_with_pytorch() {
    let (net, params) = trunk(&bottleneck().net().unwrap());
    parity_in("p3d", "bottleneck", params, [8, 32, 32], |p, x| net.forward(p, x).unwrap());
}

/// Nine frames: the stem leaves one over.
#[test]
fn basic_blocks_agree_with_pytorch() {
    let (net, params) = trunk(&basic().net().unwrap());
    parity_in("p3d", "basic", params, [9, 32, 32], |p, x| net.forward(p, x).unwrap());
}

/// What the arithmetic says is what the layers do.
#[test]
fn grids_are_the_shapes_of_what_is_tapped() {
    for spec in [bottleneck(), P3d { stem_frames: 2, stem_side: 5, pool: false, ..basic() }] {
        let (net, mut params) = trunk(&spec.net().unwrap());
        let grids = net.grids(&params, [9, 33, 26]).unwrap();
        assert_eq!(grids.iter().map(|g| g.module.clone()).collect::<Vec<_>>(), net.modules(&params));
        for Grid { module, extents: [t, h, w], channels } in grids {
            let tape = Tape::no_grad();
            let mut pass = Pass::new(&tape, &mut params, Mode::Eval).tapping(&module);
            net.forward(&mut pass, &Var::constant(filled("x", [1, 9, 33, 26, 3]))).unwrap();
            assert_eq!(pass.tapped().unwrap().shape().dims(), [1, t, h, w, channels], "{module}");
        }
    }
}

#[test]
fn impossible_networks_are_refused() {
    let refused = |spec: P3d| spec.net().unwrap_err().to_string();
    assert!(refused(P3d { width: 0, ..basic() }).contains("none of them may be 0"));
    assert!(refused(P3d { blocks: vec![], ..basic() }).contains("there must be a stage"));
    assert!(refused(P3d { blocks: vec![1; 17], ..basic() }).contains("at most 16"));
    assert!(refused(P3d { stem_side: 4, ..basic() }).contains("odd"));
    assert!(P3d { blocks: vec![1, 0], ..basic() }.image().is_err());
}

fn fixture(name: &str) -> PathBuf {
    crate::root().join(format!("tests/fixtures/{name}.safetensors"))
}

/// Features of two images, each shown for `frames` frames.
fn features(net: &Trunk, params: &mut Params, frames: usize, mode: Mode) -> Vec<f32> {
    let images = data(&filled("images", [2, 32, 32, 3]));
    let clips: Vec<f32> = images.chunks(images.len() / 2).flat_map(|image| image.repeat(frames)).collect();
    let clips = Var::constant(Tensor::from_f32([2, frames, 32, 32, 3], &clips).unwrap());
    let tape = Tape::no_grad();
    data(net.forward(&mut Pass::new(&tape, params, mode), &clips).unwrap().value())
}

/// torchvision's features of an image are those of the inflated network of that image standing still.
#[test]
fn an_inflated_network_sees_a_still_clip_as_its_image() {
    for (file, spec) in [("image_resnet", basic()), ("image_moco", bottleneck())] {
        let golden = Goldens::open(file).get("golden");
        let (net, mut params) = trunk(&spec.net().unwrap());
        let done = inflate(&fixture(file), &mut params, ImageHead::Dropped).unwrap();
        assert_eq!(done.copied.len() + done.made.len(), params.len());
        assert!(done.made.iter().all(|name| name.ends_with("_t.weight")) && done.kept.is_empty());
        // The 2D network itself reads the same file.
        let (image, mut flat) = trunk(&spec.image().unwrap());
        let plain = inflate(&fixture(file), &mut flat, ImageHead::Dropped).unwrap();
        assert_eq!((plain.copied, plain.made), (done.copied, vec![]));
        assert_norm(file, &features(&image, &mut flat, 1, Mode::Eval), &golden, 1e-6);
        for frames in [4, 8] {
            assert_norm(file, &features(&net, &mut params, frames, Mode::Eval), &golden, 1e-6);
            let train = Mode::Train { parts: 1 };
            let want = features(&image, &mut flat.clone(), 1, train);
            assert_norm(file, &features(&net, &mut params.clone(), frames, train), &want, 1e-5);
        }
    }
}

/// The same between our own networks, with numbers made here.
#[test]
fn an_inflated_network_equals_our_own_image_network() {
    let spec = P3d { stem_frames: 2, pool: false, ..bottleneck() };
    let (image, mut flat) = trunk(&spec.image().unwrap());
    fill_params(&mut flat);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.safetensors");
    write_image(&file, &flat);
    let (net, mut params) = trunk(&spec.net().unwrap());
    inflate(&file, &mut params, ImageHead::Dropped).unwrap();
    let want = features(&image, &mut flat, 1, Mode::Eval);
    assert_norm("features", &features(&net, &mut params, 6, Mode::Eval), &want, 1e-6);
    // The first tap of two carries the image, so of each pair of frames the second is not seen.
    let x = filled("x", [1, 2, 32, 32, 3]);
    let mut other = data(&x);
    let frame = 32 * 32 * 3;
    other[frame..].fill(0.0);
    let mut see = |x: Tensor| {
        let tape = Tape::no_grad();
        data(net.forward(&mut Pass::new(&tape, &mut params, Mode::Eval), &Var::constant(x)).unwrap().value())
    };
    let with = see(x.clone());
    assert_eq!(with, see(Tensor::from_f32([1, 2, 32, 32, 3], &other).unwrap()));
    other[..frame].fill(0.0);
    assert_ne!(with, see(Tensor::from_f32([1, 2, 32, 32, 3], &other).unwrap()));
}

/// Writes filters `k 1 kh kw c` as an image network's `k c kh kw`.
fn write_image(file: &std::path::Path, params: &Params) {
    let mut list: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (_, p) in params.iter() {
        let (shape, data) = tubelet::weights::to_pytorch(p.role, &p.value).unwrap();
        let shape = if let [k, c, 1, h, w] = shape[..] { vec![k, c, h, w] } else { shape };
        list.push((p.name.clone(), shape, bytemuck::cast_slice(&data).to_vec()));
    }
    let views = list.iter().map(|(name, shape, data)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, file).unwrap();
}

/// MoCo's head becomes the inter head, nothing else; the rest of the file is listed.
#[test]
fn mocos_head_goes_where_it_is_asked_to() {
    let heads = HeadSpec { hidden: 24, code: 8, normalised: false };
    let (_, fresh) = MclEncoder::new(&bottleneck().net().unwrap(), heads, 3).unwrap();
    let value = |p: &Params, name: &str| data(&p[p.find(name).unwrap()].value);
    for head in [ImageHead::Dropped, ImageHead::Inter] {
        let mut params = fresh.clone();
        let done = inflate(&fixture("image_moco"), &mut params, head).unwrap();
        let name = "nce_inter_head.head.2.weight";
        let file = Goldens::open("image_moco").get("module.encoder_q.fc.2.weight");
        let inter = head == ImageHead::Inter;
        assert_eq!(value(&params, name) == file, inter);
        assert_eq!(value(&params, name) == value(&fresh, name), !inter);
        let order = "order_head.head.0.weight";
        assert_eq!(value(&params, order), value(&fresh, order));
        assert_eq!(done.kept.len(), if inter { 10 } else { 14 });
        assert_eq!(done.left_over.iter().filter(|n| n.contains(".fc.")).count(), if inter { 0 } else { 4 });
        for name in ["module.queue", "module.encoder_k.conv1.weight", "golden"] {
            assert!(done.left_over.iter().any(|n| n == name), "{name}");
        }
        assert!(!done.left_over.iter().any(|n| n.contains("num_batches_tracked")));
    }
}

#[test]
fn weights_of_another_network_are_refused_and_change_nothing() {
    let refused = |spec: P3d, file: &str, head| {
        let (_, fresh) = trunk(&spec.net().unwrap());
        let mut params = fresh.clone();
        let error = inflate(&fixture(file), &mut params, head).unwrap_err();
        for ((_, a), (_, b)) in params.iter().zip(fresh.iter()) {
            assert_eq!(data(&a.value), data(&b.value), "{}", a.name);
        }
        error.to_string()
    };
    let wide = refused(P3d { width: 8, ..bottleneck() }, "image_moco", ImageHead::Dropped);
    assert!(wide.contains("of another shape") && wide.contains("conv1.weight` is [4, 3, 7, 7]"), "{wide}");
    let deep = refused(P3d { blocks: vec![1, 2, 2], ..bottleneck() }, "image_moco", ImageHead::Dropped);
    assert!(deep.contains("missing (first `layer3.1.conv1.weight`)"), "{deep}");
    let headless = refused(bottleneck(), "image_moco", ImageHead::Inter);
    assert!(headless.contains("no such head"), "{headless}");
    let (_, mut params) = trunk(&Net::r3d_18());
    let names = inflate(&fixture("image_resnet"), &mut params, ImageHead::Dropped).unwrap_err().to_string();
    assert!(names.contains("missing"), "{names}");
    let (_, mut params) = trunk(&Net::slow_r50());
    let names = inflate(&fixture("image_resnet"), &mut params, ImageHead::Dropped).unwrap_err().to_string();
    assert!(names.contains("P3D-A"), "{names}");
    assert!(inflate(&fixture("absent"), &mut params, ImageHead::Dropped).is_err());
}
