//! A hash for names of files and the recognition of content: not for security.

/// 64-bit FNV-1a: the same on every machine and in every version.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(bytes, 0xcbf2_9ce4_8422_2325)
}

/// Continues the hash `before` with `bytes`.
pub(crate) fn fnv1a_on(bytes: &[u8], before: u64) -> u64 {
    bytes.iter().fold(before, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
