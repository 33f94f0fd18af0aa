//! Bit and byte instructions for one lane.

/// `bfe`: the field of `len` bits at `pos`, sign-extended; where the field exceeds the value, with the value's sign.
pub(crate) fn field<const BITS: u32>(a: u64, pos: u64, len: u64, signed: bool) -> u64 {
    let (pos, len) = ((pos & 255) as u32, (len & 255) as u32);
    let msb = BITS - 1;
    let bit = |i: u32| a >> i & 1;
    let sign = if !signed || len == 0 { 0 } else { bit((pos + len - 1).min(msb)) };
    (0..BITS).fold(0, |r, i| r | (if i < len && pos + i <= msb { bit(pos + i) } else { sign }) << i)
}

/// `bfi`: `b` with the `len` lowest bits of `a` inserted at `pos`.
pub(crate) fn insert<const BITS: u32>(a: u64, b: u64, pos: u64, len: u64) -> u64 {
    let (pos, len) = ((pos & 255) as u32, (len & 255) as u32);
    if pos >= BITS {
        return b;
    }
    let ones = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
    let mask = ones << pos;
    (b & !mask) | (a << pos & mask)
}

/// `prmt`: four bytes selected among eight, or their signs.
pub(crate) fn permute(a: u64, b: u64, c: u64, _: u64) -> u64 {
    let v = b << 32 | a;
    (0..4).fold(0, |r, i| {
        let s = c >> (4 * i) & 15;
        let byte = v >> (8 * (s & 7)) & 255;
        let byte = if s & 8 == 0 {
            byte
        } else if byte & 128 != 0 {
            255
        } else {
            0
        };
        r | byte << (8 * i)
    })
}

/// `dp4a`: `c` plus the products of four pairs of bytes.
pub(crate) fn dot(a: u64, b: u64, c: u64, x: fn(u8) -> i64, y: fn(u8) -> i64) -> u64 {
    (0..4).fold(c as i64, |s, i| s + x((a >> (8 * i)) as u8) * y((b >> (8 * i)) as u8)) as u64
}
