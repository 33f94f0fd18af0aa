//! Features of clips from a frozen trunk, a batch of clips at a time: the one way in which evaluations compute them.
//!
//! A video is seen as [`Views`]: clips evenly spaced over it, each cropped to one or three squares. [`extract`] passes
//! them through the network in batches that may hold views of several videos, and returns them one by one, in order, so
//! that its memory is that of two batches of clips. [`rows`] makes one row of each video of them, by default the average.
//!
//! In evaluation mode a clip's features do not depend on the others of its batch, so neither the size of batches, nor
//! the number of threads, nor the order of the videos changes a bit of them.

use super::head::Head;
pub use super::head::Score;
pub use super::sampling::Views;
use super::{Features, Pool};
use crate::error::{Error, Result};
use crate::nn::{Classifier, Mode, Params, Pass, Precision, Trunk};
use crate::tape::{Tape, Var};
use crate::tensor::{DType, Tensor};
use crate::video::Prefetch;
use std::sync::Arc;

/// A network in evaluation mode, with weights that nothing changes: a trunk, whose rows are features, or a classifier,
/// whose rows are scores.
#[derive(Clone, Debug)]
pub struct Frozen {
    trunk: Trunk,
    params: Params,
    precision: Precision,
    head: Option<Head>,
    /// Time steps of a clip whose codes are kept apart; 1 if they are averaged.
    steps: usize,
}

impl Frozen {
    /// The trunk with these parameters, on their device, computing in `precision`.
    #[must_use]
    pub fn new(trunk: &Trunk, params: &Params, precision: Precision) -> Frozen {
        Frozen { trunk: trunk.clone(), params: params.clone(), precision, head: None, steps: 1 }
    }

    /// A classifier of `classes` classes. With a `window` it is fully convolutional: where the last feature map is larger
    /// than `h w` of it (those of a training clip), the map is averaged over each window at a distance of 1, and the
    /// scores are averaged over all of these places.
    #[must_use]
    pub fn classifier(
        (classifier, params): (&Classifier, &Params),
        classes: usize,
        score: Score,
        window: Option<[usize; 2]>,
        precision: Precision,
    ) -> Frozen {
        let head = Head { classifier: classifier.clone(), classes, score, window };
        Frozen { head: Some(head), ..Frozen::new(&classifier.trunk, params, precision) }
    }

    /// The same trunk for clips of extents `t h w c`, with one code for each time step of its last map instead of their mean: rows
    /// of `steps·features` numbers in the order of time.
    ///
    /// # Errors
    /// `Param` when a clip is too small for the network, or this is a classifier.
    pub fn keeping_time(self, [t, h, w, _]: [usize; 4]) -> Result<Frozen> {
        if self.head.is_some() {
            return Err(Error::param("network", "head", "classifier", "scores have no time steps"));
        }
        let grid = self.trunk.grids(&self.params, [t, h, w])?;
        let steps = grid.last().map_or(1, |grid| grid.extents[0]);
        Ok(Frozen { steps, ..self })
    }

    /// Length of its rows: the number of features of all steps that are kept apart, or of classes.
    #[must_use]
    pub fn features(&self) -> usize {
        self.head.as_ref().map_or(self.trunk.features_dim() * self.steps, |head| head.classes)
    }

    /// Time steps of a row.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The rows `[n d]` of `n` clips, each of extents `t h w c`.
    ///
    /// # Errors
    /// `Shape` when a clip has other extents; those of the network.
    pub fn rows(&mut self, clips: &[Vec<f32>], dims: [usize; 4]) -> Result<Vec<f32>> {
        let (head, steps) = (self.head.clone(), self.steps);
        self.run(clips, dims, |trunk, mut pass, x| match head {
            None if steps == 1 => Ok(trunk.forward(&mut pass, x)?.value().load()?.to_vec()),
            None => Ok(trunk.forward_steps(&mut pass, x)?.value().load()?.to_vec()),
            Some(head) => head.rows(&mut pass, x),
        })
    }

    /// The output `[n to ho wo k]` of `module` for such clips, in f32.
    ///
    /// # Errors
    /// `Param` when the trunk has no such module; as [`Frozen::rows`].
    pub fn output(&mut self, module: &str, clips: &[Vec<f32>], dims: [usize; 4]) -> Result<Tensor> {
        self.trunk.check_module(&self.params, module)?;
        self.run(clips, dims, |trunk, pass, x| {
            let mut pass = pass.tapping(module);
            trunk.forward_map(&mut pass, x)?;
            let reached = pass.tapped().ok_or_else(|| Error::param("network", "module", module, "it never ran"))?;
            reached.value().cast(DType::F32)
        })
    }

    /// Calls `with` with a pass, and the clips on the device of the parameters.
    fn run<R>(
        &mut self,
        clips: &[Vec<f32>],
        [t, h, w, c]: [usize; 4],
        with: impl FnOnce(&Trunk, Pass, &Var) -> Result<R>,
    ) -> Result<R> {
        let data = clips.concat();
        let x = Tensor::from_f32([clips.len(), t, h, w, c], &data)?.to(&self.params.device())?;
        drop(data);
        let tape = Tape::no_grad();
        let pass = Pass::new(&tape, &mut self.params, Mode::Frozen).with_precision(self.precision);
        with(&self.trunk, pass, &Var::constant(x))
    }
}

/// Makes a view of a video: `t h w c` numbers.
pub type Load = dyn Fn(usize, usize) -> Result<Vec<f32>> + Send + Sync;

/// Takes the features of a view, from the number of its video and its own.
pub type Each<'a> = dyn FnMut(usize, usize, &[f32]) -> Result<()> + 'a;

/// Which views are passed through a network, and how.
#[derive(Clone)]
pub struct Work {
    /// Number of videos.
    pub videos: usize,
    /// Views of each video.
    pub views: usize,
    /// Extents `t h w c` of a view.
    pub dims: [usize; 4],
    /// Views per forward pass, at least 1.
    pub batch: usize,
    /// Threads that make views while the network computes.
    pub workers: usize,
    /// Makes them, from the number of a video and of a view.
    pub load: Arc<Load>,
}

/// Calls `each(video, view, features)` for all views, in the order of videos and views.
///
/// # Errors
/// What loading, the network and `each` return; an error of `each` ends the work.
pub fn extract(network: &mut Frozen, work: &Work, each: &mut Each) -> Result<()> {
    let (views, load, batch) = (work.views, work.load.clone(), work.batch.max(1));
    let total = work.videos * views;
    let mut clips = Prefetch::new(work.workers, batch, total, move |i| load(i / views, i % views));
    let d = network.features();
    for first in (0..total).step_by(batch) {
        let some = clips.by_ref().take(batch).collect::<Result<Vec<_>>>()?;
        for (i, row) in network.rows(&some, work.dims)?.chunks_exact(d).enumerate() {
            each((first + i) / views, (first + i) % views, row)?;
        }
    }
    Ok(())
}

/// How the features of a video's views become its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// How codes over time are pooled. All but the mean are for a network that [keeps time](Frozen::keeping_time).
    pub pool: Pool,
    /// Squares of each clip, of [`Work::views`]; their codes are averaged. The mean does not need it.
    pub crops: usize,
    /// Whether the row is scaled to unit length afterwards.
    pub unit: bool,
}

impl Row {
    /// The average of all views.
    pub const MEAN: Row = Row { pool: Pool::Mean, crops: 1, unit: false };

    /// Length of the row of a video of `views` views, seen by `network`.
    #[must_use]
    pub fn len(&self, network: &Frozen, views: usize) -> usize {
        let steps = network.steps();
        self.pool.len(views / self.crops.max(1) * steps, network.features() / steps)
    }
}

/// Calls `row(video, features)` for each video in order, with the row that is made of its views' features.
///
/// # Errors
/// As [`extract`]; `Param` when the crops do not divide the views.
pub fn rows(
    network: &mut Frozen,
    work: &Work,
    of: Row,
    row: &mut dyn FnMut(usize, Vec<f32>) -> Result<()>,
) -> Result<()> {
    // Of the mean, all views are alike.
    let crops = if of.pool == Pool::Mean { work.views } else { of.crops };
    if crops == 0 || !work.views.is_multiple_of(crops) {
        return Err(Error::param("views", "crops", crops, format!("it must divide the {} views", work.views)));
    }
    let (d, steps) = (network.features(), network.steps());
    let (mut sums, mut codes) = (vec![0.0f64; d], Vec::new());
    extract(network, work, &mut |video, view, features| {
        sums.iter_mut().zip(features).for_each(|(s, v)| *s += f64::from(*v));
        if !(view + 1).is_multiple_of(crops) {
            return Ok(());
        }
        codes.extend(sums.iter().map(|s| (s / crops as f64) as f32));
        sums.fill(0.0);
        if view + 1 < work.views {
            return Ok(());
        }
        let mut pooled = of.pool.row(&codes, d / steps)?;
        codes.clear();
        if of.unit {
            to_unit(&mut pooled);
        }
        row(video, pooled)
    })
}

/// The rows of all videos, with their labels.
///
/// # Errors
/// As [`rows`] and [`Features::new`].
pub fn features(
    network: &mut Frozen,
    work: &Work,
    of: Row,
    labels: &[usize],
    done: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Features> {
    let d = of.len(network, work.views);
    let mut values = Vec::with_capacity(work.videos * d);
    rows(network, work, of, &mut |video, row| {
        values.extend(row);
        done(video)
    })?;
    Features::new(d, values, labels.to_vec())
}

/// Scales a row to unit length; one of zeros stays.
pub fn to_unit(row: &mut [f32]) {
    let norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Arch, Builder, Net, SmallR3d};
    use crate::rng::{Purpose, stream};
    use rand::RngExt;

    const DIMS: [usize; 4] = [4, 24, 24, 3];

    fn frozen(net: &Net, precision: Precision) -> Frozen {
        let mut builder = Builder::new(3);
        let trunk = Trunk::new(net, &mut builder);
        Frozen::new(&trunk, &builder.finish(), precision)
    }

    fn network(precision: Precision) -> Frozen {
        frozen(&SmallR3d::default().net().unwrap(), precision)
    }

    /// `videos` of two views, by the numbers of their content.
    fn work(videos: Vec<usize>, batch: usize, workers: usize) -> Work {
        let load = move |content: usize, view: usize| {
            let mut rng = stream(content as u64, view as u64, 0, Purpose::Test);
            Ok((0..DIMS.iter().product()).map(|_| rng.random_range(-2.0f32..2.0)).collect())
        };
        let count = videos.len();
        let load: Arc<Load> = Arc::new(move |video, view| load(videos[video], view));
        Work { videos: count, views: 2, dims: DIMS, batch, workers, load }
    }

    fn bits(network: &mut Frozen, work: &Work) -> Vec<Vec<u32>> {
        let mut all = Vec::new();
        rows(network, work, Row::MEAN, &mut |video, row| {
            assert_eq!(video, all.len());
            all.push(row.iter().map(|v| v.to_bits()).collect());
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn features_of_a_video_depend_on_nothing_but_its_clips() {
        let (order, shuffled) = ((0..9).collect::<Vec<usize>>(), vec![4, 8, 0, 3, 7, 1, 6, 2, 5]);
        for precision in Precision::ALL {
            let mut network = network(precision);
            let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let one = pool(1).install(|| bits(&mut network, &work(order.clone(), 1, 1)));
            for (batch, threads) in [(7, 1), (7, 2), (1, 2), (18, 2), (32, 2)] {
                let other = pool(threads).install(|| bits(&mut network, &work(order.clone(), batch, threads)));
                assert!(one == other, "{precision}: batches of {batch}, {threads} threads");
            }
            let other = bits(&mut network, &work(shuffled.clone(), 7, 2));
            assert!(shuffled.iter().zip(&other).all(|(&video, row)| *row == one[video]), "{precision}: order");
        }
    }

    /// Published networks have other kernels than small ones: bottlenecks, factored convolutions, strides over time.
    #[test]
    fn so_it_is_for_published_networks() {
        for name in ["r2plus1d_18", "slow_r50", "p3d_a18"] {
            for precision in [Precision::F32, Precision::Bf16] {
                let mut network = frozen(&Arch::by_name(name).unwrap().net(), precision);
                let one = bits(&mut network, &work((0..4).collect(), 1, 1));
                let other = bits(&mut network, &work(vec![3, 1, 0, 2], 7, 2));
                assert!([3, 1, 0, 2].iter().zip(&other).all(|(&video, row)| *row == one[video]), "{name}, {precision}");
            }
        }
    }

    /// So it is for a classifier, at every place of a larger map, and its probabilities have the sum 1.
    #[test]
    fn scores_of_a_video_depend_on_nothing_but_its_clips() {
        let net = SmallR3d::default().net().unwrap();
        let (classifier, params) = Classifier::new(&net, 5, 3).unwrap();
        for (score, window) in [(Score::Logit, None), (Score::Probability, Some([1, 2]))] {
            let mut network = Frozen::classifier((&classifier, &params), 5, score, window, Precision::F32);
            assert_eq!(network.features(), 5);
            let one = bits(&mut network, &work((0..4).collect(), 1, 1));
            let other = bits(&mut network, &work(vec![3, 1, 0, 2], 7, 2));
            assert!([3, 1, 0, 2].iter().zip(&other).all(|(&video, row)| *row == one[video]), "{score:?}");
            let sum: f32 = one[0].iter().map(|bits| f32::from_bits(*bits)).sum();
            assert_eq!((sum - 1.0).abs() < 1e-6, score == Score::Probability, "{sum}");
        }
        // A window of the map's own size is the ordinary classifier.
        let grid = Trunk::with_params(&net, 0).0.grids(&params, [DIMS[0], DIMS[1], DIMS[2]]).unwrap();
        let [_, h, w] = grid.last().unwrap().extents;
        let of = |window| {
            let mut network = Frozen::classifier((&classifier, &params), 5, Score::Logit, window, Precision::F32);
            bits(&mut network, &work(vec![0], 2, 1))
        };
        assert!(h > 1 && of(Some([h, w])) == of(None));
        let mut network = Frozen::classifier((&classifier, &params), 5, Score::Logit, Some([h + 1, w]), Precision::F32);
        assert!(
            rows(&mut network, &work(vec![0], 2, 1), Row::MEAN, &mut |_, _| Ok(())).is_err(),
            "larger than the map"
        );
    }

    #[test]
    fn a_video_is_the_average_of_its_views_and_unit_length_comes_after_it() {
        let (mut network, work) = (network(Precision::F32), work(vec![0, 1], 3, 1));
        let mut views = Vec::new();
        extract(&mut network, &work, &mut |video, view, row| {
            views.push((video, view, row.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(views.iter().map(|(a, b, _)| (*a, *b)).collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        let average = |i: usize| -> Vec<f32> {
            let sum = |(a, b): (&f32, &f32)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32;
            views[i].2.iter().zip(&views[i + 1].2).map(sum).collect()
        };
        let mut unit = average(2);
        to_unit(&mut unit);
        let plain = features(&mut network, &work, Row::MEAN, &[5, 6], &mut |_| Ok(())).unwrap();
        assert_eq!((plain.values(), plain.labels()), (&[average(0), average(2)].concat()[..], &[5, 6][..]));
        assert_eq!(
            features(&mut network, &work, Row { unit: true, ..Row::MEAN }, &[5, 6], &mut |_| Ok(())).unwrap().values()
                [unit.len()..],
            unit
        );
        // What goes wrong in the middle ends the work.
        let stop = |_: usize| Err(Error::param("test", "stop", 1, "asked"));
        assert!(features(&mut network, &work, Row::MEAN, &[5, 6], &mut { stop }).is_err());
    }

    /// One video followed from its clips to the row of each form: codes of steps average to the features, stand in the order of
    /// time, and those of the squares of a clip are averaged.
    #[test]
    fn a_network_that_keeps_time_has_the_features_of_each_step() {
        // Of the four frames two steps are left.
        let net = SmallR3d { strides: vec![[1; 3], [1, 2, 2], [2; 3]], ..SmallR3d::default() }.net().unwrap();
        let (mut plain, work) = (frozen(&net, Precision::F32), work(vec![0, 1], 3, 1));
        let mut keeping = frozen(&net, Precision::F32).keeping_time(DIMS).unwrap();
        let (steps, c) = (keeping.steps(), plain.features());
        assert!(steps > 1 && keeping.features() == steps * c, "{steps} steps");
        let of = |network: &mut Frozen, pool, crops| {
            let how = Row { pool, crops, unit: false };
            let found = features(network, &work, how, &[5, 6], &mut |_| Ok(())).unwrap();
            assert_eq!(found.d(), how.len(network, work.views));
            found.values()[..found.d()].to_vec()
        };
        let (mean, all) = (of(&mut plain, Pool::Mean, 1), of(&mut keeping, Pool::Steps, 1));
        assert_eq!(all.len(), 2 * steps * c, "two clips");
        // Sums of the same positive numbers in another order, some tens of them.
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 64.0 * f32::EPSILON * b.abs());
        assert!(close(&Pool::Mean.row(&all, c).unwrap(), &mean));
        assert_eq!(of(&mut keeping, Pool::Moments, 1), Pool::Moments.row(&all, c).unwrap());
        let mut clips = Vec::new();
        extract(&mut keeping, &work, &mut |video, _, row| {
            clips.extend(row.iter().copied().filter(|_| video == 0));
            Ok(())
        })
        .unwrap();
        assert_eq!(all, clips, "the steps of the first clip, then those of the second");
        // As two squares of one clip.
        let (a, b) = all.split_at(steps * c);
        let halves: Vec<f32> = a.iter().zip(b).map(|(a, b)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32).collect();
        assert_eq!(of(&mut keeping, Pool::Steps, 2), halves);
        assert!(
            rows(&mut keeping, &work, Row { crops: 3, ..Row { pool: Pool::Steps, ..Row::MEAN } }, &mut |_, _| Ok(()))
                .is_err()
        );
    }
}
