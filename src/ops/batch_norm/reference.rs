//! The definition: plain loops.
