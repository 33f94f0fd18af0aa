//! Lists of videos: the forms that people write, and what cannot be meant.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tubelet::error::{Error, ErrorKind};
use tubelet::video::Dataset;

use crate::support::videos::put;

/// The names and classes of the list `text` among videos called `files`.
fn listed(text: impl AsRef<[u8]>, files: &[&str]) -> Result<Vec<(String, String)>, Error> {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        put(dir.path(), file, file);
    }
    let list = dir.path().join("list.txt");
    fs::write(&list, text).unwrap();
    read(&list)
}

fn read(list: &Path) -> Result<Vec<(String, String)>, Error> {
    let data = Dataset::open(list)?;
    Ok(data
        .items
        .iter()
        .map(|i| (i.name.clone(), i.label.map_or_else(String::new, |label| data.classes[label].clone())))
        .collect())
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

fn refusal(text: impl AsRef<[u8]>, files: &[&str]) -> String {
    listed(text, files).expect_err("should have been refused").to_string()
}

#[test]
fn every_form_of_a_list_says_the_same() {
    let forms = [
        ("commas", "a.mp4,clap\nb.mp4,wave\n"),
        ("commas and blanks", "a.mp4 , clap\n b.mp4,  wave\n"),
        ("tabs", "a.mp4\tclap\nb.mp4\t\twave"),
        ("semicolons", "a.mp4;clap\nb.mp4;wave"),
        ("blanks", "a.mp4 clap\nb.mp4   wave  \n"),
        ("a byte order mark and CRLF", "\u{feff}a.mp4 clap\r\n\r\nb.mp4 wave\r\n"),
        ("quotes", "\"a.mp4\",\"clap\"\n\"b.mp4\", \"wave\"\n"),
        ("quotes between blanks", "\"a.mp4\" clap\nb.mp4 \"wave\"\n"),
        ("numbers of frames", "a.mp4 120 clap\nb.mp4 64 wave\n"),
        ("numbers of frames, commas", "a.mp4,120,clap\nb.mp4,64,wave\n"),
        ("comments", "# videos, and what they show\n#\na.mp4 clap\n# the second\nb.mp4 wave\n"),
        ("a header", "path,label\na.mp4,clap\nb.mp4,wave\n"),
        ("a header between blanks", "path label\na.mp4 clap\nb.mp4 wave\n"),
        ("columns in another order", "Label,Video Name\nclap,a.mp4\nwave,b.mp4\n"),
        ("other columns", ",clip_name,clip_path,label\n0,a,a.mp4,clap\n1,b,b.mp4,wave\n"),
        ("paths of a kind of its own", "name\tclass\tfps\n./a.mp4\tclap\t25\n.\\b.mp4\twave\t25\n"),
        ("empty columns at the end", "a.mp4,clap,,\nb.mp4,wave,,\n"),
    ];
    for (what, text) in forms {
        let got: Vec<(String, String)> = listed(text, &["a.mp4", "b.mp4"])
            .unwrap_or_else(|e| panic!("{what}: {e}"))
            .into_iter()
            .map(|(path, class)| (path.trim_start_matches(['.', '/', '\\']).to_owned(), class))
            .collect();
        assert_eq!(got, pairs(&[("a.mp4", "clap"), ("b.mp4", "wave")]), "{what}");
    }
}

#[test]
fn a_name_that_begins_with_a_hash_is_a_video() {
    let names = ["#20_Rhythm_clap.avi", "#.avi", "b.avi"];
    let text = "# a comment\n#20_Rhythm_clap.avi clap\n#.avi wave\nb.avi wave\n";
    assert_eq!(listed(text, &names).unwrap(), pairs(&[(names[0], "clap"), (names[1], "wave"), (names[2], "wave")]));
}

#[test]
fn names_and_labels_hold_blanks() {
    let names = ["my first video.mp4", "b.mp4"];
    let want = pairs(&[(names[0], "Hand Stand Pushups"), (names[1], "clap")]);
    for text in [
        "my first video.mp4,Hand Stand Pushups\nb.mp4,clap\n",
        "my first video.mp4\tHand Stand Pushups\nb.mp4\tclap\n",
        "my first video.mp4 Hand Stand Pushups\nb.mp4 clap\n",
        "\"my first video.mp4\" \"Hand Stand Pushups\"\nb.mp4 clap\n",
    ] {
        assert_eq!(listed(text, &names).unwrap(), want, "{text}");
    }
    // All labels are of two words: a blank could separate them too.
    let text = "b.mp4,hand stand\nmy first video.mp4,hand wave\n";
    assert_eq!(listed(text, &names).unwrap(), pairs(&[("b.mp4", "hand stand"), (names[0], "hand wave")]));
}

#[test]
fn what_holds_a_comma_is_quoted() {
    let names = ["jump, high.mp4", "b.mp4", "say \"hi\".mp4"];
    let text =
        "\"jump, high.mp4\",clap\nb.mp4,\"lifting it, then letting it drop\"\n\"say \"\"hi\"\".mp4\", \"a, b\"\n";
    let want = [(names[0], "clap"), (names[1], "lifting it, then letting it drop"), (names[2], "a, b")];
    assert_eq!(listed(text, &names).unwrap(), pairs(&want));
    // Between blanks a comma is nothing special.
    let text = "jump, high.mp4 clap\nb.mp4 wave\n";
    assert_eq!(listed(text, &names).unwrap(), pairs(&[(names[0], "clap"), ("b.mp4", "wave")]));
    assert_eq!(listed("jump, high.mp4 clap\n", &names).unwrap(), pairs(&[(names[0], "clap")]));
    // And between semicolons, as Something-Something has it.
    let text = "b.mp4;Lifting something, then letting it drop\n";
    assert_eq!(listed(text, &names).unwrap(), pairs(&[("b.mp4", "Lifting something, then letting it drop")]));
}

#[test]
fn a_line_of_two_meanings_is_refused_with_both() {
    let text = refusal("b.mp4,clap\njump, high.mp4,clap\n", &["jump, high.mp4", "b.mp4"]);
    assert!(text.contains("line 2, `jump, high.mp4,clap`"), "{text}");
    assert!(text.contains("`jump, high.mp4` with the label `clap`"), "{text}");
    assert!(text.contains("`jump` with `high.mp4,clap`"), "{text}");
    // Folders of frames: which of them is there decides.
    let one = ["take one/1.jpg", "b/1.jpg"];
    assert_eq!(listed("take one clap\nb wave\n", &one).unwrap(), pairs(&[("take one", "clap"), ("b", "wave")]));
    let other = ["take/1.jpg", "b/1.jpg"];
    assert_eq!(listed("take one clap\nb wave\n", &other).unwrap(), pairs(&[("take", "one clap"), ("b", "wave")]));
    let text = refusal("b wave\ntake one clap\n", &["take one/1.jpg", "take/1.jpg", "b/1.jpg"]);
    assert!(text.contains("line 2") && text.contains("`take` with"), "{text}");
    assert!(text.contains("`take one` with"), "{text}");
    // The number of frames is one, unless the folder's name ends in it.
    let frames = ["b/1.jpg", "c 7/1.jpg"];
    assert_eq!(listed("b 120 clap\nc 7 wave\n", &frames).unwrap(), pairs(&[("b", "clap"), ("c 7", "wave")]));
}

#[test]
fn lines_that_say_nothing_are_named() {
    let names = ["a.mp4", "b.mp4"];
    let cases = [
        ("a.mp4,clap\nb.mp4\n", "line 2, `b.mp4`, is not `path label`"),
        ("a.mp4 clap\nb.mp4 a.mp4\n", "line 2, `b.mp4 a.mp4`, is not `path label`"),
        ("a.mp4,clap\n,wave\n", "line 2, `,wave`, is not `path label`"),
        ("a.mp4,clap,25,left\n", "line 1, `a.mp4,clap,25,left`, can mean"),
        ("path,label\na.mp4,clap,25\n", "line 2, `a.mp4,clap,25`, has 3 fields, the header 2"),
        ("path,label\na.mp4,\n", "line 2, `a.mp4,`, has no `path` or no `label`"),
        ("\"a.mp4,clap\n", "line 1, `\"a.mp4,clap`, has a quote that does not end"),
        ("path,label\n", "the list names no video"),
        ("# nothing\n\n", "the list names no video"),
        ("a.mp4,clap\n~/b.mp4,wave\n", "the first is ~/b.mp4 in line 2; in a list `~` does not stand for a folder"),
    ];
    for (list, want) in cases {
        let text = refusal(list, &names);
        assert!(text.contains(want), "{list}: {text}");
    }
    // Columns that are not used are told.
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "a.mp4", "a");
    let list = put(dir.path(), "list.csv", "path,label,split\na.mp4,clap,test\n");
    let warnings = Dataset::open(&list).unwrap().warnings;
    assert!(warnings[0].ends_with("`path` and `label` are used, not split"), "{warnings:?}");
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_line() {
    let text = refusal(b"a.mp4 clap\nb.mp4 caf\xe9\n", &["a.mp4", "b.mp4"]);
    assert!(text.contains("line 2, `b.mp4 caf\\xe9`, is not UTF-8 text, for its byte 0xe9"), "{text}");
    let utf16: Vec<u8> = "\u{feff}a.mp4 clap\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refusal(utf16, &["a.mp4"]).contains("UTF-16"));
}

#[test]
fn labels_are_numbers_where_all_are() {
    let names = ["a.mp4", "b.mp4", "c.mp4"];
    let got = listed("a.mp4 01\nb.mp4 1\nc.mp4 10\n", &names).unwrap();
    assert_eq!(got, pairs(&[("a.mp4", "1"), ("b.mp4", "1"), ("c.mp4", "10")]));
    let got = listed("a.mp4 01\nb.mp4 1\nc.mp4 ten\n", &names).unwrap();
    assert_eq!(got, pairs(&[("a.mp4", "01"), ("b.mp4", "1"), ("c.mp4", "ten")]));

    let dir = tempfile::tempdir().unwrap();
    names.iter().for_each(|n| drop(put(dir.path(), n, n)));
    let warnings = |text: &str| Dataset::open(&put(dir.path(), "list.txt", text)).unwrap().warnings;
    assert_eq!(
        warnings("a.mp4 01\nb.mp4 1\nc.mp4 1\n")[0],
        "the labels 01 and 1 are one class: all labels are numbers"
    );
    let two = "the classes `Hand Stand` and `hand_stand` are two, and differ in spelling alone";
    assert_eq!(warnings("a.mp4,Hand Stand\nb.mp4,hand_stand\n")[0], two);
}

#[test]
fn paths_lead_to_videos_in_all_their_forms() {
    let dir = tempfile::tempdir().unwrap();
    let far = put(dir.path(), "far/one.AVI", "1");
    put(dir.path(), "lists/in/two.mp4", "2");
    put(dir.path(), "lists/three/0001.jpg", "3");
    let text = format!("{} x\nin\\two.mp4 x\n/in/two.mp4 x\n../far/one.AVI x\nthree.avi x\nthree x\n", far.display());
    let list = put(dir.path(), "lists/list.txt", &text);
    let data = Dataset::open(&list).unwrap();
    assert_eq!(data.len(), 3, "{:?}", data.items);
    assert!(data.warnings[0].contains("is used once; so it is with 2 more"), "{:?}", data.warnings);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever a table program writes by the rules of CSV is read as it was.
    #[test]
    fn quoted_fields_come_back_as_they_were(
        names in prop::collection::btree_set("[a-c#'\", ;\t.]{1,8}", 1..5),
        labels in prop::collection::vec("[a-c#'\", ;\t]{1,8}", 5),
        separator in prop::sample::select(vec![b',', b'\t', b';']),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = csv::WriterBuilder::new().delimiter(separator).quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
        writer.write_record(["path", "label"]).unwrap();
        let mut want = Vec::new();
        for (name, label) in names.iter().zip(&labels) {
            let (name, label) = (format!("{}x.mp4", name.trim_start()), format!("{}y", label.trim_start()));
            if want.iter().any(|(n, _)| *n == name) {
                continue;
            }
            put(dir.path(), &name, &name);
            writer.write_record([&name, &label]).unwrap();
            want.push((name, label));
        }
        let list = dir.path().join("list.csv");
        fs::write(&list, writer.into_inner().unwrap()).unwrap();
        prop_assert_eq!(read(&list).unwrap(), want.clone());
        // Without the header, the separator is found from the lines.
        let text = fs::read_to_string(&list).unwrap();
        fs::write(&list, text.split_once('\n').unwrap().1).unwrap();
        prop_assert_eq!(read(&list).unwrap(), want);
    }

    /// No list is worth a panic.
    #[test]
    fn any_text_is_read_or_refused(text in "([a-c#'\", ;\t0-9.\n\r]|\\.mp4|path|label){0,60}") {
        match listed(&text, &["a.mp4", "b.mp4"]) {
            Ok(pairs) => prop_assert!(!pairs.is_empty()),
            Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::Format { .. } | ErrorKind::Data { .. }), "{error}"),
        }
    }
}

#[test]
fn a_list_of_kinetics_names_videos_by_what_they_were_cut_from() {
    let header = "label,youtube_id,time_start,time_end,split\n";
    let text = format!("{header}clap hands,---QUuC4vJs,84,94,train\n\"wave\",0wR5jVB-WPk,417.0,427.0,train\n");
    let names = ["---QUuC4vJs_000084_000094.mp4", "0wR5jVB-WPk_000417_000427.mp4"];
    let want = pairs(&[(names[0], "clap hands"), (names[1], "wave")]);
    let below = ["train/clap hands", "train"].map(|folder| folder.to_owned() + "/");
    let elsewhere: Vec<String> = below.iter().zip(names).map(|(folder, name)| folder.clone() + name).collect();
    assert_eq!(listed(&text, &names).unwrap(), want);
    assert_eq!(listed(&text, &elsewhere.iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), want);
    // Frames of a video, and another extension.
    let other = ["x/---QUuC4vJs_000084_000094/0001.jpg", "0wR5jVB-WPk_000417_000427.mkv"];
    assert_eq!(listed(&text, &other).unwrap(), want);
    // Some are always gone: that is told. Where all are, the naming is.
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), names[0], "a");
    fs::write(dir.path().join("train.csv"), &text).unwrap();
    let data = Dataset::open(&dir.path().join("train.csv")).unwrap();
    let told = data.warnings.iter().any(|w| w.contains("1 of the 2 videos") && w.contains(names[1]));
    assert!(data.len() == 1 && told, "{:?}", data.warnings);
    let e = refusal(&text, &["other.mp4"]);
    assert!(
        e.contains("none of the 2 videos") && e.contains(names[0]) && e.contains("youtube_id_start_end.mp4"),
        "{e}"
    );
    // Its list of test videos has no labels.
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        put(dir.path(), name, name);
    }
    let list = dir.path().join("test.csv");
    fs::write(&list, "youtube_id,time_start,time_end,split\n---QUuC4vJs,84,94,test\n").unwrap();
    let data = Dataset::open(&list).unwrap();
    assert!(!data.is_labelled() && data.items[0].name == names[0], "{data:?}");
    let e = refusal(format!("{header}wave,---QUuC4vJs,soon,94,train\n"), &names);
    assert!(e.contains("line 2") && e.contains("whole seconds"), "{e}");
}
