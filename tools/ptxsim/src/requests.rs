//! The cost of a warp-wide access: sectors of global memory, cycles of shared memory.

/// Bytes requested, sectors touched, and the minimum number of sectors that could hold the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub bytes: u64,
    pub sectors: u64,
    pub ideal: u64,
}

fn active(addr: &[u64; 32], mask: u32) -> ([u64; 32], usize) {
    let mut v = [0; 32];
    let mut n = 0;
    for (l, a) in addr.iter().enumerate() {
        if mask >> l & 1 == 1 {
            v[n] = *a;
            n += 1;
        }
    }
    (v, n)
}

/// Counts a request of `n` bytes per active lane.
pub(crate) fn request(addr: &[u64; 32], mask: u32, n: u32) -> Request {
    let n = n as u64;
    let step = addr[1].wrapping_sub(addr[0]);
    if mask == !0
        && (step == n || step == 0)
        && addr.iter().enumerate().all(|(l, a)| *a == addr[0].wrapping_add(step * l as u64))
    {
        let bytes = if step == 0 { n } else { 32 * n };
        let sectors = ((addr[0] + bytes - 1) >> 5) - (addr[0] >> 5) + 1;
        return Request { bytes, sectors, ideal: bytes.div_ceil(32) };
    }
    let (mut v, count) = active(addr, mask);
    let v = &mut v[..count];
    if !v.is_sorted() {
        v.sort_unstable();
    }
    let mut r = Request::default();
    let (mut end, mut sector) = (0, u64::MAX);
    for &a in v.iter() {
        let from = a.max(end);
        if a + n > from {
            r.bytes += a + n - from;
            end = a + n;
        }
        let (first, last) = (a >> 5, (a + n - 1) >> 5);
        let next = if sector != u64::MAX && first <= sector { sector + 1 } else { first };
        if last >= next {
            r.sectors += last - next + 1;
            sector = last;
        }
    }
    r.ideal = r.bytes.div_ceil(32);
    r
}

/// Whether the address of every lane `l` is lane 0's plus `l * step`.
#[inline]
pub(crate) fn strided(addr: &[u64; 32], step: u64) -> bool {
    let mut off = 0;
    for (l, a) in addr.iter().enumerate() {
        off |= a.wrapping_sub(addr[0]) ^ (step * l as u64);
    }
    off == 0
}

/// Additional cycles of a shared access due to bank conflicts. 8-byte accesses are executed by half-warps, 16-byte ones
/// by quarter-warps; lanes that access the same word share it. Addresses are multiples of `n`.
pub(crate) fn conflicts(addr: &[u64; 32], mask: u32, n: u32) -> u64 {
    let unit = n.clamp(4, 16);
    if mask == !0 && (strided(addr, unit as u64) || strided(addr, 0)) {
        return 0;
    }
    // As many units as lanes that are executed at once.
    let group = (128 / unit) as usize;
    let shift = unit.trailing_zeros();
    let mut extra = 0;
    for first in (0..32).step_by(group) {
        let mut count = [0u8; 32];
        // Linked lists of lanes per bank: the last lane of each bank, and for each lane the previous one; 255 ends a
        // list.
        let (mut last, mut before) = ([255u8; 32], [255u8; 32]);
        let mut most = 0;
        for l in (first..first + group).filter(|l| mask >> l & 1 == 1) {
            let id = addr[l] >> shift;
            let place = id as usize & (group - 1);
            let mut k = last[place];
            while k != 255 && addr[k as usize] >> shift != id {
                k = before[k as usize];
            }
            if k == 255 {
                before[l] = last[place];
                last[place] = l as u8;
                count[place] += 1;
                most = most.max(count[place]);
            }
        }
        extra += u64::from(most.saturating_sub(1));
    }
    extra
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(f: impl Fn(u64) -> u64) -> [u64; 32] {
        std::array::from_fn(|l| f(l as u64))
    }

    #[test]
    fn sectors() {
        let r = |a: &[u64; 32], m, n| {
            let r = request(a, m, n);
            (r.bytes, r.sectors, r.ideal)
        };
        assert_eq!(r(&lanes(|l| 4 * l), !0, 4), (128, 4, 4));
        assert_eq!(r(&lanes(|l| 4 * l + 4), !0, 4), (128, 5, 4));
        assert_eq!(r(&lanes(|l| 4 * (31 - l)), !0, 4), (128, 4, 4));
        assert_eq!(r(&lanes(|_| 64), !0, 4), (4, 1, 1));
        assert_eq!(r(&lanes(|l| 32 * l), !0, 4), (128, 32, 4));
        assert_eq!(r(&lanes(|l| 16 * l), !0, 16), (512, 16, 16));
        assert_eq!(r(&lanes(|l| 4 * l), 0xff, 4), (32, 1, 1));
        assert_eq!(r(&lanes(|l| l / 2), !0, 1), (16, 1, 1));
    }

    #[test]
    fn banks() {
        assert_eq!(conflicts(&lanes(|l| 4 * l), !0, 4), 0);
        assert_eq!(conflicts(&lanes(|_| 4), !0, 4), 0);
        assert_eq!(conflicts(&lanes(|l| 8 * l), !0, 4), 1);
        assert_eq!(conflicts(&lanes(|l| 128 * l), !0, 4), 31);
        assert_eq!(conflicts(&lanes(|l| 128 * l), 0xf, 4), 3);
        assert_eq!(conflicts(&lanes(|l| 16 * l), !0, 16), 0);
        assert_eq!(conflicts(&lanes(|l| 8 * l), !0, 8), 0);
        assert_eq!(conflicts(&lanes(|l| 32 * l), !0, 16), 4);
    }
}
