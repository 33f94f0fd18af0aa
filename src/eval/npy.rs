//! The header of a NumPy file (`.npy`, format 1.0).

/// The bytes before the numbers of an array of `rows` rows of `cols` f32, row after row, little-endian.
#[must_use]
pub fn header(rows: usize, cols: usize) -> Vec<u8> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    // Magic number, version and length take 10 bytes; blanks and a newline fill the header to a multiple of 64.
    let whole = (10 + text.len() + 1).next_multiple_of(64);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((whole - 10) as u16).to_le_bytes());
    bytes.extend(text.bytes());
    bytes.resize(whole - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_numpy_writes() {
        // numpy.save of numpy.zeros((3, 128), '<f4').
        let mut want =
            b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 128), }".to_vec();
        want.resize(127, b' ');
        want.push(b'\n');
        assert_eq!(header(3, 128), want);
        for rows in [0, 1, usize::MAX] {
            let bytes = header(rows, usize::MAX);
            let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert_eq!((bytes.len() % 64, 10 + length, bytes.last()), (0, bytes.len(), Some(&b'\n')));
        }
    }
}
