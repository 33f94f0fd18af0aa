//! Image planes whose rows are padded to whole vectors.

use bytemuck::{Pod, Zeroable};

/// Numbers per cache line: the length of every row is a multiple of it, and so of any machine's vectors.
pub(super) const LINE: usize = 16;

#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([f32; LINE]);

/// `h` rows of `stride` numbers, of which the first `w` are the image and the rest **stay zero**; with a cache line of
/// zeros before the first row and after the last, so that neighbours can be read without checking for the end of a row.
pub(super) struct Plane {
    pub h: usize,
    pub w: usize,
    pub stride: usize,
    /// Cache lines before the first row. The number differs between planes used together: with planes at equal offsets
    /// within a page, loads would wait for stores that only appear to overlap them (4K aliasing).
    front: usize,
    lines: Vec<Line>,
}

impl Plane {
    /// An empty plane, the `nth` of those used together.
    pub fn new(nth: usize) -> Plane {
        Plane { h: 0, w: 0, stride: 0, front: 1 + 5 * nth, lines: Vec::new() }
    }

    /// Sets the size of the plane and fills it with zeros.
    pub fn reset(&mut self, h: usize, w: usize) {
        (self.h, self.w, self.stride) = (h, w, w.next_multiple_of(LINE));
        self.lines.clear();
        self.lines.resize(self.front + h * self.stride / LINE + 1, Line([0.0; LINE]));
    }

    /// Row `y` with its padding.
    pub fn row(&self, y: usize) -> &[f32] {
        &bytemuck::cast_slice(&self.lines[self.front..])[y * self.stride..][..self.stride]
    }

    /// Row `y` with its padding, which must stay zero.
    pub fn row_mut(&mut self, y: usize) -> &mut [f32] {
        let stride = self.stride;
        &mut self.body_mut()[y * stride..][..stride]
    }

    /// The start of row 0; at least one cache line can be read before it and after the last row.
    pub fn pointer(&mut self) -> *mut f32 {
        // SAFETY: `lines` holds more than `front` lines.
        unsafe { self.lines.as_mut_ptr().add(self.front).cast() }
    }

    /// All rows with their padding, which must stay zero.
    pub fn body_mut(&mut self) -> &mut [f32] {
        let (front, n) = (self.front, self.h * self.stride);
        &mut bytemuck::cast_slice_mut(&mut self.lines[front..])[..n]
    }

    /// The rows in order, each with its padding.
    pub fn rows_mut(&mut self) -> std::slice::ChunksExactMut<'_, f32> {
        let stride = self.stride;
        self.body_mut().chunks_exact_mut(stride)
    }

    /// Copies an image `h w` without padding into the plane.
    pub fn fill(&mut self, h: usize, w: usize, data: &[f32]) {
        self.reset(h, w);
        for (row, data) in self.rows_mut().zip(data.chunks_exact(w)) {
            row[..w].copy_from_slice(data);
        }
    }

    /// The image `h w` without padding.
    pub fn image(&self) -> Vec<f32> {
        (0..self.h).flat_map(|y| &self.row(y)[..self.w]).copied().collect()
    }
}
