//! What tests of video files need, of the other tests.
#![allow(dead_code, reason = "the tests here need only some of it")]

#[path = "../it/support/skip.rs"]
pub mod skip;
#[path = "../it/support/videos.rs"]
pub mod videos;
