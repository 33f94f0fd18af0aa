//! What is made of a video: its frames, and the flow between them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;

use super::super::flow_folder::{self, Files};
use super::super::{Clip, Dataset, Decode, Ffmpeg, FlowSource, Item, MotionSpec, Source, decode, folder};
use super::FlowFn;
use crate::error::{Error, Result};
use crate::flow::{Flow, Gray};

/// Computes or reads the fields that start at these frames.
type Fields<'a> = dyn Fn(&[usize]) -> Result<Vec<Flow>> + 'a;

/// How the videos of a data set are decoded and their flow is computed.
#[derive(Clone, Copy)]
pub(in super::super) struct Make<'a> {
    pub data: &'a Dataset,
    pub decode: &'a Decode,
    pub ffmpeg: &'a Ffmpeg,
    pub flow: Option<&'a FlowFn<'a>>,
    pub pairs: usize,
    pub stop: &'a AtomicBool,
}

impl Make<'_> {
    /// The frames of a video.
    pub fn clip(&self, item: &Item) -> Result<Clip> {
        decode::read_until(&item.source, self.data.procedural.as_ref(), self.decode, self.ffmpeg, self.stop)
    }

    /// All flow fields of a video with the extents `t h w` and these frames, for each u then v.
    pub fn flow<'f>(
        &self,
        item: &Item,
        spec: &MotionSpec,
        [t, h, w]: [usize; 3],
        frame: impl Fn(usize) -> &'f [u8],
    ) -> Result<Vec<f16>> {
        let (name, frame) = (&item.name, &frame);
        let fields: Box<Fields<'_>> = match &spec.source {
            FlowSource::Folder(root) => {
                let dir = flow_folder::find(root, name)?;
                flow_folder::check_source(&dir, &item.source)?;
                let (files, native) = (Files::list(&dir)?, self.native_size(item)?);
                files.expect(&dir, t, self.decode.max_frames == Some(t))?;
                Box::new(move |starts| starts.iter().map(|&t| files.read(t, [native, [h, w]])).collect())
            }
            FlowSource::TvL1 => {
                let Some(flow) = self.flow else {
                    return Err(Error::param("cache", "flow", "none", "flow is to be kept, and nothing computes it"));
                };
                Box::new(move |starts| {
                    let mut at: Vec<usize> = starts.iter().flat_map(|&t| [t, t + spec.gap]).collect();
                    at.sort_unstable();
                    at.dedup();
                    let greys: Result<Vec<Gray>> = at.iter().map(|&i| Gray::from_rgb(frame(i), h, w)).collect();
                    let greys = greys?;
                    let grey = |i: usize| &greys[at.partition_point(|&before| before < i)];
                    flow(&starts.iter().map(|&t| (grey(t), grey(t + spec.gap))).collect::<Vec<_>>())
                })
            }
        };
        spec.check_length(name, t)?;
        let starts: Vec<usize> = (0..t - spec.gap).step_by(spec.every).collect();
        let mut planes = Vec::with_capacity(starts.len() * 2 * h * w);
        for some in starts.chunks(self.pairs.max(1)) {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::stopped(Path::new(name), format!("the flow of {name} was not computed")));
            }
            let made = fields(some)?;
            let size = |field: &Flow| [field.h(), field.w()];
            if made.len() != some.len() || made.iter().any(|field| size(field) != [h, w]) {
                let got = format!("{} of {:?}", made.len(), made.first().map(size));
                return Err(Error::shape("cache", "flow", format!("{} of {:?}", some.len(), Some([h, w])), got));
            }
            let narrow = |x: &f32| f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
            planes.extend(made.iter().flat_map(|field| field.u().iter().chain(field.v())).map(narrow));
        }
        Ok(planes)
    }

    /// Height and width of a video before it is resized for the cache.
    fn native_size(&self, item: &Item) -> Result<[usize; 2]> {
        Ok(match &item.source {
            Source::File(path) | Source::Part(path, _) => {
                self.ffmpeg.probe_until(path, self.stop).map(|p| [p.h, p.w])?
            }
            Source::Folder(path) => folder::dimensions(&folder::frames(path)?[0])?.into(),
            Source::Procedural(_) => [self.data.procedural.as_ref().map_or(0, |spec| spec.side); 2],
            Source::Packed(_) => return Err(Error::data(&item.name, "a packed video has no frames of another size")),
        })
    }
}
