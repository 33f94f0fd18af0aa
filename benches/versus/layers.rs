//! The distinct convolutions of the five networks, for one clip.

use crate::nets::nets;
use rayon::prelude::*;
use tubelet::nn::Trunk;
use tubelet::ops::conv3d::Conv3d;

/// A convolution, and where it occurs.
pub struct Layer {
    /// Network and module of its first occurrence.
    pub name: String,
    /// Its extents.
    pub problem: Conv3d,
    /// Number of occurrences in all five networks.
    pub places: usize,
    /// Whether its input is the clips, whose gradient training does not need.
    pub stem: bool,
}

/// All convolutions of every network with their names, for one clip.
pub fn convolutions() -> Vec<(&'static str, Vec<(String, Conv3d)>)> {
    let of = |(name, net, clip)| {
        let (trunk, params) = Trunk::with_params(&net, 0);
        (name, trunk.convolutions(&params, 1, clip).expect("the clips fit; a test walks them"))
    };
    nets().into_par_iter().map(of).collect()
}

/// The distinct convolutions, in the order of the networks.
pub fn distinct(of: &[(&'static str, Vec<(String, Conv3d)>)]) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for (net, all) in of {
        for (i, (module, problem)) in all.iter().enumerate() {
            match layers.iter_mut().find(|l| l.problem == *problem) {
                Some(layer) => layer.places += 1,
                None => {
                    let name = format!("{net}/{module}");
                    layers.push(Layer { name, problem: *problem, places: 1, stem: i == 0 });
                }
            }
        }
    }
    layers
}
