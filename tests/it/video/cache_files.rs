//! The files of the cache: damage is found and mended, hostile ones are refused, and what is stale is listed and removed.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tubelet::error::ErrorKind;
use tubelet::video::cache::{Kind, Progress, list, remove, verify};
use tubelet::video::{Cache, CacheSpec, Dataset};

use crate::support::videos::put;
use crate::video::cache::{GO_ON, all_kinds, build, builder, files, spec, videos};

#[test]
fn damaged_files_are_made_again_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(2, 9), all_kinds());
    build(dir.path(), &data, &spec).unwrap();
    let whole = files(dir.path());
    assert_eq!(whole.len(), 6);
    let huge = u32::MAX.to_le_bytes();
    for kind in Kind::ALL {
        let (name, bytes) = whole.iter().find(|(name, _)| name.ends_with(kind.extension())).unwrap();
        let (path, begin) = (dir.path().join(name), u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize);
        let changed = |at: usize, to: &[u8]| {
            let mut copy = bytes.clone();
            copy[at..at + to.len()].copy_from_slice(to);
            copy
        };
        let flipped = |at: usize, bit: u8| changed(at, &[bytes[at] ^ 1 << bit]);
        let n = bytes.len();
        let mut damages = vec![
            Vec::new(),
            bytes[..50].to_vec(),
            bytes[..100].to_vec(),
            bytes[..n - 1].to_vec(),
            [bytes.as_slice(), &[0]].concat(),
            changed(0, b"X"),
            changed(8, &3u32.to_le_bytes()),
            changed(12, &huge),
            changed(16, &huge),
            changed(24, &huge),
            changed(28, &huge),
            changed(40, &f64::NAN.to_le_bytes()),
            changed(68, &huge),
            changed(100, b"?"),
            flipped(begin - 1, 0),
        ];
        damages.extend([20, 32, 48, 52, 56, 64].map(|at| flipped(at, 3)));
        // Up to here it is found when the file is opened, whether it is verified or not.
        let opened = damages.len();
        damages.extend([flipped(begin, 0), flipped((begin + n) / 2, 7), flipped(n - 1, 0)]);
        for (i, damage) in damages.iter().enumerate() {
            fs::write(&path, damage).unwrap();
            let (cache, report) = build(dir.path(), &data, &spec).unwrap();
            assert_eq!((report.built, report.reused), (1, 1), "damage {i} of {name}");
            let at_fault = Kind::ALL.map(|k| usize::from(k == kind));
            assert_eq!([report.decoded, report.flowed, report.mapped], at_fault, "damage {i} of {name}");
            assert!(report.damaged.iter().any(|what| what.contains(name.as_str())), "{:?}", report.damaged);
            assert!(files(dir.path()) == whole, "damage {i} of {name}");
            // Found when it is read, where the header or the length is at fault.
            fs::write(&path, damage).unwrap();
            let read = |v: usize| cache.get(v).map(|_| ()).and_then(|()| cache.maps(v).map(|_| ()));
            let errors: Vec<_> = (0..2).filter_map(|v| read(v).err()).collect();
            assert_eq!(errors.len(), usize::from(i < opened || kind == Kind::Maps), "damage {i} of {name}");
            for e in errors {
                assert!(matches!(e.kind(), ErrorKind::Format { .. } | ErrorKind::Io { .. }), "{e}");
                assert!(kind != Kind::Maps || matches!(e.kind(), ErrorKind::Format { .. }), "{e}");
                assert!(e.to_string().contains(name.as_str()), "{e}");
            }
            build(dir.path(), &data, &spec).unwrap();
        }
        let cache = build(dir.path(), &data, &spec).unwrap().0;
        fs::remove_file(&path).unwrap();
        let read = |v: usize| cache.get(v).map(|_| ()).and_then(|()| cache.maps(v).map(|_| ()));
        let errors: Vec<_> = (0..2).filter_map(|v| read(v).err()).collect();
        assert!(errors.len() == 1 && matches!(errors[0].kind(), ErrorKind::Io { .. }), "{errors:?}");
        build(dir.path(), &data, &spec).unwrap();
    }
}

/// Each is told in the moment it is found, so that a building that is stopped has told it too.
#[test]
fn damage_is_told_while_building() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(4, 9), spec());
    build(dir.path(), &data, &spec).unwrap();
    let (name, bytes) = files(dir.path()).into_iter().find(|(name, _)| name.ends_with("tbv")).unwrap();
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 16;
    fs::write(dir.path().join(&name), damaged).unwrap();
    let told = Mutex::new(Vec::new());
    let progress = |p: Progress| told.lock().unwrap().extend(p.damaged);
    let with = builder(&progress);
    let report = Cache::build(dir.path(), &data, &spec, &with).unwrap().1;
    let told = told.lock().unwrap();
    assert_eq!((told.len(), &*told, report.reused), (1, &report.damaged, 3));
    assert!(told[0].contains(&name) && told[0].contains("frames"), "{told:?}");
    assert_eq!([report.decoded, report.flowed], [1, 0], "the flow of the same frames stays");
}

#[test]
fn flow_and_maps_of_other_frames_are_not_used() {
    let dir = tempfile::tempdir().unwrap();
    // Of the same size and time whatever they show: to the key nothing changes.
    let draw = |shade: u8| -> u64 {
        let draw = |name: &str| {
            let path = put(dir.path(), name, "");
            image::RgbImage::from_pixel(20, 16, image::Rgb([shade; 3])).save(&path).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
            file.metadata().unwrap().len()
        };
        ["data/a/1.png", "data/a/2.png", "data/b/1.png", "data/b/2.png"].map(draw).iter().sum()
    };
    let size = draw(70);
    let list_file = put(dir.path(), "data/list.csv", "a,0\nb,1\n");
    let data = Dataset::open(&list_file).unwrap();
    let store = dir.path().join("store");
    let (cache, _) = build(&store, &data, &all_kinds()).unwrap();
    assert_eq!(draw(80), size, "the test needs two pictures of one size");
    let frames: Vec<_> = fs::read_dir(&store).unwrap().map(|e| e.unwrap().path()).collect();
    let frames = frames.iter().filter(|p| p.extension().is_some_and(|e| e == "tbv"));
    frames.for_each(|path| fs::remove_file(path).unwrap());
    let rgb = CacheSpec { motion: None, maps: None, ..spec() };
    build(&store, &data, &rgb).unwrap();
    let text = cache.get(0).unwrap_err().to_string();
    assert!(text.contains("the frames this flow was made of have changed"), "{text}");
    let (cache, report) = build(&store, &data, &all_kinds()).unwrap();
    assert_eq!([report.decoded, report.flowed, report.mapped], [0, 2, 2]);
    assert_eq!(cache.get(0).unwrap().flow(0).1[0].to_f32(), 80.0 / 64.0);
}

/// A hostile header that is consistent with its own checksum still has to fit the file.
#[test]
fn sizes_are_checked_before_they_are_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, spec) = (videos(2, 9), spec());
    let (cache, _) = build(dir.path(), &data, &spec).unwrap();
    for (name, bytes) in files(dir.path()) {
        let begin = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        let huge = u32::MAX;
        for (at, value) in [(12, 64u32), (12, 0), (68, 0), (68, 1 << 20), (16, huge), (20, huge), (24, huge), (16, 0)] {
            let mut copy = bytes.clone();
            copy[at..at + 4].copy_from_slice(&value.to_le_bytes());
            copy[64..68].fill(0);
            let sum = crc32fast::hash(&copy[..begin]);
            copy[64..68].copy_from_slice(&sum.to_le_bytes());
            fs::write(dir.path().join(&name), copy).unwrap();
            let found = (0..2).filter(|&i| cache.get(i).is_err()).count();
            assert_eq!(found, 1, "{value} at {at}");
        }
        fs::write(dir.path().join(&name), bytes).unwrap();
    }
}

#[test]
fn what_nothing_will_use_again_is_listed_and_removed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let picture = |name: &str, shade: u8| {
        let path = put(dir.path(), name, "");
        image::RgbImage::from_pixel(20, 16, image::Rgb([shade; 3])).save(path).unwrap();
    };
    for video in ["x/kept", "x/gone", "y/changed", "y/also_kept"] {
        (0..3).for_each(|i| picture(&format!("data/{video}/{i}.png"), i * 30));
    }
    let list_file = "x/kept,0\nx/gone,0\ny/changed,1\ny/also_kept,1\n";
    put(dir.path(), "data/list.csv", list_file);
    let list_file = dir.path().join("data/list.csv");
    let data = Dataset::open(&list_file).unwrap();
    let (spec, procedural) = (all_kinds(), videos(2, 9));
    build(&store, &data, &spec).unwrap();
    build(&store, &procedural, &spec).unwrap();
    let entries = list(&store).unwrap();
    assert_eq!(entries.len(), 18);
    for e in &entries {
        assert_eq!((&e.stale, e.bytes), (&None, fs::metadata(&e.path).unwrap().len()));
        assert!(e.settings.starts_with("short side 16") && !e.source.is_empty(), "{e:?}");
        verify(e).unwrap();
    }
    // A file of the first version, one half-written, and files of other people.
    put(
        &store,
        "0123456789abcdef.tbv",
        "TBVIDEO\n\x01\0\0\0 and so on: the first version had 92 bytes before the key ......................",
    );
    put(&store, "0123456789abcdef.3.tmp", "half");
    put(&store, "notes.txt", "not ours");
    put(&store, "holiday.tbv", "not ours");
    fs::remove_dir_all(dir.path().join("data/x/gone")).unwrap();
    picture("data/y/changed/1.png", 200);
    // Frames without which flow and maps are of no use, and flow that is damaged, with its maps.
    let of = |kind: Kind, video: &str| {
        entries.iter().find(|e| e.kind == Some(kind) && e.source.contains(video)).unwrap().path.clone()
    };
    fs::remove_file(of(Kind::Frames, "also_kept")).unwrap();
    let flow = of(Kind::Flow, "procedural video 1");
    fs::write(&flow, &fs::read(&flow).unwrap()[1..]).unwrap();

    let now = list(&store).unwrap();
    let stale: Vec<_> = now.iter().filter(|e| e.stale.is_some()).collect();
    let why = |text: &str| stale.iter().filter(|e| e.stale.as_ref().unwrap().contains(text)).count();
    assert_eq!((why("its source cannot be read"), why("its source has changed")), (3, 3));
    assert_eq!(
        (why("has format 1"), why("not finished"), why("file of frames it was made of cannot be read")),
        (1, 1, 2)
    );
    assert_eq!((why("this is no cache file of flow"), why("file of flow it was made of cannot be read")), (1, 1));
    assert_eq!((stale.len(), now.len()), (12, 19));
    let stale: Vec<_> = stale.into_iter().cloned().collect();
    let lock = fs::File::create(store.join(".lock")).unwrap();
    lock.lock().unwrap();
    let stop = AtomicBool::new(false);
    let e = remove(&store, &stale, &stop, |_| stop.store(true, Ordering::Relaxed)).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Stopped { .. }) && list(&store).unwrap().len() == 19, "{e}");
    lock.unlock().unwrap();
    remove(&store, &stale, &GO_ON, |_| unreachable!()).unwrap();
    assert!(store.join("notes.txt").exists() && store.join("holiday.tbv").exists());
    assert_eq!(list(&store).unwrap().iter().filter(|e| e.stale.is_none()).count(), 7);
    let report = build(&store, &procedural, &spec).unwrap().1;
    assert_eq!([report.decoded, report.flowed, report.mapped, report.reused], [0, 1, 1, 1]);
    let report = build(&store, &data, &spec).unwrap().1;
    assert_eq!([report.decoded, report.flowed, report.mapped, report.failed.len()], [2, 2, 2, 1]);
}

/// What is damaged inside is stale to nobody until its numbers are looked at.
#[test]
fn a_flipped_bit_is_found_by_looking_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), &videos(2, 9), &all_kinds()).unwrap();
    for (name, mut bytes) in files(dir.path()) {
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let entries = list(dir.path()).unwrap();
    assert_eq!(entries.len(), 6);
    for e in entries {
        assert_eq!(e.stale, None);
        let text = verify(&e).unwrap_err().to_string();
        assert!(text.contains(&*e.path.to_string_lossy()) && text.contains("checksum"), "{text}");
    }
}

/// A run that trains maps its files anew for each sample: they are not removed under it.
#[test]
fn nothing_is_removed_while_a_run_uses_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = build(dir.path(), &videos(2, 9), &all_kinds()).unwrap();
    let entries = list(dir.path()).unwrap();
    let same = cache.clone();
    drop(cache);
    let e = remove(dir.path(), &entries, &GO_ON, |_| unreachable!()).unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Locked { .. }), "{e}");
    assert!(same.get(0).is_ok() && list(dir.path()).unwrap().len() == 6);
    drop(same);
    remove(dir.path(), &entries, &GO_ON, |_| unreachable!()).unwrap();
    assert!(list(dir.path()).unwrap().is_empty());
}
