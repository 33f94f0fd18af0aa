//! Checks whether a JPEG file is complete.

/// Whether the image in `bytes` is complete: goes from marker to marker, over the entropy-coded data, to `EOI`. A
/// preview inside the metadata does not count, nor does anything after the image.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(next_marker) {
        at += found;
        let marker = bytes[at - 1];
        match marker {
            EOI => return true,
            // Start of image, restarts and reserved markers have no length.
            0xD8 | 0xD0..=0xD7 | 0x01 => {}
            // All others have a length, which includes its own two bytes. A scan header is followed by entropy-coded
            // data, in which `next_marker` finds the next marker, since 0xFF is escaped as 0xFF00 there.
            _ => match bytes.get(at..at + 2) {
                Some(&[high, low]) => at += usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
        }
    }
    false
}

/// The marker at the end of a picture.
const EOI: u8 = 0xD9;

/// Index after the next marker.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF)).map(|at| at + 2)
}
