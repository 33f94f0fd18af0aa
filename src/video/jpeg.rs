//! Whether a JPEG file is whole.

/// Whether the picture in `bytes` has its end: walks from marker to marker, over the coded data, to `EOI`. A preview inside of
/// the file's metadata does not count, nor does what follows the picture.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = bytes.get(at..).and_then(next_marker) {
        at += found;
        let marker = bytes[at - 1];
        match marker {
            EOI => return true,
            // Start of image, restarts and a marker without meaning stand alone.
            0xD8 | 0xD0..=0xD7 | 0x01 => {}
            // All others have a length, which counts its own two bytes. After the header of a scan comes coded data, in
            // which `next_marker` finds the next one, since 0xFF is written there as 0xFF00.
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

/// The index after the next marker.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF)).map(|at| at + 2)
}
