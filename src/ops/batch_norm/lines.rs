//! Vector code of batch norm on one *line*: several consecutive rows of `c` channels. Shared by batch norm itself and
//! by convolutions that do a part of its work on results still in the cache.

use crate::ops::lanes::{LANES, Lanes, Stored, each, prefetch_ahead, whole};

/// The numbers of a [`Norm`](super::Norm) for each element of a line: `z = (x - mean) · scale + shift`, where `scale` is
/// `inv_std · gamma` and `shift` is `beta`. Subtracting first keeps the digits where the mean is large.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Line<'a> {
    pub mean: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
}

/// ReLU's mask.
#[derive(Clone, Copy)]
pub(in crate::ops) enum Mask<'a, T> {
    /// There is no ReLU.
    None,
    /// Positive where the normalised value, recomputed, is positive: cheaper than reading the result.
    Recomputed,
    /// Positive where this result is positive.
    Result(&'a [T]),
}

impl<'a, T> Mask<'a, T> {
    /// The mask of the line that starts at element `at`.
    #[inline(always)]
    pub fn from(self, at: usize) -> Mask<'a, T> {
        match self {
            Mask::Result(y) => Mask::Result(&y[at..]),
            other => other,
        }
    }

    /// Whether the mask and the parameters cover a line of `len` elements.
    fn covers(&self, line: &Line, len: usize) -> bool {
        match self {
            Mask::None => line.covers(len, false),
            Mask::Recomputed => line.covers(len, true),
            Mask::Result(y) => line.covers(len, false) && y.len() >= len,
        }
    }
}

/// Two sums for each element of a line, to which lines are added. Their length is rounded up to whole vectors.
pub(in crate::ops) struct Accumulators<'a> {
    pub one: &'a mut [f32],
    pub two: &'a mut [f32],
}

impl Accumulators<'_> {
    /// # Safety
    /// As [`Lanes`]; `at` starts a vector inside.
    #[inline(always)]
    unsafe fn add<V: Lanes>(&mut self, at: usize, one: V, two: V) {
        // SAFETY: the sums are as long as whole vectors.
        unsafe {
            let (a, b) = (self.one.as_mut_ptr().add(at), self.two.as_mut_ptr().add(at));
            V::load(a, LANES).add(one).store(a, LANES);
            V::load(b, LANES).add(two).store(b, LANES);
        }
    }
}

/// Adds `x - shift` and its square.
///
/// # Safety
/// The instruction set of `V` must be there.
#[inline(always)]
pub(in crate::ops) unsafe fn moments<V: Lanes, T: Stored>(x: &[T], shift: &[f32], sums: &mut Accumulators) {
    let room = whole(x.len());
    assert!(shift.len() >= x.len() && sums.one.len() >= room && sums.two.len() >= room);
    // SAFETY: `each` stays inside of lines that are long enough.
    each(
        x.len(),
        #[inline(always)]
        |at, n| unsafe {
            let d = T::get::<V>(x.as_ptr().add(at), n).sub(V::load(shift.as_ptr().add(at), n));
            sums.add(at, d, d.mul(d));
        },
    );
}

impl Line<'_> {
    /// Mean, scale and shift of the first `len` elements of a line.
    #[cfg(target_arch = "x86_64")] // for tiles
    pub fn numbers(&self, len: usize) -> [*const f32; 3] {
        [self.mean, self.scale, self.shift].map(|v| v[..len].as_ptr())
    }

    /// Whether there are parameters for `len` elements: the mean, and if `z` the scale and the shift.
    fn covers(&self, len: usize, z: bool) -> bool {
        self.mean.len() >= len && (!z || (self.scale.len() >= len && self.shift.len() >= len))
    }

    /// `x - mean`, and the normalised value.
    ///
    /// # Safety
    /// As [`Lanes`], and the parameters have the elements.
    #[inline(always)]
    unsafe fn at<V: Lanes>(&self, x: V, at: usize, n: usize) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe {
            let d = x.sub(V::load(self.mean.as_ptr().add(at), n));
            let z = d.mul(V::load(self.scale.as_ptr().add(at), n)).add(V::load(self.shift.as_ptr().add(at), n));
            (d, z)
        }
    }

    /// The normalised line, with `residual` added and ReLU applied where requested.
    ///
    /// # Safety
    /// The instruction set of `V` must be there.
    #[inline(always)]
    pub unsafe fn normalise<V: Lanes, T: Stored>(&self, x: &[T], residual: Option<&[T]>, relu: bool, y: &mut [T]) {
        let len = y.len();
        assert!(x.len() == len && residual.is_none_or(|r| r.len() == len) && self.covers(len, true));
        // SAFETY: `each` stays inside of lines that are long enough.
        each(
            len,
            #[inline(always)]
            |at, n| unsafe {
                prefetch_ahead(x.as_ptr().add(at));
                let (_, mut z) = self.at::<V>(T::get(x.as_ptr().add(at), n), at, n);
                if let Some(r) = residual {
                    prefetch_ahead(r.as_ptr().add(at));
                    z = z.add(T::get(r.as_ptr().add(at), n));
                }
                if relu {
                    z = z.relu();
                }
                T::put(y.as_mut_ptr().add(at), z, n);
            },
        );
    }

    /// `x - mean`, and the gradient after ReLU's mask, `dz`.
    ///
    /// # Safety
    /// As [`Lanes`], and all lines have the elements.
    #[inline(always)]
    unsafe fn pass<V: Lanes, T: Stored>(&self, x: V, dy: V, mask: Mask<T>, at: usize, n: usize) -> (V, V) {
        // SAFETY: the caller's promise.
        unsafe {
            match mask {
                Mask::None => (x.sub(V::load(self.mean.as_ptr().add(at), n)), dy),
                Mask::Recomputed => {
                    let (d, z) = self.at(x, at, n);
                    (d, dy.where_positive(z))
                }
                Mask::Result(y) => {
                    let y = T::get::<V>(y.as_ptr().add(at), n);
                    (x.sub(V::load(self.mean.as_ptr().add(at), n)), dy.where_positive(y))
                }
            }
        }
    }

    /// Adds `dz` and `dz · (x - mean)` to the sums, where `dz` is the gradient after ReLU's mask. `dz` is written to
    /// `out` unless that is null; the sums then use it as it was rounded. `dy` may alias `out`; `more`, unless null, is
    /// added to it first.
    ///
    /// # Safety
    /// The instruction set of `V` must be available; `dy`, and `more` and `out` unless null, have the elements of `x`.
    #[inline(always)]
    pub unsafe fn grad_sums<V: Lanes, T: Stored>(
        &self,
        x: &[T],
        [dy, more]: [*const T; 2],
        mask: Mask<T>,
        out: *mut T,
        sums: &mut Accumulators,
    ) {
        let (len, room) = (x.len(), whole(x.len()));
        assert!(mask.covers(self, len) && sums.one.len() >= room && sums.two.len() >= room);
        // SAFETY: `each` stays inside of lines that are long enough.
        each(
            len,
            #[inline(always)]
            |at, n| unsafe {
                prefetch_ahead(x.as_ptr().add(at));
                let mut dz = T::get::<V>(dy.add(at), n);
                if !more.is_null() {
                    prefetch_ahead(more.add(at));
                    dz = dz.add(T::get(more.add(at), n));
                }
                let (d, mut dz) = self.pass(T::get(x.as_ptr().add(at), n), dz, mask, at, n);
                if !out.is_null() {
                    dz = T::put(out.add(at), dz, n);
                }
                sums.add(at, dz, dz.mul(d));
            },
        );
    }

    /// `dx = dz · a + (x - mean) · b + d`.
    ///
    /// # Safety
    /// The instruction set of `V` must be there.
    #[inline(always)]
    pub unsafe fn grad_x<V: Lanes, T: Stored>(
        &self,
        [a, b, d]: [&[f32]; 3],
        x: &[T],
        dy: &[T],
        mask: Mask<T>,
        dx: &mut [T],
    ) {
        let len = dx.len();
        assert!(
            x.len() == len && dy.len() == len && mask.covers(self, len) && [a, b, d].iter().all(|s| s.len() >= len)
        );
        // SAFETY: `each` stays inside of lines that are long enough.
        each(
            len,
            #[inline(always)]
            |at, n| unsafe {
                prefetch_ahead(x.as_ptr().add(at));
                prefetch_ahead(dy.as_ptr().add(at));
                let load = |v: &[f32]| V::load(v.as_ptr().add(at), n);
                let (x, dy): (V, V) = (T::get(x.as_ptr().add(at), n), T::get(dy.as_ptr().add(at), n));
                let (dev, dz) = self.pass(x, dy, mask, at, n);
                T::put(dx.as_mut_ptr().add(at), dz.mul(load(a)).add(dev.mul(load(b))).add(load(d)), n);
            },
        );
    }
}
