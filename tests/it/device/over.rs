//! Clips over other backgrounds and under patches in the simulator, against the CPU's.

use super::augment::{frames, jitter, off, plain};
use super::raw::{DTYPES, at, gpu};
use super::raw_clips::plain as described;
use crate::support::close::assert_within;
use crate::support::moving_square;
use crate::support::numbers::{bits, data, reals, wide};
use crate::support::sim::{Sim, on_gpu};
use ptxsim::Order;
use std::f64::consts::PI;
use tubelet::augment::layers::{Background, LayeredClip, MovingPatch, apply_rgb_layers, reference};
use tubelet::augment::synthetic::{Place, Tubelet};
use tubelet::augment::{
    Adjust, AugmentSpec, BackgroundLayout, BackgroundPointers, BlurForm, Draw, PatchLayout, PatchPointers, PatchesOf,
    RawClip, apply_rgb_clips, background, launch_background, launch_patches,
};
use tubelet::error::ErrorKind;
use tubelet::flow::motion::MotionInput;
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::{DType, Device, Tensor};
use tubelet::train::views::{Loader, Part, ViewSpec};

const T: usize = 2;
/// A single pixel, fewer and more than a tile, odd and even, and a multiple of one.
const SIDES: [usize; 5] = [1, 7, 13, 32, 42];

/// Numbers as a tensor of `dtype` holds them.
fn stored(numbers: &[f32], dtype: DType) -> Vec<f32> {
    data(&Tensor::from_f32([numbers.len()], numbers).unwrap().cast(dtype).unwrap())
}

/// A batch of clips on the device, and what the CPU holds of it.
fn batch(device: &Device, clips: usize, side: usize, dtype: DType) -> (Tensor, Vec<f32>) {
    let numbers = reals(clips * T * side * side * 3, side as u64);
    let on_cpu = Tensor::from_f32([clips, T, side, side, 3], &numbers).unwrap().cast(dtype).unwrap();
    (on_cpu.to(device).unwrap(), data(&on_cpu))
}

/// Three of five clips: of one a part is kept, of one nothing and of one everything. The others stay as they are.
#[test]
pub fn backgrounds_on_a_device_have_the_bits_of_the_cpu() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for (side, dtype) in SIDES.into_iter().flat_map(|side| DTYPES.map(|dtype| (side, dtype))) {
            let (clips, places) = (5, [3u32, 0, 4]);
            let (out, mut want) = batch(device, clips, side, dtype);
            let (pixels, each) = (side * side, T * side * side * 3);
            let others = reals(places.len() * each, 77);
            let mut kept: Vec<bool> = reals(pixels, 5).iter().map(|v| *v > 0.0).collect();
            kept.extend((0..2 * pixels).map(|i| i >= pixels));
            for ((place, other), kept) in places.iter().zip(others.chunks_exact(each)).zip(kept.chunks_exact(pixels)) {
                let clip = &mut want[*place as usize * each..][..each];
                background::put_over(clip, &stored(other, dtype), kept, 3).unwrap();
            }
            let others = Tensor::from_f32([others.len()], &others).unwrap().to(device).unwrap();
            kept.resize(kept.len().next_multiple_of(4), false);
            let word = |four: &[bool]| u32::from_le_bytes(std::array::from_fn(|i| u8::from(four[i])));
            let words: Vec<u32> = kept.chunks_exact(4).map(word).collect();
            let (kept, numbers) = (described(device, &words), described(device, &places));
            let layout = BackgroundLayout { clips, others: places.len(), t: T, side, dtype };
            let at = BackgroundPointers { others: at(&others), kept: at(&kept), places: at(&numbers), out: at(&out) };
            // SAFETY: the tensors have the layout's extents, and live until their contents were waited for; there are five clips.
            unsafe { launch_background(gpu(device), &layout, &at).unwrap() };
            assert!(data(&out) == want, "side {side}, {}", dtype.name());
            seen.push(bits(&out));
        }
        seen
    });
}

/// Patches that lie on pixel centres, are turned, grown, cut off at each border, outside, without extent, or larger than the frame.
fn places(side: usize) -> Vec<Place> {
    let middle = side as f64 / 2.0;
    let at = |y: f64, x: f64| Place { at: [y, x], scale: 1.0, turn: 0.0 };
    vec![
        at(middle, middle),
        at(middle.floor() + 0.5, middle.floor() - 0.5),
        Place { turn: PI / 2.0, ..at(middle.floor() + 0.5, middle.floor() + 0.5) },
        Place { scale: 1.4, turn: -0.4, ..at(0.3, 0.9 * side as f64) },
        Place { scale: 0.6, turn: 2.5, ..at(side as f64 + 0.7, -0.2) },
        at(-500.0, 1e9),
        Place { scale: 0.0, ..at(middle, middle) },
        Place { scale: 1e-3, ..at(middle, middle) },
        Place { scale: 40.0, turn: 0.1, ..at(middle, middle) },
    ]
}

/// A clip for each kind of place, one with several patches that cover each other and share images, and one without.
#[test]
pub fn patches_on_a_device_have_the_bits_of_the_cpu() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for (side, dtype) in SIDES.into_iter().flat_map(|side| DTYPES.map(|dtype| (side, dtype))) {
            let (places, count, each) = (places(side), 4, side * side * 3);
            let kinds = places.len();
            let (clips, images) = (kinds + 2, reals(count * each, 91));
            let (out, mut want) = batch(device, clips, side, dtype);
            let fixed = |i: usize| Tubelet {
                from: [side as f64 * 0.3, side as f64 * (0.1 + 0.1 * i as f64)],
                size: [6.0, 3.0][i % 2],
                places: (0..T).map(|t| places[(i + t) % kinds]).collect(),
            };
            let mut rng = stream(3, 0, side as u64, Purpose::Test);
            let mut several = vec![fixed(kinds - 1)];
            several.extend((0..3).map(|_| Tubelet::sample(&mut rng, T, side)));
            several.extend([fixed(0), fixed(3)]);
            let mut of_clips = vec![(kinds as u32 + 1, several)];
            of_clips.extend((0..kinds).map(|i| (i as u32, vec![fixed(i)])));
            let (mut patches, mut covered, mut first) = (Vec::new(), Vec::new(), 0);
            for (clip, tubelets) in &of_clips {
                covered.push(PatchesOf { clip: *clip, first, count: tubelets.len() as u32 });
                first += tubelets.len() as u32;
                let to = &mut want[*clip as usize * T * each..][..T * each];
                for (i, tubelet) in tubelets.iter().enumerate() {
                    let image = (i + *clip as usize) % count;
                    tubelet.put_over(to, &images[image * each..][..each], side, 3).unwrap();
                    patches.extend(tubelet.patches(side, image as u32).unwrap());
                }
            }
            let want = stored(&want, dtype);
            let images = Tensor::from_f32([images.len()], &images).unwrap().to(device).unwrap();
            let (all, of) = (described(device, &patches), described(device, &covered));
            let [patches, covered] = [first as usize, covered.len()];
            let layout = PatchLayout { clips, covered, patches, images: count, t: T, side, dtype };
            let at = PatchPointers { images: at(&images), patches: at(&all), covered: at(&of), out: at(&out) };
            // SAFETY: the tensors have the layout's extents, and live until their contents were waited for; clips and images are
            // numbered below their counts.
            unsafe { launch_patches(gpu(device), &layout, &at).unwrap() };
            assert!(data(&out) == want, "side {side}, {}", dtype.name());
            seen.push(bits(&out));
        }
        seen
    });
}

/// A clip of `t` frames of `h w`; the draw is of frames of 17 x 22, and frames of other sizes are cropped alike.
fn raw(t: usize, [h, w]: [usize; 2], draw: &Draw, seed: usize) -> RawClip {
    // Every clip has other frames.
    let frames = frames(t + seed, h, w)[seed..].concat();
    RawClip { frames, size: [h, w], draw: draw.clone() }
}

const H: usize = 17;
const W: usize = 22;

/// A plain draw, one with colours, and one that is blurred by boxes as well.
fn draws() -> [Draw; 3] {
    let order = [Adjust::Hue, Adjust::Brightness, Adjust::Contrast, Adjust::Saturation];
    let coloured = Draw { flip: true, jitter: Some(jitter(order)), ..plain(H, W) };
    let boxed = Draw { blur: Some(0.9), blur_form: BlurForm::Boxes, ..coloured.clone() };
    [plain(H, W), coloured, boxed]
}

/// Five clips of two sizes: alone, over a background, under patches, over one and under others, and alone again.
fn layered(side: usize) -> Vec<LayeredClip> {
    let [plain, coloured, boxed] = draws();
    let mut rng = stream(8, 0, 0, Purpose::Test);
    let mut patch = |size, draw: &Draw, seed| MovingPatch {
        image: raw(1, size, draw, seed),
        tubelet: Tubelet::sample(&mut rng, T, side),
    };
    let background = |size, draw: &Draw, seed: usize| {
        let kept = reals(side * side, seed as u64).iter().map(|v| *v > 0.0).collect();
        Some(Background { clip: raw(T, size, draw, seed), kept })
    };
    let alone = |size, draw: &Draw, seed| LayeredClip::from(raw(T, size, draw, seed));
    let patches = |all: [MovingPatch; 2]| all.to_vec();
    vec![
        alone([H, W], &coloured, 1),
        LayeredClip { background: background([34, 20], &boxed, 2), ..alone([H, W], &plain, 3) },
        LayeredClip {
            patches: patches([patch([34, 20], &coloured, 4), patch([H, W], &coloured, 5)]),
            ..alone([34, 20], &coloured, 6)
        },
        LayeredClip {
            background: background([H, W], &coloured, 7),
            patches: patches([patch([H, W], &boxed, 8), patch([34, 20], &boxed, 9)]),
            ..alone([H, W], &boxed, 10)
        },
        alone([34, 20], &plain, 11),
    ]
}

/// How far a clip on a GPU may be from the CPU's: as far as the farthest of its layers (`augment::off`), normalised. Interpolation of
/// patches weighs numbers of at most (1 + mean) / std, twice, with three roundings in either computation.
fn bounds(clip: &LayeredClip, side: usize, want: &[f32], dtype: DType) -> Vec<f64> {
    let (behind, over) = (clip.background.iter().map(|b| &b.clip), clip.patches.iter().map(|p| &p.image));
    let draws: Vec<&Draw> = behind.chain(over).chain([&clip.clip]).map(|raw| &raw.draw).collect();
    let e = draws.iter().map(|draw| off(draw, side * side)).fold(0.0, f64::max);
    let (u, draw) = (DType::F32.unit_roundoff(), &clip.clip.draw);
    let of_channel = |c: usize| (e + (4.0 + 12.0) * u * (1.0 + f64::from(draw.mean[c]))) / f64::from(draw.std[c]);
    let last = if dtype == DType::BF16 { 1.01 * dtype.unit_roundoff() } else { 0.0 };
    want.iter().enumerate().map(|(i, v)| of_channel(i % 3) + last * f64::from(v.abs())).collect()
}

#[test]
pub fn layered_clips_on_a_gpu_are_those_of_the_cpu_in_any_batch() {
    on_gpu(|device| {
        let mut seen = Vec::new();
        for (side, dtype) in [(13, DType::F32), (13, DType::BF16), (40, DType::BF16)] {
            let clips = layered(side);
            let together = apply_rgb_layers(gpu(device), &clips.iter().collect::<Vec<_>>(), side, dtype).unwrap();
            assert_eq!((together.dims(), together.dtype()), (&[5, T, side, side, 3][..], dtype));
            let (numbers, together) = (data(&together), bits(&together));
            let each = T * side * side * 3;
            for (i, clip) in clips.iter().enumerate() {
                let want = reference::apply_rgb_layers(clip, side).unwrap();
                let bounds = bounds(clip, side, &want, dtype);
                assert_within(&format!("clip {i} to {side}"), &numbers[i * each..][..each], &wide(&want), &bounds);
                let alone = apply_rgb_layers(gpu(device), &[clip], side, dtype).unwrap();
                assert!(bits(&alone) == together[i * each..][..each], "clip {i} to {side} in another batch");
                if clip.background.is_none() && clip.patches.is_empty() {
                    let plain = apply_rgb_clips(gpu(device), &[&clip.clip], side, dtype).unwrap();
                    assert!(bits(&plain) == bits(&alone), "clip {i} to {side} without layers");
                }
            }
            seen.push(together);
        }
        seen
    });
}

/// Launches of each kernel in one batch.
fn launches(clips: &[&LayeredClip]) -> Vec<(String, u64)> {
    let sim = Sim::new(Order::Forward);
    apply_rgb_layers(&sim.gpu, clips, 13, DType::F32).unwrap();
    sim.machine.totals().iter().map(|(entry, c)| (entry.to_string(), c.launches)).collect()
}

/// One for all backgrounds and one for all patches of a batch, and images of one size together, wherever they are in it.
#[test]
fn layers_take_a_launch_for_a_batch_and_plain_clips_none() {
    let clips = layered(13);
    let of = |entry: &str, n: u64| (entry.to_owned(), n);
    let plain = LayeredClip::from(raw(T, [H, W], &draws()[0], 1));
    assert_eq!(launches(&[&plain, &plain]), [of("augment_rgb_f32", 1)]);
    let plainly = |clip: &LayeredClip| {
        let (mut clip, draw) = (clip.clone(), draws()[0].clone());
        clip.background.iter_mut().for_each(|b| b.clip.draw = draw.clone());
        clip.patches.iter_mut().for_each(|p| p.image.draw = draw.clone());
        LayeredClip { clip: RawClip { draw, ..clip.clip }, ..clip }
    };
    let [behind, under] = [&clips[1], &clips[2]].map(plainly);
    // Backgrounds are of one size, patches of two.
    assert_eq!(launches(&[&plain, &behind, &behind]), [of("augment_background_f32", 1), of("augment_rgb_f32", 2)]);
    let all = [&under, &under, &under];
    assert_eq!(launches(&all), [of("augment_patches_f32", 1), of("augment_rgb_f32", 3)]);
}

/// Pixels are stored where they are replaced, and nowhere else; a patch is interpolated once where two cover a pixel.
#[test]
fn only_what_is_replaced_is_stored() {
    let (side, clips) = (40, layered(40));
    let stored = |clip: &LayeredClip, entry: &str| {
        let sim = Sim::new(Order::Forward);
        apply_rgb_layers(&sim.gpu, &[clip], side, DType::F32).unwrap();
        sim.machine.totals()[entry].global_bytes_stored
    };
    let kept = &clips[1].background.as_ref().unwrap().kept;
    let replaced = kept.iter().filter(|kept| !**kept).count();
    assert_eq!(stored(&clips[1], "augment_background_f32"), (T * replaced * 12) as u64);
    // One number for a pixel, which says whether a patch covers it.
    let mut covered = vec![0.0; T * side * side];
    for patch in &clips[2].patches {
        patch.tubelet.put_over(&mut covered, &vec![1.0; side * side], side, 1).unwrap();
    }
    let covered = covered.iter().filter(|v| **v > 0.0).count();
    assert!(covered > 0 && covered < T * side * side);
    assert_eq!(stored(&clips[2], "augment_patches_f32"), (covered * 12) as u64);
}

/// Each mistake is named before anything is launched.
#[test]
fn layers_that_do_not_fit_are_refused() {
    let side = 13;
    let clips = layered(side);
    let refused = |change: &dyn Fn(&mut LayeredClip), name: &str| {
        let sim = Sim::new(Order::Forward);
        let mut wrong = clips[3].clone();
        change(&mut wrong);
        let e = apply_rgb_layers(&sim.gpu, &[&clips[0], &wrong], side, DType::F32).unwrap_err();
        let named = match e.kind() {
            ErrorKind::Shape { arg, .. } => *arg,
            ErrorKind::Param { name, .. } => *name,
            _ => panic!("{e}"),
        };
        assert_eq!(named, name, "{e}");
        assert!(sim.machine.totals().is_empty(), "{e}");
    };
    let background =
        |change: fn(&mut Background)| move |clip: &mut LayeredClip| change(clip.background.as_mut().unwrap());
    let patch = |change: fn(&mut MovingPatch)| move |clip: &mut LayeredClip| change(&mut clip.patches[1]);
    refused(&background(|b| b.kept.truncate(5)), "kept");
    refused(&background(|b| b.clip.frames.truncate(H * W * 3)), "background");
    refused(&background(|b| b.clip.frames.truncate(H * W * 3 + 1)), "frames");
    refused(&background(|b| b.clip.draw.crop.h = 99), "crop");
    refused(&patch(|p| p.image.frames.clear()), "frames");
    refused(&patch(|p| p.image.draw.crop.w = 0), "crop");
    refused(&patch(|p| p.tubelet.places.truncate(1)), "places");
    refused(&patch(|p| p.tubelet.places[0].turn = f64::NAN), "places");
    let two = |clip: &mut LayeredClip| {
        for patch in &mut clip.patches {
            patch.image.frames = patch.image.frames.repeat(2);
        }
    };
    refused(&two, "patches");
    refused(&|clip: &mut LayeredClip| clip.clip.frames.clear(), "frames");
}

/// The clips of samples with `spec`: what is left to a GPU is what the CPU made the clip of, and becomes the same there.
fn followed(loader: &Loader, spec: ViewSpec, layers: fn(&LayeredClip) -> usize) {
    let cpu = Loader { spec, motion: false, ..loader.clone() };
    let on_gpu = Loader { on_gpu: true, ..cpu.clone() };
    let sim = Sim::new(Order::Forward);
    let (side, mut found) = (cpu.spec.side, Vec::new());
    for (epoch, video) in [(0, 0), (0, 1), (1, 0), (2, 1)] {
        let (made, left) = (cpu.pair(epoch, video).unwrap(), on_gpu.pair(epoch, video).unwrap());
        assert_eq!(made.starts, left.starts);
        for (made, left) in made.rgb.iter().zip(&left.rgb) {
            let Part { dims, data: numbers, raw: Some(raw) } = left else { panic!("it is left to the GPU") };
            assert!(numbers.is_empty() && *dims == made.dims && made.raw.is_none());
            assert!(reference::apply_rgb_layers(raw, side).unwrap() == made.data, "epoch {epoch}, video {video}");
            let clip = data(&apply_rgb_layers(&sim.gpu, &[raw], side, DType::F32).unwrap());
            let bounds = bounds(raw, side, &made.data, DType::F32);
            assert_within(&format!("epoch {epoch}, video {video}"), &clip, &wide(&made.data), &bounds);
            found.push(layers(raw));
        }
    }
    assert!(found.iter().all(|n| *n == found[0]) && found[0] > 0, "{found:?}");
}

#[test]
fn a_sample_is_the_same_clip_on_both_devices() {
    let dir = tempfile::tempdir().unwrap();
    moving_square::write_frames(dir.path());
    let views = ViewSpec { augment: AugmentSpec::default(), ..moving_square::views(MotionInput::Flow) };
    let loader = moving_square::loader(dir.path(), &views, "", moving_square::exact);
    let over = ViewSpec { background_swap: 1.0, ..views.clone() };
    followed(&loader, over, |clip| usize::from(clip.background.is_some()));
    followed(&loader, ViewSpec { tubelets: 3, ..views }, |clip| clip.patches.len());
}
