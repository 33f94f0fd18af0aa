//! ReLU and its mask, in one pass over memory.

use crate::ops::lanes::{Lanes, Map, Stored, map};

struct Relu;

impl Map<1> for Relu {
    #[inline(always)]
    unsafe fn at<V: Lanes>(&self, [x]: [V; 1]) -> V {
        // SAFETY: the caller's promise.
        unsafe { x.relu() }
    }
}

pub(super) fn relu<T: Stored>(x: &[T], y: &mut [T]) {
    map([x], y, Relu);
}

struct Mask;

impl Map<2> for Mask {
    #[inline(always)]
    unsafe fn at<V: Lanes>(&self, [dy, y]: [V; 2]) -> V {
        // SAFETY: the caller's promise.
        unsafe { dy.where_positive(y) }
    }
}

pub(super) fn mask<T: Stored>(dy: &[T], y: &[T], dx: &mut [T]) {
    map([dy, y], dx, Mask);
}
