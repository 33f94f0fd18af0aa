//! Which parts of a step are being computed, for whoever measures them. This library's methods have no clocks.

use std::sync::Arc;

/// Is told when parts of a step begin and end. Parts of one thread lie within each other or behind each other.
pub trait Spans: Send + Sync {
    /// A part begins on this thread.
    fn begin(&self, name: &str);

    /// The part of this thread that began last, which has this name, has ended.
    fn end(&self, name: &str);
}

/// A part that ends when this is dropped.
pub struct Span<'a>(Option<(&'a dyn Spans, &'a str)>);

impl<'a> Span<'a> {
    /// A part that begins now, if somebody is told.
    #[must_use]
    pub fn of(spans: Option<&'a Arc<dyn Spans>>, name: &'a str) -> Span<'a> {
        let part = spans.map(|spans| (&**spans, name));
        if let Some((spans, name)) = part {
            spans.begin(name);
        }
        Span(part)
    }
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        if let Some((spans, name)) = self.0 {
            spans.end(name);
        }
    }
}
