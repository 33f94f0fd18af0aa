//! One pass over memory for everything that is done to a tensor, and one division of the work for all tensors; elements
//! are independent.

use super::Sgd;
use crate::cpu::traffic::{self, Work};
use crate::ops::lanes::{self, Lanes, Vectorized, each};
use half::bf16;
use rayon::prelude::*;

/// Elements per task.
const CHUNK: usize = 1 << 15;

/// The arrays of one tensor's step, or slices of them, all of the same length.
pub(super) struct Arrays<'a> {
    pub w: Weights<'a>,
    /// Weights of the key network, updated as a moving average.
    pub key: Option<&'a mut [f32]>,
    /// Receive the weights rounded to bf16.
    pub half: Option<&'a mut [bf16]>,
    pub key_half: Option<&'a mut [bf16]>,
}

pub(super) enum Weights<'a> {
    Fixed(&'a [f32]),
    /// With gradient and velocity, and the weight decay.
    Trained(&'a mut [f32], &'a [f32], &'a mut [f32], f32),
}

/// The first `n` elements of an optional array, which keeps the remainder.
fn cut<'a, T>(array: &mut Option<&'a mut [T]>, n: usize) -> Option<&'a mut [T]> {
    let (first, rest) = array.take()?.split_at_mut(n);
    *array = Some(rest);
    Some(first)
}

impl<'a> Arrays<'a> {
    fn len(&self) -> usize {
        match &self.w {
            Weights::Fixed(w) => w.len(),
            Weights::Trained(w, ..) => w.len(),
        }
    }

    /// Bytes read and written of the weights, with gradient and velocity if they are trained.
    fn of_weights(&self) -> [usize; 2] {
        match self.w {
            Weights::Fixed(_) => [4, 0],
            Weights::Trained(..) => [12, 8],
        }
        .map(|bytes| bytes * self.len())
    }

    fn read(&self) -> usize {
        self.of_weights()[0] + self.key.as_ref().map_or(0, |key| size_of_val(&key[..]))
    }

    fn wrote(&self) -> usize {
        let halves = [&self.half, &self.key_half].into_iter().flatten().map(|half| size_of_val(&half[..]));
        self.of_weights()[1] + self.key.as_ref().map_or(0, |key| size_of_val(&key[..])) + halves.sum::<usize>()
    }

    /// Divides the arrays into parts of at most [`CHUNK`] elements.
    fn cut(mut self, parts: &mut Vec<Arrays<'a>>) {
        while self.len() > CHUNK {
            let (w, rest) = match self.w {
                Weights::Fixed(w) => (Weights::Fixed(&w[..CHUNK]), Weights::Fixed(&w[CHUNK..])),
                Weights::Trained(w, g, v, decay) => {
                    let ((w, w_rest), (v, v_rest)) = (w.split_at_mut(CHUNK), v.split_at_mut(CHUNK));
                    let rest = Weights::Trained(w_rest, &g[CHUNK..], v_rest, decay);
                    (Weights::Trained(w, &g[..CHUNK], v, decay), rest)
                }
            };
            let (key, half) = (cut(&mut self.key, CHUNK), cut(&mut self.half, CHUNK));
            parts.push(Arrays { w, key, half, key_half: cut(&mut self.key_half, CHUNK) });
            self.w = rest;
        }
        parts.push(self);
    }
}

/// The constants of a step.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    pub momentum: f32,
    pub nesterov: bool,
    pub lr: f32,
    /// The factor `m` of the moving average.
    pub keep: f32,
}

impl Constants {
    pub fn new(p: &Sgd, lr: f32, keep: f32) -> Self {
        Constants { momentum: p.momentum, nesterov: p.nesterov, lr, keep }
    }
}

/// The steps of many tensors.
pub(super) fn all<'a>(constants: Constants, tensors: impl Iterator<Item = Arrays<'a>>) {
    let mut parts = Vec::new();
    tensors.for_each(|tensor| tensor.cut(&mut parts));
    let _pass = traffic::pass("sgd", || {
        let [read, wrote] = parts.iter().fold([0; 2], |[r, w], part| [r + part.read(), w + part.wrote()]);
        Work::moves(read, wrote, parts.len())
    });
    parts.into_par_iter().for_each(|arrays| lanes::run(Part { constants, arrays }));
}

struct Part<'a> {
    constants: Constants,
    arrays: Arrays<'a>,
}

/// Outputs computed from the updated weights; null if absent.
struct Followers<V> {
    keep: V,
    fresh: V,
    key: *mut f32,
    half: *mut bf16,
    key_half: *mut bf16,
}

impl<V: Lanes> Followers<V> {
    /// # Safety
    /// As [`Lanes`], for the arrays that are not null.
    #[inline(always)]
    unsafe fn follow(&self, w: V, at: usize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if !self.half.is_null() {
                w.store_half(self.half.add(at), n);
            }
            if !self.key.is_null() {
                let key = self.key.add(at);
                let k = self.keep.mul(V::load(key, n)).add(self.fresh.mul(w));
                k.store(key, n);
                if !self.key_half.is_null() {
                    k.store_half(self.key_half.add(at), n);
                }
            }
        }
    }
}

/// The address of an array of at least `len` elements; null if there is no array.
fn pointer<T>(array: &mut Option<&mut [T]>, len: usize) -> *mut T {
    array.as_mut().map_or(std::ptr::null_mut(), |a| a[..len].as_mut_ptr())
}

impl Vectorized for Part<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let Part { constants: Constants { momentum, nesterov, lr, keep }, mut arrays } = self;
        let len = arrays.len();
        // SAFETY: `each` stays inside of the arrays, whose lengths were checked; the instruction set is the caller's
        // promise.
        unsafe {
            let (momentum, lr) = (V::splat(momentum), V::splat(lr));
            let after = Followers {
                keep: V::splat(keep),
                fresh: V::splat(1.0 - keep),
                key: pointer(&mut arrays.key, len),
                half: pointer(&mut arrays.half, len),
                key_half: pointer(&mut arrays.key_half, len),
            };
            match &mut arrays.w {
                Weights::Fixed(w) => {
                    each(
                        len,
                        #[inline(always)]
                        |at, n| after.follow(V::load(w.as_ptr().add(at), n), at, n),
                    );
                }
                Weights::Trained(w, g, v, decay) => {
                    let (g, v) = (&g[..len], &mut v[..len]);
                    let decay = V::splat(*decay);
                    each(
                        len,
                        #[inline(always)]
                        |at, n| {
                            let (w, v) = (w.as_mut_ptr().add(at), v.as_mut_ptr().add(at));
                            let old = V::load(w, n);
                            let g = V::load(g.as_ptr().add(at), n).add(decay.mul(old));
                            let speed = momentum.mul(V::load(v, n)).add(g);
                            speed.store(v, n);
                            let along = if nesterov { g.add(momentum.mul(speed)) } else { speed };
                            let new = old.sub(lr.mul(along));
                            new.store(w, n);
                            after.follow(new, at, n);
                        },
                    );
                }
            }
        }
    }
}
