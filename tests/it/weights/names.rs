//! Our networks have the names and shapes of those they are called after: `tests/fixtures/weights/names`, from torchvision
//! itself, and for pytorchvideo from its code.

use super::torch::fixture;
use crate::networks::r3d::trunk;
use std::collections::BTreeMap;
use tubelet::nn::{ARCHES, Arch, Classifier, Encoder, HeadSpec, MclEncoder, Role};
use tubelet::weights::names::PUBLISHED;
use tubelet::weights::to_pytorch;

#[test]
fn the_networks_have_the_names_and_shapes_of_torchvision_and_pytorchvideo() {
    for (list, arch) in
        [("r3d_18", "r3d_18"), ("r2plus1d_18", "r2plus1d_18"), ("resnet50", "r2d50"), ("slow_r50", "slow_r50")]
    {
        let text = std::fs::read_to_string(fixture(&format!("names/{list}.txt"))).unwrap();
        let mut want = BTreeMap::new();
        for line in text.lines() {
            let (name, shape) = line.split_once(' ').unwrap_or((line, ""));
            if !name.ends_with(".num_batches_tracked") {
                want.insert(name.to_owned(), shape.to_owned());
            }
        }
        let net = Arch::by_name(arch).unwrap().net();
        let classes = want[&format!("{}.bias", net.naming.classifier())].parse().unwrap();
        let mut got = BTreeMap::new();
        for (_, p) in Classifier::new(&net, classes, 0).unwrap().1.iter() {
            let (mut shape, _) = to_pytorch(p.role, &p.value).unwrap();
            if list == "resnet50" && p.role == Role::ConvWeight {
                assert_eq!(shape.remove(2), 1, "an image network has one frame");
            }
            let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
            got.insert(p.name.clone(), shape.join(" "));
        }
        assert_eq!(got, want, "{list}");
    }
}

#[test]
fn every_network_has_one_name_and_is_built() {
    for arch in ARCHES {
        assert_eq!(ARCHES.iter().filter(|other| other.name == arch.name).count(), 1);
        assert!(!trunk(&arch.net()).1.is_empty(), "{}", arch.name);
    }
    assert!(Arch::by_name("resnet").is_none());
    assert_eq!(trunk(&Arch::by_name("motion_r2d50").unwrap().net()).1.count(), 374_152); // maclr.md 3.2
}

/// Heads of published files are those of the networks here: MaCLR's, MCL's, or a classifier.
#[test]
fn what_is_published_fits_the_networks_and_their_heads() {
    for file in PUBLISHED {
        let net = Arch::by_name(file.arch).unwrap().net();
        assert!(file.prefix.is_empty() || file.prefix.ends_with('.'), "{}", file.name);
        let heads = HeadSpec { hidden: 2, code: 2, normalised: false };
        let with_heads = [
            Encoder::new(&net, 2, 2, 0).unwrap().1,
            Classifier::new(&net, 2, 0).unwrap().1,
            MclEncoder::new(&net, heads, 0).unwrap().1,
        ];
        for (_, ours) in file.heads {
            let weight = format!("{ours}.weight");
            assert!(with_heads.iter().any(|params| params.find(&weight).is_some()), "{}: {weight}", file.name);
        }
    }
}
