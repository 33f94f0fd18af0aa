//! What a building of the cache would meet before it decodes a video, found out without creating anything.

use super::super::flow_folder::{self, Files};
use super::super::packed::{Kind, Mapped};
use super::super::{Source, folder};
use super::build::{Build, Job, State};
use super::{FlowSource, View, file_of};
use crate::error::{Error, Result};
use crate::files;

/// What is known of the videos of a data set before one is decoded.
#[derive(Debug, Clone, Default)]
pub struct Foreseen {
    /// Videos that cannot be used: index, name and reason.
    pub failed: Vec<(usize, String, String)>,
    /// Frames of each video and how many there are a second, where that is known: the video is in the cache, a folder of
    /// frames, or procedural.
    pub lengths: Vec<Option<(usize, f64)>>,
}

impl Build<'_> {
    pub(super) fn foresee(self) -> Result<Foreseen> {
        let looked = self.each(self.data.len(), |i| {
            let job = self.look_up(i)?;
            match self.length(&job) {
                Err(e) if e.is_of_the_machine() => Err(e),
                length => Ok((job, length)),
            }
        })?;
        let mut seen = Foreseen { failed: Vec::new(), lengths: vec![None; looked.len()] };
        let (mut missing, mut decoded) = (false, false);
        for (job, length) in looked {
            let i = job.index;
            missing |= matches!(job.state, State::Missing);
            let needs_ffmpeg = matches!(job.state, State::Missing) && self.needs_ffmpeg(&job);
            match (job.state, length) {
                (State::Unreadable(e), _) | (_, Err(e)) => {
                    seen.failed.push((i, self.data.items[i].name.clone(), e.to_string()));
                }
                (_, Ok(length)) => {
                    decoded |= needs_ffmpeg;
                    seen.lengths[i] = length;
                }
            }
        }
        self.refuse_none_left(&seen.failed)?;
        if decoded {
            self.with.ffmpeg.version_until(self.with.stop)?;
        }
        if missing {
            files::check_writable(self.dir)?;
        }
        Ok(seen)
    }

    /// Frames of the video of `job` and their rate, where they are known. What must be decoded for them to be known is only
    /// looked at: whether it is there and holds something.
    fn length(&self, job: &Job) -> Result<Option<(usize, f64)>> {
        let Some(keys) = &job.keys else { return Ok(None) };
        let (item, decode) = (&self.data.items[job.index], &self.spec.decode);
        let [frames, flow, _] = job.there;
        let length = match &item.source {
            _ if frames => {
                let path = file_of(self.dir, Kind::Frames, keys.frames.hash);
                let view = View::new(Mapped::open(&path, Kind::Frames, false)?);
                Some((view.len(), view.fps()))
            }
            Source::File(path) | Source::Part(path, _) => {
                let (_, bytes) = files::open_regular(path, "a video")?;
                if bytes == 0 {
                    return Err(Error::data(path, "this file is empty"));
                }
                None
            }
            Source::Folder(path) => {
                let files = folder::frames(path)?;
                let picked = decode.pick(files.len(), decode.folder_fps);
                folder::dimensions(&files[picked.first().copied().unwrap_or(0)])?;
                Some((picked.len(), decode.fps.unwrap_or(decode.folder_fps)))
            }
            Source::Procedural(_) => self.data.procedural.as_ref().map(|spec| (spec.frames, spec.fps)),
            Source::Packed(_) => None,
        };
        if let (Some((t, _)), Some(spec), false) = (length, &self.spec.motion, flow) {
            if let FlowSource::Folder(root) = &spec.source {
                let dir = flow_folder::find(root, &item.name)?;
                Files::list(&dir)?.expect(&dir, t, decode.max_frames == Some(t))?;
            }
            spec.check_length(&item.name, t)?;
        }
        Ok(length)
    }
}
