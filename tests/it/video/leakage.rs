//! What must not be on both sides of a split: clips of one recording, one video under two names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tubelet::video::{Dataset, Splits};

use crate::support::videos::put;

/// Class folders of `videos` (`class/name`), each of other bytes, split by the library.
fn split(videos: &[String]) -> Splits {
    let dir = tempfile::tempdir().unwrap();
    videos.iter().for_each(|v| drop(put(dir.path(), v, v)));
    Splits::open(dir.path(), None).unwrap()
}

/// The sources of the videos of each side, `source` saying which a name is of, and that no source is on both.
fn apart<'a>(splits: &'a Splits, source: impl Fn(&'a str) -> &'a str) -> [BTreeSet<&'a str>; 2] {
    let of = |data: &'a Dataset| data.items.iter().map(|i| source(&i.name)).collect::<BTreeSet<&str>>();
    let sides = [of(&splits.train), of(&splits.test)];
    assert_eq!(sides[0].intersection(&sides[1]).next(), None, "on both sides");
    sides
}

fn per_class(data: &Dataset) -> Vec<usize> {
    (0..data.classes.len()).map(|c| data.items.iter().filter(|i| i.label == Some(c)).count()).collect()
}

#[test]
fn clips_of_one_film_of_hmdb51_stay_together_in_all_classes() {
    let attributes = ["f_cm_np1_ba_bad", "u_nm_np1_fr_goo", "h_cm_np2_le_med", "l_nm_np3_ri_med"];
    let films =
        ["April_09", "#20_Rhythm", "Faith_Rewarded", "20060723sfjffbartsinger", "(HQ)_Rock", "Boys in the", "X", "Y_f"];
    let mut videos = Vec::new();
    for class in ["brush_hair", "clap", "shoot_bow"] {
        for (i, film) in films.iter().enumerate() {
            for clip in 0..3 {
                videos.push(format!("{class}/{film}_{class}_{}_{clip}.avi", attributes[(i + clip) % 4]));
            }
        }
    }
    let splits = split(&videos);
    let film =
        |name: &str| films.iter().position(|f| name.split_once('/').unwrap().1.starts_with(&format!("{f}_"))).unwrap();
    let sides = [&splits.train, &splits.test].map(|d| d.items.iter().map(|i| film(&i.name)).collect::<BTreeSet<_>>());
    assert!(sides[0].is_disjoint(&sides[1]), "{sides:?}");
    assert_eq!((per_class(&splits.train), per_class(&splits.test)), (vec![18; 3], vec![6; 3]));
    assert!(splits.train.warnings.is_empty(), "{:?}", splits.train.warnings);
}

#[test]
fn clips_of_one_video_of_kinetics_stay_together_in_all_classes() {
    let ids = [
        "---QUuC4vJs",
        "_ab_cd-ef_g",
        "-3B32lodo2M",
        "0wR5jVB-WPk",
        "a1b2c3d4e5f",
        "Zz_0_1_2_34",
        "ytyt-yt_ytY",
        "12345678901",
    ];
    let mut videos = Vec::new();
    for (i, id) in ids.iter().enumerate() {
        for start in [10, 20, 145] {
            videos.push(format!("{}/{id}_{start:06}_{:06}.mp4", ["clap hands", "wave"][i % 2], start + 10));
        }
        // The same video shows something else too, cut by another program.
        videos.push(format!("{}/{id}_{}_{}.mp4", ["wave", "clap hands"][i % 2], 200, 210));
    }
    let sides = split(&videos);
    let [train, test] = apart(&sides, |name| &name.split_once('/').unwrap().1[..11]);
    assert_eq!((train.len(), test.len()), (6, 2));
    assert!(per_class(&sides.test).iter().all(|&n| n > 0));
}

/// A date and a time of day are no seconds of one video.
#[test]
fn videos_of_a_telephone_are_recordings_of_their_own() {
    let namings: [fn(usize) -> String; 3] = [
        |i| format!("PXL_20230101_1430{i:02}121.mp4"),
        |i| format!("VID_20230101_1430{i:02}.mp4"),
        |i| format!("IMG_{:04}.MOV", 1200 + i),
    ];
    for name in namings {
        let of = |class: &str| (0..12).map(|i| format!("{class}/{}", name(i))).collect::<Vec<_>>();
        let splits = split(&[of("walk"), of("run")].concat());
        assert_eq!((per_class(&splits.train), per_class(&splits.test)), (vec![9; 2], vec![3; 2]), "{}", name(0));
    }
}

#[test]
fn clips_named_by_a_word_or_a_number_stay_together() {
    let talks =
        ["opening talk", "garden_walk-3", "S04E02", "GOPR0123", "2019-07-14 12.30", "kitchen", "v_yoga_07", "lena"];
    for suffix in ["-0001", "_2", " (3)", "_c04", "_part5", "_clip06", "-Scene-007", "_seg8", ".part9"] {
        let suffixed = |i: usize| {
            suffix.trim_end_matches(|c: char| c.is_ascii_digit() || c == ')').to_owned()
                + &format!("{i:03}")
                + if suffix.ends_with(')') { ")" } else { "" }
        };
        let mut videos = Vec::new();
        for class in ["cooking", "dancing"] {
            for (i, talk) in talks.iter().enumerate() {
                (1..4 + i).for_each(|i| videos.push(format!("{class}/{talk}{}.mp4", suffixed(i))));
            }
        }
        let splits = split(&videos);
        let source = |name: &str| -> String {
            let (class, file) = name.split_once('/').unwrap();
            let talk = talks.iter().find(|t| file.starts_with(**t)).unwrap();
            format!("{class}/{talk}")
        };
        let sides =
            [&splits.train, &splits.test].map(|d| d.items.iter().map(|i| source(&i.name)).collect::<BTreeSet<_>>());
        assert!(sides[0].is_disjoint(&sides[1]), "{suffix}: {sides:?}");
        assert_eq!((sides[0].len(), sides[1].len()), (12, 4), "{suffix}");
    }
}

/// A number may count the videos of a class: then each is a recording of its own.
#[test]
fn numbered_videos_are_not_one_recording() {
    let numbered = |class: &str, name: &dyn Fn(usize) -> String| -> Vec<String> {
        (1..=520).map(|i| format!("{class}/{}.mp4", name(i))).collect()
    };
    let sets: [(&str, Vec<String>); 10] = [
        ("video_0001", numbered("a", &|i| format!("video_{i:04}"))),
        ("clip-1", numbered("a", &|i| format!("clip-{i}"))),
        ("video_clip_0001", numbered("a", &|i| format!("video_clip_{i:04}"))),
        ("the class and a number", numbered("Hand Stand", &|i| format!("v_HandStand_{i}"))),
        ("the class, renamed in bulk", numbered("walk", &|i| format!("Walk ({i})"))),
        ("the class and clips", numbered("run", &|i| format!("run_c{i:03}"))),
        ("the set's own name", numbered("walk", &|i| format!("mysetname_{i:05}"))),
        ("the set's own name, and a few others", {
            let mut all = numbered("walk", &|i| format!("mysetname_{i:05}"));
            all.extend(["walk/first.mp4".to_owned(), "walk/last.mp4".to_owned()]);
            all
        }),
        ("plain numbers", numbered("pushing something", &|i| format!("{}", 100_000 + 7 * i))),
        ("no separator", numbered("walk", &|i| format!("fi{i}_xvid"))),
    ];
    for (what, videos) in sets {
        let splits = split(&videos);
        let n = splits.test.len();
        assert!((130..=131).contains(&n), "{what}: {n} of {} held out, {:?}", videos.len(), splits.train.warnings);
    }
    // It is said where it was not sure.
    let splits = split(&numbered("walk", &|i| format!("mysetname_{i:05}")));
    let told = &splits.train.warnings[0];
    assert!(told.contains("520 of the 520 videos of class walk are called `walk/mysetname` and a number"), "{told}");
}

#[test]
fn the_gestures_and_ucf101_keep_their_groups() {
    let mut videos = Vec::new();
    for class in ["all_clear", "hover"] {
        for actor in ["S1", "S11", "S12", "S2"] {
            (0..5).for_each(|c| videos.push(format!("{class}/v_{class}_{actor}_c{c:02}.mp4")));
            (1..4).for_each(|c| videos.push(format!("UCF/v_UCF_g{}_c{c:02}.avi", actor.trim_start_matches('S'))));
        }
    }
    videos.sort();
    videos.dedup();
    let splits = split(&videos);
    apart(&splits, |name| name.rsplit_once("_c").unwrap().0);
    assert!(splits.train.warnings.is_empty(), "{:?}", splits.train.warnings);
}

#[test]
fn a_class_of_one_recording_is_told() {
    let mut videos: Vec<String> = (0..12).map(|i| format!("wave/match_part{i}.mp4")).collect();
    videos.extend((0..8).map(|i| format!("clap/{}.mp4", ["ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal"][i])));
    let splits = split(&videos);
    let told = &splits.train.warnings[0];
    assert!(told.contains("no video of class wave is held out: its 12 are clips of one recording"), "{told}");
    assert!(splits.test.warnings.contains(&"class wave has no test video".to_owned()), "{:?}", splits.test.warnings);
    assert_eq!((per_class(&splits.train), per_class(&splits.test)), (vec![6, 12], vec![2, 0]));
}

/// It is said of names only what names say.
#[test]
fn a_class_of_equal_files_is_told() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ann", "bob", "cid", "dan", "eve", "fay", "gil", "hal"] {
        put(dir.path(), &format!("clap/{name}.mp4"), name);
        put(dir.path(), &format!("wave/{name}.mp4"), "the same");
    }
    let told = |dir: &Path| {
        let warnings = Splits::open(dir, None).unwrap().train.warnings;
        let held = warnings.iter().find(|w| w.contains("is held out")).cloned();
        held.unwrap_or_else(|| panic!("{warnings:?}"))
    };
    let said = told(dir.path());
    assert!(said.contains("its 8 are clips of one recording, for their bytes are equal"), "{said}");
    put(dir.path(), "wave/ann_part1.mp4", "the same");
    put(dir.path(), "wave/ann_part2.mp4", "other");
    let said = told(dir.path());
    assert!(said.contains("its 10 are clips of one recording, by their names and by equal bytes"), "{said}");
}

/// A folder with videos of other bytes, and a way to open two lists in it.
fn lists(dir: &Path, train: &str, test: &str) -> Result<Splits, String> {
    for name in ["a.mp4", "b.mp4", "c.mp4", "d.mp4"] {
        put(dir, name, name);
    }
    let (train, test) = (put(dir, "train.txt", train), put(dir, "test.txt", test));
    Splits::open(&train, Some(&test)).map_err(|e| e.to_string())
}

#[test]
fn a_list_is_for_training_or_for_testing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = lists(dir, "a.mp4 0\nb.mp4 1\n", "# the same\na.mp4 0\nb.mp4 1\n").unwrap_err();
    assert!(text.contains("2 videos are for training and for testing"), "{text}");
    let text = lists(dir, "a.mp4 0\nb.mp4 1\n", "a.mp4 0\nb.mp4 1\n").unwrap_err();
    assert!(text.contains("test.txt: this list for testing says the same as") && text.contains("train.txt"), "{text}");
    let train = dir.join("train.txt");
    std::os::unix::fs::symlink(&train, dir.join("link.txt")).unwrap();
    for test in [train.clone(), dir.join("./train.txt"), dir.join("link.txt")] {
        let text = Splits::open(&train, Some(&test)).unwrap_err().to_string();
        assert!(
            text.contains("this list is given for testing, and as") && text.contains("train.txt for training"),
            "{text}"
        );
    }
    // The first is also a way to have `train.csv` and `test.csv` be one file.
    std::os::unix::fs::symlink("x.csv", dir.join("test.csv")).unwrap();
    std::os::unix::fs::symlink("x.csv", dir.join("train.csv")).unwrap();
    put(dir, "x.csv", "a.mp4,0\n");
    assert!(Splits::open(dir, None).is_err());
}

#[test]
fn a_video_has_one_side_and_one_label() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = lists(dir, "a.mp4 0\nb.mp4 1\n", "c.mp4 1\n./b.mp4 1\n").unwrap_err();
    assert!(text.contains("./b.mp4 in line 2 of") && text.contains("test.txt, as b.mp4 in line 2 of"), "{text}");
    let text = lists(dir, "a.mp4 0\nb.mp4 1\na.mp4 1\n", "c.mp4 1\n").unwrap_err();
    assert!(text.contains("a.mp4 in line 1 of") && text.contains("has class 0, and a.mp4 in line 3 of"), "{text}");
    // A hard link and a symbolic one are the file they lead to.
    put(dir, "a.mp4", "a");
    fs::hard_link(dir.join("a.mp4"), dir.join("hard.mp4")).unwrap();
    std::os::unix::fs::symlink("a.mp4", dir.join("soft.mp4")).unwrap();
    let linked = lists(dir, "a.mp4 0\nhard.mp4 0\nb.mp4 1\nsoft.mp4 0\n", "c.mp4 1\n").unwrap();
    assert_eq!(linked.train.len(), 2);
    let told = &linked.train.warnings[0];
    assert!(
        told.contains("hard.mp4 in line 2 of") && told.contains("is the same file as a.mp4 in line 1 of"),
        "{told}"
    );
    assert!(lists(dir, "a.mp4 0\n", "soft.mp4 0\n").unwrap_err().contains("a video is for training and for testing"));
    // In folders, too.
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "train/x/1.mp4", "1");
    fs::create_dir_all(tree.path().join("test/x")).unwrap();
    std::os::unix::fs::symlink("../../train/x/1.mp4", tree.path().join("test/x/2.mp4")).unwrap();
    let text = Splits::open(tree.path(), None).unwrap_err().to_string();
    assert!(text.contains("x/2.mp4, as x/1.mp4"), "{text}");
    fs::remove_dir_all(tree.path().join("test")).unwrap();
    std::os::unix::fs::symlink("train", tree.path().join("test")).unwrap();
    assert!(Splits::open(tree.path(), None).is_err());
}

#[test]
fn the_same_bytes_by_other_names_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    lists(dir, "a.mp4 0\n", "b.mp4 0\n").unwrap();
    put(dir, "copy of a.mp4", "a.mp4");
    let told = lists(dir, "a.mp4 0\nb.mp4 0\n", "copy of a.mp4 0\nc.mp4 0\n").unwrap().train.warnings;
    let want = "copy of a.mp4 has the same bytes as a.mp4, and one is for testing, the other for training";
    assert_eq!(told[0], want);
    let told = lists(dir, "a.mp4 0\nb.mp4 1\ncopy of a.mp4 1\n", "d.mp4 0\nc.mp4 1\n").unwrap().train.warnings;
    assert_eq!(told[0], "copy of a.mp4 has the same bytes as a.mp4, and another class");
    let told = lists(dir, "a.mp4 0\nb.mp4 1\ncopy of a.mp4 0\n", "d.mp4 0\nc.mp4 1\n").unwrap().train.warnings;
    assert_eq!(told[0], "copy of a.mp4 has the same bytes as a.mp4");
    // The same length and the same middle are not the same bytes.
    let long = "x".repeat(20_000);
    fs::write(dir.join("a.mp4"), format!("{long}a")).unwrap();
    fs::write(dir.join("b.mp4"), format!("{long}b")).unwrap();
    let (train, test) = (put(dir, "train.txt", "a.mp4 0\nd.mp4 0\n"), put(dir, "test.txt", "b.mp4 0\nc.mp4 0\n"));
    let told = Splits::open(&train, Some(&test)).unwrap().train.warnings;
    assert!(told.is_empty(), "{told:?}");
}

/// Copies stay together where the split is ours, whatever they are called.
#[test]
fn copies_are_held_out_together() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..40 {
        put(
            dir.path(),
            &format!("x/{}.mp4", char::from(b'a' + i % 26).to_string().repeat(1 + usize::from(i / 26))),
            &format!("{}", i % 10 + 10),
        );
    }
    let splits = Splits::open(dir.path(), None).unwrap();
    let bytes = |data: &Dataset| -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for item in &data.items {
            let tubelet::video::Source::File(path) = &item.source else { panic!("not a file") };
            *count.entry(fs::read_to_string(path).unwrap()).or_default() += 1;
        }
        count
    };
    let (train, test) = (bytes(&splits.train), bytes(&splits.test));
    assert!(test.keys().all(|k| !train.contains_key(k)), "{train:?} {test:?}");
    assert!(test.values().all(|&n| n == 4) && (2..=3).contains(&test.len()), "{test:?}");
}

#[test]
fn a_given_split_with_clips_of_one_recording_on_both_sides_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let names =
        ["v_Run_g01_c01.avi", "v_Run_g01_c02.avi", "v_Run_g02_c01.avi", "v_Run_g03_c01.avi", "x_1.mp4", "x_2.mp4"];
    names.iter().for_each(|n| drop(put(dir, n, n)));
    let list = |name: &str, of: &[usize]| {
        put(dir, name, &of.iter().map(|&i| format!("{} Run\n", names[i])).collect::<String>())
    };
    let told = |train: &[usize], test: &[usize]| {
        Splits::open(&list("train.txt", train), Some(&list("test.txt", test))).unwrap().train.warnings
    };
    let want = "1 test videos are clips of recordings that training has, by their names: the first is v_Run_g01_c02.avi, like \
                v_Run_g01_c01.avi";
    assert_eq!(told(&[0, 2], &[1, 3]), [want]);
    assert!(told(&[0, 1, 2, 4], &[3, 5]).is_empty(), "a number alone is not sure");
}
