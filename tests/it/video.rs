//! Video in: procedural clips, data sets, sampling, files, folders of frames.

use std::fs;
use std::path::{Path, PathBuf};

use tubelet::video::{ProceduralSpec, Source, Splits};

/// The folder of real data beside the checkout, or a printed line that it is absent.
pub fn shared_data() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !dir.is_dir() {
        println!("skipped: {} is absent", dir.display());
        return None;
    }
    Some(dir)
}

/// Writes `text` at `dir/name`, with the folders above it.
pub fn put(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn refusal(result: tubelet::error::Result<Splits>) -> String {
    result.err().expect("should have been refused").to_string()
}

#[test]
fn procedural_clips_depend_on_seed_and_number_alone() {
    let spec = ProceduralSpec { classes: 12, frames: 6, side: 48, ..Default::default() };
    let clip = spec.clip(17).unwrap();
    assert_eq!((clip.t, clip.h, clip.w, clip.rgb.len()), (6, 48, 48, 6 * 48 * 48 * 3));
    assert_eq!(clip, spec.clip(17).unwrap());
    assert_ne!(clip.rgb, spec.clip(29).unwrap().rgb, "another video of the same class");
    assert_ne!(clip.rgb, ProceduralSpec { seed: 1, ..spec.clone() }.clip(17).unwrap().rgb);
    assert_ne!(clip.frame(0), clip.frame(5), "it moves");
    assert!(ProceduralSpec { classes: 13, ..spec.clone() }.clip(0).is_err());
    assert!(ProceduralSpec { side: 0, ..spec.clone() }.clip(0).is_err());
    assert!(ProceduralSpec { fps: f64::NAN, ..spec }.clip(0).is_err());
}

/// The look is drawn without regard to the class: with the motion exchanged, the first frame stays the same for all
/// motions that start at the centre of their path.
#[test]
fn the_class_decides_nothing_about_the_look() {
    let few = ProceduralSpec { classes: 2, frames: 9, side: 32, ..Default::default() };
    let more = ProceduralSpec { classes: 3, ..few.clone() };
    // Number 3 is class 1 (right) of two and class 0 (left) of three.
    let (right, left) = (few.clip(3).unwrap(), more.clip(3).unwrap());
    assert_eq!(right.frame(0), left.frame(0));
    assert_ne!(right.frame(8), left.frame(8));
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
        put(dir, video, "not read here");
    }
    put(dir, "frames/Fly/v_Fly_g02_c01/1.jpg", "nor here");
    put(dir, "classInd.txt", "1 Fly\n2 Run\n");
    put(dir, "trainlist01.txt", "Run/v_Run_g01_c01.avi 2\r\nFly/v_Fly_g01_c01.avi 1\n\n");
    put(dir, "testlist01.txt", "Run/v_Run_g02_c01.avi\nFly/v_Fly_g02_c01.avi\n");
    let splits = Splits::open(dir, None).unwrap();
    assert_eq!(splits.train.labels(), [1, 0]);
    assert_eq!(splits.test.labels(), [1, 0]);
    assert_eq!(splits.test.items[1].source, Source::Folder(dir.join("frames/Fly/v_Fly_g02_c01")));
    assert_eq!(splits.train.warnings, ["class Fly has a single train video", "class Run has a single train video"]);

    put(dir, "testlist01.txt", "Run/absent.avi\nRun/v_Run_g02_c01.avi\nFly/absent_too.avi\n");
    let text = refusal(Splits::open(dir, None));
    assert!(text.contains("2 of the 3 videos") && text.contains("Run/absent.avi in line 1"), "{text}");
    put(dir, "testlist01.txt", "Run/v_Run_g02_c01.avi 3\n");
    assert!(refusal(Splits::open(dir, None)).contains("line 1: class 3 is not one of 1 to 2"));
    put(dir, "testlist01.txt", "Run/v_Run_g02_c01.avi 1\n");
    assert!(refusal(Splits::open(dir, None)).contains("the number says class Fly, the folder says Run"));
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
        put(dir, video, "");
    }
    let train = put(dir, "train.csv", "path,label\na b.mp4,riding a bike\n# note\nc.mp4,10\n");
    put(dir, "test.csv", "d.mp4\triding a bike\n");
    let splits = Splits::open(dir, None).unwrap();
    assert_eq!(splits.train.classes, ["10", "riding a bike"]);
    assert_eq!((splits.train.labels(), splits.test.labels()), (vec![1, 0], vec![1]));
    assert!(splits.test.warnings.iter().any(|w| w == "class 10 has no test video"));
    // Numbers keep their order, however large, and cost nothing.
    let test = put(dir, "numbers.txt", "d.mp4 99999999999\na b.mp4 9\nc.mp4 10\n");
    assert_eq!(Splits::open(&test, Some(&test)).unwrap().train.classes, ["9", "10", "99999999999"]);
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

#[test]
fn procedural_splits_share_no_video() {
    let spec = ProceduralSpec { classes: 4, videos_per_class: 3, test_per_class: 2, ..Default::default() };
    let splits = Splits::procedural(&spec).unwrap();
    assert_eq!((splits.train.len(), splits.test.len()), (12, 8));
    assert_eq!(splits.test.items[0].source, Source::Procedural(12));
    assert!((0..4).all(|c| splits.test.labels().iter().filter(|&&l| l == c).count() == 2));
    assert_eq!(splits.train.procedural, Some(spec));
}
