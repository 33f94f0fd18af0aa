//! What the tests share.

pub mod close;
pub mod goldens;
pub mod grad;
pub mod moving_square;
pub mod numbers;
pub mod sim;
pub mod whole_run;
