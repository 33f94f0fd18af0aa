//! Where a frozen trunk looks: its class-agnostic activation maps, as MaCLR's figures show them (`docs/papers/maclr.md`
//! section 7), and how much of a map lies where the video moves.
//!
//! A map is the mean of a feature map over its channels. It needs no classifier, no labels and no gradient.

use super::views::Frozen;
use crate::error::{Error, Result};
use crate::nn::{Grid, Params, Precision, Trunk};

/// Fewest rows and columns of a map that says where something is: published networks end with 7 x 7.
const CELLS: usize = 6;

/// The block whose maps are shown for clips of `t h w`: the last one with at least 6 rows and columns, or else the
/// first of those with the most.
///
/// # Errors
/// `Param` when a kernel does not fit, or the trunk has no block.
pub fn block(trunk: &Trunk, params: &Params, clip: [usize; 3]) -> Result<Grid> {
    let side = |grid: &Grid| grid.extents[1].min(grid.extents[2]).min(CELLS);
    let blocks = trunk.blocks(params, clip)?;
    let most = blocks.iter().map(side).max().unwrap_or(0);
    let mut largest = blocks.into_iter().filter(|grid| side(grid) == most);
    let chosen = if most == CELLS { largest.next_back() } else { largest.next() };
    chosen.ok_or_else(|| Error::param("saliency", "network", "none", "a network without blocks has no map to show"))
}

/// The maps `[n to ho wo]` of `n` clips, each of extents `dims` (`t h w c`): the outputs of the [`block`] called
/// `module`, averaged over channels, with running statistics. The parameters are not changed.
///
/// # Errors
/// `Param` when the trunk has no such module; `Shape` when a clip has other extents; those of the network.
pub fn maps(trunk: &Trunk, params: &Params, module: &str, clips: &[Vec<f32>], dims: [usize; 4]) -> Result<Vec<f32>> {
    let output = Frozen::new(trunk, params, Precision::F32).output(module, clips, dims)?;
    let [.., channels] = output.shape().nthwc("saliency", "map")?;
    let mean = |cell: &[f32]| (cell.iter().map(|&v| f64::from(v)).sum::<f64>() / channels as f64) as f32;
    Ok(output.load()?.chunks_exact(channels).map(mean).collect())
}

/// Maps of `cells` each, one after the other, as they are drawn: each from its least value, 0, to its largest, 1. What
/// a network adds everywhere is left out, and frames at the ends of a clip, where kernels reach beyond it, are as
/// bright as others. A flat map is 0.
#[must_use]
pub fn scaled(maps: &[f32], cells: usize) -> Vec<f32> {
    let scale = |map: &[f32]| {
        let (least, most) = map.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        let range = if most > least { most - least } else { 1.0 };
        map.iter().map(|v| (v - least) / range).collect::<Vec<f32>>()
    };
    maps.chunks(cells.max(1)).flat_map(scale).collect()
}

/// How much of maps lies in the regions that belong to them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// The part of a map's sum inside of its region: 0 to 1.
    pub inside: f64,
    /// The part of its cells that are of the region, which is what a flat map has inside.
    pub area: f64,
}

impl Share {
    /// That of one map, with `region` saying of each cell whether it is inside. `None` where there is nothing to
    /// compare: the region has no cell, or all, or the map has no value above 0.
    ///
    /// # Errors
    /// `Shape` when the two have different lengths.
    pub fn of(map: &[f32], region: &[bool]) -> Result<Option<Share>> {
        if map.len() != region.len() {
            let rule = format!("{} cells, as the map", map.len());
            return Err(Error::shape("saliency", "region", rule, format!("{} cells", region.len())));
        }
        let cells = region.iter().filter(|inside| **inside).count();
        let value = |(v, inside): (&f32, &bool)| if *inside { f64::from(v.max(0.0)) } else { 0.0 };
        let inside: f64 = map.iter().zip(region).map(value).sum();
        let all: f64 = map.iter().map(|v| f64::from(v.max(0.0))).sum();
        let comparable = cells > 0 && cells < map.len() && all > 0.0;
        Ok(comparable.then(|| Share { inside: inside / all, area: cells as f64 / map.len() as f64 }))
    }

    /// The mean over maps; `None` for none.
    #[must_use]
    pub fn mean(of: &[Share]) -> Option<Share> {
        let mean = |number: fn(&Share) -> f64| of.iter().map(number).sum::<f64>() / of.len() as f64;
        (!of.is_empty()).then(|| Share { inside: mean(|s| s.inside), area: mean(|s| s.area) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Arch, SmallR3d};

    #[test]
    fn a_flat_map_has_the_share_of_the_area_and_others_what_lies_inside() {
        let region = [true, false, false, false];
        let of = |map: &[f32]| Share::of(map, &region).unwrap().map(|share| share.inside);
        assert_eq!(Share::of(&[2.0; 4], &region).unwrap(), Some(Share { inside: 0.25, area: 0.25 }));
        assert_eq!([of(&[3.0, 0.0, 0.0, 0.0]), of(&[0.0, 1.0, 0.0, 5.0])], [Some(1.0), Some(0.0)]);
        assert_eq!(of(&[3.0, 1.0, -5.0, 0.0]), Some(0.75));
        // Nothing to compare.
        assert_eq!(of(&[0.0; 4]), None);
        assert_eq!([[false; 2], [true; 2]].map(|all| Share::of(&[1.0; 2], &all).unwrap()), [None; 2]);
        assert!(Share::of(&[1.0; 3], &region).unwrap_err().to_string().contains("3 cells"));
        let two = [Share { inside: 0.5, area: 0.1 }, Share { inside: 1.0, area: 0.3 }];
        assert_eq!((Share::mean(&two), Share::mean(&[])), (Some(Share { inside: 0.75, area: 0.2 }), None));
    }

    #[test]
    fn each_map_is_scaled_from_its_least_value_to_its_largest() {
        assert_eq!(
            scaled(&[5.0, 7.0, 9.0, 0.0, 0.5, 0.25, 3.0, 3.0, 3.0], 3),
            [0.0, 0.5, 1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0]
        );
        assert!(scaled(&[], 0).is_empty());
    }

    #[test]
    fn the_block_shown_is_the_last_that_says_where() {
        let named = |net: &crate::nn::Net, clip| {
            let (trunk, params) = Trunk::with_params(net, 0);
            let grid = block(&trunk, &params, clip).unwrap();
            (grid.module, grid.extents)
        };
        let published = Arch::by_name("slow_r50").unwrap().net();
        assert_eq!(named(&published, [8, 224, 224]), ("blocks.4.res_blocks.2".into(), [8, 7, 7]));
        assert_eq!(named(&published, [8, 112, 112]), ("blocks.3.res_blocks.5".into(), [8, 7, 7]));
        // Smaller than that everywhere: what has the most cells.
        let small = SmallR3d::default().net().unwrap();
        let (trunk, params) = Trunk::with_params(&small, 0);
        let blocks = trunk.blocks(&params, [4, 8, 8]).unwrap();
        assert_eq!(named(&small, [4, 8, 8]).0, blocks[0].module);
        let none = crate::nn::Net { stages: Vec::new(), ..small };
        let (trunk, params) = Trunk::with_params(&none, 0);
        assert!(block(&trunk, &params, [4, 8, 8]).unwrap_err().to_string().contains("without blocks"));
    }

    #[test]
    fn a_map_is_the_mean_over_channels_of_each_clip_alone() {
        let (dims, (trunk, params)) = ([4, 24, 24, 3], Trunk::with_params(&SmallR3d::default().net().unwrap(), 5));
        let clip =
            |seed: usize| (0..4 * 24 * 24 * 3).map(|i| ((i * 37 + seed * 101) % 17) as f32 / 8.0 - 1.0).collect();
        let clips: [Vec<f32>; 2] = [clip(0), clip(3)];
        let last = trunk.blocks(&params, [4, 24, 24]).unwrap().pop().unwrap();
        let both = maps(&trunk, &params, &last.module, &clips, dims).unwrap();
        let alone = maps(&trunk, &params, &last.module, &clips[1..], dims).unwrap();
        assert_eq!(both.len(), 2 * last.extents.iter().product::<usize>());
        assert_eq!(both[alone.len()..], alone[..]);
        // The features are the means over positions of the same map: both have one mean.
        let mut network = Frozen::new(&trunk, &params, Precision::F32);
        let features = network.rows(&clips[1..], dims).unwrap();
        let mean = |x: &[f32]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        assert!(
            (mean(&alone) - mean(&features)).abs() < 1e-6 * mean(&features),
            "{} {}",
            mean(&alone),
            mean(&features)
        );
        let e = maps(&trunk, &params, "layer9.0", &clips, dims).unwrap_err().to_string();
        assert!(e.contains("layer9.0") && e.contains("no such module"), "{e}");
    }
}
