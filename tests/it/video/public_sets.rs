//! Public data sets by their own lists: Something-Something v2, Kinetics, and the splits of UCF101 and HMDB51.

use std::fs;
use std::path::Path;

use tubelet::video::{Input, Splits};

use crate::support::videos::put;

/// Names of the videos with their classes.
fn of(data: &tubelet::video::Dataset) -> Vec<(String, String)> {
    data.items.iter().map(|item| (item.name.clone(), data.classes[item.label.unwrap()].clone())).collect()
}

fn pair(name: &str, class: &str) -> (String, String) {
    (name.to_owned(), class.to_owned())
}

const TRAIN: &str = r#"[
  {"id": "7", "label": "holding a cup next to a bottle", "template": "Holding [something] next to [something]",
   "placeholders": ["a cup", "a bottle"]},
  {"id": 12, "label": "closing box", "template": "Closing [something]", "placeholders": ["box"]},
  {"id": "99", "label": "closing a tin", "template": "Closing [something]", "placeholders": ["a tin"]}
]"#;
const VALIDATION: &str = r#"[{"id":"30","label":"closing jar","template":"Closing [something]"}]"#;
const LABELS: &str = r#"{"Closing something": "1", "Holding something next to something": "0"}"#;

/// The lists in `labels`, and the videos beside them.
fn something(root: &Path) {
    for (name, text) in
        [("train", TRAIN), ("validation", VALIDATION), ("labels", LABELS), ("test", r#"[{"id": "41"}]"#)]
    {
        put(root, &format!("labels/something-something-v2-{name}.json"), text);
    }
    for id in [7, 12, 30, 41, 99] {
        put(root, &format!("20bn-something-something-v2/{id}.webm"), &id.to_string());
    }
}

#[test]
fn something_something_is_read_by_its_lists() {
    let dir = tempfile::tempdir().unwrap();
    something(dir.path());
    let lists = ["train", "validation", "test"]
        .map(|name| dir.path().join(format!("labels/something-something-v2-{name}.json")));
    let whole = Splits::open(dir.path(), None).unwrap();
    for splits in [&whole, &Splits::open(&lists[0], Some(&lists[1])).unwrap()] {
        assert_eq!(splits.train.classes, ["Holding something next to something", "Closing something"]);
        let want = [("7", 0), ("12", 1), ("99", 1)].map(|(id, class)| pair(id, &splits.train.classes[class]));
        assert_eq!(of(&splits.train), want);
        assert_eq!(of(&splits.test), [pair("30", "Closing something")]);
    }
    // Those for testing have no labels.
    let test = Splits::open(&lists[2], None).unwrap();
    assert!(!test.train.is_labelled() && test.train.items[0].name == "41");
    // A part of the videos is enough, and it is told; without the list of labels classes are sorted.
    fs::remove_file(dir.path().join("20bn-something-something-v2/12.webm")).unwrap();
    fs::remove_file(dir.path().join("labels/something-something-v2-labels.json")).unwrap();
    let part = Splits::open(dir.path(), None).unwrap();
    assert_eq!((part.train.len(), part.train.classes[0].as_str()), (2, "Closing something"));
    assert!(
        part.train.warnings.iter().any(|w| w.contains("1 of the 3 videos") && w.contains("12 in line 4")),
        "{part:?}"
    );
}

#[test]
fn json_that_is_no_list_of_videos_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.json");
    for (text, said) in [
        ("{\"id\": 3}", "this is no array of videos"),
        ("[]", "names no video"),
        ("[\n{\"id\": \"3\"},\n{\"name\": 4}]", "line 3, `{\"name\":4}`, is no object with an `id`"),
        ("[\n{\"id\": [3]}]", "line 2, `{\"id\":[3]}`, has an `id` that is neither text nor a number"),
        ("[{\"id\": 3}", "does not go on or end"),
        ("[{\"id\": 3},\n{\"id\": 4, \"label\": \"x\"}]", "give each video a label, or none"),
    ] {
        fs::write(&list, text).unwrap();
        let e = Splits::open(&list, None).unwrap_err().to_string();
        assert!(e.contains(said), "{text}: {e}");
    }
}

#[test]
fn kinetics_is_tested_on_the_list_with_labels() {
    let dir = tempfile::tempdir().unwrap();
    for (list, text) in [
        ("train.csv", "label,youtube_id,time_start,time_end,split\nclap,aaaaaaaaaaa,1,11,train\n"),
        ("test.csv", "youtube_id,time_start,time_end,split\nbbbbbbbbbbb,1,11,test\n"),
        ("validate.csv", "label,youtube_id,time_start,time_end,split\nclap,ccccccccccc,20,30,validate\n"),
    ] {
        put(dir.path(), list, text);
    }
    for name in
        ["train/clap/aaaaaaaaaaa_000001_000011", "test/bbbbbbbbbbb_000001_000011", "val/clap/ccccccccccc_000020_000030"]
    {
        put(dir.path(), &format!("{name}.mp4"), name);
    }
    let splits = Splits::open(dir.path(), None).unwrap();
    assert_eq!(of(&splits.train), [pair("aaaaaaaaaaa_000001_000011.mp4", "clap")]);
    assert_eq!(of(&splits.test), [pair("ccccccccccc_000020_000030.mp4", "clap")]);
}

#[test]
fn a_split_of_ucf101_and_hmdb51_is_chosen_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let (ucf, hmdb) = (dir.path().join("ucf"), dir.path().join("hmdb"));
    for n in 1..4 {
        put(&ucf, &format!("UCF-101/Run/v_Run_g0{n}_c01.avi"), &format!("run {n}"));
        put(&ucf, &format!("ucfTrainTestlist/trainlist0{n}.txt"), &format!("Run/v_Run_g0{n}_c01.avi 1\n"));
        put(&ucf, &format!("ucfTrainTestlist/testlist0{n}.txt"), &format!("Run/v_Run_g0{}_c01.avi\n", n % 3 + 1));
        put(&hmdb, &format!("hmdb51_org/wave/film{n}_wave_u_cm_np1_fr_goo_0.avi"), &format!("wave {n}"));
        let lines: String = (1..4)
            .map(|m| {
                format!(
                    "film{m}_wave_u_cm_np1_fr_goo_0.avi {}\n",
                    if m == n {
                        1
                    } else if m == n % 3 + 1 {
                        2
                    } else {
                        0
                    }
                )
            })
            .collect();
        put(&hmdb, &format!("testTrainMulti_7030_splits/wave_test_split{n}.txt"), &lines);
    }
    for n in 1..4 {
        let split = Some(n);
        let at = |data: &Path| Input { data, test: None, split }.open().unwrap();
        for data in [ucf.clone(), ucf.join("UCF-101"), ucf.join("ucfTrainTestlist")] {
            assert_eq!(at(&data).train.items[0].name, format!("Run/v_Run_g0{n}_c01.avi"));
        }
        for data in [hmdb.clone(), hmdb.join("hmdb51_org"), hmdb.join("testTrainMulti_7030_splits")] {
            let splits = at(&data);
            assert_eq!((splits.train.len(), splits.test.len()), (1, 1));
            assert!(splits.train.items[0].name.contains(&format!("film{n}_wave")), "{splits:?}");
        }
    }
    let refused =
        |data: &Path, split: u64| Input { data, test: None, split: Some(split) }.open().unwrap_err().to_string();
    let e = refused(&ucf, 4);
    assert!(e.contains("--split 4 is none of the splits 01, 02, 03"), "{e}");
    let e = refused(&ucf.join("ucfTrainTestlist/trainlist02.txt"), 1);
    assert!(e.contains("this is a list of split 02, and --split 1 was given"), "{e}");
    let e = refused(&ucf.join("UCF-101/Run"), 1);
    assert!(e.contains("there are no such lists"), "{e}");
}
