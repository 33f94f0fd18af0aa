//! Video files, lists of data sets, the cache.

pub mod cache;
pub mod cache_failures;
pub mod cache_files;
pub mod clips;
pub mod data_trees;
pub mod datasets;
pub mod ffmpeg;
pub mod frame_folder;
pub mod leakage;
pub mod lists;
pub mod maps;
pub mod pack;
pub mod pack_files;
pub mod permutation;
pub mod public_sets;
pub mod similarity;
pub mod time_stamps;
pub mod unlabelled;
