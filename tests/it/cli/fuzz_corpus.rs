//! Every file of the fuzzers' corpus once through the function that is fuzzed: what was mended stays mended, on any compiler.

#[path = "../../../tools/fuzz/src/lib.rs"]
#[allow(dead_code)] // Some of it is for the seeds.
pub mod targets;

use std::fs;
use std::path::PathBuf;

/// The files of a target, in the order of their names.
fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = crate::root().join("tools/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_file_of_the_corpus_is_read_or_refused() {
    for (name, target) in targets::TARGETS {
        let files = corpus(name);
        assert!(files.len() > 1, "{name} has {} files", files.len());
        for file in files {
            println!("{}", file.display()); // shown where it fails
            target(&fs::read(&file).unwrap());
        }
    }
}

#[test]
fn every_folder_of_the_corpus_has_its_target_and_all_are_small() {
    let mut folders: Vec<String> = fs::read_dir(crate::root().join("tools/fuzz/corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    assert_eq!(folders, targets::TARGETS.map(|(name, _)| name));
    let bytes: u64 = folders.iter().flat_map(|f| corpus(f)).map(|f| fs::metadata(f).unwrap().len()).sum();
    assert!(bytes < 1 << 20, "the corpus has {bytes} bytes");
}
