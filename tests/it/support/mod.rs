//! What the tests share.

pub mod close;
pub mod grad;
pub mod moving_square;
pub mod sim;
pub mod whole_run;
