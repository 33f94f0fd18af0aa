//! Determines which videos are clips of one recording, by their names, and splits a data set so that they stay
//! together.
//!
//! Clips of one recording share a background and a person. If some of them are in the training set and some in the test
//! set, a network that recognises these appears to recognise the classes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::list;
use super::{Labelled, fnv1a};

/// How certain a name is about the recording of its video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The whole name.
    None,
    /// A number at the end: of a clip, or of the video in its class.
    Number,
    /// A word that means clip, with a number: `_c01`, `_part2`.
    Clip,
    /// The naming scheme of a public data set.
    Public,
}

/// The recording of a video, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// The same for all clips of one recording.
    pub key: String,
    pub rule: Rule,
}

/// Words that number videos and do not name a recording.
const GENERIC: [&str; 34] = [
    "",
    "v",
    "vid",
    "vids",
    "video",
    "videos",
    "clip",
    "clips",
    "movie",
    "mov",
    "film",
    "sample",
    "seq",
    "sequence",
    "rec",
    "record",
    "recording",
    "file",
    "img",
    "image",
    "frame",
    "frames",
    "cam",
    "camera",
    "scene",
    "shot",
    "part",
    "segment",
    "seg",
    "action",
    "output",
    "out",
    "train",
    "test",
];

/// Words that mean clip if a number follows.
const CLIP_WORDS: [&str; 11] =
    ["c", "clip", "part", "seg", "segment", "scene", "shot", "chunk", "split", "cut", "piece"];

/// The origin of the video called `name`, perhaps with folders before it, of class `class`.
///
/// | name | set | origin |
/// |---|---|---|
/// | `v_Name_g01_c02` | UCF101 | `v_Name_g01` |
/// | `Film_action_f_cm_np1_ba_bad_0` | HMDB51 | `Film`, in all classes |
/// | `id_000010_000020` | Kinetics | `id`, in all classes |
/// | `x_c02`, `x_part2`, `x-Scene-002` | | `x` of its folder |
/// | `x-0002`, `x_2`, `x (2)` | | `x` of its folder, unless most of the class goes by that name |
fn origin(name: &str, class: &str) -> Origin {
    let (folder, stem) = bare(name).rsplit_once('/').unwrap_or(("", bare(name)));
    let within = |key: &str| if folder.is_empty() { key.to_owned() } else { format!("{folder}/{key}") };
    if let Some(source) = hmdb51(stem, class, folder).or_else(|| kinetics(stem)) {
        return Origin { key: source.to_owned(), rule: Rule::Public };
    }
    if let Some(group) = ucf101(stem) {
        return Origin { key: within(group), rule: Rule::Public };
    }
    let class_folder = folder.rsplit('/').next().unwrap_or_default();
    let names_it = |source: &str| {
        let source = letters(source);
        let without_v = source.strip_prefix('v').unwrap_or(&source);
        let is_class = [class, class_folder].map(letters).iter().any(|c| *c == source || c == without_v);
        !is_class && !GENERIC.contains(&source.as_str())
    };
    match numbered(stem) {
        Some((source, rule)) if names_it(source) => Origin { key: within(source), rule },
        _ => Origin { key: within(stem), rule: Rule::None },
    }
}

/// `name` without the extension of a video.
fn bare(name: &str) -> &str {
    name.rsplit_once('.').map(|(bare, _)| bare).filter(|_| list::is_video(name.as_ref())).unwrap_or(name)
}

/// The letters of a text, in lower case.
fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `v_Name_g01_c02` -> `v_Name_g01`.
fn ucf101(stem: &str) -> Option<&str> {
    let (group, clip) = stem.rsplit_once("_c")?;
    let (_, number) = group.rsplit_once("_g")?;
    (is_number(clip) && is_number(number)).then_some(group)
}

/// `Film_action_f_cm_np1_ba_bad_0` -> `Film`: the part before the action, the visible part of the body, the camera
/// motion, the number of people, the viewpoint, the quality and the number of the clip.
fn hmdb51<'a>(stem: &'a str, class: &str, folder: &str) -> Option<&'a str> {
    let mut parts = stem.rsplitn(7, '_');
    let mut next = || parts.next();
    let [number, quality, side, people, camera, body] = [next()?, next()?, next()?, next()?, next()?, next()?];
    let named = is_number(number)
        && ["goo", "med", "bad"].contains(&quality)
        && ["fr", "ba", "le", "ri"].contains(&side)
        && people.strip_prefix("np").is_some_and(is_number)
        && ["cm", "nm"].contains(&camera)
        && ["f", "h", "l", "u"].contains(&body);
    let rest = next().filter(|_| named)?;
    // Cut before the action, which is the class, or the folder's name if classes are numbers.
    let actions = [class, folder.rsplit('/').next().unwrap_or_default()];
    let cut = |action: &str| rest.strip_suffix(&action.replace(' ', "_"))?.strip_suffix('_');
    Some(actions.iter().filter(|a| !a.is_empty()).find_map(|a| cut(a)).filter(|s| !s.is_empty()).unwrap_or(rest))
}

/// `id_000010_000020` -> `id`: start and end of the clip in seconds, with six digits each and at most ten minutes apart
/// (which excludes a date and a time of day), or after the eleven characters of a YouTube id.
fn kinetics(stem: &str) -> Option<&str> {
    let (rest, end) = stem.rsplit_once('_')?;
    let (id, start) = rest.rsplit_once('_')?;
    let youtube = id.len() == 11 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let (from, to) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    let long = [start.len(), end.len()] == [6; 2] && to.saturating_sub(from) <= 600;
    (is_number(start) && is_number(end) && from < to && !id.is_empty() && (youtube || long)).then_some(id)
}

/// The part before a number at the end of a name, and before the preceding word if that means clip.
fn numbered(stem: &str) -> Option<(&str, Rule)> {
    const BETWEEN: [char; 4] = ['_', '-', ' ', '.'];
    if let Some((source, number)) = stem.strip_suffix(')').and_then(|s| s.rsplit_once('(')) {
        return is_number(number).then(|| (source.trim_end_matches(BETWEEN), Rule::Number));
    }
    let digits = stem.len() - stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (before, number) = stem.split_at(stem.len() - digits);
    if number.is_empty() {
        return None;
    }
    let rest = before.trim_end_matches(BETWEEN);
    let word_at = rest.rfind(BETWEEN).map_or(0, |i| i + 1);
    let word = rest[word_at..].to_lowercase();
    if word_at > 0 && CLIP_WORDS.contains(&word.as_str()) {
        return Some((rest[..word_at].trim_end_matches(BETWEEN), Rule::Clip));
    }
    (rest.len() < before.len()).then_some((rest, Rule::Number))
}

/// The origins of videos, and messages to the user about them.
///
/// A number at the end identifies clips of a recording if the class has several recordings. If nearly all videos of a
/// class would belong to one recording, the number counts the class's videos instead.
pub(super) fn origins(videos: &[Labelled]) -> (Vec<Origin>, Vec<String>) {
    let mut found: Vec<Origin> = videos.iter().map(|v| origin(&v.name, v.class())).collect();
    let mut sizes: BTreeMap<&str, (usize, BTreeMap<String, usize>)> = BTreeMap::new();
    for (video, origin) in videos.iter().zip(&found) {
        let (all, numbered) = sizes.entry(video.class()).or_default();
        *all += 1;
        if origin.rule == Rule::Number {
            *numbered.entry(origin.key.clone()).or_default() += 1;
        }
    }
    let mut apart: Vec<(&str, String, usize, usize)> = Vec::new();
    for (class, (all, numbered)) in &sizes {
        let most = numbered.iter().find(|&(_, &n)| n > 1 && 4 * n > 3 * all);
        apart.extend(most.map(|(key, &n)| (*class, key.clone(), n, *all)));
    }
    let warnings = apart.first().map(|(class, key, n, all)| {
        let classes = match apart.len() {
            1 => String::new(),
            more => format!(" (and so it is in {} other classes)", more - 1),
        };
        format!(
            "{n} of the {all} videos of class {class} are called `{key}` and a number{classes}; they are taken for different \
             recordings. If they are clips of one, give lists for training and testing"
        )
    });
    let warnings = warnings.into_iter().collect();
    for (video, origin) in videos.iter().zip(&mut found) {
        let number = origin.rule == Rule::Number;
        if number && apart.iter().any(|(class, key, ..)| *class == video.class() && *key == origin.key) {
            *origin = Origin { key: bare(&video.name).to_owned(), rule: Rule::None };
        }
    }
    (found, warnings)
}

/// Holds out a quarter of the groups of each class, at least one and never all: those with the lowest hashes of their
/// names. `same` gives pairs of videos that belong to one group whatever their names. Returns which videos are held
/// out, and what was not possible.
pub(super) fn hold_out(videos: &[Labelled], same: &[(usize, usize)]) -> (Vec<bool>, Vec<String>) {
    let (origins, mut warnings) = origins(videos);
    let mut groups = Groups::new(&origins);
    // Videos that are of one group by their names, and those that equal bytes alone put into the group of another.
    let mut alike: BTreeMap<&str, usize> = BTreeMap::new();
    origins.iter().for_each(|o| *alike.entry(&o.key).or_default() += 1);
    let by_name: Vec<bool> = origins.iter().map(|o| alike[o.key.as_str()] > 1).collect();
    let mut by_bytes = vec![false; videos.len()];
    for &(a, b) in same {
        if origins[a].key != origins[b].key {
            (by_bytes[a], by_bytes[b]) = (true, true);
        }
        groups.join(a, b);
    }
    // The classes of each group, and how many groups each class has.
    let mut classes_of: BTreeMap<(u64, String), BTreeSet<&str>> = BTreeMap::new();
    let names: Vec<(u64, String)> = (0..videos.len())
        .map(|i| {
            let key = origins[groups.root(i)].key.clone();
            (fnv1a(key.as_bytes()), key)
        })
        .collect();
    for (video, name) in videos.iter().zip(&names) {
        classes_of.entry(name.clone()).or_default().insert(video.class());
    }
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    classes_of.values().flatten().for_each(|class| *count.entry(class).or_default() += 1);
    let wanted = |n: usize| ((n as f64 / 4.0).round().max(1.0) as usize).min(n - 1);
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen: BTreeSet<&(u64, String)> = BTreeSet::new();
    // First groups that do not exceed any class's share; then, for classes without any, groups that leave every class
    // something to train on.
    for needy in [false, true] {
        for (name, classes) in &classes_of {
            let of = |class: &&str| held.get(class).copied().unwrap_or(0);
            let take = if needy {
                classes.iter().any(|c| of(c) == 0) && classes.iter().all(|c| of(c) + 1 < count[c])
            } else {
                classes.iter().all(|c| of(c) < wanted(count[c]))
            };
            if take && chosen.insert(name) {
                classes.iter().for_each(|class| *held.entry(class).or_default() += 1);
            }
        }
    }
    let videos_of = |class: &str| videos.iter().filter(|v| v.class() == class).count();
    let without: Vec<&str> = count.keys().copied().filter(|c| !held.contains_key(c) && videos_of(c) > 1).collect();
    if let Some(class) = without.first() {
        let why = if count[class] == 1 { "clips of one recording" } else { "clips of recordings in other classes too" };
        let classes = match without.len() {
            1 => String::new(),
            more => format!(" (and so it is in {} other classes)", more - 1),
        };
        let n = videos_of(class);
        let any = |of: &[bool]| videos.iter().zip(of).any(|(v, &is)| is && v.class() == *class);
        let by = match (any(&by_name), any(&by_bytes)) {
            (true, true) => "by their names and by equal bytes",
            (false, true) => "for their bytes are equal",
            _ => "by their names",
        };
        warnings.push(format!("no video of class {class} is held out: its {n} are {why}, {by}{classes}"));
    }
    (names.iter().map(|name| chosen.contains(name)).collect(), warnings)
}

/// The recording that a video is a clip of, if its name is certain about it.
pub(super) fn recording(name: &str, class: &str) -> Option<String> {
    let found = origin(name, class);
    matches!(found.rule, Rule::Public | Rule::Clip).then_some(found.key)
}

/// Test videos from a recording that is also in the training set, if their names are certain about it: how many, and
/// the first with its counterpart.
pub(super) fn shared(train: &[Labelled], test: &[Labelled]) -> Option<String> {
    let sure = |videos: &[Labelled]| -> Vec<Option<String>> {
        // Within a class: the splits of some data sets are made class by class.
        let key = |v: &Labelled| Some(format!("{}\n{}", v.class(), file_of(&recording(&v.name, v.class())?)));
        videos.iter().map(key).collect()
    };
    let (in_train, in_test) = (sure(train), sure(test));
    let known: BTreeMap<&str, usize> =
        in_train.iter().enumerate().rev().filter_map(|(i, key)| Some((key.as_deref()?, i))).collect();
    let mut both = in_test.iter().enumerate().filter_map(|(i, key)| Some((i, *known.get(key.as_deref()?)?)));
    let (i, j) = both.next()?;
    let (n, a, b) = (1 + both.count(), &test[i].name, &train[j].name);
    Some(format!(
        "{n} test videos are clips of recordings that training has, by their names: the first is {a}, like {b}"
    ))
}

/// The last component of a path: splits may be in different folders.
fn file_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Disjoint sets of videos that are merged step by step (union-find).
struct Groups(Vec<usize>);

impl Groups {
    /// Merges the videos with the same key.
    fn new(origins: &[Origin]) -> Groups {
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        Groups(origins.iter().enumerate().map(|(i, o)| *first.entry(&o.key).or_insert(i)).collect())
    }

    /// The first video of the group of `i`.
    fn root(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}
