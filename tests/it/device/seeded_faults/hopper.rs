//! Mistakes in the kernels with TMA and wgmma.

use super::Edit::*;
use super::{Mistake, mistake};
use crate::device::{conv3d_affine_sm90, conv3d_norm_sm90, conv3d_sm90, conv3d_stem_sm90, infonce_sm90};

const FPROP_SM90: &str = "conv3d_fprop_sm90_128x128_bf16";
const FPROP_PAIR: &str = "conv3d_fprop_sm90_128x256_pair_bf16";
const WGRAD_PAIR: &str = "conv3d_wgrad_sm90_128x256_pair_bf16";
const HALO_PAIR: &str = "conv3d_dgrad_halo_sm90_256x64_pair_bf16";
const DGRAD_SM90: &str = "conv3d_dgrad_sm90_128x128_bf16";
const FPROP_HALO: &str = "conv3d_fprop_halo_sm90_128x128_bf16";
const DGRAD_HALO: &str = "conv3d_dgrad_halo_sm90_128x128_bf16";
const WGRAD_HALO: &str = "conv3d_wgrad_halo_sm90_64x576_bf16";
const SWEEP_SM90: &str = "infonce_sweep_sm90_r128_d128_bf16";
const SWEPT: &[fn()] = &[infonce_sm90::a_part_of_many_tiles_meets_the_reference];
const HOPPER: &[fn()] = &[conv3d_sm90::every_tile_of_hopper_on_a_small_problem];
const FPROP_NORM: &str = "conv3d_fprop_norm_sm90_128x128_bf16";
const WGRAD_NORM: &str = "conv3d_wgrad_norm_sm90_128x128_bf16";
const NORMED: &[fn()] = &[conv3d_norm_sm90::every_tile_normalises_a_small_problem];
const AFFINE: &str = "conv3d_dgrad_affine_sm90_128x128_bf16";
const AFFINE_PAIR: &str = "conv3d_dgrad_affine_sm90_128x256_pair_bf16";
const FORMED: &[fn()] = &[conv3d_affine_sm90::every_tile_forms_a_small_problem];
const FPROP_STEM: &str = "conv3d_fprop_stem_sm90_112x64_bf16";
const WGRAD_STEM: &str = "conv3d_wgrad_stem_sm90_64x224_bf16";
const PACK: &str = "conv3d_pack_pixels_bf16";
const STEMS: &[fn()] = &[conv3d_stem_sm90::every_tile_of_a_small_stem];
const STEM_SUMS: &[fn()] = &[conv3d_stem_sm90::statistics_leave_with_the_result_of_stems];

const CLUSTER_0: (&str, usize) = ("barrier.cluster.arrive", 0);
const CLUSTER_1: (&str, usize) = ("barrier.cluster.arrive", 1);
const CLUSTER_2: (&str, usize) = ("barrier.cluster.arrive", 2);
const MASK: (&str, usize) = ("mov.u16", 0);
const PENDING: (&str, usize) = ("wgmma.wait_group", 0);

pub(super) const MISTAKES: &[Mistake] = &[
    // Convolutions.
    mistake("barriers are not made visible to TMA", WGRAD_HALO, ("fence.proxy.async", 0), Drop, HOPPER),
    mistake("accumulators are not fenced", FPROP_SM90, ("wgmma.fence", 0), Drop, HOPPER),
    mistake("a stage is given back while it is read", FPROP_SM90, ("wgmma.wait_group", 0), Replace("1;", "2;"), HOPPER),
    mistake(
        "sums are stored before they are complete",
        FPROP_SM90,
        ("wgmma.wait_group", 1),
        Replace("0;", "1;"),
        HOPPER,
    ),
    mistake("products are not a group", FPROP_SM90, ("wgmma.commit_group", 0), Drop, HOPPER),
    mistake("a stage is never given back", FPROP_SM90, ("mbarrier.arrive.shared", 0), Drop, HOPPER),
    mistake("no bytes are announced", DGRAD_SM90, ("mbarrier.arrive.expect_tx", 0), Drop, HOPPER),
    mistake("lines are not waited for", FPROP_HALO, ("mbarrier.try_wait", 2), Drop, HOPPER),
    mistake("two offsets of a tap change places", FPROP_SM90, (".im2col.", 0), Swap(8, 9), HOPPER),
    mistake("two coordinates of lines change places", DGRAD_HALO, (".5d.", 0), Swap(4, 5), HOPPER),
    mistake("consumers do not wait before they stage", DGRAD_HALO, ("bar.sync", 1), Drop, HOPPER),
    mistake("consumers do not wait before they store", DGRAD_SM90, ("bar.sync", 2), Drop, HOPPER),
    mistake(
        "filters are taken to be in the other order",
        DGRAD_SM90,
        ("wgmma.mma_async", 0),
        Replace("0, 1;", "0, 0;"),
        HOPPER,
    ),
    // Pairs of blocks that copy for each other.
    mistake("the other block may not have begun", FPROP_PAIR, CLUSTER_0, Replace("release", "relaxed"), HOPPER),
    mistake("the producer may end too early", FPROP_PAIR, CLUSTER_1, Replace("release", "relaxed"), HOPPER),
    mistake("consumers may end too early", FPROP_PAIR, CLUSTER_2, Replace("release", "relaxed"), HOPPER),
    mistake("no stage is given back", FPROP_PAIR, ("mbarrier.arrive.shared::cluster", 0), Drop, HOPPER),
    mistake("a share of the filters stays in its block", FPROP_PAIR, MASK, Replace(" 3;", " 1;"), HOPPER),
    mistake("a share of x is for the other block alone", WGRAD_PAIR, MASK, Replace(" 3;", " 2;"), HOPPER),
    mistake("a pair's stage is given back while it is read", FPROP_PAIR, PENDING, Replace("1;", "2;"), HOPPER),
    mistake("lines of another frame are not waited for", HALO_PAIR, ("mbarrier.try_wait", 2), Drop, HOPPER),
    mistake("filters are never given back", HALO_PAIR, ("mbarrier.arrive.shared::cluster", 0), Drop, HOPPER),
    mistake("a share of the filters for one tap is missing", HALO_PAIR, ("mov.u16", 0), Replace(" 3;", " 1;"), HOPPER),
    // Convolutions that normalise what they read.
    mistake("a part's numbers are read too early", FPROP_NORM, ("bar.sync", 1), Drop, NORMED),
    mistake("fragments are not fenced", FPROP_NORM, ("wgmma.fence", 1), Drop, NORMED),
    mistake("fragments are overwritten too early", FPROP_NORM, ("wgmma.wait_group", 1), Replace("1;", "2;"), NORMED),
    mistake("a stage is given back while it is read", FPROP_NORM, ("wgmma.wait_group", 0), Replace("1;", "2;"), NORMED),
    mistake("a stage is never given back", FPROP_NORM, ("mbarrier.arrive.shared", 0), Drop, NORMED),
    mistake("two registers of a fragment change places", FPROP_NORM, ("ldmatrix", 3), Swap(1, 2), NORMED),
    mistake("a chunk where the swizzle did not put it", FPROP_NORM, ("ldmatrix", 2), Offset(16), NORMED),
    mistake("a channel's mean is its neighbour's", FPROP_NORM, ("sub.f32", 4), Swap(1, 2), NORMED),
    mistake("shifts of eight channels further", FPROP_NORM, ("ld.shared.v2.f32", 4), Offset(32), NORMED),
    mistake("negative numbers pass", FPROP_NORM, (".relu.", 9), Replace(".relu", ""), NORMED),
    mistake("a matrix is not transposed that should be", WGRAD_NORM, ("x4.trans", 2), Replace(".trans", ""), NORMED),
    mistake("fragments of wgrad are not fenced", WGRAD_NORM, ("wgmma.fence", 0), Drop, NORMED),
    mistake("the numbers stay those of the first part", WGRAD_NORM, ("setp.ge.s32", 3), Replace("ge", "gt"), NORMED),
    mistake("the mean of eight channels further", WGRAD_NORM, ("ld.global.nc.f32", 8), Offset(32), NORMED),
    mistake("two sums of wgrad change places", WGRAD_NORM, ("st.global.f32", 1), Offset(4), NORMED),
    // dgrad that forms the gradient of a batch norm as it loads it.
    mistake("two coordinates of x change places", AFFINE, (".im2col.", 1), Swap(2, 3), FORMED),
    mistake("the first operand is taken for x", AFFINE, ("ldmatrix", 5), Offset(-16384), FORMED),
    mistake("a chunk of x where the swizzle did not put it", AFFINE, ("ldmatrix", 7), Offset(16), FORMED),
    mistake("two registers of a fragment of x change places", AFFINE, ("ldmatrix", 9), Swap(1, 2), FORMED),
    mistake("fragments are not fenced", AFFINE, ("wgmma.fence", 1), Drop, FORMED),
    mistake("fragments are overwritten too early", AFFINE, ("wgmma.wait_group", 1), Replace("1;", "2;"), FORMED),
    mistake("a stage is given back while it is read", AFFINE, ("wgmma.wait_group", 0), Replace("1;", "2;"), FORMED),
    mistake("a stage is never given back", AFFINE, ("mbarrier.arrive.shared", 0), Drop, FORMED),
    mistake("the scale of eight channels further", AFFINE, ("ld.global.nc.v2.f32", 21), Offset(32), FORMED),
    mistake("x is taken from the mean", AFFINE, ("sub.f32", 20), Swap(1, 2), FORMED),
    mistake("what is added is taken for the slope", AFFINE, ("ld.global.nc.v2.f32", 23), Offset(4 * 328), FORMED),
    mistake("the numbers stay those of the first part", AFFINE, ("setp.gt.s32", 0), Replace(" 1;", " 9;"), FORMED),
    mistake("words come from another lane", AFFINE, ("shfl.sync", 9), Swap(3, 4), FORMED),
    mistake("the gradient is left eight filters further", AFFINE, ("st.global.v4.u32", 3), Offset(16), FORMED),
    mistake("each tile of columns leaves the gradient", AFFINE, ("setp.gt.s32", 2), Replace(" 0;", " 999;"), FORMED),
    mistake("a row of the next part is left", AFFINE, ("setp.ge.s32", 24), Replace("ge", "gt"), FORMED),
    mistake("filters behind the last one are left", AFFINE, ("setp.ge.s32", 23), Replace("ge", "gt"), FORMED),
    mistake("sums of a tile without rows are missing", AFFINE_PAIR, ("st.global.u32", 2), Drop, FORMED),
    // Stems.
    mistake("filters are not waited for", FPROP_STEM, ("mbarrier.try_wait", 1), Drop, STEMS),
    mistake("lines are not waited for", FPROP_STEM, ("mbarrier.try_wait", 2), Drop, STEMS),
    mistake("accumulators are not fenced", FPROP_STEM, ("wgmma.fence", 0), Drop, STEMS),
    mistake("a stage is given back while it is read", FPROP_STEM, ("wgmma.wait_group", 0), Drop, STEMS),
    mistake("a stage is never given back", FPROP_STEM, ("mbarrier.arrive.shared", 0), Drop, STEMS),
    mistake("two coordinates of lines change places", FPROP_STEM, (".4d.", 0), Swap(2, 3), STEMS),
    mistake("a matrix is not transposed that should be", FPROP_STEM, ("stmatrix", 0), Replace(".trans", ""), STEMS),
    mistake("a consumer does not wait before it stages", FPROP_STEM, ("bar.sync", 3), Drop, STEMS),
    mistake("a consumer does not wait before it stores", FPROP_STEM, ("bar.sync", 2), Drop, STEMS),
    mistake("lanes of a quad keep their sums", FPROP_STEM, ("shfl.sync", 1), Swap(3, 4), STEM_SUMS),
    mistake("products of wgrad are not a group", WGRAD_STEM, ("wgmma.commit_group", 0), Drop, STEMS),
    mistake(
        "sums are stored before they are complete",
        WGRAD_STEM,
        ("wgmma.wait_group", 1),
        Replace("0;", "1;"),
        STEMS,
    ),
    mistake("units are not waited for", WGRAD_STEM, ("mbarrier.try_wait", 1), Drop, STEMS),
    mistake(
        "windows are taken to be in the other order",
        WGRAD_STEM,
        ("wgmma.mma_async", 2),
        Replace("1, 1;", "1, 0;"),
        STEMS,
    ),
    mistake("two sums of wgrad change places", WGRAD_STEM, ("st.global.v2.f32", 1), Offset(8), STEMS),
    mistake("a pixel behind the end of a line counts", PACK, ("setp.ge.s32", 0), Replace("ge", "gt"), STEMS),
    // InfoNCE.
    mistake("weights are not fenced", SWEEP_SM90, ("wgmma.fence", 1), Drop, SWEPT),
    mistake("logits are used before they are there", SWEEP_SM90, ("wgmma.wait_group", 1), Replace("0;", "1;"), SWEPT),
    mistake("a tile of keys is never given back", SWEEP_SM90, ("mbarrier.arrive.shared", 0), Drop, SWEPT),
    mistake("keys past the last one count", SWEEP_SM90, ("setp.le.s32", 13), Replace("le", "gt"), SWEPT),
    mistake("owners of eight keys further", SWEEP_SM90, ("ld.shared.v2.u32", 3), Offset(32), SWEPT),
    mistake("two coordinates of keys change places", SWEEP_SM90, (".2d.", 0), Swap(2, 3), SWEPT),
];
