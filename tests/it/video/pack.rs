//! Packed data sets: shards, the index, and what runs read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tubelet::error::{ErrorKind, Result};
use tubelet::video::cache::{Builder, Progress};
use tubelet::video::pack::{self, Index, Merged, PackSpec, Report, Shard, Verify};
use tubelet::video::{Cache, CacheSpec, Pack, ProceduralSpec, Split, Splits};

use super::cache::{GO_ON, all_kinds, build, builder, spec};
use crate::support::programs::frames;
use crate::support::skip::absent;
use crate::support::videos::put;

/// Groups of three videos, and tar files of two of them.
pub fn pack_spec() -> PackSpec {
    PackSpec { cache: spec(), shard_bytes: 66_000, group: 3, gpu_flow: false }
}

/// Ten videos for training and some for testing, each of 16 x 16 x 20 frames and flow between half of them: 25 kB.
pub fn splits() -> Splits {
    let spec = ProceduralSpec { classes: 2, videos_per_class: 5, frames: 20, side: 32, ..ProceduralSpec::default() };
    Splits::procedural(&spec).unwrap()
}

pub fn shard_with(dir: &Path, splits: &Splits, shard: [u64; 2], with: &Builder) -> Result<Report> {
    pack::shard(dir, splits, &pack_spec(), Shard::new(shard[0], shard[1])?, with)
}

pub fn shard(dir: &Path, splits: &Splits, at: [u64; 2]) -> Result<Report> {
    shard_with(dir, splits, at, &builder(&|_| {}))
}

pub fn merge(dir: &Path) -> Result<Merged> {
    pack::merge(dir, &GO_ON, |_| {})
}

/// The names and bytes of everything that does not depend on the number of shards.
pub fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let of =
        |p: &PathBuf| p.extension().is_some_and(|e| e != "lock") && p.file_name().is_some_and(|n| n != "pack.json");
    let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
    paths.filter(of).filter(|p| !name(p).starts_with('.')).map(|p| (name(&p), fs::read(&p).unwrap())).collect()
}

/// A whole packed folder, by one process.
pub fn whole(dir: &Path, splits: &Splits) -> BTreeMap<String, Vec<u8>> {
    shard(dir, splits, [0, 1]).unwrap();
    merge(dir).unwrap();
    content(dir)
}

pub fn verify(dir: &Path) -> Result<pack::Verified> {
    pack::verify(&Pack::open(dir)?, Verify { threads: 2, stop: &GO_ON, progress: &|_| {} })
}

#[test]
fn the_folder_depends_neither_on_the_number_of_shards_nor_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits) = (dir.path(), splits());
    let want = whole(&d.join("one"), &splits);
    let videos = splits.train.len() + splits.test.len();
    assert!(want.len() > 2 * videos.div_ceil(3) && want.contains_key("000000-001.tar"), "{:?}", want.keys());
    let largest = want.iter().filter(|(name, _)| name.ends_with(".tar")).map(|(_, bytes)| bytes.len()).max();
    assert!(largest.unwrap() <= 66_000);
    for at in [2, 0, 1] {
        shard_with(&d.join("three"), &splits, [at, 3], &Builder { threads: 1, ..builder(&|_| {}) }).unwrap();
    }
    merge(&d.join("three")).unwrap();
    assert!(content(&d.join("three")) == want);
    // The number of shards is changed when some are complete: of the rest nothing is made twice.
    let first = shard(&d.join("changed"), &splits, [1, 3]).unwrap().packed;
    let rest: usize = (0..2).map(|at| shard(&d.join("changed"), &splits, [at, 2]).unwrap().packed).sum();
    assert_eq!(first + rest, videos);
    merge(&d.join("changed")).unwrap();
    assert!(content(&d.join("changed")) == want);
    // With more shards than groups some have nothing to do.
    assert_eq!(shard(&d.join("many"), &splits, [90, 100]).unwrap(), Report::default());
}

#[test]
fn a_run_reads_what_the_cache_would_hold() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits, spec) = (dir.path().join("packed"), splits(), all_kinds());
    shard(&d, &splits, [0, 1]).unwrap();
    merge(&d).unwrap();
    let moved = dir.path().join("elsewhere");
    fs::rename(&d, &moved).unwrap();
    let pack = Arc::new(Pack::open(&moved).unwrap());
    let there = pack.splits().unwrap();
    for (split, data, want) in [(Split::Train, &there.train, &splits.train), (Split::Test, &there.test, &splits.test)] {
        let names = |data: &tubelet::video::Dataset| -> Vec<(String, Option<usize>)> {
            data.items.iter().map(|item| (item.name.clone(), item.label)).collect()
        };
        assert_eq!((names(data), &data.classes, data.split), (names(want), &want.classes, split));
        let (packed, report) = Cache::packed(&pack, split, &spec, None).unwrap();
        assert_eq!((report.reused, report.failed.len(), packed.usable()), (want.len(), 0, (0..want.len()).collect()));
        let cache = build(&dir.path().join("cache"), want, &spec).unwrap().0;
        for i in 0..want.len() {
            let [a, b] = [&packed, &cache].map(|c| c.get(i).unwrap());
            let all: Vec<usize> = (0..b.len()).collect();
            assert_eq!(a.clip(&all, 25.0).unwrap(), b.clip(&all, 25.0).unwrap());
            assert_eq!((a.fields(), a.fps(), packed.length(i).unwrap()), (b.fields(), b.fps(), (b.len(), b.fps())));
            assert!((0..b.fields()).all(|m| a.flow(m) == b.flow(m)));
            assert_eq!(packed.maps(i).unwrap(), cache.maps(i).unwrap());
        }
        assert_ne!(
            data.fingerprint().unwrap(),
            tubelet::video::Dataset { items: Vec::new(), ..data.clone() }.fingerprint().unwrap()
        );
    }
    assert!(pack.get(pack.index().len()).is_err());
    // Runs with other settings are refused with the difference.
    let mut other = spec.clone();
    other.decode.short_side = Some(17);
    let error = Cache::packed(&pack, Split::Train, &other, None).unwrap_err().to_string();
    assert!(error.contains("a short side of 16 pixels") && error.contains("17"), "{error}");
    let mut other = spec;
    other.motion.as_mut().unwrap().settings = "another".into();
    let error = Cache::packed(&pack, Split::Train, &other, None).unwrap_err().to_string();
    assert!(error.contains("by difference") && error.contains("by another"), "{error}");
}

#[test]
fn missing_shards_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits) = (dir.path(), splits());
    let error = merge(d).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Data { .. }) && error.to_string().contains("--shard"), "{error}");
    shard(d, &splits, [1, 4]).unwrap();
    let error = merge(d).unwrap_err().to_string();
    for words in ["3 shards of 4 are not complete", "0/4", "2/4", "3/4", "000000-000 is missing"] {
        assert!(error.contains(words), "{words} in {error}");
    }
    assert!(!error.contains("1/4"), "{error}");
    let error = Pack::open(d).unwrap_err().to_string();
    assert!(error.contains("--merge"), "{error}");
    for at in [0, 2, 3] {
        shard(d, &splits, [at, 4]).unwrap();
    }
    fs::remove_file(d.join("000002-001.tar")).unwrap();
    let error = merge(d).unwrap_err().to_string();
    assert!(
        error.contains("1 shard of 4 is not complete") && error.contains("2/4") && error.contains("000002-001"),
        "{error}"
    );
    assert!(!d.join("index.tbi").exists());
    let report = shard(d, &splits, [2, 4]).unwrap();
    assert!(report.packed > 0 && report.reused > 0, "{report:?}");
    merge(d).unwrap();
    assert!(content(d) == whole(&d.join("other"), &splits));
}

/// Frames below a root that is mounted elsewhere meanwhile: the keys are those of the contents, and no path is in the folder.
#[test]
fn shards_of_another_mount_point_fit_and_originals_are_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, store) = (dir.path().join("mnt/a"), dir.path().join("mnt/b/data"), dir.path().join("store"));
    for (i, name) in ["x/v0", "x/v1", "x/v2", "y/v3", "y/v4", "y/v5", "y/v6"].iter().enumerate() {
        frames(&a.join(name), 8 + i);
    }
    // One video cannot be read, and the reason must not depend on where it is.
    put(&a, "y/v4/001.png", "no picture");
    let open = |root: &Path| Splits::open(root, None).unwrap();
    let want = whole(&dir.path().join("of a"), &open(&a));
    let gaps = shard(&store, &open(&a), [0, 2]).unwrap().gaps.len();
    fs::create_dir_all(b.parent().unwrap()).unwrap();
    // A copy has other times, as from another file system.
    let copied = Command::new("cp").arg("-r").args([&a, &b]).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(&a).unwrap();
    let report = shard(&store, &open(&b), [1, 2]).unwrap();
    assert_eq!(gaps + report.gaps.len(), 1);
    let merged = merge(&store).unwrap();
    assert_eq!((merged.videos, merged.gaps.len(), merged.gaps[0].name.as_str()), (6, 1, "y/v4"));
    assert!(merged.gaps[0].why.contains("y/v4/001.png") && !merged.gaps[0].why.contains("mnt"), "{:?}", merged.gaps);
    assert!(content(&store) == want);
    let pack = Pack::open(&store).unwrap();
    let with = Verify { threads: 2, stop: &GO_ON, progress: &|_| {} };
    assert_eq!(pack::originals(&pack, &open(&b), with).unwrap(), []);
    image::RgbImage::from_pixel(16, 16, image::Rgb([9; 3])).save(b.join("x/v1/003.png")).unwrap();
    let changed = pack::originals(&pack, &open(&b), with).unwrap();
    assert!(changed.len() == 1 && changed[0].of == "x/v1" && changed[0].what.contains("content"), "{changed:?}");
    fs::remove_dir_all(&b).unwrap();
    let pack = Arc::new(pack);
    let (cache, report) =
        Cache::packed(&pack, Split::Train, &CacheSpec { motion: None, ..spec() }, Some(with)).unwrap();
    assert_eq!(cache.usable().len() + report.failed.len(), cache.len());
    assert!(cache.usable().iter().all(|&i| cache.get(i).unwrap().len() >= 8));
}

/// A tar file whose description was removed is made again, and so are those after it that do not follow any more.
#[test]
fn a_gap_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, store) = (dir.path().join("data"), dir.path().join("store"));
    for (i, name) in ["x/v0", "x/v1", "x/v2", "y/v3", "y/v4", "y/v5"].iter().enumerate() {
        frames(&data.join(name), 40 + i); // 20 kB of frames and flow: three make a tar file
    }
    put(&data, "y/v4/001.png", "no picture");
    let open = || Splits::open(&data, None).unwrap();
    whole(&store, &open());
    fs::copy(data.join("y/v4/002.png"), data.join("y/v4/001.png")).unwrap();
    assert_eq!(shard(&store, &open(), [0, 1]).unwrap().gaps.len(), 1, "what is complete is not looked at again");
    let json = content(&store)
        .into_iter()
        .find(|(name, bytes)| name.ends_with(".json") && String::from_utf8_lossy(bytes).contains("v4/001.png"));
    fs::remove_file(store.join(json.unwrap().0)).unwrap();
    let report = shard(&store, &open(), [0, 1]).unwrap();
    assert!(report.gaps.is_empty() && report.packed > 0 && report.reused > 0, "{report:?}");
    merge(&store).unwrap();
    assert!(content(&store) == whole(&dir.path().join("fresh"), &open()));
}

#[test]
fn other_videos_and_settings_are_refused_and_so_is_a_shard_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits) = (dir.path(), splits());
    shard(d, &splits, [0, 2]).unwrap();
    let refused = |splits: &Splits, spec: &PackSpec, at: [u64; 2]| {
        pack::shard(d, splits, spec, Shard::new(at[0], at[1]).unwrap(), &builder(&|_| {})).unwrap_err().to_string()
    };
    let mut fewer = splits.clone();
    fewer.test.items.pop();
    let error = refused(&fewer, &pack_spec(), [1, 2]);
    assert!(error.contains("videos (--data) is") && error.contains("the names or labels"), "{error}");
    let error = refused(&splits, &PackSpec { group: 4, ..pack_spec() }, [1, 2]);
    assert!(error.contains("--group is 3, and here 4"), "{error}");
    let error = refused(&splits, &PackSpec { shard_bytes: 70_000, ..pack_spec() }, [1, 2]);
    assert!(error.contains("--shard-bytes is 66000, and here 70000"), "{error}");
    let cache = CacheSpec { motion: None, ..spec() };
    let error = refused(&splits, &PackSpec { cache, ..pack_spec() }, [1, 2]);
    assert!(error.contains("none is asked for (--flow)"), "{error}");
    let error = refused(&splits, &PackSpec { gpu_flow: true, ..pack_spec() }, [1, 2]);
    assert!(error.contains("how flow is computed (--preset, --device) is"), "{error}");
    let mut cache = spec();
    cache.decode.short_side = Some(17);
    let error = refused(&splits, &PackSpec { cache, ..pack_spec() }, [1, 2]);
    assert!(error.contains("short_side (--preset) is 16, and here 17"), "{error}");
    // Another process prepares shard 0 of 2.
    let lock = fs::File::options().write(true).open(d.join("shard-0-of-2.lock")).unwrap();
    lock.lock().unwrap();
    let error = shard(d, &splits, [0, 2]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Locked { .. }) && error.to_string().contains("shard-0-of-2"), "{error}");
    let error = shard(d, &splits, [0, 3]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Locked { .. }), "{error}");
    shard(d, &splits, [1, 2]).unwrap();
    for (text, rule) in
        [("8/8", "0/8 to 7/8"), ("1", "i/n"), ("0/0", "at least one"), ("-1/3", "i/n"), ("0/9999999", "a million")]
    {
        let error = text.parse::<Shard>().unwrap_err().to_string();
        assert!(error.contains(rule), "{text}: {error}");
    }
}

#[test]
fn a_shard_goes_on_where_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits) = (dir.path().join("store"), splits());
    let want = whole(&dir.path().join("undisturbed"), &splits);
    let (mut stops, videos) = (0, splits.train.len() + splits.test.len());
    // Each time it is stopped one video later.
    for after in 1.. {
        let (stop, made) = (AtomicBool::new(false), AtomicUsize::new(0));
        let progress = |p: Progress| {
            made.fetch_max(p.done - p.reused, Ordering::Relaxed);
            stop.fetch_or(p.done - p.reused >= after, Ordering::Relaxed);
        };
        let with = Builder { threads: 1, stop: &stop, ..builder(&progress) };
        match shard_with(&d, &splits, [0, 1], &with) {
            Ok(report) => {
                assert_eq!(report.packed + report.reused, videos);
                break;
            }
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Stopped { .. }), "{e}"),
        }
        stops += 1;
        assert!(stops < videos, "it makes no progress");
        // What a killed process leaves besides.
        put(&d, "000001-000.tar.tmp", "cut short");
    }
    assert!(stops > 2);
    merge(&d).unwrap();
    assert!(content(&d) == want);
}

#[test]
fn tar_files_are_read_by_tar() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    whole(d, &splits());
    let Ok(out) = Command::new("tar").current_dir(d).args(["tvf", "000000-000.tar"]).output() else {
        return absent("tar", "tar files");
    };
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(names, ["000000000.tbv", "000000000.tbf", "000000001.tbv", "000000001.tbf"], "{text}");
    // An entry is a file as the cache has it.
    let taken = Command::new("tar").current_dir(d).args(["xf", "000000-000.tar"]).status().unwrap();
    assert!(taken.success());
    let view = tubelet::video::untrusted::view(&d.join("000000001.tbv"), Some(&d.join("000000001.tbf"))).unwrap();
    let packed = Pack::open(d).unwrap().get(1).unwrap();
    assert!(view.len() == 20 && (0..20).all(|t| view.frame(t) == packed.frame(t)));
}

/// A hundred thousand videos, opened and read in any order (the benchmark `pack` has ten million).
#[test]
fn a_large_index_is_read() {
    let dir = tempfile::tempdir().unwrap();
    pack::synthetic(dir.path(), 100_003).unwrap();
    let index = Index::open(&dir.path().join("index.tbi")).unwrap();
    let order = tubelet::video::Permutation::new(index.len(), 0, 0);
    let mut seen = vec![false; 100_003];
    for i in 0..index.len() {
        let video = order.at(i);
        let entry = index.entry(video).unwrap().unwrap();
        assert_eq!(
            (entry.key, entry.volume as u64, index.label(video).unwrap()),
            (video, video / 50, Some((video % 400) as usize))
        );
        assert!(index.name(video).unwrap().starts_with(&format!("class_{:03}/", video % 400)));
        seen[video as usize] = true;
    }
    assert!(seen.into_iter().all(|seen| seen));
}
