//! A look at the machine that takes some 25 ms: whether it still reaches what it did before.

use crate::clock::Clock;
use crate::peaks::{Buffers, best, f32_operations};

/// What is needed for a look.
pub struct Glance {
    buffers: Buffers,
    clock: Clock,
}

impl Glance {
    /// Allocates what it copies, by `clock`.
    pub fn new(clock: Clock) -> Self {
        Glance { buffers: Buffers::new(64 << 20), clock }
    }

    /// Operations and bytes per second, as the f32 and the copy of [`Peaks`](crate::peaks::Peaks): the best of three short
    /// runs each, so that a single interruption does not count as a change.
    pub fn take(&mut self) -> [f64; 2] {
        [best(self.clock, 3, 1_000_000, f32_operations), self.buffers.copy(self.clock, 3)]
    }
}
