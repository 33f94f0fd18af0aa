//! Videos without labels: folders, lists and single files, and what mixes them with others.

use std::fs;
use std::path::Path;

use tubelet::video::{Decode, Source, Splits, read};

use crate::support::videos::{encode, ffmpeg, put};

/// The names of the training videos of `data`, which has no labels.
fn unlabelled(data: &Path) -> Vec<String> {
    let splits = Splits::open(data, None).unwrap();
    assert!(!splits.train.is_labelled() && splits.train.labels().is_none() && splits.test.is_empty());
    assert!(splits.train.items.iter().all(|item| item.label.is_none()), "{:?}", splits.train.items);
    assert!(splits.layout.ends_with("have no labels"), "{}", splits.layout);
    splits.train.items.into_iter().map(|item| item.name).collect()
}

fn refusal(data: &Path, test: Option<&Path>) -> String {
    Splits::open(data, test).expect_err("should have been refused").to_string()
}

#[test]
fn videos_directly_in_a_folder_have_no_labels_and_none_is_held_out() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..5 {
        put(dir.path(), &format!("flat/{i}.mp4"), &format!("video {i}"));
    }
    put(dir.path(), "flat/frames of one/0001.png", "a frame");
    put(dir.path(), "flat/notes.txt", "");
    assert_eq!(unlabelled(&dir.path().join("flat")), ["0.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4", "frames of one"]);
    // The run that began with them goes on where the folder has moved.
    let hash = |folder: &str| Splits::open(&dir.path().join(folder), None).unwrap().train.fingerprint().unwrap();
    let before = hash("flat");
    fs::rename(dir.path().join("flat"), dir.path().join("moved")).unwrap();
    assert_eq!(hash("moved"), before);
    assert_eq!(unlabelled(&dir.path().join("moved/3.mp4")), ["3.mp4"]);
    assert_eq!(unlabelled(&dir.path().join("moved/frames of one")), ["frames of one"]);

    put(dir.path(), "moved/wave/a.mp4", "another");
    let e = refusal(&dir.path().join("moved"), None);
    assert!(e.contains("0.mp4 lies in no class folder, and ") && e.contains("wave/a.mp4 does"), "{e}");
}

#[test]
fn a_list_of_paths_alone_has_no_labels() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["a.mp4", "my b.avi", "c, d.mp4"];
    for name in names {
        put(dir.path(), name, name);
    }
    put(dir.path(), "clap your hands/0001.png", "a frame");
    let list = dir.path().join("list.txt");
    let forms = [
        "a.mp4\nmy b.avi\n\"c, d.mp4\"\nclap your hands\n",
        "# all of them\na.mp4\r\nmy b.avi\r\nc, d.mp4\r\n\r\nclap your hands\r\n",
        "path\na.mp4\nmy b.avi\nc, d.mp4\nclap your hands",
        "clap your hands\na.mp4\n\"my b.avi\"\nc, d.mp4\n",
    ];
    for text in forms {
        fs::write(&list, text).unwrap();
        let mut got = unlabelled(&list);
        got.sort();
        assert_eq!(got, ["a.mp4", "c, d.mp4", "clap your hands", "my b.avi"], "{text}");
    }
    let splits = Splits::open(&list, None).unwrap();
    assert_eq!(splits.train.items[0].source, Source::Folder(dir.path().join("clap your hands")));
    fs::write(&list, "a.mp4\ngone.mp4\n").unwrap();
    let e = refusal(&list, None);
    assert!(e.contains("1 of the 2 videos it names are absent, the first is gone.mp4 in line 2"), "{e}");
}

#[test]
fn a_list_with_labels_for_some_videos_is_refused_with_the_line() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "b.mp4"] {
        put(dir.path(), name, name);
    }
    let list = dir.path().join("list.txt");
    for (text, line) in [
        ("a.mp4\nb.mp4 1\n", "line 2, `b.mp4 1`, is no path to a video, and other lines are"),
        ("a.mp4 1\nb.mp4\n", "line 2, `b.mp4`, is not `path label`, and other lines are"),
        ("a.mp4,1\nb.mp4\n", "line 2, `b.mp4`, is not `path label`, and other lines are"),
    ] {
        fs::write(&list, text).unwrap();
        let e = refusal(&list, None);
        assert!(e.contains(line) && e.contains("give each video a label, or none"), "{e}");
    }
}

#[test]
fn test_videos_beside_videos_without_labels_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "b.mp4"] {
        put(dir.path(), name, name);
    }
    let [paths, labels] = ["paths.txt", "labels.txt"].map(|name| dir.path().join(name));
    fs::write(&paths, "a.mp4\n").unwrap();
    fs::write(&labels, "b.mp4 1\n").unwrap();
    for (train, test, who) in [(&paths, &labels, "the training videos have"), (&labels, &paths, "the test videos have")]
    {
        let e = refusal(train, Some(test));
        assert!(e.contains(&format!("{who} no labels")) && e.contains("give both labels"), "{e}");
    }
}

#[test]
fn a_film_in_parts_has_each_frame_once_and_each_part_is_a_video_of_its_own() {
    let (dir, Some(ffmpeg)) = (tempfile::tempdir().unwrap(), ffmpeg()) else { return };
    let film = "-f lavfi -i testsrc=size=64x48:rate=10:duration=21 -c:v mpeg4 -bf 2 -g 37";
    let Some(film) = encode(dir.path(), "film.mp4", film) else { return };
    let whole = Splits::open(&film, None).unwrap().train;
    let parts = whole.clone().in_parts(10.0, &ffmpeg).unwrap();
    let names: Vec<&str> = parts.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["film.mp4 from 0.000 to 10.500 s", "film.mp4 from 10.500 to 21.000 s"]);
    assert_ne!(parts.fingerprint().unwrap(), whole.fingerprint().unwrap());
    for how in [Decode::default(), Decode { fps: Some(10.0), ..Decode::default() }] {
        let frames = |source: &Source| read(source, None, &how, &ffmpeg).unwrap();
        let (all, [a, b]) = (frames(&whole.items[0].source), [0, 1].map(|i| frames(&parts.items[i].source)));
        assert_eq!((all.t, a.t, b.t, a.fps, b.fps), (210, 105, 105, 10.0, 10.0));
        assert!([a.rgb, b.rgb].concat() == all.rgb);
    }
    // What is not twice as long stays whole.
    assert_eq!(whole.clone().in_parts(11.0, &ffmpeg).unwrap().items, whole.items);
    assert!(whole.in_parts(0.0, &ffmpeg).unwrap_err().to_string().contains("seconds"));
}
