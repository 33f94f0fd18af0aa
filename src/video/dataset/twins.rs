//! Duplicate videos: the same file under two names, and different files, or folders of frames, with the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::folder;
use super::problems::{On, Problem, ProblemKind};
use super::walk::identity;
use super::{Labelled, Source, fnv1a, fnv1a_on};
use crate::error::{Error, Result, unless_of_the_machine};
use crate::files;

/// Files of the same length are first compared by this many bytes in the middle.
const SAMPLE: u64 = 4096;
/// So many frames of a folder are compared, spread over it.
const FEW: usize = 5;
/// Limit on the bytes read in total from files whose samples are equal.
const MAX_COMPARED: u64 = 4 << 30;

/// Videos of one split, each file once. Reports which lines were dropped.
///
/// # Errors
/// `Data` when a file has two labels, with both locations, unless that is told.
pub(super) fn once(path: &Path, videos: Vec<Labelled>, on: &mut On<'_>) -> Result<(Vec<Labelled>, Option<String>)> {
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
            let [(a, x), (b, y)] = [first, &video].map(|v| (v.place(), v.class()));
            let On::Tell(tell) = on else {
                return Err(Error::data(path, format!("{a} has class {x}, and {b}, the same file, has class {y}")));
            };
            let what = format!("has class {y}, and {a}, the same file, has class {x}");
            tell(Problem::of(ProblemKind::TwoLabels, &video, what, true));
            continue;
        }
        again.push((at, video));
    }
    if let On::Tell(tell) = on {
        for (at, video) in &again {
            let what = format!("is the same file as {}, and is used once", out[*at].place());
            tell(Problem::of(ProblemKind::Copy, video, what, false));
        }
        return Ok((out, None));
    }
    let warning = again.first().map(|(at, video)| {
        let more = if again.len() > 1 { format!("; so it is with {} more", again.len() - 1) } else { String::new() };
        format!("{} is the same file as {}, and is used once{more}", video.place(), out[*at].place())
    });
    Ok((out, warning))
}

/// Refuses or tells files that are in both splits.
pub(super) fn refuse_shared(path: &Path, train: &[Labelled], test: &[Labelled], on: &mut On<'_>) -> Result<()> {
    let known: HashMap<_, _> = train.iter().filter_map(|v| Some((video_identity(v)?, v))).collect();
    let mut both = test.iter().filter_map(|v| Some((v, *known.get(&video_identity(v)?)?)));
    if let On::Tell(tell) = on {
        for (a, b) in both {
            let what = format!("is for testing, and as {} for training", b.place());
            tell(Problem::of(ProblemKind::BothSplits, a, what, true));
        }
        return Ok(());
    }
    match both.next() {
        None => Ok(()),
        Some((a, b)) => {
            let n = 1 + both.count();
            let (first, again) = (a.place(), b.place());
            let what = match n {
                1 => format!("a video is for training and for testing: {first}, as {again}"),
                _ => format!("{n} videos are for training and for testing: the first is {first}, as {again}"),
            };
            Err(Error::data(path, what))
        }
    }
}

fn video_identity(video: &Labelled) -> Option<(u64, u64)> {
    match &video.source {
        Source::File(path) | Source::Folder(path) => fs::metadata(path).ok().map(|m| identity(&m)),
        Source::Part(..) | Source::Procedural(_) | Source::Packed(_) => None,
    }
}

/// Sets of videos with the same bytes, each of two or more, as indices in ascending order. Only files of equal length are
/// opened, and of folders with as many frames the same [few](FEW). What cannot be read counts as different: it is
/// reported when it is decoded.
///
/// # Errors
/// Those of the machine.
pub(super) fn same_bytes<'a>(videos: impl Iterator<Item = &'a Labelled>) -> Result<Vec<Vec<usize>>> {
    let mut alike: Vec<Alike> = Vec::new();
    let mut folders: Vec<(usize, &Path)> = Vec::new();
    for (i, video) in videos.enumerate() {
        match &video.source {
            Source::File(path) => alike.extend(Alike::file(i, path)),
            Source::Folder(path) => folders.push((i, path)),
            Source::Part(..) | Source::Procedural(_) | Source::Packed(_) => {}
        }
    }
    let few: Vec<Result<Option<Alike>>> = folders.par_iter().map(|(i, path)| Alike::folder(*i, path)).collect();
    for one in few {
        alike.extend(one?);
    }
    let alike = repeated(alike.into_iter().map(|video| (video.lengths.clone(), video)));
    let samples = grouped(alike.into_iter().flatten().collect(), |video| {
        let middle = |(path, length): (&PathBuf, &u64)| hash(path, length.saturating_sub(SAMPLE) / 2, SAMPLE);
        video.files().map(middle).collect()
    })?;
    // The smallest first, and the same ones in every run.
    let mut left = MAX_COMPARED;
    let whole = samples.into_iter().flatten().take_while(|video| {
        let fits = video.bytes() <= left;
        left = left.saturating_sub(video.bytes());
        fits
    });
    let same = grouped(whole.collect(), |video| video.files().map(|(path, length)| hash(path, 0, *length)).collect())?;
    let mut found: Vec<Vec<usize>> =
        same.into_iter().map(|set| set.into_iter().map(|video| video.index).collect()).collect();
    found.iter_mut().for_each(|set: &mut Vec<usize>| set.sort_unstable());
    found.sort();
    Ok(found)
}

/// A video, and the files that are compared with those of others.
struct Alike {
    index: usize,
    paths: Vec<PathBuf>,
    /// The number of frames of a folder, and the length of each file.
    lengths: (usize, Vec<u64>),
}

impl Alike {
    fn file(index: usize, path: &Path) -> Option<Alike> {
        let metadata = fs::metadata(path).ok().filter(|m| m.is_file() && m.len() > 0)?;
        Some(Alike { index, paths: vec![path.to_owned()], lengths: (1, vec![metadata.len()]) })
    }

    /// A folder with a few of its frames, from the first to the last.
    fn folder(index: usize, path: &Path) -> Result<Option<Alike>> {
        let Some(frames) = unless_of_the_machine(folder::frames(path))? else { return Ok(None) };
        let mut paths: Vec<PathBuf> = (0..FEW).map(|i| frames[i * (frames.len() - 1) / (FEW - 1)].clone()).collect();
        paths.dedup();
        let lengths: Option<Vec<u64>> = paths.iter().map(|path| Some(fs::metadata(path).ok()?.len())).collect();
        let lengths = lengths.filter(|lengths| !lengths.contains(&0));
        Ok(lengths.map(|lengths| Alike { index, paths, lengths: (frames.len(), lengths) }))
    }

    fn files(&self) -> impl Iterator<Item = (&PathBuf, &u64)> {
        self.paths.iter().zip(&self.lengths.1)
    }

    fn bytes(&self) -> u64 {
        self.lengths.1.iter().sum()
    }
}

/// Sets of two or more videos with the same lengths and hashes, by length.
fn grouped(
    videos: Vec<Alike>,
    hashes: impl Fn(&Alike) -> Result<Option<Vec<u64>>> + Sync + Send,
) -> Result<Vec<Vec<Alike>>> {
    let all = videos.par_iter().map(hashes).collect::<Result<Vec<_>>>()?;
    let hashed = videos.into_iter().zip(all).filter_map(|(video, hashes)| {
        let lengths = video.lengths.clone();
        hashes.map(|hashes| ((lengths, hashes), video))
    });
    Ok(repeated(hashed))
}

/// The sets of two or more videos of one key, in the order of the keys.
fn repeated<K: Ord>(videos: impl Iterator<Item = (K, Alike)>) -> Vec<Vec<Alike>> {
    let mut sets: BTreeMap<K, Vec<Alike>> = BTreeMap::new();
    for (key, video) in videos {
        sets.entry(key).or_default().push(video);
    }
    sets.into_values().filter(|set| set.len() > 1).collect()
}

/// A hash of up to `n` bytes of a file from `start`.
fn hash(path: &Path, start: u64, n: u64) -> Result<Option<u64>> {
    let of_file = || -> Result<u64> {
        let (mut file, _) = files::open_regular(path, "a video")?;
        file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
        let (mut file, mut part, mut hash) = (file.take(n), vec![0; 64 << 10], fnv1a(&[]));
        loop {
            match file.read(&mut part).map_err(Error::io("read", path))? {
                0 => return Ok(hash),
                m => hash = fnv1a_on(&part[..m], hash),
            }
        }
    };
    unless_of_the_machine(of_file())
}

/// Messages about duplicates among `train` and then `test` videos, unless each is told.
pub(super) fn warnings(sets: &[Vec<usize>], train: &[Labelled], test: &[Labelled], on: &mut On<'_>) -> Vec<String> {
    const ALSO: [&str; 3] = [", and one is for testing, the other for training", ", and another class", ""];
    let video = |i: usize| train.get(i).unwrap_or_else(|| &test[i - train.len()]);
    let kind = |a: usize, b: usize| match video(a).class != video(b).class {
        true => 1,
        false if b >= train.len() && a < train.len() => 0,
        false => 2,
    };
    let same = |a: usize| {
        let same = if matches!(video(a).source, Source::Folder(_)) { "frames" } else { "bytes" };
        format!("has the same {same} as {}", video(a).name)
    };
    let mut pairs = [const { Vec::new() }; 3];
    for set in sets {
        let a = set[0];
        set[1..].iter().for_each(|&b| pairs[kind(a, b)].push((a, b)));
    }
    let (mut said, all) = (Vec::new(), pairs.into_iter().zip(ALSO));
    for (pairs, also) in all {
        match (&mut *on, pairs.first()) {
            (_, None) => {}
            (On::Refuse, Some(&(a, b))) => {
                let more =
                    if pairs.len() > 1 { format!("; so it is with {} more", pairs.len() - 1) } else { String::new() };
                said.push(format!("{} {}{also}{more}", video(b).name, same(a)));
            }
            (On::Tell(tell), Some(_)) => {
                for (a, b) in pairs {
                    tell(Problem::of(ProblemKind::Copy, video(b), same(a) + also, false));
                }
            }
        }
    }
    said
}
