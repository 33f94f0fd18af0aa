//! Trees that hold more than videos, or the same videos twice: flow and masks, decoded copies, the output of runs.

use std::fs;
use std::path::Path;

use tubelet::error::Result;
use tubelet::video::{Dataset, Source, Splits};

use crate::support::programs::frames;
use crate::support::skip::absent;
use crate::support::videos::put;

/// All videos below `dir` by their names, in order, and the warnings.
fn found(dir: &Path) -> (Vec<String>, String) {
    let splits = Splits::open(dir, None).unwrap();
    let items = splits.train.items.iter().chain(&splits.test.items);
    let mut names: Vec<String> = items.map(|i| i.name.clone()).collect();
    names.sort();
    (names, splits.train.warnings.join("; "))
}

const VIDEOS: [&str; 4] = ["run/v_1", "run/v_2", "walk/v_1", "walk/v_2"];

#[test]
fn trees_of_flow_masks_and_depth_beside_the_frames_are_no_videos() {
    for (plain, beside) in [
        ("rgb", vec!["masks", "flow", "depth_maps"]),
        ("jpegs_256", vec!["u", "v"]),
        ("set", vec!["flow_x", "flow_y", "optical_flow"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for video in VIDEOS {
            frames(&dir.path().join(plain).join(video), 3);
            beside.iter().for_each(|tree| frames(&dir.path().join(tree).join(video), 2));
        }
        // Not for each video there is all.
        frames(&dir.path().join(beside[0]).join("walk/v_3"), 2);
        let (names, told) = found(dir.path());
        assert_eq!(names, VIDEOS, "{told}");
        let more = beside.len() - 1;
        assert!(told.contains("is a folder of flow, masks or depth beside frames"), "{told}");
        assert!(more == 0 || told.contains(&format!("so it is with {more} more")), "{told}");
    }
}

#[test]
fn a_tree_of_flow_beside_video_files_is_no_class() {
    let dir = tempfile::tempdir().unwrap();
    for video in VIDEOS {
        put(dir.path(), &format!("videos/{video}.mp4"), video);
        for part in ["x", "y"] {
            frames(&dir.path().join("flow").join(video).join(part), 2);
        }
    }
    let (names, told) = found(dir.path());
    assert_eq!(names, VIDEOS.map(|video| format!("{video}.mp4")), "{told}");
}

/// Classes may be called so, and their videos be numbered alike.
#[test]
fn classes_named_like_flow_or_masks_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["masks", "cover", "walk", "x", "sports/normal", "other/abnormal"] {
        for video in 0..3 {
            frames(&dir.path().join(class).join(format!("{video}")), 3 + video);
        }
    }
    let (names, told) = found(dir.path());
    assert_eq!(names.len(), 18, "{told}");
}

#[test]
fn videos_that_are_there_as_files_and_as_frames_are_used_once() {
    for tree in ["frames", "decoded"] {
        let dir = tempfile::tempdir().unwrap();
        for video in VIDEOS {
            put(dir.path(), &format!("videos/{video}.mp4"), video);
            frames(&dir.path().join(tree).join(video), 3);
        }
        put(dir.path(), "videos/walk/v_3.mp4", "only here");
        let (names, told) = found(dir.path());
        assert_eq!(names[..4], VIDEOS, "{told}");
        assert_eq!(names[4..], ["walk/v_3.mp4"]);
        let first = "videos/run/v_1.mp4 is left out: its frames are in a folder of the same name, and are used; so it is with 3 more";
        assert!(told.contains(first), "{told}");
    }
    // Beside each other.
    let dir = tempfile::tempdir().unwrap();
    for video in VIDEOS {
        put(dir.path(), &format!("{video}.mp4"), video);
        frames(&dir.path().join(video).join("img"), 3);
    }
    let (names, told) = found(dir.path());
    assert_eq!(names, VIDEOS, "{told}");
    // Numbers are no names.
    let dir = tempfile::tempdir().unwrap();
    for video in 0..3 {
        put(dir.path(), &format!("run/{video}.mp4"), &format!("{video}"));
        frames(&dir.path().join(format!("walk/{video}")), 3 + video);
    }
    assert_eq!(found(dir.path()).0.len(), 6);
}

/// What programs of this project write is no data, wherever it is written.
#[test]
fn output_of_earlier_runs_is_no_video() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for video in VIDEOS {
        frames(&d.join(video), 3);
        // Flow with pictures of it, in folders that were moved.
        put(d, &format!("fields/{video}/flow_00000.flo"), "");
        put(d, &format!("fields/{video}/flow_00000.png"), "");
    }
    for (run, files) in [
        ("walk/out", &["lock", "settings.json", "metrics.jsonl", "curves.png", "sheet.png", "saliency.png"][..]),
        ("runs/killed", &["lock", "sheet.png"]),
        ("runs/flow", &["summary.json", "settings.json", "flow.png"]),
    ] {
        files.iter().for_each(|file| drop(put(d, &format!("{run}/{file}"), "")));
    }
    put(d, "runs/cache/0123456789abcdef.tbv", "");
    let (names, told) = found(d);
    assert_eq!(names, VIDEOS, "{told}");
    assert!(told.contains("runs/flow is the output folder of a run") && told.contains("with 2 more"), "{told}");
}

/// Frames of a video may be copied, too, under any name.
#[test]
fn copied_folders_of_frames_are_told_and_held_out_together() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let copy = |from: &str, to: &str| {
        fs::create_dir_all(d.join(to)).unwrap();
        for file in fs::read_dir(d.join(from)).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().to_string_lossy().replace(".png", "0.png");
            fs::copy(file.path(), d.join(to).join(name)).unwrap();
        }
    };
    for video in ["a", "b", "c", "d"] {
        frames(&d.join(video), 12);
    }
    copy("a", "e");
    let list =
        |name: &str, videos: &[&str]| put(d, name, &videos.iter().map(|v| format!("{v} 0\n")).collect::<String>());
    let told = |train: &[&str], test: &[&str]| -> Vec<String> {
        Splits::open(&list("train.txt", train), Some(&list("test.txt", test))).unwrap().train.warnings
    };
    assert_eq!(
        told(&["a", "b"], &["c", "e"]),
        ["e has the same frames as a, and one is for testing, the other for training"]
    );
    // One frame less, or another frame, is another video.
    fs::remove_file(d.join("e/0110.png")).unwrap();
    assert!(told(&["a", "b"], &["c", "e"]).is_empty());
    fs::copy(d.join("b/011.png"), d.join("e/0110.png")).unwrap();
    assert!(told(&["a", "b"], &["c", "e"]).is_empty());

    for i in 0..40 {
        copy(["a", "b", "c", "d"][i % 4], &format!("classes/x/{}", char::from(b'A' + i as u8)));
    }
    let splits = Splits::open(&d.join("classes"), None).unwrap();
    let tints = |data: &Dataset| -> Vec<u8> {
        let tint = |source: &Source| {
            let Source::Folder(path) = source else { panic!("no folder") };
            image::open(path.join("0000.png")).unwrap().to_rgb8().get_pixel(0, 0)[2]
        };
        data.items.iter().map(|item| tint(&item.source)).collect()
    };
    let (train, test) = (tints(&splits.train), tints(&splits.test));
    assert!(!test.is_empty() && test.iter().all(|tint| !train.contains(tint)), "{train:?} {test:?}");
}

#[test]
fn a_video_or_another_file_in_place_of_a_list_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let refusal = |result: Result<Splits>| result.unwrap_err().to_string();
    for (name, is) in [
        ("a.jpg", "a picture"),
        ("0123456789abcdef.tbv", "a file of the cache"),
        ("weights.safetensors", "a file of weights"),
        ("videos.tar.gz", "an archive, which must be unpacked first"),
    ] {
        fs::write(d.join(name), [0xff; 8]).unwrap();
        let text = refusal(Splits::open(&d.join(name), None));
        assert!(text.contains(&format!("{name}: this is {is}: give a folder")), "{text}");
    }
    let list = put(d, "list.txt", "a.MP4 0\n");
    fs::write(d.join("a.MP4"), [0xff; 8]).unwrap();
    let text = refusal(Splits::open(&d.join("a.MP4"), Some(&list)));
    assert!(text.contains("a.MP4: this is a video: give a folder"), "{text}");
    for (test, is) in [(d.join("a.MP4"), "a video"), (d.to_owned(), "a folder")] {
        let text = refusal(Splits::open(&list, Some(&test)));
        assert!(text.contains(&format!("this is {is}: the videos for testing are given as a list")), "{text}");
    }
}

#[test]
fn frames_of_some_videos_only_are_used_for_those() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["run", "walk"] {
        for n in 0..4 {
            put(dir.path(), &format!("videos/{class}/v_{n}.mp4"), &format!("{class} {n}"));
        }
    }
    for video in ["run/v_3", "walk/v_2", "walk/v_3"] {
        frames(&dir.path().join("frames").join(video), 3);
    }
    let (names, told) = found(dir.path());
    assert_eq!(names.len(), 8, "{names:?}");
    assert!(names.contains(&"walk/v_2".to_owned()) && !names.contains(&"walk/v_2.mp4".to_owned()), "{names:?}");
    assert!(told.contains("is left out: its frames are in a folder of the same name"), "{told}");
}

#[test]
fn masks_of_more_videos_than_there_are_are_no_videos() {
    let dir = tempfile::tempdir().unwrap();
    VIDEOS.iter().for_each(|video| frames(&dir.path().join("rgb").join(video), 3));
    for class in ["run", "walk"] {
        (1..9).for_each(|n| frames(&dir.path().join(format!("masks/{class}/v_{n}")), 2));
    }
    assert_eq!(found(dir.path()).0, VIDEOS);
}

#[test]
fn classes_whose_names_are_no_utf8_stay_apart() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    for class in [&b"n\xff"[..], b"n\xfe"] {
        let class = dir.path().join(std::ffi::OsStr::from_bytes(class));
        (0..4).for_each(|n| frames(&class.join(n.to_string()), 3));
    }
    assert_eq!(Splits::open(dir.path(), None).unwrap().train.classes, ["n\\xfe", "n\\xff"]);
}

/// They were two sets of videos, or two classes, of which every video was there twice.
#[test]
fn trees_of_the_same_frames_in_two_sizes_are_refused() {
    for (one, other, videos) in [
        ("rgb_80", "rgb_240", &VIDEOS[..]),
        ("frames_small", "frames_large", &["a", "b", "c", "d"]),
        ("frames", "frames-320x240", &["a", "b", "c"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for video in videos {
            [one, other].into_iter().for_each(|tree| frames(&dir.path().join(tree).join(video), 3));
        }
        frames(&dir.path().join(other).join("run/v_9"), 3);
        let e = Splits::open(dir.path(), None).unwrap_err().to_string();
        let words = [one, other, videos[0], "hold the same videos", "give a folder with one of them"];
        assert!(words.iter().all(|word| e.contains(word)), "{e}");
    }
    // Classes, and people, may be numbered alike.
    for trees in [["video_call", "small_talk"], ["person_1", "person_2"], ["small", "large"], ["clip_1", "clip_2"]] {
        let dir = tempfile::tempdir().unwrap();
        for (i, tree) in trees.into_iter().enumerate() {
            (0..4).for_each(|video| frames(&dir.path().join(tree).join(format!("{video}")), 3 + i));
        }
        assert_eq!(found(dir.path()).0.len(), 8, "{trees:?}");
    }
}

/// Each video was a class of its own, with a video for each size.
#[test]
fn frames_in_two_sizes_in_the_folder_of_each_video_are_refused() {
    for (one, other, videos) in [
        ("rgb_240", "rgb_80", &VIDEOS[..]),
        ("rgb_240", "rgb_80", &["v_1", "v_2", "v_3"]),
        ("frames", "frames-320x240", &VIDEOS[..]),
        ("img_large", "img_small", &VIDEOS[..]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for video in videos {
            [one, other].into_iter().for_each(|size| frames(&dir.path().join(video).join(size), 3));
        }
        let e = Splits::open(dir.path(), None).unwrap_err().to_string();
        let first = dir.path().join(videos[0]);
        let both =
            format!("{} and {} hold frames of the same video", first.join(one).display(), first.join(other).display());
        let more = format!("so it is with {} more", videos.len() - 1);
        assert!(e.contains(&both) && e.contains(&more) && e.contains("keep one of them"), "{e}");
    }
}

#[test]
fn frames_in_one_size_in_the_folder_of_each_video_are_named_by_the_video() {
    for size in ["rgb_240", "rgb", "frames-320x240", "jpg_small"] {
        let dir = tempfile::tempdir().unwrap();
        VIDEOS.iter().for_each(|video| frames(&dir.path().join(video).join(size), 3));
        let (names, told) = found(dir.path());
        assert_eq!(names, VIDEOS, "{told}");
        assert_eq!(Splits::open(dir.path(), None).unwrap().train.classes, ["run", "walk"]);
        // A file of each video beside its folder.
        VIDEOS.iter().for_each(|video| drop(put(dir.path(), &format!("{video}.mp4"), video)));
        let (names, told) = found(dir.path());
        assert!(names == VIDEOS && told.contains("is left out: its frames are in a folder of the same name"), "{told}");
    }
    // Numbers that count, and many that begin high, are of videos.
    for (first, last) in [(1, 4), (98, 106)] {
        let dir = tempfile::tempdir().unwrap();
        for class in ["run", "walk"] {
            (first..=last).for_each(|n| frames(&dir.path().join(format!("part/{class}/rgb_{n}")), 3));
        }
        let (names, told) = found(dir.path());
        assert_eq!(names.len(), 2 * (last - first + 1), "{told}");
        assert_eq!(Splits::open(dir.path(), None).unwrap().train.classes, ["run", "walk"]);
    }
}

#[test]
fn a_folder_that_may_not_be_read_is_left_out_and_named() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    VIDEOS.iter().for_each(|video| frames(&dir.path().join(video), 3));
    let may = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let locked = dir.path().join("run/v_2");
    may(&locked, 0);
    if fs::read_dir(&locked).is_ok() {
        return absent("a user to whom permissions apply", "folders that may not be read");
    }
    let (names, told) = found(dir.path());
    assert!(
        names == ["run/v_1", "walk/v_1", "walk/v_2"] && told.contains("run/v_2 is a folder that cannot be"),
        "{told}"
    );
    may(&locked, 0o755);
    may(dir.path(), 0);
    let e = Splits::open(dir.path(), None).unwrap_err().to_string();
    may(dir.path(), 0o755);
    assert!(e.contains("Permission denied"), "{e}");
}
