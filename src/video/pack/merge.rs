//! The index of all shards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::lock::{Holder, Lock};
use super::index::{Draft, Index, Settings};
use super::plan::{PlanFile, temporary};
use super::volume::{Gap, Volume, stem};
use crate::error::{Error, Result};

/// How many missing shards are named.
const NAMED: usize = 100;

/// What was merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Videos with data.
    pub videos: u64,
    /// Videos without.
    pub gaps: Vec<Gap>,
    /// Tar files.
    pub volumes: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the index of the packed folder `dir` when all its shards are complete. Its bytes depend on the videos and the settings
/// alone: not on the number of shards, nor on how often they were interrupted.
///
/// # Errors
/// `Data` when shards are missing, each with its name, or nothing was packed; `Stopped` when `stop` was set; `Io` when
/// files cannot be read or written.
pub fn merge(dir: &Path, stop: &AtomicBool, waiting: impl FnMut(Holder)) -> Result<Merged> {
    let Some(PlanFile { plan, shards, .. }) = PlanFile::read(dir)? else {
        return Err(Error::data(dir, "nothing was packed here: prepare its shards first (--shard)"));
    };
    let _lock = Lock::take(dir, stop, waiting)?;
    let (id, mut draft, mut merged) = (plan.id(), Draft::default(), Merged::default());
    // The work is that of what is there, whatever number of videos the settings state.
    let there = described(dir, plan.groups())?;
    let mut missing = absent(&there, plan.groups(), shards);
    for &group in &there {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::stopped(dir, format!("{} was not written", Index::path(dir).display())));
        }
        let (range, mut part) = (plan.range(group), 0);
        let mut at = range.start;
        while at < range.end {
            let why = match Volume::read(dir, &id, group, part) {
                Ok(v) if v.first == at && v.end <= range.end && v.last == (v.end == range.end) => {
                    draft.volume(group, part, v.bytes);
                    let mut gaps = v.gaps.iter().peekable();
                    let mut videos = v.videos.iter().peekable();
                    for at in v.first..v.end {
                        if let Some(gap) = gaps.next_if(|gap| gap.at == at) {
                            draft.gap(gap);
                        } else if let Some(video) = videos.next() {
                            draft.video(video);
                        }
                    }
                    merged.videos += v.videos.len() as u64;
                    merged.volumes += 1;
                    merged.bytes += v.bytes;
                    merged.gaps.extend(v.gaps);
                    (at, part) = (v.end, part + 1);
                    continue;
                }
                Ok(_) => "has other videos than follow those before".to_owned(),
                Err(e) if e.is_of_the_machine() => return Err(e),
                Err(e) if is_absent(&e) => "is missing".to_owned(),
                Err(e) => format!("cannot be used: {e}"),
            };
            let lacks = (group, format!("{} {why}", stem(group, part)));
            let entry = missing.entry(group % shards).or_insert((0, lacks.clone()));
            entry.0 += 1;
            if lacks.0 < entry.1.0 {
                entry.1 = lacks;
            }
            break;
        }
    }
    if !missing.is_empty() {
        return Err(Error::data(dir, not_complete(&missing, shards, plan.groups())));
    }
    let settings = Settings { plan, gaps: merged.gaps.clone() };
    write(dir, &draft, &settings)?;
    Ok(merged)
}

/// By shard: how many of its groups lack something, the first of them, and what that lacks.
type Missing = BTreeMap<u64, (u64, (u64, String))>;

/// The groups, of the first `groups`, of which a first tar file is described.
fn described(dir: &Path, groups: u64) -> Result<BTreeSet<u64>> {
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let name = entry.map_err(Error::io("read", dir))?.file_name().to_string_lossy().into_owned();
        let group = name.split_once('-').and_then(|(group, _)| group.parse().ok());
        there.extend(group.filter(|&group: &u64| group < groups && name == stem(group, 0) + ".json"));
    }
    Ok(there)
}

/// The shards that lack whole groups.
fn absent(there: &BTreeSet<u64>, groups: u64, shards: u64) -> Missing {
    let mut left: BTreeMap<u64, u64> =
        (0..shards.min(groups)).map(|shard| (shard, of_shard(shard, groups, shards))).collect();
    for group in there {
        if let Some(left) = left.get_mut(&(group % shards)) {
            *left -= 1;
        }
    }
    let first = |shard: u64| (shard..groups).step_by(shards as usize).find(|group| !there.contains(group));
    let lacks =
        |(shard, n): (u64, u64)| Some((shard, (n, first(shard).map(|g| (g, format!("{} is missing", stem(g, 0))))?)));
    left.into_iter().filter(|(_, n)| *n > 0).filter_map(lacks).collect()
}

/// Number of groups of a shard.
fn of_shard(shard: u64, groups: u64, shards: u64) -> u64 {
    (groups + shards - 1 - shard) / shards
}

fn is_absent(e: &Error) -> bool {
    matches!(e.kind(), crate::error::ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

/// One sentence with the name of each missing shard.
fn not_complete(missing: &Missing, shards: u64, groups: u64) -> String {
    let named = |(shard, (n, (_, first))): (&u64, &(u64, (u64, String)))| {
        format!("{shard}/{shards} ({n} of its {} groups, first: {first})", of_shard(*shard, groups, shards))
    };
    let mut names: Vec<String> = missing.iter().take(NAMED).map(named).collect();
    if missing.len() > NAMED {
        names.push(format!("and {} more", missing.len() - NAMED));
    }
    let (noun, verb) = if missing.len() == 1 { ("shard", "is") } else { ("shards", "are") };
    format!("{} {noun} of {shards} {verb} not complete, and no index was written: {}", missing.len(), names.join("; "))
}

pub(super) fn write(dir: &Path, draft: &Draft, settings: &Settings) -> Result<()> {
    let path = Index::path(dir);
    let temporary = temporary(&path);
    let [header, text] = draft.parts(settings)?;
    let write = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        file.write_all(&header)?;
        draft.tail(&text).iter().try_for_each(|part| file.write_all(part))?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|e| {
        // The first error is the one to report; the next merge overwrites it.
        let _ = fs::remove_file(&temporary);
        Error::io("write", &path)(e)
    })?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io("sync", dir))
}
