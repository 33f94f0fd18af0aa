//! Device memory: bytes, and for each byte whether it was ever written.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// An allocation. Blocks run on several host threads and may race, so every access is atomic.
pub(crate) struct Buffer {
    base: u64,
    len: u64,
    data: Box<[AtomicU64]>,
    /// A byte per byte of data: 1 where it was written. `None` where all of it counts as written.
    init: Option<Box<[AtomicU64]>>,
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({:#x}, {} bytes)", self.base, self.len)
    }
}

fn zeros(bytes: u64) -> Box<[AtomicU64]> {
    let words = vec![0u64; bytes.div_ceil(8) as usize].into_boxed_slice();
    // SAFETY: `AtomicU64` has the size and bit validity of `u64`; going through `Vec<u64>` lets the allocator zero lazily.
    unsafe { Box::from_raw(Box::into_raw(words) as *mut [AtomicU64]) }
}

/// `n` zeros, whose memory is only committed when touched.
pub(crate) fn marks(n: usize) -> Box<[AtomicU16]> {
    let zeros = vec![0u16; n].into_boxed_slice();
    // SAFETY: `AtomicU16` has the size and bit validity of `u16`.
    unsafe { Box::from_raw(Box::into_raw(zeros) as *mut [AtomicU16]) }
}

/// A range in pieces of 1, 2, 4 or 8 bytes that are aligned to their size.
pub(crate) fn pieces(from: u64, n: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let left = from + n - at;
        if left == 0 {
            return None;
        }
        let step = 1 << (at | 8).trailing_zeros().min(left.ilog2());
        at += step;
        Some((at - step, step))
    })
}

macro_rules! atomic {
    ($words:expr, $off:expr, $T:ident) => {
        // SAFETY: callers check that the access lies inside the allocation and is aligned to its size; the words are aligned
        // to 8 bytes and are only accessed atomically while a launch runs.
        unsafe { &*$words.as_ptr().cast::<u8>().add($off as usize).cast::<$T>() }
    };
}

impl Buffer {
    /// Memory that is uninitialised, or zero.
    pub fn new(base: u64, len: u64, zeroed: bool) -> Buffer {
        Buffer { base, len, data: zeros(len), init: (!zeroed).then(|| zeros(len)) }
    }

    pub fn base(&self) -> u64 {
        self.base
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    #[inline]
    fn check(&self, off: u64, n: u32) {
        assert!(
            off.checked_add(n as u64).is_some_and(|e| e <= self.len) && off & (n as u64 - 1) == 0,
            "an unchecked access"
        );
    }

    #[inline]
    fn load(words: &[AtomicU64], off: u64, n: u32) -> u64 {
        match n {
            1 => atomic!(words, off, AtomicU8).load(Relaxed) as u64,
            2 => atomic!(words, off, AtomicU16).load(Relaxed) as u64,
            4 => atomic!(words, off, AtomicU32).load(Relaxed) as u64,
            _ => atomic!(words, off, AtomicU64).load(Relaxed),
        }
    }

    #[inline]
    fn store(words: &[AtomicU64], off: u64, n: u32, v: u64) {
        match n {
            1 => atomic!(words, off, AtomicU8).store(v as u8, Relaxed),
            2 => atomic!(words, off, AtomicU16).store(v as u16, Relaxed),
            4 => atomic!(words, off, AtomicU32).store(v as u32, Relaxed),
            _ => atomic!(words, off, AtomicU64).store(v, Relaxed),
        }
    }

    /// A value of 1, 2, 4 or 8 bytes, aligned to its size.
    #[inline]
    pub fn get(&self, off: u64, n: u32) -> u64 {
        self.check(off, n);
        Self::load(&self.data, off, n)
    }

    /// Stores a value and marks it as initialised.
    #[inline]
    pub fn set(&self, off: u64, n: u32, v: u64) {
        self.check(off, n);
        Self::store(&self.data, off, n, v);
        if let Some(init) = &self.init {
            Self::store(init, off, n, 0x0101_0101_0101_0101);
        }
    }

    /// Reads a range while a launch runs.
    pub fn load_range(&self, off: u64, out: &mut [u8]) {
        if (off | out.len() as u64).is_multiple_of(8) {
            self.span(off, out.len() as u64);
            for (to, word) in out.chunks_exact_mut(8).zip(&self.data[off as usize / 8..]) {
                to.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            }
            return;
        }
        for (at, n) in pieces(off, out.len() as u64) {
            let to = (at - off) as usize;
            out[to..to + n as usize].copy_from_slice(&self.get(at, n as u32).to_le_bytes()[..n as usize]);
        }
    }

    /// Stores a range while a launch runs.
    pub fn store_range(&self, off: u64, bytes: &[u8]) {
        for (at, n) in pieces(off, bytes.len() as u64) {
            let from = (at - off) as usize;
            let v = bytes[from..from + n as usize].iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
            self.set(at, n as u32, v);
        }
    }

    /// Whether all bytes of a value were written.
    #[inline]
    pub fn initialised(&self, off: u64, n: u32) -> bool {
        self.check(off, n);
        let ones = 0x0101_0101_0101_0101 & (u64::MAX >> (64 - 8 * n));
        self.init.as_ref().is_none_or(|init| Self::load(init, off, n) == ones)
    }

    /// Replaces a value by a function of it, and returns the old value.
    pub fn update(&self, off: u64, n: u32, f: impl Fn(u64) -> u64) -> u64 {
        self.check(off, n);
        match n {
            2 => atomic!(self.data, off, AtomicU16)
                .fetch_update(Relaxed, Relaxed, |v| Some(f(v as u64) as u16))
                .unwrap_or(0) as u64,
            4 => atomic!(self.data, off, AtomicU32)
                .fetch_update(Relaxed, Relaxed, |v| Some(f(v as u64) as u32))
                .unwrap_or(0) as u64,
            _ => atomic!(self.data, off, AtomicU64).fetch_update(Relaxed, Relaxed, |v| Some(f(v))).unwrap_or(0),
        }
    }

    fn span(&self, off: u64, n: u64) -> (usize, usize) {
        assert!(off.checked_add(n).is_some_and(|e| e <= self.len), "an unchecked access");
        (off as usize, n as usize)
    }

    fn bytes<'a>(&'a self, words: &'a [AtomicU64], off: u64, n: u64) -> &'a [AtomicU8] {
        let (off, n) = self.span(off, n);
        // SAFETY: inside the allocation, as `span` has checked, and atomic like every other view.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<AtomicU8>().add(off), n) }
    }

    /// Writes many bytes. Only called between launches.
    pub fn write(&self, off: u64, src: &[u8]) {
        let (at, n) = self.span(off, src.len() as u64);
        // SAFETY: inside the allocation; the caller holds the machine's lock, so that no launch reads it.
        unsafe {
            std::ptr::copy_nonoverlapping(src.as_ptr(), self.data.as_ptr().cast_mut().cast::<u8>().add(at), n);
        }
        self.mark(off, n as u64, 1);
    }

    /// Reads many bytes. Only called between launches.
    pub fn read(&self, off: u64, out: &mut [u8]) {
        let (at, n) = self.span(off, out.len() as u64);
        // SAFETY: inside the allocation; the caller holds the machine's lock, so that no launch writes it.
        unsafe { std::ptr::copy_nonoverlapping(self.data.as_ptr().cast::<u8>().add(at), out.as_mut_ptr(), n) }
    }

    /// Sets many bytes to one value.
    pub fn fill(&self, off: u64, byte: u8, n: u64) {
        for b in self.bytes(&self.data, off, n) {
            b.store(byte, Relaxed);
        }
        self.mark(off, n, 1);
    }

    /// Marks bytes as written (1) or not (0).
    pub fn mark(&self, off: u64, n: u64, value: u8) {
        let (at, n) = self.span(off, n);
        let Some(init) = &self.init else { return };
        // SAFETY: inside the allocation; only called between launches.
        unsafe { std::ptr::write_bytes(init.as_ptr().cast_mut().cast::<u8>().add(at), value, n) }
    }

    /// Copies bytes and whether they were written.
    pub fn copy(&self, off: u64, from: &Buffer, from_off: u64, n: u64) {
        let mut data = vec![0; n as usize];
        from.read(from_off, &mut data);
        self.write(off, &data);
        let (Some(to), Some(init)) = (&self.init, &from.init) else { return };
        let init: Vec<u8> = from.bytes(init, from_off, n).iter().map(|b| b.load(Relaxed)).collect();
        for (b, v) in self.bytes(to, off, n).iter().zip(init) {
            b.store(v, Relaxed);
        }
    }

    /// The first byte of a span that was never written.
    pub fn first_unwritten(&self, off: u64, n: u64) -> Option<u64> {
        let (at, n) = self.span(off, n);
        // SAFETY: inside the allocation; only called between launches.
        let init = unsafe { std::slice::from_raw_parts(self.init.as_ref()?.as_ptr().cast::<u8>().add(at), n) };
        let chunk = init.chunks(4096).position(|c| c.iter().fold(1, |a, b| a & b) == 0)? * 4096;
        init[chunk..].iter().position(|b| *b == 0).map(|i| off + (chunk + i) as u64)
    }
}
