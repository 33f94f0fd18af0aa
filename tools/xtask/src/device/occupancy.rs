//! How many blocks of a kernel a multiprocessor can hold at once, by the rules of CUDA's occupancy calculator.

/// Resources of a multiprocessor of an architecture.
struct Limits {
    warps: u32,
    blocks: u32,
    /// Bytes of shared memory per multiprocessor, and at most per block.
    shared: u32,
    shared_of_block: u32,
}

/// Registers in each of the four partitions.
const REGISTERS: u32 = 16384;
/// Allocation unit of registers for a warp.
const REGISTER_UNIT: u32 = 256;
/// Shared memory that the system reserves per block, and its allocation unit.
const SHARED_KEPT: u32 = 1024;
const SHARED_UNIT: u32 = 128;

/// The occupancy of a multiprocessor.
#[derive(Debug, PartialEq)]
pub struct Occupancy {
    pub blocks: u32,
    /// Resident warps as a percentage of the maximum.
    pub percent: u32,
    /// What limits it: `reg`, `smem`, `warp`, `blk`, joined by `+`.
    pub limit: String,
}

fn limits(arch: &str) -> Option<Limits> {
    let (warps, blocks, shared) = match arch {
        "sm_80" => (64, 32, 164),
        "sm_86" => (48, 16, 100),
        "sm_89" | "sm_120" => (48, 24, 100),
        "sm_90a" | "sm_100" => (64, 32, 228),
        _ => return None,
    };
    Some(Limits { warps, blocks, shared: shared * 1024, shared_of_block: (shared - 1) * 1024 })
}

/// The occupancy of a kernel with this many registers per thread, bytes of shared memory per block (static and dynamic)
/// and threads per block. `None` if a single block does not fit.
pub fn occupancy(arch: &str, registers: u32, shared: u32, threads: u32) -> Option<Occupancy> {
    let has = limits(arch)?;
    if shared > has.shared_of_block {
        return None;
    }
    let warps = threads.div_ceil(32).max(1);
    let of_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
    let by = [
        ("reg", REGISTERS / of_warp * 4 / warps),
        ("smem", has.shared / (shared + SHARED_KEPT).next_multiple_of(SHARED_UNIT)),
        ("warp", has.warps / warps),
        ("blk", has.blocks),
    ];
    let blocks = by.iter().map(|(_, n)| *n).min().filter(|n| *n > 0)?;
    let limit = by.iter().filter(|(_, n)| *n == blocks).map(|(name, _)| *name).collect::<Vec<_>>().join("+");
    Some(Occupancy { blocks, percent: 100 * blocks * warps / has.warps, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(arch: &str, registers: u32, shared: u32, threads: u32) -> (u32, u32, String) {
        let o = occupancy(arch, registers, shared, threads).unwrap();
        (o.blocks, o.percent, o.limit)
    }

    #[test]
    fn registers_are_given_to_warps_in_units() {
        assert_eq!(case("sm_80", 32, 0, 256), (8, 100, "reg+warp".into()));
        // With 33 registers a warp takes 1280, so a partition holds twelve warps.
        assert_eq!(case("sm_80", 33, 0, 256), (6, 75, "reg".into()));
        assert_eq!(case("sm_90a", 168, 133_120, 384), (1, 18, "reg+smem".into()));
        assert_eq!(case("sm_80", 255, 0, 256), (1, 12, "reg".into()));
    }

    #[test]
    fn shared_memory_costs_a_block_a_kilobyte_more() {
        assert_eq!(case("sm_80", 32, 48 * 1024, 128), (3, 18, "smem".into()));
        // 40 KiB and the one that is reserved: four times 41 is 164.
        assert_eq!(case("sm_80", 32, 40 * 1024, 128), (4, 25, "smem".into()));
        assert_eq!(case("sm_80", 32, 40 * 1024 + 1, 128), (3, 18, "smem".into()));
        assert_eq!(case("sm_90a", 32, 227 * 1024, 128), (1, 6, "smem".into()));
    }

    #[test]
    fn small_blocks_are_limited_in_number() {
        assert_eq!(case("sm_86", 16, 0, 32), (16, 33, "blk".into()));
        assert_eq!(case("sm_89", 16, 0, 64), (24, 100, "warp+blk".into()));
    }

    #[test]
    fn what_does_not_fit_has_no_occupancy() {
        assert_eq!(occupancy("sm_86", 32, 99 * 1024 + 1, 128), None);
        assert_eq!(occupancy("sm_80", 128, 0, 1024), None);
        assert_eq!(occupancy("sm_35", 32, 0, 32), None);
    }
}
