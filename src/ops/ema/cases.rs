//! The table of cases.

pub use crate::ops::sizes::WEIGHTS as CASES;
