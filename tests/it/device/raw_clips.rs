//! Augmentation on device addresses, against the forms on tensors: the same bits.

use super::raw::{DTYPES, at, gpu, result};
use crate::support::numbers::{bits, reals};
use crate::support::sim::on_gpu;
use tubelet::augment::{
    Adjust, AugmentSpec, BackgroundLayout, BackgroundPointers, BlurForm, Clip, Draw, Jitter, Layout, MotionKind,
    MotionLayout, MotionPointers, PatchLayout, PatchPointers, Pointers, RawClip, apply_motion_batch, apply_rgb_batch,
    apply_rgb_clips, launch_background, launch_motion, launch_patches, launch_rgb,
};
use tubelet::driver::Gpu;
use tubelet::error::ErrorKind;
use tubelet::tensor::{DType, Device, Frames, Tensor};

const T: usize = 2;
const H: usize = 17;
const W: usize = 22;

/// Descriptions and other plain data, as a tensor whose bytes they are.
pub(super) fn plain<T: bytemuck::Pod>(device: &Device, data: &[T]) -> Tensor {
    let numbers: &[f32] = bytemuck::cast_slice(data);
    Tensor::from_f32([numbers.len()], numbers).unwrap().to(device).unwrap()
}

/// A plain clip and one with everything.
fn draws() -> [Draw; 2] {
    let order = [Adjust::Hue, Adjust::Brightness, Adjust::Contrast, Adjust::Saturation];
    let jitter = Jitter { order, brightness: 1.2, contrast: 0.7, saturation: 1.3, hue: 0.1 };
    let centre = Draw::centre(&AugmentSpec::default(), H, W);
    let all = Draw { flip: true, jitter: Some(jitter), blur: Some(0.9), blur_form: BlurForm::Boxes, ..centre.clone() };
    [centre, all]
}

#[test]
pub fn raw_rgb_clips_on_a_device() {
    let bytes: Vec<u8> = reals(2 * T * H * W * 3, 3).iter().map(|v| (128.0 + 120.0 * v) as u8).collect();
    let frames: Vec<&[u8]> = bytes.chunks_exact(H * W * 3).collect();
    let draws = draws();
    on_gpu(|device| {
        let frames = Frames::upload(gpu(device), &frames, H, W).unwrap();
        let mut seen = Vec::new();
        for (side, dtype) in [(13, DType::F32), (16, DType::BF16)] {
            let want = apply_rgb_batch(&frames, &draws, side, dtype).unwrap();
            let layout = Layout { clips: 2, t: T, h: H, w: W, side, dtype, jitter: true, boxes: true };
            let clips: Vec<Clip> = draws.iter().map(|draw| Clip::new(draw, H, W, side).unwrap()).collect();
            let (clips, out) = (plain(device, &clips), result(device, want.shape(), dtype));
            let space = result(device, [layout.workspace().div_ceil(4)], DType::F32);
            let at = Pointers { frames: frames.address(), clips: at(&clips), out: at(&out), workspace: at(&space) };
            // SAFETY: the tensors have the layout's extents, and live until their contents were waited for.
            unsafe { launch_rgb(gpu(device), &layout, &at).unwrap() };
            assert_eq!(bits(&out), bits(&want), "side {side}");
            seen.push(bits(&out));
        }
        seen
    });
}

/// Clips of two sizes in one batch, with odd sides and plain ones among them: each as it is alone.
#[test]
pub fn clips_of_several_sizes_on_a_device() {
    let [plain, all] = draws();
    let jittered = Draw { blur: None, ..all.clone() };
    let clip = |[h, w]: [usize; 2], draw: &Draw, seed: u64| {
        let frames = reals(T * h * w * 3, seed).iter().map(|v| (128.0 + 120.0 * v) as u8).collect();
        // Draws are of frames of 17 x 22: those of other sizes are cropped alike.
        RawClip { frames, size: [h, w], draw: draw.clone() }
    };
    let clips = [
        clip([H, W], &plain, 1),
        clip([H, W], &all, 2),
        clip([34, 20], &jittered, 3),
        clip([H, W], &jittered, 4),
        clip([34, 20], &plain, 5),
    ];
    on_gpu(|device| {
        let mut seen = Vec::new();
        for (side, dtype) in [(13, DType::F32), (13, DType::BF16), (16, DType::BF16)] {
            let together = apply_rgb_clips(gpu(device), &clips.each_ref(), side, dtype).unwrap();
            assert_eq!((together.dims(), together.dtype()), (&[5, T, side, side, 3][..], dtype));
            let together = bits(&together);
            for (clip, got) in clips.iter().zip(together.chunks_exact(T * side * side * 3)) {
                let ([h, w], draw) = (clip.size, std::slice::from_ref(&clip.draw));
                let frames: Vec<&[u8]> = clip.frames.chunks_exact(h * w * 3).collect();
                let frames = Frames::upload(gpu(device), &frames, h, w).unwrap();
                assert_eq!(got, bits(&apply_rgb_batch(&frames, draw, side, dtype).unwrap()), "{h} x {w} to {side}");
            }
            seen.push(together);
        }
        let refused = |clips: &[&RawClip]| apply_rgb_clips(gpu(device), clips, 13, DType::F32).unwrap_err().to_string();
        assert!(refused(&[]).contains("at least one clip"));
        let broken = RawClip { frames: vec![0; H * W * 3 + 1], ..clips[0].clone() };
        assert!(refused(&[&clips[0], &broken]).contains("whole frames of 17 x 22"));
        let short = RawClip { frames: vec![0; H * W * 3], ..clips[0].clone() };
        assert!(refused(&[&clips[0], &short]).contains("2 frames, as the first one has"));
        seen
    });
}

/// All clips at once, and one after the other into the same result: an address within an array.
#[test]
pub fn raw_motion_clips_on_a_device() {
    let draws = draws();
    on_gpu(|device| {
        let mut seen = Vec::new();
        for (kind, channels) in
            [(MotionKind::Map, 1), (MotionKind::Map, 3), (MotionKind::Flow, 2), (MotionKind::Flow, 3)]
        {
            let numbers = reals(2 * T * H * W * channels, 9);
            let maps = Tensor::from_f32([2, T, H, W, channels], &numbers).unwrap().to(device).unwrap();
            for dtype in DTYPES {
                let side = 12;
                let want = apply_motion_batch(&maps, kind, &draws, side, dtype).unwrap();
                let clips: Vec<Clip> = draws.iter().map(|draw| Clip::new(draw, H, W, side).unwrap()).collect();
                let gains: Vec<[f32; 2]> = draws.iter().map(|draw| kind.gains(draw, H, W, side)).collect();
                assert!(kind == MotionKind::Map || gains[1][0] < 0.0, "a flip turns u");
                let (clips, gains) = (plain(device, &clips), plain(device, &gains));
                for each in [2, 1] {
                    let layout = MotionLayout { clips: each, t: T, h: H, w: W, channels, side, dtype };
                    let out = result(device, want.shape(), dtype);
                    for first in (0..2).step_by(each) {
                        let after = |base: u64, bytes: usize| base + (first * bytes) as u64;
                        let pointers = MotionPointers {
                            maps: after(at(&maps), T * H * W * channels * 4),
                            clips: after(at(&clips), size_of::<Clip>()),
                            gains: after(at(&gains), 8),
                            out: after(at(&out), T * side * side * channels * dtype.size()),
                        };
                        // SAFETY: the tensors have the layout's extents, and live until their contents were waited for.
                        unsafe { launch_motion(gpu(device), &layout, &pointers).unwrap() };
                    }
                    assert_eq!(bits(&out), bits(&want), "{kind:?} of {channels}, {each} at a time");
                }
                seen.push(bits(&want));
            }
        }
        seen
    });
}

/// Calls that must be refused before anything is launched: `a` is an address of a few kilobytes. Run by
/// `host::wrong_addresses`, which counts launches.
pub fn refusals(gpu: &Gpu, a: u64) {
    let refused = |what: &str, result: tubelet::error::Result<()>| {
        let error = result.expect_err(what);
        assert!(matches!(error.kind(), ErrorKind::Param { .. }), "{what}: {error}");
    };
    let layout = Layout { clips: 1, t: 1, h: 4, w: 4, side: 4, dtype: DType::F32, jitter: true, boxes: false };
    let rgb = Pointers { frames: a, clips: a, out: a, workspace: a };
    for (what, at) in [
        ("frames", Pointers { frames: 0, ..rgb }),
        ("clips", Pointers { clips: a + 4, ..rgb }),
        ("out", Pointers { out: a + 2, ..rgb }),
        ("workspace", Pointers { workspace: 0, ..rgb }),
    ] {
        // SAFETY (of all calls here): nothing is launched.
        refused(what, unsafe { launch_rgb(gpu, &layout, &at) });
    }
    refused("side", unsafe { launch_rgb(gpu, &Layout { side: 0, ..layout }, &rgb) });
    let layout = MotionLayout { clips: 1, t: 1, h: 4, w: 4, channels: 1, side: 4, dtype: DType::F32 };
    let motion = MotionPointers { maps: a, clips: a, gains: a, out: a };
    for (what, at) in [
        ("maps", MotionPointers { maps: a + 2, ..motion }),
        ("clips", MotionPointers { clips: 0, ..motion }),
        ("gains", MotionPointers { gains: a + 4, ..motion }),
        ("out", MotionPointers { out: 0, ..motion }),
    ] {
        refused(what, unsafe { launch_motion(gpu, &layout, &at) });
    }
    for wrong in [MotionLayout { channels: 0, ..layout }, MotionLayout { channels: 1 << 28, ..layout }] {
        refused("channels", unsafe { launch_motion(gpu, &wrong, &motion) });
    }
    layers(gpu, a, &refused);
    sweeps(gpu, a, &refused);
}

/// The same of backgrounds and patches.
fn layers(gpu: &Gpu, a: u64, refused: &dyn Fn(&str, tubelet::error::Result<()>)) {
    let layout = BackgroundLayout { clips: 2, others: 1, t: 1, side: 4, dtype: DType::F32 };
    let right = BackgroundPointers { others: a, kept: a, places: a, out: a };
    for (what, at) in [
        ("others", BackgroundPointers { others: a + 2, ..right }),
        ("kept", BackgroundPointers { kept: 0, ..right }),
        ("places", BackgroundPointers { places: a + 1, ..right }),
        ("out", BackgroundPointers { out: a + 2, ..right }),
    ] {
        // SAFETY (of all calls here): nothing is launched.
        refused(what, unsafe { launch_background(gpu, &layout, &at) });
    }
    for wrong in [
        BackgroundLayout { others: 0, ..layout },
        BackgroundLayout { others: 65536, ..layout },
        BackgroundLayout { side: 1 << 15, ..layout },
        BackgroundLayout { t: 0, ..layout },
    ] {
        refused("layout", unsafe { launch_background(gpu, &wrong, &right) });
    }
    let dtype = DType::BF16;
    let layout = PatchLayout { clips: 2, covered: 1, patches: 1, images: 1, t: 1, side: 4, dtype };
    let right = PatchPointers { images: a, patches: a, covered: a, out: a };
    for (what, at) in [
        ("images", PatchPointers { images: 0, ..right }),
        ("patches", PatchPointers { patches: a + 4, ..right }),
        ("covered", PatchPointers { covered: a + 2, ..right }),
        ("out", PatchPointers { out: a + 1, ..right }),
    ] {
        refused(what, unsafe { launch_patches(gpu, &layout, &at) });
    }
    for wrong in [
        PatchLayout { clips: 0, ..layout },
        PatchLayout { covered: 0, ..layout },
        PatchLayout { patches: 1 << 25, ..layout },
        PatchLayout { images: 0, ..layout },
    ] {
        refused("layout", unsafe { launch_patches(gpu, &wrong, &right) });
    }
}

/// The same of InfoNCE and of flow.
fn sweeps(gpu: &Gpu, a: u64, refused: &dyn Fn(&str, tubelet::error::Result<()>)) {
    use tubelet::ops::infonce::{Layout, Pointers, launch};
    use tubelet::ops::tvl1::{self, Tvl1};
    let dtype = DType::F32;
    let layout = Layout { terms: 1, n: 4, d: 8, m: 16, q: dtype, k: dtype, queue: dtype, tau: 0.1, gradient: true };
    let one = [a, 0, 0, 0];
    let right = Pointers { q: one, k: one, queue: a, owners: [0, 0], dq: one, loss: one, stats: one, workspace: a };
    for (what, at) in [
        ("q", Pointers { q: [0; 4], ..right }),
        ("k", Pointers { k: [a + 8, 0, 0, 0], ..right }),
        ("queue", Pointers { queue: a + 4, ..right }),
        ("owners", Pointers { owners: [a, 0], ..right }),
        ("dq", Pointers { dq: [a + 4, 0, 0, 0], ..right }),
        ("loss", Pointers { loss: [a + 2, 0, 0, 0], ..right }),
        ("stats", Pointers { stats: [0; 4], ..right }),
        ("workspace", Pointers { workspace: a + 8, ..right }),
    ] {
        // SAFETY (of all calls here): nothing is launched.
        refused(what, unsafe { launch(gpu, &layout, &at) });
    }
    let p = Tvl1::default();
    let plan = tvl1::Plan::new(1, 16, 16, &p).unwrap();
    let right = tvl1::Pointers { a, b: a, flow: a, workspace: a };
    for (what, at) in [("a", tvl1::Pointers { a: a + 4, ..right }), ("flow", tvl1::Pointers { flow: 0, ..right })] {
        refused(what, unsafe { tvl1::launch(gpu, &plan, &p, &at) });
    }
}
