//! Mistakes in the kernels of all devices.

use super::Edit::*;
use super::{Mistake, mistake};
use crate::device::{alignment, conv3d, infonce, layers, matmul, offsets, over, raw, tensors, tvl1};
use crate::kernels::{batch_norm, batch_norm_moments, batch_norm_shared, in_order, losses, pool3d, updates};

const CONV: &[fn()] =
    &[conv3d::every_tile, conv3d::statistics_leave_with_the_result, conv3d::a_chain_of_gradients_in_one_launch];
const PLAIN: &[fn()] = &[conv3d::table_first];
const INFONCE: &[fn()] = &[infonce::every_kernel_of_infonce_meets_the_reference];
const TVL1: &[fn()] = &[tvl1::tvl1_on_a_gpu_meets_the_definition];
const TVL1_STOPS: &[fn()] = &[tvl1::iterations_per_load_change_no_bit];
const ALIGN: &[fn()] = &[alignment::channel_maps_on_a_device, alignment::alignment_losses_on_a_device];
const NORM: &[fn()] = &[batch_norm::cases_meet_the_definition_on_a_device];
const SHARED: &[fn()] = &[batch_norm_shared::layers_of_processes_meet_the_definition_on_the_whole_batch];
const MOMENTS: &[fn()] = &[
    batch_norm_moments::sums_taken_elsewhere_give_the_same_statistics,
    batch_norm_moments::running_averages_follow_where_statistics_are_formed,
    batch_norm_moments::sums_of_tiles_give_the_gradients_of_their_sums,
];
const LAYERS: &[fn()] = &[
    tensors::arithmetic_on_a_device_is_that_of_the_cpu_to_the_bit,
    tensors::conversion_scaling_and_rows_on_a_device,
    layers::the_rectifier_on_a_device,
    layers::sums_on_a_device,
    in_order::rows_are_added_one_after_another_on_a_device,
    layers::unit_rows_on_a_device,
    layers::a_queue_on_a_device_holds_what_one_on_the_cpu_holds,
    layers::functions_on_a_device,
];
const MATMUL: &[fn()] = &[matmul::products];
const POOL: &[fn()] = &[pool3d::cases_meet_the_definition_on_a_device];
const LOSS: &[fn()] = &[losses::cross_entropy_on_a_device];
const ZEROS: &[fn()] = &[conv3d::a_chain_of_gradients_past_results_that_are_zero];
const RAW_NORM: &[fn()] = &[raw::raw_batch_norm_on_a_device];
const NEGATIVE: &[fn()] = &[infonce::similarities_may_all_be_negative];
const BIAS: &[fn()] = &[matmul::a_bias_of_its_own_for_every_column];
const FAR_CONV: &[fn()] = &[offsets::fprop_and_dgrad_beyond_two_gigabytes];
const FAR_WGRAD: &[fn()] = &[offsets::wgrad_beyond_two_gigabytes];
const FAR_STEM: &[fn()] = &[offsets::stems_beyond_two_gigabytes];
const FAR_EXACT: &[fn()] = &[offsets::exact_passes_beyond_two_gigabytes];
const FAR_ELEMENTS: &[fn()] = &[offsets::elementwise_operations_beyond_two_gigabytes];
const FAR_POOL: &[fn()] = &[offsets::pools_beyond_two_gigabytes];
const FAR_NORM: &[fn()] = &[offsets::batch_norm_beyond_two_gigabytes];
const BEHIND: &[fn()] = &[over::backgrounds_on_a_device_have_the_bits_of_the_cpu];
const OVER: &[fn()] = &[over::patches_on_a_device_have_the_bits_of_the_cpu];
const UPDATES: &[fn()] = &[updates::updates_on_a_device_are_those_of_the_cpu_to_the_bit];

const FPROP: &str = "conv3d_fprop_64x64_bf16";
const DGRAD: &str = "conv3d_dgrad_64x64_bf16";
const WGRAD: &str = "conv3d_wgrad_64x64_bf16";
const EXACT: &str = "conv3d_fprop_exact_f32";
const STEM: &str = "conv3d_fprop_stem_bf16";
const SWEEP: &str = "infonce_sweep_r64_d64_bf16";
const SWEEP_256: &str = "infonce_sweep_r256_d128_bf16";
const SWEEP_FFMA: &str = "infonce_sweep_ffma_d64_f32";
const FPROP_128: &str = "conv3d_fprop_128x128_bf16";
const FPROP_128X64: &str = "conv3d_fprop_128x64_bf16";
const NORM_BACKWARD: &str = "batch_norm_backward_apply_wide_f32";
const TVL1_3X3: &str = "tvl1_iterate_3x3_f32";
const PATCHES: &str = "augment_patches_f32";
const DGRAD_128: &str = "conv3d_dgrad_128x128_bf16";

pub(super) const MISTAKES: &[Mistake] = &[
    // Barriers and asynchronous copies.
    mistake("the main loop's barrier is missing", FPROP, ("bar.sync", 0), Drop, CONV),
    mistake("no barrier before the stage becomes the output's", FPROP, ("bar.sync", 1), Drop, CONV),
    mistake("no barrier before the output is read back", FPROP, ("bar.sync", 2), Drop, CONV),
    mistake("one stage too many is left under way", FPROP, ("cp.async.wait_group", 0), Replace("2", "3"), CONV),
    mistake("the first stages are not committed", FPROP, ("cp.async.commit_group", 0), Drop, CONV),
    mistake("the loop's stages are not committed", FPROP, ("cp.async.commit_group", 1), Drop, CONV),
    mistake("wgrad's barrier is missing", WGRAD, ("bar.sync", 0), Drop, CONV),
    mistake("wgrad waits for too few", WGRAD, ("cp.async.wait_group", 0), Replace("2", "3"), CONV),
    mistake("the tile of plain arithmetic is read too early", EXACT, ("bar.sync", 0), Drop, PLAIN),
    mistake("the next tile of plain arithmetic is read too early", EXACT, ("bar.sync", 1), Drop, PLAIN),
    mistake("the stem's barrier is missing", STEM, ("bar.sync", 0), Drop, CONV),
    mistake("InfoNCE's barrier is missing", SWEEP, ("bar.sync", 0), Drop, INFONCE),
    mistake("InfoNCE waits for too few", SWEEP, ("cp.async.wait_group", 0), Replace("0", "1"), INFONCE),
    mistake("a transposed tile is read too early", "matmul_transpose_f32", ("bar.sync", 0), Drop, MATMUL),
    mistake("a column's parts are summed too early", "reduce_columns_wide_f32", ("bar.sync", 0), Drop, LAYERS),
    mistake("statistics are summed too early", "batch_norm_sums_wide_f32", ("bar.sync", 0), Drop, NORM),
    mistake("TV-L1's tile is read too early", "tvl1_iterate_f32", ("bar.sync", 1), Drop, TVL1),
    mistake("the median's pixels are read too early", TVL1_3X3, ("bar.sync", 1), Drop, TVL1),
    mistake("the median's pixels are overwritten too early", TVL1_3X3, ("bar.sync", 2), Drop, TVL1),
    mistake("sums of tiles are added too early", "batch_norm_merge_f32", ("bar.sync", 1), Drop, MOMENTS),
    mistake("the second sums overtake the first", "batch_norm_merge_f32", ("bar.sync", 2), Drop, MOMENTS),
    mistake("gradients' sums are added too early", "batch_norm_backward_merge_f32", ("bar.sync", 1), Drop, MOMENTS),
    mistake("a frame's means are read too early", "alignment_map_backward_g_wide_f32", ("bar.sync", 2), Drop, ALIGN),
    mistake("a sample's frames are weighed too early", "alignment_loss_forward_f32", ("bar.sync", 0), Drop, ALIGN),
    // Fragments, swizzles, layouts.
    mistake("swizzled on the way in, not on the way out", FPROP, ("xor.b32", 2), Replace("xor", "or"), CONV),
    mistake("another swizzle on the way in", FPROP, ("xor.b32", 0), Replace("xor", "or"), CONV),
    mistake("two registers of a fragment of A change places", FPROP, ("mma.sync", 0), Swap(5, 6), CONV),
    mistake("two registers of a fragment of B change places", FPROP, ("mma.sync", 3), Swap(8, 9), CONV),
    mistake("two sums of a tile change places", DGRAD, ("mma.sync", 1), Swap(0, 1), CONV),
    mistake("a matrix is transposed that should not be", FPROP, ("ldmatrix", 0), Replace(".x4.", ".x4.trans."), CONV),
    mistake("a matrix is not transposed that should be", DGRAD, ("x4.trans", 0), Replace(".trans", ""), CONV),
    mistake("one row of a matrix further", WGRAD, ("ldmatrix", 1), Offset(16), CONV),
    mistake("the halves of a word change places", FPROP, ("cvt.rn.bf16x2", 0), Swap(1, 2), CONV),
    // Addresses, bounds, rights.
    mistake(
        "a copy brings what padding should hide",
        FPROP,
        (", 16, 0, %p", 0),
        Replace(", 16, 0,", ", 16, 16,"),
        CONV,
    ),
    mistake("the last store reaches past the end", FPROP, ("st.global.v4", 2), Offset(16), CONV),
    mistake("stores go to the input", "relu_backward_f32", ("ld.param.u64", 2), Replace("param_2", "param_0"), LAYERS),
    mistake("a row's end is one early", "rows_gather_wide_f32", ("setp.ge.u32", 0), Replace("ge", "gt"), LAYERS),
    mistake("a gathered row is read a word late", "rows_gather_wide_f32", ("ld.global.nc.v4", 0), Offset(4), LAYERS),
    mistake(
        "a row in order is read a word late",
        "reduce_in_order_wide_f32",
        ("ld.global.nc.v4", 1),
        Offset(4),
        LAYERS,
    ),
    mistake(
        "rows in order have no end",
        "reduce_in_order_single_bf16",
        ("setp.ge.u32", 0),
        Replace("ge", "gt"),
        LAYERS,
    ),
    mistake("a key is stored beside its place", "queue_push_wide_f32", ("st.global.v4", 0), Offset(16), LAYERS),
    mistake("an output keeps a hole", "arith_elementwise_f32", ("st.global.v4", 0), Drop, LAYERS),
    mistake("a store misses its place in shared memory", EXACT, ("st.shared.f32", 0), Offset(2), PLAIN),
    mistake("a part of the tile is never filled", EXACT, ("st.shared.f32", 1), Drop, PLAIN),
    mistake("the wrong stride of a transposed tile", "matmul_transpose_f32", ("st.shared", 1), Offset(-32), MATMUL),
    mistake("a map is written a cell late", "alignment_map_forward_wide_f32", ("st.global.f32", 0), Offset(4), ALIGN),
    // Lanes.
    mistake("half of the lanes named", "l2_norm_forward_wide_f32", (", -1;", 0), Replace("-1", "65535"), LAYERS),
    mistake("the wrong partner", "l2_norm_forward_wide_f32", (", 16;", 0), Replace("16", "8"), LAYERS),
    mistake("a step of a butterfly is missing", "reduce_rows_wide_f32", ("shfl.sync", 0), Drop, LAYERS),
    mistake("the wrong neighbour", "tvl1_iterate_f32", ("shfl.sync.up", 0), Replace("up", "down"), TVL1),
    mistake(
        "only some lanes shuffle",
        "batch_norm_sums_wide_f32",
        ("shfl.sync", 0),
        Replace("shfl", "@%p2 shfl"),
        NORM,
    ),
    // Arithmetic.
    mistake("a sum does not begin at zero", "reduce_rows_wide_f32", ("0f00000000", 0), Drop, LAYERS),
    mistake("a difference the wrong way round", "arith_elementwise_f32", ("sub.f32", 0), Swap(1, 2), LAYERS),
    mistake("a quotient the wrong way round", "arith_elementwise_f32", ("div.rn.f32", 2), Swap(1, 2), LAYERS),
    mistake("rounded towards zero", "cast_convert_f32_bf16", ("cvt.rn.bf16x2", 0), Replace("rn", "rz"), LAYERS),
    mistake(
        "rounded to the nearest pixel, not the lower",
        "tvl1_warp_f32",
        ("cvt.rmi", 0),
        Replace("rmi", "rni"),
        TVL1,
    ),
    mistake("a clamp at the wrong end", "tvl1_iterate_f32", ("min.f32", 0), Replace("min", "max"), TVL1),
    mistake("the lesser of three for the median", TVL1_3X3, ("max.f32", 1), Replace("max", "min"), TVL1),
    mistake("the neighbour's columns from the wrong side", TVL1_3X3, ("shfl.sync.up", 0), Replace("up", "down"), TVL1),
    mistake(
        "repeated iterations leave the median out",
        "tvl1_iterate_5x5_f32",
        (", 28;", 0),
        Replace("28", "12"),
        TVL1_STOPS,
    ),
    mistake("the running mean stays", "batch_norm_merge_f32", ("st.global.f32", 4), Drop, MOMENTS),
    mistake(
        "the running variance follows the mean",
        "batch_norm_merge_f32",
        ("mul.rn.f32", 3),
        Replace("%f19", "%f90"),
        MOMENTS,
    ),
    mistake("sums are about the next channel's mean", "batch_norm_merge_f32", ("ld.global.f32", 1), Offset(4), MOMENTS),
    mistake("what a rounded mean left is not sent", "batch_norm_chunk_f32", ("st.global.f32", 1), Drop, SHARED),
    mistake("a chunk's sums are added too early", "batch_norm_chunk_f32", ("bar.sync", 1), Drop, SHARED),
    mistake("deviations of shared chunks are read too early", "batch_norm_chunk_f32", ("bar.sync", 5), Drop, SHARED),
    mistake("gradients pass at zero", "relu_backward_f32", ("setp.gt.f32", 0), Replace("gt", "ge"), LAYERS),
    mistake("an average leans the other way", "ema_blend_f32", ("ld.global.nc.f32", 0), Offset(-4), UPDATES),
    mistake("the least of a window", "pool3d_max_forward_wide_f32", ("setp.gt.f32", 0), Replace("gt", "lt"), POOL),
    mistake(
        "the curvature bends the other way",
        "alignment_loss_double_backward_f32",
        ("neg.f64", 0),
        Replace("neg", "abs"),
        ALIGN,
    ),
    mistake("a gradient uphill", "alignment_loss_backward_f32", ("neg.f64", 0), Replace("neg", "mov"), ALIGN),
    mistake("what is kept is replaced", "augment_background_f32", ("setp.ne.s16", 0), Replace("ne", "eq"), BEHIND),
    mistake("the mask is the neighbour's", "augment_background_bf16", ("ld.global.nc.u8", 0), Offset(1), BEHIND),
    mistake("another clip is replaced", "augment_background_f32", ("ld.global.nc.u32", 0), Offset(4), BEHIND),
    mistake("rows on the edge of a patch are outside", PATCHES, ("setp.gtu.f64", 0), Replace("gtu", "geu"), OVER),
    mistake("columns on the edge of a patch are outside", PATCHES, ("setp.gtu.f64", 1), Replace("gtu", "geu"), OVER),
    mistake("a patch turns the other way", PATCHES, ("add.rn.f64", 0), Replace("add", "sub"), OVER),
    mistake("a patch goes on below the frame", PATCHES, ("setp.ge.u32", 0), Replace("ge", "gt"), OVER),
    mistake("a patch is cut from the first image", PATCHES, ("[%rd5+16]", 0), Offset(4), OVER),
    mistake("rows are weighed as columns", PATCHES, ("mul.rn.f32", 4), Replace("%f3", "%f5"), OVER),
    // Where nothing but an exact zero tells the difference.
    mistake("gradients pass at zero, even columns", DGRAD, ("setp.leu.f32", 0), Replace("leu", "ltu"), ZEROS),
    mistake("gradients pass at zero in the last columns", DGRAD, ("setp.leu.f32", 6), Replace("leu", "ltu"), ZEROS),
    mistake("gradients pass at zero in large tiles", DGRAD_128, ("setp.leu.f32", 0), Replace("leu", "ltu"), ZEROS),
    mistake("the mask is that of negative results", DGRAD, ("setp.leu.f32", 3), Replace("leu", "geu"), ZEROS),
    mistake("the mask is that of other elements", DGRAD, ("ld.global.nc.u8", 0), Offset(1), ZEROS),
    mistake("zero counts as positive", "batch_norm_signs_bf16", ("setp.gt.f32", 1), Replace("gt", "ge"), ZEROS),
    mistake("all but zero is positive", "batch_norm_signs_bf16", ("setp.gt.f32", 7), Replace("gt", "ne"), CONV),
    mistake("a sign is that of the neighbour", "batch_norm_add_wide_bf16", ("st.global.u8", 0), Offset(1), RAW_NORM),
    // Where all similarities are negative.
    mistake("the largest similarity begins at 0", SWEEP, ("0fFF800000", 0), Replace("FF8", "000"), NEGATIVE),
    mistake("that of 256 rows, too", SWEEP_256, ("0fFF800000", 0), Replace("FF8", "000"), NEGATIVE),
    mistake("that of plain arithmetic, too", SWEEP_FFMA, ("0fFF800000", 0), Replace("FF8", "000"), NEGATIVE),
    mistake("that of the parts, too", "infonce_merge_f32", ("0fFF800000", 0), Replace("FF8", "000"), NEGATIVE),
    mistake("keys past the last one count", SWEEP, ("setp.eq.s32", 4), Replace("-1", "-2"), NEGATIVE),
    mistake("a negative is missing", SWEEP, ("ex2.approx", 0), Replace("%f484", "0fFF800000"), NEGATIVE),
    // A bias of its own for each column.
    mistake("all columns take the first ones' bias", FPROP, ("mul.wide.s32", 0), Replace(", 4", ", 0"), BIAS),
    mistake("in tiles of 128 columns, too", FPROP_128, ("mul.wide.s32", 0), Replace(", 4", ", 0"), BIAS),
    mistake("in tiles of 128 rows, too", FPROP_128X64, ("mul.wide.s32", 0), Replace(", 4", ", 0"), BIAS),
    mistake("in stems, too", STEM, ("mul.wide.s32", 0), Replace(", 4", ", 0"), BIAS),
    mistake("odd columns take even ones' bias", FPROP, ("ld.global.nc.f32", 1), Offset(-4), BIAS),
    mistake("the bias of eight columns further", FPROP_128, ("ld.global.nc.f32", 2), Offset(32), BIAS),
    mistake("the bias of a tile further", FPROP, ("ld.global.nc.f32", 0), Offset(256), BIAS),
    mistake("plain arithmetic: the column's before it", EXACT, ("ld.global.nc.f32", 17), Offset(-4), BIAS),
    // Offsets in bytes of 32 bits.
    mistake("offsets in x have 32 bits", FPROP, ("mul.wide.u32", 0), Narrow, FAR_CONV),
    mistake("offsets in dy have 32 bits", DGRAD, ("mul.wide.u32", 3), Narrow, FAR_CONV),
    mistake("offsets of wgrad have 32 bits", WGRAD, ("mul.wide.u32", 0), Narrow, FAR_WGRAD),
    mistake("offsets in a stem's x have 32 bits", STEM, ("mul.wide.u32", 0), Narrow, FAR_STEM),
    mistake("offsets of plain arithmetic have 32 bits", EXACT, ("shl.b64", 0), Narrow, FAR_EXACT),
    mistake("offsets in a sum have 32 bits", "arith_elementwise_bf16", ("mul.wide", 0), Narrow, FAR_ELEMENTS),
    mistake("those of its last elements, too", "arith_elementwise_bf16", ("mul.wide", 1), Narrow, FAR_ELEMENTS),
    mistake("offsets in a broadcast have 32 bits", "arith_broadcast_f32", ("mul.wide", 0), Narrow, FAR_ELEMENTS),
    mistake("offsets in f32 have 32 bits", "cast_convert_bf16_f32", ("mul.wide", 1), Narrow, FAR_ELEMENTS),
    mistake("offsets of a mask have 32 bits", "relu_backward_bf16", ("mul.wide", 0), Narrow, FAR_ELEMENTS),
    mistake("offsets in a pool's x have 32 bits", "pool3d_max_forward_wide_bf16", ("shl.b64", 0), Narrow, FAR_POOL),
    mistake("offsets in a pool's dx have 32 bits", "pool3d_max_backward_wide_bf16", ("shl.b64", 1), Narrow, FAR_POOL),
    mistake("offsets of statistics have 32 bits", "batch_norm_sums_wide_bf16", ("shl.b64", 0), Narrow, FAR_NORM),
    mistake("offsets of a norm have 32 bits", "batch_norm_apply_wide_bf16", ("shl.b64", 2), Narrow, FAR_NORM),
    mistake("offsets of its gradient have 32 bits", NORM_BACKWARD, ("shl.b64", 1), Narrow, FAR_NORM),
    mistake("e to the wrong power", "cross_entropy_loss_wide_f32", ("ex2.approx", 0), Replace("ex2", "lg2"), LOSS),
];
