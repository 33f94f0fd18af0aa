//! Data sets: which layout a path leads to, the lists of public sets, and trees that nobody would make on purpose.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use tubelet::error::{ErrorKind, Result};
use tubelet::flow::flo;
use tubelet::video::{Dataset, Source, Splits};

use crate::support::videos::{put, shared_data};

fn refusal(result: Result<Splits>) -> String {
    result.expect_err("should have been refused").to_string()
}

fn fifo(path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name is a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

#[test]
fn real_gestures_are_read_whole() {
    let Some(data) = shared_data() else { return };
    let splits = Splits::open(&data.join("gestures"), None).unwrap();
    assert_eq!((splits.train.len(), splits.test.len(), splits.train.classes.len()), (343, 177, 13));
    assert_eq!(splits.train.classes[0], "all_clear");
    assert_eq!(splits.train.items[0].name, "all_clear/v_all_clear_S12_c00.mp4");
    let Source::File(path) = &splits.test.items[0].source else { panic!("not a file") };
    assert!(path.is_file());
    assert!(splits.train.warnings.is_empty(), "{:?}", splits.train.warnings);
    // The same videos without their lists.
    let folders = Splits::open(&data.join("gestures/videos"), None).unwrap();
    assert_eq!(folders.train.len() + folders.test.len(), 520);
    assert!((100..160).contains(&folders.test.len()), "{}", folders.test.len());
    assert!(folders.layout.contains("held out"));
    for held in &folders.test.items {
        let recording = held.name.rsplit_once("_c").unwrap().0;
        assert!(folders.train.items.iter().all(|i| !i.name.starts_with(&format!("{recording}_c"))));
    }
}

#[test]
fn ucf101_lists_and_their_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for video in ["sub/Run/v_Run_g01_c01.avi", "sub/Run/v_Run_g02_c01.avi", "sub/Fly/v_Fly_g01_c01.avi"] {
        put(dir, video, video);
    }
    put(dir, "frames/Fly/v_Fly_g02_c01/1.jpg", "nor here");
    put(dir, "classInd.txt", "1 Fly\n2 Run\n");
    put(dir, "trainlist01.txt", "Run/v_Run_g01_c01.avi 2\r\nFly/v_Fly_g01_c01.avi 1\n\n");
    put(dir, "testlist01.txt", "Run/v_Run_g02_c01.avi\nFly/v_Fly_g02_c01.avi\n");
    let splits = Splits::open(dir, None).unwrap();
    assert_eq!(splits.train.labels().unwrap(), [1, 0]);
    assert_eq!(splits.test.labels().unwrap(), [1, 0]);
    assert_eq!(splits.test.items[1].source, Source::Folder(dir.join("frames/Fly/v_Fly_g02_c01")));
    assert_eq!(splits.train.warnings, ["class Fly has a single train video", "class Run has a single train video"]);

    put(dir, "testlist01.txt", "Run/absent.avi\nRun/v_Run_g02_c01.avi\nFly/absent_too.avi\n");
    let text = refusal(Splits::open(dir, None));
    assert!(text.contains("2 of the 3 videos") && text.contains("Run/absent.avi in line 1"), "{text}");
    put(dir, "testlist01.txt", "Run/v_Run_g02_c01.avi 3\n");
    assert!(refusal(Splits::open(dir, None)).contains("has class 3, which is not one of 1 to 2"));
    put(dir, "testlist01.txt", "Run/v_Run_g02_c01.avi 1\n");
    assert!(refusal(Splits::open(dir, None)).contains("has the number of class Fly and the folder of Run"));
    put(dir, "testlist01.txt", "v_Run_g02_c01.avi\n");
    assert!(refusal(Splits::open(dir, None)).contains("neither a class number nor a class folder"));
    put(dir, "testlist01.txt", "\n");
    assert!(refusal(Splits::open(dir, None)).contains("names no video"));
    put(dir, "classInd.txt", "0 Fly\n1 Run\n");
    assert!(refusal(Splits::open(dir, None)).contains("line 1, `0 Fly`, should be `1 name`"));
    put(dir, "classInd.txt", "1 Fly\n2 Run\n");
    put(dir, "again/Run/v_Run_g01_c01.avi", "");
    assert!(refusal(Splits::open(dir, None)).contains("is there 2 times"));
}

#[test]
fn plain_lists_and_their_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for video in ["a b.mp4", "c.mp4", "d.mp4"] {
        put(dir, video, video);
    }
    let train = put(dir, "train.csv", "path,label\na b.mp4,riding a bike\n# note\nc.mp4,10\n");
    put(dir, "test.csv", "d.mp4\triding a bike\n");
    let splits = Splits::open(dir, None).unwrap();
    assert_eq!(splits.train.classes, ["10", "riding a bike"]);
    assert_eq!((splits.train.labels(), splits.test.labels()), (Some(vec![1, 0]), Some(vec![1])));
    assert!(splits.test.warnings.iter().any(|w| w == "class 10 has no test video"));
    // Numbers keep their order, however large, and cost nothing.
    let numbers = put(dir, "numbers.txt", "d.mp4 99999999999\na b.mp4 9\nc.mp4 10\n");
    assert_eq!(Dataset::open(&numbers).unwrap().classes, ["9", "10", "99999999999"]);
    put(dir, "train.csv", "a b.mp4,1\nc.mp4\n");
    assert!(refusal(Splits::open(&train, None)).contains("line 2, `c.mp4`, is not `path label`"));
    put(dir, "train.csv", "x.mp4,1\nc.mp4,1\n");
    assert!(refusal(Splits::open(&train, None)).contains("1 of the 2 videos it names are absent, the first is x.mp4"));
    fs::write(&train, [0xff, 0xfe, 0x00]).unwrap();
    assert!(refusal(Splits::open(&train, None)).contains("UTF-8"));
    assert!(refusal(Splits::open(&dir.join("nowhere"), None)).contains("cannot read"));
    assert!(refusal(Splits::open(dir, Some(&train))).contains("not a training list"));
}

#[test]
fn class_folders_and_their_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(refusal(Splits::open(dir, None)).contains("there is no video in it"));
    for i in 0..8 {
        put(dir, &format!("x/v_{i}.mp4"), "");
        put(dir, &format!("y/v_{i}/0001.png"), "");
    }
    put(dir, "z/only.mp4", "");
    put(dir, "z/notes.txt", "");
    let splits = Splits::open(dir, None).unwrap();
    assert_eq!(splits.train.classes, ["x", "y", "z"]);
    assert_eq!((splits.train.len(), splits.test.len()), (13, 4));
    assert_eq!(splits.train.warnings, ["class z has a single train video"]);
    let again = Splits::open(dir, None).unwrap();
    assert_eq!(splits.test.items, again.test.items);
    put(dir, "loose.mp4", "");
    assert!(refusal(Splits::open(dir, None)).contains("lies in no class folder"));

    let parts = tempfile::tempdir().unwrap();
    for video in ["train/x/1.mp4", "train/y/1.mp4", "val/x/2.mp4", "val/y/2.mp4"] {
        put(parts.path(), video, "");
    }
    let splits = Splits::open(parts.path(), None).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (2, 2));
}

/// Videos called `names` below `dir`, each of other bytes.
fn videos(dir: &Path, names: &[&str]) {
    names.iter().for_each(|name| drop(put(dir, name, name)));
}

#[test]
fn ucf101_lists_are_found_in_their_folder_below_and_beside_the_videos() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    videos(root, &["UCF-101/Run/v_Run_g01_c01.avi", "UCF-101/Run/v_Run_g02_c01.avi", "UCF-101/Run/v_Run_g03_c01.avi"]);
    for (split, [train, test]) in [("01", [1, 2]), ("02", [2, 3]), ("03", [3, 1])] {
        let line = |n: i32, end: &str| format!("Run/v_Run_g0{n}_c01.avi{end}\n");
        put(root, &format!("ucfTrainTestlist/trainlist{split}.txt"), &line(train, " 1"));
        put(root, &format!("ucfTrainTestlist/testlist{split}.txt"), &line(test, ""));
    }
    put(root, "ucfTrainTestlist/classInd.txt", "1 Run\n");
    let names = |splits: &Splits| [&splits.train, &splits.test].map(|d| d.items[0].name.clone());
    let first = ["Run/v_Run_g01_c01.avi", "Run/v_Run_g02_c01.avi"];
    for path in [root.to_owned(), root.join("UCF-101"), root.join("ucfTrainTestlist")] {
        let splits = Splits::open(&path, None).unwrap();
        assert_eq!(names(&splits), first, "{}", path.display());
        assert!(splits.layout.contains("split 01 of the splits 01, 02, 03"), "{}", splits.layout);
        assert!(splits.layout.contains("(--split chooses another)"), "{}", splits.layout);
        assert!(splits.train.warnings.iter().all(|w| !w.contains("not used")), "{:?}", splits.train.warnings);
    }
    let lists = root.join("ucfTrainTestlist");
    let third = ["Run/v_Run_g03_c01.avi", "Run/v_Run_g01_c01.avi"];
    let [train, test] = ["trainlist03.txt", "testlist03.txt"].map(|n| lists.join(n));
    assert_eq!(names(&Splits::open(&train, None).unwrap()), third);
    assert_eq!(names(&Splits::open(&train, Some(&test)).unwrap()), third);
    // Lists of other videos beside these are told, and not used.
    videos(root, &["mine/walk/a.mp4", "mine/walk/b.mp4"]);
    let splits = Splits::open(&root.join("mine"), None).unwrap();
    assert!(
        splits.train.warnings.iter().any(|w| w.contains("ucfTrainTestlist name no video")),
        "{:?}",
        splits.train.warnings
    );
    // One half of a split is a mistake.
    fs::remove_file(lists.join("trainlist01.txt")).unwrap();
    fs::remove_file(lists.join("trainlist02.txt")).unwrap();
    assert_eq!(names(&Splits::open(root, None).unwrap()), third);
    fs::remove_file(lists.join("trainlist03.txt")).unwrap();
    assert!(refusal(Splits::open(root, None)).contains("testlist01.txt is there and trainlist01.txt is not"));
}

#[test]
fn videos_of_a_list_may_be_of_another_kind() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    videos(root, &["Run/v_Run_g01_c01.mp4", "Run/v_Run_g02_c01/1.jpg"]);
    put(root, "trainlist01.txt", "Run\\v_Run_g01_c01.avi\n");
    put(root, "testlist01.txt", "Run/v_Run_g02_c01.avi\n");
    let splits = Splits::open(root, None).unwrap();
    assert_eq!(splits.train.items[0].source, Source::File(root.join("Run/v_Run_g01_c01.mp4")));
    assert_eq!(splits.test.items[0].source, Source::Folder(root.join("Run/v_Run_g02_c01")));
}

#[test]
fn hmdb51_lists_are_read() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let name = |source: &str, class: &str, n: usize| format!("{source}_{class}_u_cm_np1_fr_goo_{n}.avi");
    let mut lists = [String::new(), String::new()];
    for (list, class) in lists.iter_mut().zip(["clap", "wave"]) {
        for (source, side) in [("#20_Rhythm", 1), ("Boys in the_Hood", 1), ("#22_Rhythm", 2), ("Spare", 0)] {
            let name = name(source, class, 0);
            put(root, &format!("hmdb51_org/{class}/{name}"), &name);
            list.push_str(&format!("{name} {side} \n"));
        }
    }
    for (list, class) in lists.iter().zip(["clap", "wave"]) {
        put(root, &format!("testTrainMulti_7030_splits/{class}_test_split1.txt"), list);
        put(root, &format!("testTrainMulti_7030_splits/{class}_test_split2.txt"), &list.replace(" 2 \n", " 0 \n"));
    }
    for path in [root.to_owned(), root.join("hmdb51_org"), root.join("testTrainMulti_7030_splits")] {
        let splits = Splits::open(&path, None).unwrap();
        assert_eq!((splits.train.len(), splits.test.len(), splits.train.classes.len()), (4, 2, 2));
        assert_eq!(splits.train.items[0].name, format!("clap/{}", name("#20_Rhythm", "clap", 0)));
        assert!(splits.layout.starts_with("HMDB51 lists"), "{}", splits.layout);
        assert!(splits.layout.contains("split 1 of the splits 1, 2"), "{}", splits.layout);
        assert!(splits.layout.ends_with("2 videos are in neither part of it"), "{}", splits.layout);
        assert!(splits.train.warnings.is_empty(), "{:?}", splits.train.warnings);
    }
    let second = root.join("testTrainMulti_7030_splits/wave_test_split2.txt");
    assert!(Splits::open(&second, None).unwrap().test.is_empty());
    put(root, "testTrainMulti_7030_splits/wave_test_split1.txt", "absent.avi 2\n");
    let text = refusal(Splits::open(root, None));
    assert!(text.contains("wave_test_split1.txt") && text.contains("wave/absent.avi in line 1"), "{text}");
    put(root, "testTrainMulti_7030_splits/wave_test_split1.txt", "x.avi 3\n");
    assert!(refusal(Splits::open(root, None)).contains("should be a video and 1 (training), 2 (testing) or 0"));
}

#[test]
fn what_looks_like_a_list_and_is_not_used_is_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    videos(root, &["x/a.mp4", "x/b.mp4", "annotations/train_list_videos.txt", "val.csv", "x/portrait.txt"]);
    let warnings = Splits::open(root, None).unwrap().train.warnings;
    let told = warnings.iter().filter(|w| w.contains("looks like a list")).collect::<Vec<_>>();
    assert!(told.len() == 1 && told[0].contains("train_list_videos.txt") && told[0].contains("1 more"), "{warnings:?}");
    // With lists of both sides, the third is told; `val` stands for `test` where that is absent.
    put(root, "train.csv", "x/a.mp4,0\n");
    put(root, "val.csv", "x/b.mp4,0\n");
    assert!(Splits::open(root, None).unwrap().layout.contains("val.csv"));
    put(root, "test.csv", "x/b.mp4,0\n");
    let splits = Splits::open(root, None).unwrap();
    assert!(splits.layout.contains("test.csv") && splits.train.warnings[0].contains("val.csv looks like a list"));
    // So are folders beside those of training and testing.
    let parts = tempfile::tempdir().unwrap();
    videos(parts.path(), &["train/x/1.mp4", "val/x/2.mp4", "test/x/3.mp4", "more/x/4.mp4"]);
    let warnings = Splits::open(parts.path(), None).unwrap().train.warnings;
    assert!(
        warnings[0].contains("more") && warnings[0].contains("val") && warnings[0].ends_with("is not used"),
        "{warnings:?}"
    );
}

#[test]
fn classes_that_only_the_test_list_has_are_refused_or_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    videos(root, &["a.mp4", "b.mp4", "c.mp4"]);
    put(root, "train.csv", "a.mp4,0\n");
    put(root, "test.csv", "b.mp4,clap\nc.mp4,wave\n");
    let text = refusal(Splits::open(root, None));
    assert!(
        text.contains("no class of the test videos (the first is clap) is one of the training videos (the first is 0)"),
        "{text}"
    );
    put(root, "test.csv", "b.mp4,0\nc.mp4,wave\n");
    assert!(Splits::open(root, None).unwrap().train.warnings.contains(&"class wave has no train video".to_owned()));
}

#[test]
fn a_folder_is_entered_once_however_many_links_lead_to_it() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    // Eight links wide and seven deep: two million paths to eight folders.
    for level in 0..7 {
        fs::create_dir_all(root.join(format!("level{level}"))).unwrap();
        for link in 0..8 {
            symlink(root.join(format!("level{}", level + 1)), root.join(format!("level{level}/{link}"))).unwrap();
        }
    }
    videos(root, &["level7/a.mp4", "level7/b.mp4"]);
    symlink(root, root.join("level7/round")).unwrap();
    let splits = Splits::open(root, None).unwrap();
    assert_eq!((splits.train.len() + splits.test.len(), splits.train.classes.len()), (2, 1));
    assert_eq!(splits.train.classes, ["level7"], "folders go by their own names");
    assert!(splits.train.warnings.iter().any(|w| w.contains("read under another name")), "{:?}", splits.train.warnings);
    // Deep is not wrong, and classes may be links.
    let deep = tempfile::tempdir().unwrap();
    let below = "d/".repeat(300);
    videos(deep.path(), &[&format!("{below}x/a.mp4"), &format!("{below}x/b.mp4")]);
    symlink(root.join("level7"), deep.path().join("linked")).unwrap();
    let splits = Splits::open(deep.path(), None).unwrap();
    assert_eq!((splits.train.classes.clone(), splits.train.len()), (vec!["linked".to_owned(), "x".to_owned()], 2));
}

#[test]
fn only_regular_files_are_videos_and_lists() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    videos(root, &["x/a.mp4", "x/b.mp4"]);
    fifo(&root.join("x/c.mp4"));
    symlink("/dev/zero", root.join("x/d.mp4")).unwrap();
    symlink("nowhere", root.join("x/e.mp4")).unwrap();
    let splits = Splits::open(root, None).unwrap();
    assert_eq!(splits.train.len() + splits.test.len(), 2);
    let told = &splits.train.warnings[0];
    assert!(told.contains("x/c.mp4 is no regular file") && told.ends_with("so it is with 2 more"), "{told}");
    let list = put(root, "list.txt", "x/a.mp4 0\nx/c.mp4 0\n");
    assert!(
        Dataset::open(&list).unwrap_err().to_string().contains("a video must be a regular file, but this is a FIFO")
    );
    fifo(&root.join("pipe"));
    for path in [root.join("pipe"), "/dev/zero".into()] {
        for error in [Splits::open(&path, None), Splits::open(&list, Some(&path))].map(Result::unwrap_err) {
            assert!(
                matches!(error.kind(), ErrorKind::Data { .. }) && error.to_string().contains("regular file"),
                "{error}"
            );
        }
    }
    // A video named as a list: sparse, of twelve gigabytes.
    fs::File::create(root.join("list.txt")).unwrap().set_len(12 << 30).unwrap();
    assert!(Dataset::open(&list).unwrap_err().to_string().contains("too many for a list"));
}

#[test]
fn flo_files_are_regular_and_of_bounded_size() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.flo");
    fifo(&path);
    assert!(
        flo::read(&path).unwrap_err().to_string().contains("a .flo file must be a regular file, but this is a FIFO")
    );
    // Twelve gigabytes that agree with the header and take no space on the disk.
    fs::remove_file(&path).unwrap();
    let (w, h) = (40_000i32, 40_000i32);
    fs::write(&path, [&b"PIEH"[..], &w.to_le_bytes(), &h.to_le_bytes()].concat()).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(12 + 8 * 40_000 * 40_000).unwrap();
    let error = flo::read(&path).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Format { .. }) && error.to_string().contains("40000x40000"), "{error}");
}

#[test]
fn pictures_beside_videos_are_not_frames() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    videos(root, &["x/a.mp4", "x/b.mp4", "x/thumb.jpg", "cover.png", "y/v1/1.jpg", "y/v2/1.jpg"]);
    let splits = Splits::open(root, None).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (2, 2));
    let warnings = &splits.train.warnings;
    assert!(warnings.iter().any(|w| w.contains("x holds pictures beside videos")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("itself holds pictures")), "{warnings:?}");
}

/// Flow, masks and depth in folders of their own, below the frames or beside them, are no videos; a class may be called so.
#[test]
fn folders_of_flow_beside_frames_are_no_videos() {
    let dir = tempfile::tempdir().unwrap();
    let picture = |path: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(8, 8).save(path).unwrap();
    };
    for class in ["walk", "cover"] {
        for video in ["v_1", "cover_drive"] {
            picture(&format!("{class}/{video}/img_00001.png"));
            for beside in ["flow_x", "flow_y", "masks", "x", "y"] {
                picture(&format!("{class}/{video}/{beside}/00001.png"));
            }
        }
    }
    let splits = Splits::open(dir.path(), None).unwrap();
    let items = || splits.train.items.iter().chain(&splits.test.items);
    assert_eq!(items().count(), 4, "{:?}", items().map(|i| &i.name).collect::<Vec<_>>());
    assert!(items().all(|item| !item.name.contains("flow") && !item.name.contains("masks")));
    let told = splits.train.warnings.join("; ");
    assert!(told.contains("beside frames") && told.contains("19 more"), "{told}");
}

/// A folder of frames inside of a video's folder is not the class, and a poster above videos is no video.
#[test]
fn classes_are_above_videos_wherever_their_frames_lie() {
    let dir = tempfile::tempdir().unwrap();
    let picture = |path: String| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::new(8, 8).save(path).unwrap();
    };
    for class in ["walk", "run"] {
        for video in ["one", "two"] {
            for inner in ["rgb", "flow_x"] {
                picture(format!("set/{class}/{video}/{inner}/00001.png"));
            }
        }
        picture(format!("set/{class}/three/00001.png"));
        picture(format!("set/{class}/poster.png"));
    }
    picture("set/overview.jpg".into());
    let splits = Splits::open(&dir.path().join("set"), None).unwrap();
    let mut names: Vec<&str> = splits.train.items.iter().chain(&splits.test.items).map(|i| &*i.name).collect();
    names.sort();
    assert_eq!(names, ["run/one", "run/three", "run/two", "walk/one", "walk/three", "walk/two"]);
    assert_eq!(splits.train.classes, ["run", "walk"]);
    let told = splits.train.warnings.join("; ");
    assert!(told.contains("beside videos") && told.contains("flow_x"), "{told}");
}
