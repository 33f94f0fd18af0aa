//! Which videos a program takes, and where their frames are kept: options of the pre-trainings and the evaluations.

use super::args::{one_of, within};
use super::checks::{labelled, lists};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use tubelet::train::limits;
use tubelet::video::procedural::Happening;
use tubelet::video::{Input, Pack, ProceduralSpec, Splits};

/// `#[command(flatten)] videos: VideoOptions`.
#[derive(clap::Args)]
pub struct VideoOptions {
    /// Videos: a folder in UCF101's layout, of class folders, or a `path label` list; or videos without labels: a folder of
    /// them, or a list of paths. Without it, procedural clips
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// With a list as --data: the list of test videos
    #[arg(long, value_name = "LIST")]
    pub test: Option<PathBuf>,
    /// With lists of UCF101 or HMDB51: which of their splits [default: the first]
    #[arg(long, value_name = "N", requires = "data", value_parser = within::<u64>(limits::SPLIT))]
    pub split: Option<u64>,
    /// What happens in procedural clips: their objects move always; or seldom, in videos four times as long; or they are small
    #[arg(long, value_name = "HAPPENING", conflicts_with = "data", default_value_t = Happening::Always, value_parser = one_of(Happening::ALL.map(|h| (h.name(), h))))]
    pub procedural: Happening,
    /// Folder for decoded frames and flow, shared between runs; the example `cache` lists, verifies and removes them. Or a
    /// packed folder of the example `pack`, which has the videos itself: then without --data
    #[arg(long, value_name = "DIR", default_value = "runs/cache")]
    pub cache: PathBuf,
    /// Skip verifying the checksums of cached data at the start: saves a second per some gigabytes, on a fast disk
    #[arg(long)]
    pub no_verify: bool,
}

impl VideoOptions {
    /// Checks that the options fit each other; nothing is read.
    pub fn check(&self) -> Result<()> {
        ensure!(self.data.is_some() || self.test.is_none(), "--test is a list beside that of --data, which is absent");
        ensure!(
            self.data.is_none() || !Pack::is_at(&self.cache),
            "--cache {}: this is a packed folder, which has videos of its own: leave out --data",
            self.cache.display()
        );
        Ok(())
    }

    /// Whether the videos are procedural clips.
    pub fn procedural(&self) -> bool {
        self.data.is_none() && !Pack::is_at(&self.cache)
    }

    /// What the summary says of where the videos are from: a path, or `procedural`.
    pub fn origin(&self) -> String {
        let packed = Some(&self.cache).filter(|cache| Pack::is_at(cache));
        let procedural = || match self.procedural {
            Happening::Always => "procedural".to_owned(),
            other => format!("procedural, {other}"),
        };
        self.data.as_ref().or(packed).map_or_else(procedural, |path| path.display().to_string())
    }

    /// What the videos are read from; `None` for procedural clips.
    pub fn input(&self) -> Option<Input<'_>> {
        let (test, split) = (self.test.as_deref(), self.split);
        self.data.as_deref().map(|data| Input { data, test, split })
    }

    /// The videos, or procedural clips of `seed`.
    pub fn splits(&self, seed: u64) -> Result<Splits> {
        match self.input() {
            Some(input) => lists(input),
            None if Pack::is_at(&self.cache) => {
                let pack = Pack::open(&self.cache).with_context(|| format!("--cache {}", self.cache.display()))?;
                Ok(pack.splits()?)
            }
            None => Ok(Splits::procedural(&ProceduralSpec::of(self.procedural, seed))?),
        }
    }

    /// The same, of which all have labels and some are held out.
    pub fn labelled(&self, seed: u64) -> Result<Splits> {
        let splits = self.splits(seed)?;
        labelled(&splits, self.data.as_deref())?;
        ensure!(!splits.test.is_empty(), "no video is held out to be tested on: give a list of test videos as --test");
        Ok(splits)
    }
}
