//! The settings of a packed folder, `pack.json`: written by the first process, expected by all others.

use std::fs;
use std::io::{ErrorKind as IoKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::{CacheSpec, Decode, FlowSource, Item, MotionSpec, Splits};
use super::{PackSpec, Shard};
use crate::error::{Error, Result};
use crate::files::{self, fnv1a};

/// Increased when a file's layout changes.
pub(super) const FORMAT: u32 = 1;
/// Limit on the bytes of a file of settings, or of the description of a tar file.
pub(super) const MAX_JSON: u64 = 1 << 30;
/// Limit on the number of videos of a packed folder: positions are written with nine digits.
const MAX_VIDEOS: u64 = 1_000_000_000;

/// Everything that the content of a packed folder depends on, but the videos themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub format: u32,
    /// Number of videos, of which the first `train` are for training.
    pub videos: u64,
    pub train: u64,
    pub classes: Vec<String>,
    /// Hash of the names and labels of all videos.
    pub list: String,
    pub short_side: Option<usize>,
    pub fps: Option<f64>,
    pub max_frames: Option<usize>,
    pub folder_fps: f64,
    pub flow: Option<FlowPlan>,
    pub shard_bytes: u64,
    pub group: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FlowPlan {
    pub settings: String,
    pub every: usize,
    pub gap: usize,
    /// Whether it is computed on a GPU, whose last digits are others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gpu: bool,
}

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PlanFile {
    /// CRC-32 of plan and shards as JSON without spaces.
    #[serde(default)]
    sum: String,
    pub plan: Plan,
    /// Number of shards. The content does not depend on it.
    pub shards: u64,
}

/// All videos, those for training first.
pub(super) fn items(splits: &Splits) -> impl Iterator<Item = &Item> {
    splits.train.items.iter().chain(&splits.test.items)
}

impl Plan {
    pub(super) fn new(splits: &Splits, spec: &PackSpec) -> Result<Plan> {
        let Decode { short_side, fps, max_frames, folder_fps, .. } = spec.cache.decode;
        let (videos, train) = ((splits.train.len() + splits.test.len()) as u64, splits.train.len() as u64);
        if videos == 0 || videos > MAX_VIDEOS {
            let rule = format!("a packed folder has from 1 to {MAX_VIDEOS} videos");
            return Err(Error::param("pack", "videos", videos, rule));
        }
        let mut text = Vec::new();
        for item in items(splits) {
            text.extend(item.name.as_bytes());
            text.extend(format!("\0{:?}\0", item.label).as_bytes());
        }
        let gpu = spec.gpu_flow;
        let flow = |m: &MotionSpec| FlowPlan { settings: m.settings.clone(), every: m.every, gap: m.gap, gpu };
        Ok(Plan {
            format: FORMAT,
            videos,
            train,
            classes: splits.train.classes.clone(),
            list: format!("{:016x}", fnv1a(&text)),
            short_side,
            fps,
            max_frames,
            folder_fps,
            flow: spec.cache.motion.as_ref().map(flow),
            shard_bytes: spec.shard_bytes,
            group: spec.group,
        })
    }

    /// Refuses a plan whose numbers cannot be: one from a file.
    fn check(&self, path: &Path) -> Result<()> {
        if self.format != FORMAT {
            let what = format!("this folder was packed in format {}, this program reads {FORMAT}", self.format);
            return Err(Error::content(path, what));
        }
        let possible = (1..=MAX_VIDEOS).contains(&self.videos) && self.train <= self.videos && self.group > 0;
        if possible { Ok(()) } else { Err(Error::content(path, "the numbers of videos in it do not fit")) }
    }

    /// Number of groups.
    pub(super) fn groups(&self) -> u64 {
        self.videos.div_ceil(self.group)
    }

    /// Positions of the videos of a group.
    pub(super) fn range(&self, group: u64) -> std::ops::Range<u64> {
        group.saturating_mul(self.group)..(group + 1).saturating_mul(self.group).min(self.videos)
    }

    /// The name of all this in the descriptions of tar files.
    pub(super) fn id(&self) -> String {
        format!("{:016x}", fnv1a(&serde_json::to_vec(self).unwrap_or_default()))
    }

    /// What the cache of a run would have to be told to hold the same.
    pub(super) fn cache(&self) -> CacheSpec {
        let Plan { short_side, fps, max_frames, folder_fps, .. } = *self;
        CacheSpec {
            decode: Decode { short_side, fps, max_frames, folder_fps, ..Decode::default() },
            motion: self.flow.as_ref().map(|f| MotionSpec {
                settings: f.settings.clone(),
                source: FlowSource::TvL1,
                every: f.every,
                gap: f.gap,
            }),
            maps: None,
        }
    }

    /// Which settings of `other` differ, each as `name: here, there`.
    fn differences(&self, other: &Plan) -> Vec<String> {
        let fields = |plan: &Plan| match serde_json::to_value(plan) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (here, there) = (fields(self), fields(other));
        let differ = here.iter().filter(|(name, value)| there.get(*name) != Some(value));
        let sentence = |(name, value): (&String, &Value)| {
            let other = there.get(name).unwrap_or(&Value::Null);
            let values = format!("is {value}, and here {other}");
            match name.as_str() {
                "classes" | "list" => "the names or labels of the videos (--data)".to_owned(),
                "videos" => format!("the number of videos (--data) {values}"),
                "train" => format!("the number of training videos (--data) {values}"),
                "group" | "shard_bytes" => format!("--{} {values}", name.replace('_', "-")),
                "flow" if value.is_null() => "it has no flow, and here it is asked for (--flow)".to_owned(),
                "flow" if other.is_null() => "it has flow, and here none is asked for (--flow)".to_owned(),
                "flow" => format!("how flow is computed (--preset, --device) {values}"),
                _ => format!("{name} (--preset) {values}"),
            }
        };
        differ.map(sentence).collect()
    }
}

impl PlanFile {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("pack.json")
    }

    /// Reads the settings of the packed folder `dir`; `None` if there are none.
    pub(super) fn read(dir: &Path) -> Result<Option<PlanFile>> {
        let path = PlanFile::path(dir);
        if matches!(fs::symlink_metadata(&path), Err(e) if e.kind() == IoKind::NotFound) {
            return Ok(None);
        }
        let bytes = files::read_bounded(&path, MAX_JSON, "the settings of a packed folder")?;
        let file: PlanFile = serde_json::from_slice(&bytes).map_err(|e| Error::content(&path, e))?;
        file.plan.check(&path)?;
        Shard::new(0, file.shards).map_err(|e| Error::content(&path, e))?;
        if file.sum != PlanFile::new(&file.plan, file.shards)?.sum {
            let what =
                "this file is damaged, or was changed by hand: remove it, and the next shard (--shard) writes it again";
            return Err(Error::content(&path, what));
        }
        Ok(Some(file))
    }

    fn new(plan: &Plan, shards: u64) -> Result<PlanFile> {
        let text = serde_json::to_vec(&(plan, shards)).map_err(|e| Error::param("pack", "settings", "not JSON", e))?;
        Ok(PlanFile { sum: format!("{:08x}", crc32fast::hash(&text)), plan: plan.clone(), shards })
    }

    /// Writes the settings of `dir`, or compares them with those it has. `running` says whether shards of another division
    /// are being prepared: only then its number cannot be changed. The lock of the folder must be held.
    pub(super) fn settle(dir: &Path, plan: &Plan, shards: u64, running: impl Fn(u64) -> Result<()>) -> Result<()> {
        if let Some(there) = PlanFile::read(dir)? {
            let differences = there.plan.differences(plan);
            if !differences.is_empty() {
                let what = format!("this folder was begun with other settings: {}", differences.join("; "));
                return Err(Error::data(dir, what));
            }
            if there.shards == shards {
                return Ok(());
            }
            running(there.shards)?;
        } else if let Some(name) = of_a_cache(dir)? {
            let what = format!("this is the cache of other runs (it has {name}): a packed folder is one of its own");
            return Err(Error::data(dir, what));
        }
        let text = serde_json::to_vec_pretty(&PlanFile::new(plan, shards)?);
        write_whole(&PlanFile::path(dir), &text.map_err(|e| Error::data(dir, e))?)
    }
}

/// A file of a cache of single videos, if there is one in `dir`.
fn of_a_cache(dir: &Path) -> Result<Option<String>> {
    let at = Error::io("read", dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(None),
        Err(e) => return Err(at(e)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        if ["tbv", "tbf", "tbm"].iter().any(|kind| Path::new(&name).extension().is_some_and(|found| found == *kind)) {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// Writes a file under a temporary name, waits until it is on disk, and renames it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    let written = fs::File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        // The first error is the one to report; the next process cleans up as well.
        let _ = fs::remove_file(&temporary);
        Error::io("write", path)(e)
    })
}

/// The name of a file until it is complete.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}
