//! The files of a packed folder: damage is named and skipped, hostile ones are refused.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use tubelet::error::ErrorKind;
use tubelet::video::pack::{self, Index, Verify};
use tubelet::video::{Cache, Pack, Split};

use super::cache::{GO_ON, all_kinds};
use super::pack::{content, merge, shard, splits, verify, whole};

const WITH: Verify<'static> = Verify { threads: 2, stop: &GO_ON, progress: &|_| {} };

/// Changes a byte.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_named_and_skipped_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits) = (dir.path(), splits());
    let want = whole(d, &splits);
    let videos = splits.train.len() + splits.test.len();
    let sound = verify(d).unwrap();
    assert_eq!((sound.videos as usize, sound.damage.len()), (videos, 0));
    // In the data of the second video's flow, which is the last entry; in the header of its file of frames; in the header of its
    // entry; and all of it.
    let tar = d.join("000000-000.tar");
    let bytes = fs::read(&tar).unwrap();
    let second = Pack::open(d).unwrap().index().entry(1).unwrap().unwrap();
    let [frames, flow] = [second.frames, second.flow.unwrap()].map(|place| place.map(|n| n as usize));
    let damages: [(&str, usize, &dyn Fn()); 5] = [
        ("flow in this cache file are not those", 1, &|| flip(&tar, flow[0] + flow[1] - 1)),
        ("header of this cache file is damaged", 1, &|| flip(&tar, frames[0] + 80)),
        ("no whole tar file", 0, &|| flip(&tar, frames[0] - 512)),
        ("and should have", 2, &|| fs::write(&tar, &bytes[..bytes.len() - 600]).unwrap()),
        ("cannot read", 2, &|| fs::remove_file(&tar).unwrap()),
    ];
    for (words, lost, damage) in damages {
        damage();
        let found = verify(d).unwrap();
        assert_eq!(found.videos as usize, videos - lost, "{words}: {found:?}");
        assert!(found.damage.iter().any(|d| d.what.contains(words)), "{words} in {:?}", found.damage);
        assert!(found.damage.iter().all(|d| d.what.contains("000000-000.tar")), "{:?}", found.damage);
        let pack = Arc::new(Pack::open(d).unwrap());
        let (cache, report) = Cache::packed(&pack, Split::Train, &all_kinds(), Some(WITH)).unwrap();
        assert_eq!((cache.usable().len(), report.failed.len()), (splits.train.len() - lost, lost), "{words}");
        assert!(
            lost == 0 || report.damaged[0].contains(&format!("000000-000.tar: {lost} video")),
            "{:?}",
            report.damaged
        );
        let bad = report.failed.iter().map(|(i, ..)| *i);
        assert!(bad.into_iter().all(|i| cache.get(i).is_err()));
        // Without its description it is made again.
        let _ = fs::remove_file(&tar);
        shard(d, &splits, [0, 1]).unwrap();
        merge(d).unwrap();
        assert!(content(d) == want, "{words}");
    }
    // A damaged description: its shard is refused by --merge, and made again.
    flip(&d.join("000001-000.json"), 150);
    let error = merge(d).unwrap_err().to_string();
    assert!(error.contains("0/1") && error.contains("000001-000"), "{error}");
    shard(d, &splits, [0, 1]).unwrap();
    merge(d).unwrap();
    assert!(content(d) == want);
}

#[test]
fn nothing_usable_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    whole(d, &splits());
    for entry in fs::read_dir(d).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "tar") {
            fs::remove_file(path).unwrap();
        }
    }
    let pack = Arc::new(Pack::open(d).unwrap());
    let error = Cache::packed(&pack, Split::Train, &all_kinds(), None).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Data { .. }) && error.to_string().contains("none of its 10 videos"),
        "{error}"
    );
}

/// Corrects the checksums of an index: nothing after them would be read otherwise.
fn mend(bytes: &mut [u8]) {
    if bytes.len() < 64 {
        return;
    }
    let sum = crc32fast::hash(&bytes[64..]);
    bytes[40..44].copy_from_slice(&sum.to_le_bytes());
    bytes[44..48].fill(0);
    let sum = crc32fast::hash(&bytes[..64]);
    bytes[44..48].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn hostile_indices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (d, path) = (dir.path(), dir.path().join("index.tbi"));
    whole(d, &splits());
    let sound = fs::read(&path).unwrap();
    let is_format = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let error = Index::open(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Format { .. }), "{what}: {error}");
        assert!(error.to_string().contains("index.tbi"), "{error}");
    };
    for n in [0, 7, 63, 64, 100, sound.len() / 2, sound.len() - 1] {
        let mut cut = sound[..n].to_vec();
        is_format(&cut, "cut short");
        mend(&mut cut);
        is_format(&cut, "cut short, with its checksum");
    }
    is_format(&[&sound[..], &[0]].concat(), "longer");
    for at in [0, 8, 12, 16, 24, 32, 40, 44, 50, 70, sound.len() / 2, sound.len() - 1] {
        let mut changed = sound.clone();
        changed[at] ^= 1;
        is_format(&changed, "a changed bit");
    }
    // Numbers of videos, tar files and bytes that are too large, or overflow in any product or sum.
    for at in [12, 16, 24, 32] {
        for huge in [u64::MAX, u64::MAX / 64, u64::MAX / 64 + 1, 1 << 58, 1 << 40] {
            let mut changed = sound.clone();
            let n = if at == 12 { 4 } else { 8 };
            changed[at..at + n].copy_from_slice(&huge.to_le_bytes()[..n]);
            mend(&mut changed);
            is_format(&changed, "a huge number");
        }
    }
    // What a record says is checked when it is used: an error or a video, and never the end of the program.
    let videos = u64::from_le_bytes(sound[16..24].try_into().unwrap()) as usize;
    let names = u64::from_le_bytes(sound[32..40].try_into().unwrap()) as usize;
    let records = sound.len() - names - 64 * videos;
    let (mut refused, mut field) = (0, 0);
    while field < 60 {
        for value in [u64::MAX, 1 << 63, 0, 1, 511, 1 << 20, (1 << 32) - 2] {
            let mut changed = sound.clone();
            let n = if field < 48 { 8 } else { 4 };
            changed[records + field..records + field + n].copy_from_slice(&value.to_le_bytes()[..n]);
            mend(&mut changed);
            fs::write(&path, &changed).unwrap();
            let pack = Pack::open(d).unwrap();
            let index = pack.index();
            refused += u32::from(index.name(0).is_err() || index.label(0).is_err() || pack.get(0).is_err());
            let _ = pack.splits();
            let _ = pack.look(0..index.len(), Some(WITH));
        }
        field += if field < 48 { 8 } else { 4 };
    }
    assert!(refused > 40, "{refused}");
    // An entry that is whole, but at an odd offset: the numbers in it could not be read where they are.
    let tar = d.join("000000-000.tar");
    let bytes = fs::read(&tar).unwrap();
    fs::write(&tar, [&[0], &bytes[..bytes.len() - 1]].concat()).unwrap();
    let mut changed = sound.clone();
    changed[records + 8..records + 16].copy_from_slice(&513u64.to_le_bytes());
    mend(&mut changed);
    fs::write(&path, &changed).unwrap();
    let error = Pack::open(d).unwrap().get(0).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Format { .. }), "{error}");
    fs::write(&tar, &bytes).unwrap();
    fs::write(&path, &sound).unwrap();
    assert!(pack::verify(&Pack::open(d).unwrap(), WITH).unwrap().damage.is_empty());
    // A name that is no text, and names that end before their bytes do: `verify` reads each.
    let last = records + 64 * (videos - 1) + 32;
    let end = u64::from_le_bytes(sound[last..last + 8].try_into().unwrap());
    for (at, bytes, words) in [
        (sound.len() - 1, &[0xff][..], format!("no name of video {}", videos - 1)),
        (last, &(end - 1).to_le_bytes(), format!("its names end after {} bytes", end - 1)),
    ] {
        let mut changed = sound.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        mend(&mut changed);
        fs::write(&path, &changed).unwrap();
        let found = pack::verify(&Pack::open(d).unwrap(), WITH).unwrap();
        assert_eq!((found.videos as usize, found.damage.len()), (videos, 1), "{found:?}");
        assert!(found.damage[0].of == "index.tbi" && found.damage[0].what.contains(&words), "{:?}", found.damage);
    }
}

/// Settings that were changed by hand are refused, and what they state costs no time, even with the right checksum.
#[test]
fn hostile_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (d, path, splits) = (dir.path(), dir.path().join("pack.json"), splits());
    shard(d, &splits, [0, 2]).unwrap();
    let sound = fs::read_to_string(&path).unwrap();
    let (videos, group) = (splits.train.len() + splits.test.len(), 3);
    let huge = sound.replace(&format!("\"videos\": {videos}"), "\"videos\": 1000000000");
    let huge = huge.replace(&format!("\"group\": {group}"), "\"group\": 1");
    assert_ne!(sound, huge);
    fs::write(&path, &huge).unwrap();
    let refused = |words: &str| {
        let error = merge(d).unwrap_err();
        let is_told = matches!(error.kind(), ErrorKind::Data { .. } | ErrorKind::Format { .. });
        assert!(is_told && error.to_string().contains(words), "{error}");
        let error = shard(d, &splits, [1, 2]).unwrap_err().to_string();
        assert!(error.contains("pack.json") || error.contains("--group"), "{error}");
    };
    refused("changed by hand");
    // The checksum is that of plan and number of shards without spaces.
    let line = |line: &str| line.trim().replacen("\": ", "\":", 1);
    let mend = |text: &str| {
        let whole: String = text.lines().map(line).collect();
        let (head, rest) = whole.split_once("\"plan\":").unwrap();
        let (plan, shards) = rest.trim_end_matches('}').split_once(",\"shards\":").unwrap();
        let sum = crc32fast::hash(format!("[{plan},{shards}]").as_bytes());
        let old = &head[head.len() - 10..head.len() - 2];
        text.replacen(old, &format!("{sum:08x}"), 1)
    };
    assert_eq!(mend(&sound), sound);
    fs::write(&path, mend(&huge)).unwrap();
    let began = std::time::Instant::now();
    refused("2 shards of 2 are not complete");
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    for (from, to) in
        [("\"shards\": 2", "\"shards\": 0"), ("\"group\": 3", "\"group\": 0"), ("\"train\": ", "\"train\": 9")]
    {
        let changed = sound.replace(from, to);
        assert_ne!(sound, changed);
        fs::write(&path, mend(&changed)).unwrap();
        refused("pack.json");
    }
    // Without it, the next shard writes it again.
    fs::remove_file(&path).unwrap();
    (0..2).for_each(|at| drop(shard(d, &splits, [at, 2]).unwrap()));
    assert_eq!(fs::read_to_string(&path).unwrap(), sound);
    merge(d).unwrap();
}

/// The tar file of another packed folder, or one in which the numbers are huge.
#[test]
fn hostile_tar_files_and_descriptions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (d, splits) = (dir.path(), splits());
    whole(d, &splits);
    let tar = d.join("000000-000.tar");
    let sound = fs::read(&tar).unwrap();
    // Huge extents in the header of the file of frames, with its checksum.
    for at in [12, 16, 20, 24, 28, 68] {
        let mut changed = sound.clone();
        let begin = 512 + u32::from_le_bytes(changed[524..528].try_into().unwrap()) as usize;
        changed[512 + at..512 + at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        changed[576..580].fill(0);
        let sum = crc32fast::hash(&changed[512..begin]);
        changed[576..580].copy_from_slice(&sum.to_le_bytes());
        fs::write(&tar, &changed).unwrap();
        let error = Pack::open(d).unwrap().get(0).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Format { .. }), "{error}");
    }
    // A huge size in the header of an entry: `verify` names it.
    let mut changed = sound.clone();
    changed[124..136].copy_from_slice(b"77777777777\0");
    fs::write(&tar, &changed).unwrap();
    assert!(verify(d).unwrap().damage.iter().any(|d| d.of == "000000-000.tar"));
    // Two tar files of equal length whose names were exchanged.
    let other = d.join("000001-000.tar");
    let second = fs::read(&other).unwrap();
    fs::write(&tar, &second).unwrap();
    fs::write(&other, &sound).unwrap();
    assert_eq!(sound.len(), second.len());
    let error = Pack::open(d).unwrap().get(0).unwrap_err().to_string();
    assert!(error.contains("this is not video 0 of the index"), "{error}");
    assert!(verify(d).unwrap().damage.len() >= 4);
    // Descriptions: truncated, of other types, with numbers that contradict each other.
    let json = d.join("000000-000.json");
    let text = fs::read_to_string(&json).unwrap();
    for (from, to) in [
        ("", "{"),
        ("\"end\":2", "\"end\":18446744073709551615"),
        ("\"bytes\":", "\"bytes\":-"),
        ("\"tbv\":[512,", "\"tbv\":[18446744073709551615,"),
    ] {
        let changed = if from.is_empty() { to.to_owned() } else { text.replacen(from, to, 1) };
        assert_ne!(changed, text, "{from}");
        // With its checksum: of the text with zeros in place of it.
        let at = changed.find("\"sum\":\"").map(|at| at + 7);
        let changed = at.map_or(changed.clone(), |at| {
            let zeros = format!("{}00000000{}", &changed[..at], &changed[at + 8..]);
            format!("{}{:08x}{}", &zeros[..at], crc32fast::hash(zeros.as_bytes()), &zeros[at + 8..])
        });
        fs::write(&json, changed).unwrap();
        let error = merge(d).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Data { .. }) && error.to_string().contains("000000-000"), "{error}");
    }
}
