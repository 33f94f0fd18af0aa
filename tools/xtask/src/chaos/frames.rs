//! Videos for a run of a few seconds: folders of PNG frames with a square that moves to the right or downwards.

use anyhow::Result;
use std::fs;
use std::path::Path;

/// Videos per class; a quarter is held out for testing.
const VIDEOS: usize = 8;
const FRAMES: usize = 12;
const SIDE: usize = 24;

/// Writes the videos below `folder`, one folder per class.
///
/// # Errors
/// When a file cannot be written.
pub fn write(folder: &Path) -> Result<()> {
    for (class, [right, down]) in [("right", [1, 0]), ("down", [0, 1])] {
        for video in 0..VIDEOS {
            let home = folder.join(class).join(format!("v_{class}_g{video:02}_c01"));
            fs::create_dir_all(&home)?;
            for t in 0..FRAMES {
                let (left, top) = (2 + video + right * t, 3 + video / 2 + down * t);
                let pixel = |x: usize, y: usize| {
                    let inside = (x + SIDE - left % SIDE) % SIDE < 7 && (y + SIDE - top % SIDE) % SIDE < 7;
                    let ground = (x * 7 + y * 5 + video * 11) % 48;
                    if inside { [220, 160 + 8 * (video % 8) as u8, 90] } else { [40 + ground as u8; 3] }
                };
                fs::write(home.join(format!("{t:03}.png")), png(SIDE, SIDE, pixel))?;
            }
        }
    }
    Ok(())
}

/// An uncompressed PNG.
fn png(w: usize, h: usize, pixel: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let mut rows = Vec::new();
    for y in 0..h {
        rows.push(0); // no filter
        (0..w).for_each(|x| rows.extend(pixel(x, y)));
    }
    let mut zlib = vec![0x78, 0x01];
    let mut blocks = rows.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        zlib.push(u8::from(blocks.peek().is_none()));
        let length = block.len() as u16;
        zlib.extend(length.to_le_bytes().into_iter().chain((!length).to_le_bytes()));
        zlib.extend(block);
    }
    let (a, b) = rows.iter().fold((1u32, 0u32), |(a, b), &v| {
        let a = (a + u32::from(v)) % 65521;
        (a, (b + a) % 65521)
    });
    zlib.extend((b << 16 | a).to_be_bytes());
    let mut header = Vec::new();
    header.extend((w as u32).to_be_bytes());
    header.extend((h as u32).to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // 8 bits per channel, RGB
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        let body = [&kind[..], &data].concat();
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(&body);
        out.extend(crc32(&body).to_be_bytes());
    }
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        assert_eq!(crc32(b"IEND"), 0xae42_6082);
        let whole = png(1, 1, |_, _| [1, 2, 3]);
        let at = whole.windows(4).position(|w| w == b"IDAT").unwrap() + 4;
        // zlib's header, one last block of four bytes, Adler-32 of 0 1 2 3.
        assert_eq!(whole[at..at + 15], [0x78, 1, 1, 4, 0, 0xfb, 0xff, 0, 1, 2, 3, 0, 14, 0, 7]);
    }
}
