//! Duplicate videos: the same file under two names, and different files with the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use rayon::prelude::*;

use super::walk::identity;
use super::{Labelled, Source, fnv1a, fnv1a_on};
use crate::error::{Error, Result};
use crate::files;

/// Files of the same length are first compared by this many bytes in the middle.
const SAMPLE: usize = 4096;
/// Limit on the bytes read in total from files whose samples are equal.
const MAX_COMPARED: u64 = 4 << 30;

/// Videos of one split, each file once. Reports which lines were dropped.
///
/// # Errors
/// `Data` when a file has two labels, with both locations.
pub(super) fn once(path: &Path, videos: Vec<Labelled>) -> Result<(Vec<Labelled>, Option<String>)> {
    let mut seen: HashMap<(u64, u64), usize> = HashMap::new();
    let (mut out, mut again): (Vec<Labelled>, Vec<(usize, Labelled)>) = (Vec::with_capacity(videos.len()), Vec::new());
    for video in videos {
        let at = video_identity(&video).map_or(out.len(), |id| *seen.entry(id).or_insert(out.len()));
        if at == out.len() {
            out.push(video);
            continue;
        }
        let first = &out[at];
        if first.class != video.class {
            let [(a, x), (b, y)] = [first, &video].map(|v| (v.place(), &v.class));
            return Err(Error::data(path, format!("{a} has class {x}, and {b}, the same file, has class {y}")));
        }
        again.push((at, video));
    }
    let warning = again.first().map(|(at, video)| {
        let more = if again.len() > 1 { format!("; so it is with {} more", again.len() - 1) } else { String::new() };
        format!("{} is the same file as {}, and is used once{more}", video.place(), out[*at].place())
    });
    Ok((out, warning))
}

/// Refuses a file that is in both splits.
pub(super) fn refuse_shared(path: &Path, train: &[Labelled], test: &[Labelled]) -> Result<()> {
    let known: HashMap<_, _> = train.iter().filter_map(|v| Some((video_identity(v)?, v))).collect();
    let mut both = test.iter().filter_map(|v| Some((v, *known.get(&video_identity(v)?)?)));
    match both.next() {
        None => Ok(()),
        Some((a, b)) => {
            let n = 1 + both.count();
            let what =
                format!("{n} videos are for training and for testing: the first is {}, as {}", a.place(), b.place());
            Err(Error::data(path, what))
        }
    }
}

fn video_identity(video: &Labelled) -> Option<(u64, u64)> {
    match &video.source {
        Source::File(path) | Source::Folder(path) => fs::metadata(path).ok().map(|m| identity(&m)),
        Source::Procedural(_) => None,
    }
}

/// Sets of files with the same bytes, each of two or more, as indices in ascending order. Only files of equal length
/// are opened; folders of frames are not compared. Unreadable files count as different: they are reported when they are
/// decoded.
pub(super) fn same_bytes<'a>(videos: impl Iterator<Item = &'a Labelled>) -> Vec<Vec<usize>> {
    let mut by_length: BTreeMap<u64, Vec<(usize, &Path)>> = BTreeMap::new();
    for (i, video) in videos.enumerate() {
        if let Source::File(path) = &video.source
            && let Ok(metadata) = fs::metadata(path)
            && metadata.is_file()
            && metadata.len() > 0
        {
            by_length.entry(metadata.len()).or_default().push((i, path));
        }
    }
    let alike: Vec<(u64, usize, &Path)> = by_length
        .into_iter()
        .filter(|(_, files)| files.len() > 1)
        .flat_map(|(length, files)| files.into_iter().map(move |(i, path)| (length, i, path)))
        .collect();
    let samples = grouped(&alike, |length, path| hash(path, length.saturating_sub(SAMPLE as u64) / 2, SAMPLE as u64));
    // The smallest first, and the same ones in every run.
    let mut left = MAX_COMPARED;
    let whole: Vec<(u64, usize, &Path)> = samples
        .into_iter()
        .flatten()
        .take_while(|(length, ..)| {
            let fits = *length <= left;
            left = left.saturating_sub(*length);
            fits
        })
        .collect();
    let mut found: Vec<Vec<usize>> = grouped(&whole, |length, path| hash(path, 0, length))
        .into_iter()
        .map(|set| set.into_iter().map(|(_, i, _)| i).collect())
        .collect();
    found.iter_mut().for_each(|set: &mut Vec<usize>| set.sort_unstable());
    found.sort();
    found
}

type Alike<'a> = (u64, usize, &'a Path);

/// Sets of two or more files with the same length and hash, by length.
fn grouped<'a>(files: &[Alike<'a>], hash: impl Fn(u64, &Path) -> Option<u64> + Sync) -> Vec<Vec<Alike<'a>>> {
    let hashes: Vec<Option<u64>> = files.par_iter().map(|(length, _, path)| hash(*length, path)).collect();
    let mut sets: BTreeMap<(u64, u64), Vec<Alike>> = BTreeMap::new();
    for (file, hash) in files.iter().zip(hashes) {
        if let Some(hash) = hash {
            sets.entry((file.0, hash)).or_default().push(*file);
        }
    }
    sets.into_values().filter(|set| set.len() > 1).collect()
}

/// A hash of up to `n` bytes of a file from `start`.
fn hash(path: &Path, start: u64, n: u64) -> Option<u64> {
    let (mut file, _) = files::open_regular(path, "a video").ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    let (mut file, mut part, mut hash) = (file.take(n), vec![0; 64 << 10], fnv1a(&[]));
    loop {
        match file.read(&mut part).ok()? {
            0 => return Some(hash),
            m => hash = fnv1a_on(&part[..m], hash),
        }
    }
}

/// Messages about duplicates among `train` and then `test` videos.
pub(super) fn warnings(sets: &[Vec<usize>], train: &[Labelled], test: &[Labelled]) -> Vec<String> {
    let video = |i: usize| train.get(i).unwrap_or_else(|| &test[i - train.len()]);
    let (mut across, mut classes, mut within) = (Vec::new(), Vec::new(), Vec::new());
    for set in sets {
        let a = set[0];
        for &b in &set[1..] {
            if video(a).class != video(b).class {
                classes.push((a, b));
            } else if b >= train.len() && a < train.len() {
                across.push((a, b));
            } else {
                within.push((a, b));
            }
        }
    }
    let say = |pairs: Vec<(usize, usize)>, what: &str| {
        let &(a, b) = pairs.first()?;
        let more = if pairs.len() > 1 { format!("; so it is with {} more", pairs.len() - 1) } else { String::new() };
        Some(format!("{} has the same bytes as {}{what}{more}", video(b).name, video(a).name))
    };
    let all = [
        say(across, ", and one is for testing, the other for training"),
        say(classes, ", and another class"),
        say(within, ""),
    ];
    all.into_iter().flatten().collect()
}
