//! What the tests share.

pub mod close;
pub mod goldens;
pub mod grad;
pub mod moving_square;
pub mod numbers;
pub mod painted_videos;
pub mod programs;
pub mod ranks;
pub mod sim;
pub mod skip;
pub mod videos;
pub mod whole_run;
