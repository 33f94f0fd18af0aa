//! The allocator of tensors' buffers: large stretches of address space, divided into blocks that are merged again when
//! freed.
//!
//! A training step allocates the same sizes again and again, and fresh pages from the operating system cost more than
//! many kernels. With a free list per exact size, the process would hold the sum, over all sizes, of the peak of each:
//! the forward pass allocates the large blocks, and the backward pass frees them in another order. Here a free range
//! serves any size, lowest address first, so that the process holds little more than the peak of what was allocated at
//! once. On Linux the pages are huge ones where the system permits.

use bytemuck::{Pod, Zeroable};
use std::alloc::{Layout, alloc_zeroed};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Mutex;

/// One cache line; the unit of allocation.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

/// Lines per stretch, unless a single block needs more. Only pages that are written become resident, so on 64-bit
/// systems that reserve lazily a stretch may be long.
const STRETCH: usize = if cfg!(miri) {
    1 << 10
} else if cfg!(all(unix, target_pointer_width = "64")) {
    1 << 24
} else {
    1 << 20
};

/// Lines of a huge page, to which a stretch is aligned.
const HUGE: usize = 1 << 15;

/// Lines that belong to one owner.
pub(super) struct Block {
    at: NonNull<Line>,
    lines: usize,
}

// SAFETY: a block has exclusive access to its lines, like a boxed slice.
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

impl Block {
    /// `lines` lines (at least one) of arbitrary content; `None` if the system has no memory.
    pub(super) fn take(lines: usize) -> Option<Block> {
        #[cfg(any(miri, tubelet_sanitize))]
        return Block::alone(lines);
        #[cfg(not(any(miri, tubelet_sanitize)))]
        Block::shared(lines)
    }

    /// From the system allocator: with `cfg(tubelet_sanitize)` (`cargo xtask sanitize`) a sanitizer then knows the
    /// bounds of each block.
    #[cfg(any(miri, tubelet_sanitize))]
    fn alone(lines: usize) -> Option<Block> {
        let layout = Layout::array::<Line>(lines).ok()?;
        // SAFETY: there is at least one line, so the layout has a size.
        NonNull::new(unsafe { alloc_zeroed(layout) }.cast()).map(|at| Block { at, lines })
    }

    #[cfg(not(any(miri, tubelet_sanitize)))]
    fn shared(lines: usize) -> Option<Block> {
        let mut arena = ARENA.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(at) = arena.iter_mut().find_map(|s| s.take(lines)) {
            return Some(Block { at, lines });
        }
        let mut stretch = Stretch::new(lines)?;
        let at = stretch.take(lines).expect("a new stretch is as long as was asked for");
        arena.push(stretch);
        Some(Block { at, lines })
    }
}

impl Deref for Block {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: the lines are allocated, initialised (initially with zeros), and belong to this block alone.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.lines) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.lines) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        #[cfg(any(miri, tubelet_sanitize))]
        if let Ok(layout) = Layout::array::<Line>(self.lines) {
            // SAFETY: it was allocated with this layout, and this block owns it.
            unsafe { std::alloc::dealloc(self.at.as_ptr().cast(), layout) };
        }
        #[cfg(not(any(miri, tubelet_sanitize)))]
        self.give_back();
    }
}

impl Block {
    #[cfg(not(any(miri, tubelet_sanitize)))]
    fn give_back(&mut self) {
        let mut arena = ARENA.lock().unwrap_or_else(|e| e.into_inner());
        let stretch = arena.iter_mut().find(|s| s.contains(self.at));
        stretch.expect("stretches are never given up").put(self.at, self.lines);
    }
}

static ARENA: Mutex<Vec<Stretch>> = Mutex::new(Vec::new());

/// Bytes the process holds for blocks, in use or free, and the number of stretches.
pub(super) fn held() -> (usize, u64) {
    let arena = ARENA.lock().unwrap_or_else(|e| e.into_inner());
    (arena.iter().map(|s| s.touched * size_of::<Line>()).sum(), arena.len() as u64)
}

/// Returns the memory of free blocks to the system, where it accepts it.
pub(super) fn release() {
    ARENA.lock().unwrap_or_else(|e| e.into_inner()).iter_mut().for_each(Stretch::release);
}

struct Stretch {
    base: NonNull<Line>,
    lines: usize,
    /// Free ranges of lines: start and length. No two of them are adjacent.
    free: BTreeMap<usize, usize>,
    /// Lines from this one on have never been used.
    touched: usize,
}

// SAFETY: the pointer is only used to compute the addresses of blocks; the stretch itself does not access the memory.
unsafe impl Send for Stretch {}

impl Stretch {
    /// A stretch with space for `least` lines; `None` if the system refuses.
    fn new(least: usize) -> Option<Stretch> {
        // The usual length or, if the system refuses that, just enough.
        for lines in [STRETCH.max(least), least] {
            let bytes = lines.checked_add(HUGE)?.checked_mul(size_of::<Line>())?;
            let Ok(layout) = Layout::from_size_align(bytes, align_of::<u64>()) else { continue };
            // SAFETY: the layout has a size. It requests no alignment, so that the zeros are fresh pages instead of
            // being written.
            let Some(at) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { continue };
            let skip = at.as_ptr().align_offset(HUGE * size_of::<Line>());
            // SAFETY: there is one huge page more than the lines need, and aligning to a huge page skips less than
            // that.
            let base = unsafe { at.add(skip) }.cast::<Line>();
            advise(base, lines, Advice::Huge);
            return Some(Stretch { base, lines, free: BTreeMap::from([(0, lines)]), touched: 0 });
        }
        None
    }

    fn contains(&self, at: NonNull<Line>) -> bool {
        (self.base.addr()..).contains(&at.addr()) && self.offset(at) < self.lines
    }

    fn offset(&self, at: NonNull<Line>) -> usize {
        (at.addr().get() - self.base.addr().get()) / size_of::<Line>()
    }

    fn take(&mut self, lines: usize) -> Option<NonNull<Line>> {
        let (&from, &room) = self.free.iter().find(|(_, room)| **room >= lines)?;
        self.free.remove(&from);
        if room > lines {
            self.free.insert(from + lines, room - lines);
        }
        self.touched = self.touched.max(from + lines);
        // SAFETY: free lines are within the stretch.
        Some(unsafe { self.base.add(from) })
    }

    fn put(&mut self, at: NonNull<Line>, lines: usize) {
        let (mut from, mut room) = (self.offset(at), lines);
        if let Some(behind) = self.free.remove(&(from + room)) {
            room += behind;
        }
        if let Some((&before, &length)) = self.free.range(..from).next_back()
            && before + length == from
        {
            (from, room) = (before, length + room);
        }
        self.free.insert(from, room);
    }

    fn release(&mut self) {
        for (&from, &room) in &self.free {
            let to = (from + room).min(self.touched);
            if from < to {
                // SAFETY: free lines are within the stretch.
                advise(unsafe { self.base.add(from) }, to - from, Advice::Unused);
            }
        }
        if let Some((&from, &room)) = self.free.last_key_value()
            && from + room == self.lines
        {
            self.touched = self.touched.min(from);
        }
    }
}

enum Advice {
    /// Use huge pages.
    Huge,
    /// The content of complete pages is no longer needed: they become zeros.
    Unused,
}

/// Advice that the system may ignore.
#[cfg(all(target_os = "linux", not(miri)))]
fn advise(at: NonNull<Line>, lines: usize, advice: Advice) {
    const PAGE: usize = 1 << 16; // the largest in use
    let (from, to) = (at.addr().get(), at.addr().get() + lines * size_of::<Line>());
    let (first, last) = (from.next_multiple_of(PAGE), to / PAGE * PAGE);
    if first < last {
        let what = match advice {
            Advice::Huge => libc::MADV_HUGEPAGE,
            Advice::Unused => libc::MADV_DONTNEED,
        };
        // SAFETY: complete pages of free lines, to which no block points; they stay mapped, and read as zeros.
        unsafe { libc::madvise(at.as_ptr().cast::<u8>().add(first - from).cast(), last - first, what) };
    }
}

#[cfg(any(not(target_os = "linux"), miri))]
fn advise(_: NonNull<Line>, _: usize, _: Advice) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_cut_from_below_and_join_again() {
        let mut s = Stretch::new(1).unwrap();
        let at: Vec<_> = [3, 5, 2, 7].map(|n| s.take(n).unwrap()).into();
        assert_eq!(at.iter().map(|&p| s.offset(p)).collect::<Vec<_>>(), [0, 3, 8, 10]);
        assert!(at.iter().all(|&p| s.contains(p)));
        s.put(at[1], 5);
        s.put(at[3], 7);
        s.put(at[2], 2); // is merged with both its neighbours and the unused end
        assert_eq!(s.free.iter().map(|(f, n)| (*f, *n)).collect::<Vec<_>>(), [(3, s.lines - 3)]);
        assert_eq!((s.take(14).map(|p| s.offset(p)), s.touched), (Some(3), 17));
        s.put(at[0], 3);
        assert_eq!(s.take(4).map(|p| s.offset(p)), Some(17), "three lines are too few for four");
        assert_eq!(s.take(s.lines), None);
    }

    #[test]
    fn what_the_system_refuses_is_no_stretch() {
        for lines in [usize::MAX, usize::MAX / 64, isize::MAX as usize / 64, 1 << 50] {
            assert!(Stretch::new(lines).is_none(), "{lines}");
        }
    }

    #[test]
    fn what_is_released_can_be_used_again() {
        let mut s = Stretch::new(1 << 12).unwrap();
        let at = s.take(1 << 12).unwrap();
        s.put(at, 1 << 12);
        s.release();
        assert_eq!(s.touched, 0);
        assert_eq!(s.take(1 << 12), Some(at));
    }

    #[test]
    fn blocks_of_many_threads_do_not_overlap() {
        let threads: Vec<_> = (0..4u8)
            .map(|id| {
                std::thread::spawn(move || {
                    for round in 0..200usize {
                        let mut blocks: Vec<Block> = (1..6).map(|i| Block::take(1 + round * i % 97).unwrap()).collect();
                        blocks.iter_mut().for_each(|b| b.fill(Line([id; 64])));
                        blocks.swap_remove(round % 5);
                        assert!(blocks.iter().flat_map(|b| b.iter()).all(|l| l.0 == [id; 64]));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    }
}
