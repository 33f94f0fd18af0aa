//! The table of cases.

pub use crate::ops::sizes::ELEMENTS as CASES;
