//! From the pictures on the disk to the numbers that a network gets: a red square that moves over a blue ground is followed all the
//! way. Where it stands and how it moves is measured in the RGB clip itself, whatever the crop, and the motion input, the target of
//! the alignment and the chosen box must agree with that: place, sign, channel, time, size.

use std::process::Command;

use tubelet::augment::{AugmentSpec, Draw, MotionKind, apply_motion, apply_motion_batch, apply_rgb, apply_rgb_batch};
use tubelet::flow::motion::{MotionInput, MotionMap};
use tubelet::flow::{Flow, Gray, flo};
use tubelet::ops::{motion_map, tvl1};
use tubelet::rng::{Purpose, stream};
use tubelet::tensor::{DType, Device, Frames, Tensor};
use tubelet::train::focus::Focus;
use tubelet::train::views::{Loader, Part, ViewSpec};
use tubelet::video::{FlowSource, Gap};

use crate::support::close::assert_within;
use crate::support::moving_square::{
    LENGTH, SIZE, SQUARE, corner, exact, inner, loader, mask, middle, picture, plane, views, weights, whole,
    write_frames,
};
use crate::support::numbers::{data, wide};
use crate::support::sim::on_gpu;
use crate::support::videos::ffmpeg;

/// What was followed: clips, and among them those in which the square moves to the right.
#[derive(Default)]
struct Followed {
    clips: usize,
    rightwards: usize,
    /// Pixels looked at inside of the square.
    core: usize,
}

/// Holds a motion clip against the RGB clip of its moment and crop, in which the square is whole in every frame. `late` is
/// by how many frames of the video a motion map may belong to another moment.
fn follow(seen: &mut Followed, spec: &ViewSpec, rgb: &Part, motion: &Part, late: f32) {
    let (side, n) = (spec.side, spec.frames);
    let masks: Vec<Vec<bool>> = (0..n).map(|t| mask(rgb, t)).collect();
    if !masks.iter().all(|m| whole(m, side)) {
        return;
    }
    let at: Vec<[f32; 2]> = masks.iter().map(|m| middle(weights(m), side).unwrap()).collect();
    // Pixels of the crop for a pixel of the video, and for one of the cache: what that is blended over.
    let count = masks.iter().flatten().filter(|m| **m).count() as f32 / n as f32;
    let zoom = count.sqrt() / SQUARE as f32;
    let blend = (zoom * SIZE[0] as f32 / spec.cache_side as f32).ceil() as usize;
    // Pixels of the crop a frame of the video: the ends of the way are known to half a pixel each.
    let frames = ((n - 1) * spec.stride) as f32;
    let speed: [f32; 2] = std::array::from_fn(|i| (at[n - 1][i] - at[0][i]) / frames);
    assert!(speed.iter().all(|s| s.abs() > 0.4), "{speed:?}: the square moves along both axes");
    seen.clips += 1;
    seen.rightwards += usize::from(speed[0] > 0.0);
    for t in 0..n {
        let channels: Vec<Vec<f32>> = (0..motion.dims[3]).map(|c| plane(motion, t, c)).collect();
        let there = middle(channels[0].iter().map(|v| v.abs()), side).expect("something moves");
        // The difference of two frames shows what the square came to cover and what it left, of the same size, around the
        // middle of both. The texture weighs these strips, a square apart, by 36 of 455 levels differently at most, and a
        // strip of one pixel, a fifth of all, can lie between the samples of a smaller picture.
        let strips = spec.motion == MotionInput::FrameDifference;
        for i in 0..2 {
            let want = at[t][i] + if strips { 0.5 * speed[i] } else { 0.0 };
            let uneven = if strips { (36.0 / 455.0 + 0.2) * 0.5 * SQUARE as f32 * zoom } else { 0.0 };
            let off = 1.0 + late * speed[i].abs() + uneven;
            assert!((there[i] - want).abs() < off, "{}: frame {t}, {there:?}, not {want} +- {off}", spec.motion);
        }
        // A resize reaches one pixel of the cache, Sobel's kernel or the resize of given flow another; the mask is right to
        // one pixel of the crop.
        let twice = [MotionInput::FlowEdges, MotionInput::FlowAndEdges].contains(&spec.motion)
            || spec.flow_source != FlowSource::TvL1;
        let reach =
            if twice { 2 * blend } else { blend } + 1 + (late * speed[0].abs().max(speed[1].abs())).ceil() as usize;
        let core = inner(&masks[t], side, reach);
        seen.core += core.iter().filter(|c| **c).count();
        let inside = |c: usize| -> Vec<f32> {
            channels[c].iter().zip(&core).filter(|(_, inside)| **inside).map(|(v, _)| *v).collect()
        };
        match spec.motion {
            MotionInput::Flow | MotionInput::FlowAndEdges => {
                for (c, speed) in speed.iter().enumerate() {
                    for v in inside(c) {
                        let (got, off) = (v * spec.motion_clamp, 1.0 / frames);
                        assert!((got - speed).abs() < off, "channel {c} of frame {t}: {got}, not {speed}");
                    }
                }
                // Inside of the square are no edges. Nothing moves away from it.
                if spec.motion == MotionInput::FlowAndEdges {
                    assert!(inside(2).iter().all(|v| *v == 0.0), "edges inside of the square");
                }
                let ground = inner(&masks[t].iter().map(|m| !m).collect::<Vec<_>>(), side, reach);
                assert!(channels.iter().all(|c| c.iter().zip(&ground).all(|(v, g)| !g || *v == 0.0)), "frame {t}");
            }
            MotionInput::FlowEdges => assert!(inside(0).iter().all(|v| *v == 0.0), "edges inside of the square"),
            MotionInput::FrameDifference => {}
        }
    }
}

/// Follows the square through what MaCLR takes of both videos in some epochs.
fn follow_pairs(loader: &Loader, late: f32) {
    let mut seen = Followed::default();
    for (epoch, video) in (0..24).flat_map(|e| [(e, 0), (e, 1)]) {
        let pair = loader.pair(epoch, video).unwrap();
        for (rgb, motion) in pair.rgb.iter().zip(&pair.motion.unwrap()) {
            assert_eq!([rgb.dims, motion.dims], loader.spec.dims());
            follow(&mut seen, &loader.spec, rgb, motion, late);
        }
    }
    assert!(seen.clips >= 15, "only {} clips show the whole square", seen.clips);
    assert!((1..seen.clips).contains(&seen.rightwards), "flips, and both videos, are seen");
    assert!(seen.core > 0, "no pixel lies inside of the square");
}

#[test]
fn each_motion_input_shows_the_square_where_rgb_shows_it_and_as_it_moves() {
    for motion in MotionInput::ALL {
        let dir = tempfile::tempdir().unwrap();
        write_frames(dir.path());
        follow_pairs(&loader(dir.path(), &views(motion), "", exact), 0.0);
        // Flow at every other frame: the nearest is one frame away at most.
        if motion.needs_flow() {
            let sparse = ViewSpec { flow_every: 2, ..views(motion) };
            follow_pairs(&loader(dir.path(), &sparse, "", exact), 1.0);
        }
    }
}

/// As MaCLR's release has it, whose motion network takes three channels.
#[test]
fn a_map_of_one_channel_comes_three_times_over_where_that_is_asked_for() {
    for motion in MotionInput::ALL {
        let dir = tempfile::tempdir().unwrap();
        write_frames(dir.path());
        let clips = |motion_thrice| {
            let l = loader(dir.path(), &ViewSpec { motion_thrice, ..views(motion) }, "", exact);
            let [clip, _] = l.pair(3, 1).unwrap().motion.unwrap();
            assert_eq!(clip.dims, l.spec.dims()[1]);
            clip
        };
        let (once, thrice) = (clips(false), clips(true));
        let channels = if motion == MotionInput::Flow { 2 } else { 3 };
        assert_eq!(thrice.dims[3], channels);
        for (t, c) in (0..once.dims[0]).flat_map(|t| (0..channels).map(move |c| (t, c))) {
            assert_eq!(plane(&thrice, t, c), plane(&once, t, c % once.dims[3]), "{motion}, channel {c} of frame {t}");
        }
    }
}

/// As the default run computes it: the sign, the channel and about the size of what TV-L1 finds.
#[test]
fn computed_flow_reaches_the_network_with_its_signs() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let small = |a: &Gray, b: &Gray| tvl1::flow(a, b, &ViewSpec::small().flow);
    let l = loader(dir.path(), &views(MotionInput::Flow), "", small);
    let mut followed = 0;
    for (epoch, video) in (0..12).flat_map(|e| [(e, 0), (e, 1)]) {
        let pair = l.pair(epoch, video).unwrap();
        let (rgb, motion) = (&pair.rgb[0], &pair.motion.as_ref().unwrap()[0]);
        let masks: Vec<Vec<bool>> = (0..4).map(|t| mask(rgb, t)).collect();
        if !masks.iter().all(|m| whole(m, l.spec.side)) {
            continue;
        }
        followed += 1;
        let at = |t: usize| middle(weights(&masks[t]), l.spec.side).unwrap();
        for (t, mask) in masks.iter().enumerate() {
            for c in 0..2 {
                let speed = (at(3)[c] - at(0)[c]) / 6.0;
                let flow = plane(motion, t, c);
                let inside: Vec<f32> = flow.iter().zip(mask).filter(|(_, m)| **m).map(|(v, _)| 8.0 * v).collect();
                let mean = inside.iter().sum::<f32>() / inside.len() as f32;
                // Small squares are smoothed, so less than the whole is found; u and v mixed would be a quarter at most.
                assert!((0.3..1.5).contains(&(mean / speed)), "channel {c}: {mean}, not {speed}");
            }
        }
    }
    assert!(followed >= 5, "{followed}");
}

/// Untied, a motion clip has the crop of the video's other RGB clip; both clips are of one moment here.
#[test]
fn untied_crops_are_those_of_the_other_clip() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let untied = ViewSpec { tied_crops: false, gap: Gap { min: 0.0, max: 0.0 }, ..views(MotionInput::Flow) };
    let l = loader(dir.path(), &untied, "", exact);
    let mut seen = Followed::default();
    for epoch in 0..24 {
        let pair = l.pair(epoch, 0).unwrap();
        let motion = pair.motion.unwrap();
        follow(&mut seen, &untied, &pair.rgb[1], &motion[0], 0.0);
        follow(&mut seen, &untied, &pair.rgb[0], &motion[1], 0.0);
    }
    assert!(seen.clips >= 8, "{}", seen.clips);
}

/// The square in the middle of the frames, as a probe sees it: what was painted is where it was painted, in each clip and frame.
#[test]
fn a_probe_sees_the_square_where_it_was_painted() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let spec = views(MotionInput::Flow);
    let l = loader(dir.path(), &spec, "", exact);
    // The middle of the frames, as high as they are: columns 8 to 56.
    let (zoom, left) = (spec.side as f32 / SIZE[0] as f32, (SIZE[1] - SIZE[0]) / 2);
    let mut seen = 0;
    for video in 0..2 {
        let clips = l.uniform(video, 3).unwrap();
        for (clip, start) in clips.iter().zip([0, 7, 14]) {
            for t in 0..4 {
                let [x, y] = corner(video, start + 2 * t);
                if !(left as i32..(left + SIZE[0] - SQUARE) as i32).contains(&x) {
                    continue;
                }
                seen += 1;
                let at = middle(weights(&mask(clip, t)), spec.side).unwrap();
                for (at, corner) in at.into_iter().zip([x - left as i32, y]) {
                    let want = (corner as f32 + SQUARE as f32 / 2.0) * zoom;
                    assert!((at - want).abs() < 0.75, "video {video}, frame {}: {at}, not {want}", start + 2 * t);
                }
            }
        }
    }
    assert!(seen > 12, "{seen}");
}

/// Every form in which frames and flow can come: cached smaller, flow from `.flo` files and from pictures, a video file.
#[test]
fn each_form_of_the_cache_shows_the_same_square() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    write_frames(d);
    // Half the size: speeds halve with it.
    let half = ViewSpec { cache_side: SIZE[0] / 2, ..views(MotionInput::Flow) };
    follow_pairs(&loader(d, &half, "", exact), 0.0);
    for (video, name) in ["a/0", "b/1"].into_iter().enumerate() {
        let [files, pictures] = ["files", "pictures"].map(|kind| d.join(kind).join("data").join(name));
        std::fs::create_dir_all(&files).unwrap();
        std::fs::create_dir_all(&pictures).unwrap();
        for t in 0..LENGTH - 1 {
            let [a, b] = [t, t + 1].map(|t| Gray::from_rgb(&picture(video, t), SIZE[0], SIZE[1]).unwrap());
            let flow = exact(&a, &b).unwrap();
            flo::write(files.join(format!("{t:05}.flo")), &flow).unwrap();
            // 6.375 levels a pixel around 128: as far as 8 bits hold it.
            for (name, plane) in [("x", flow.u()), ("y", flow.v())] {
                let level = |v: &f32| (128.0 + 6.375 * v).round() as u8;
                let bytes = plane.iter().map(level).collect();
                let picture = image::GrayImage::from_raw(SIZE[1] as u32, SIZE[0] as u32, bytes).unwrap();
                picture.save(pictures.join(format!("{name}_{t:05}.png"))).unwrap();
            }
        }
    }
    for cache_side in [SIZE[0], SIZE[0] / 2] {
        let files = FlowSource::Folder(d.join("files"));
        let given = ViewSpec { cache_side, flow_source: files, ..views(MotionInput::Flow) };
        follow_pairs(&loader(d, &given, "", exact), 0.0);
        let given = ViewSpec { flow_source: FlowSource::Folder(d.join("pictures")), ..given };
        follow_pairs(&loader(d, &given, "", exact), 0.0);
    }
    if ffmpeg().is_none() {
        return;
    }
    for name in ["a/0", "b/1"] {
        let frames = d.join("data").join(name);
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-framerate", "25", "-i"])
            .arg(frames.join("%d.png"))
            .args(["-c:v", "ffv1", "-pix_fmt", "bgr0"])
            .arg(frames.with_extension("mkv"))
            .status();
        assert!(made.unwrap().success());
    }
    follow_pairs(&loader(d, &views(MotionInput::Flow), ".mkv", exact), 0.0);
}

/// What MCL aims at lies where the query's square moves, and the boxes it chooses keep the square.
#[test]
fn targets_and_tubelets_lie_where_the_square_is() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let grid = [2, 8, 8];
    let spec = ViewSpec { focus: Focus { target: Some(grid), ..Focus::default() }, ..views(MotionInput::Flow) };
    let l = loader(dir.path(), &spec, "", exact);
    let cropped = Loader { spec: ViewSpec { focus: Focus::mcl(grid), ..spec.clone() }, ..l.clone() };
    let (mut aimed, mut shown) = (0, [0.0; 2]);
    for (epoch, video) in (0..24).flat_map(|e| [(e, 0), (e, 1)]) {
        let quad = l.quad(epoch, video).unwrap();
        let masks: Vec<Vec<bool>> = (0..4).map(|t| mask(&quad.query, t)).collect();
        if masks.iter().all(|m| whole(m, spec.side)) {
            aimed += 1;
            let target = quad.target.unwrap();
            for half in 0..2 {
                let both = |i: usize| weights(&masks[2 * half + i]);
                let want = middle(both(0).zip(both(1)).map(|(a, b)| a + b), spec.side).unwrap();
                let at = middle(plane(&target, half, 0).into_iter(), grid[2]).unwrap();
                let cell = spec.side as f32 / grid[2] as f32;
                for i in 0..2 {
                    assert!((at[i] * cell - want[i]).abs() < cell, "half {half}: {at:?} x {cell}, not {want:?}");
                }
            }
        }
        // The share of the square that a clip shows, of frames resized to one side: pixels of the crop are as large.
        for (shown, loader) in shown.iter_mut().zip([&l, &cropped]) {
            let (quad, chosen) = (loader.quad(epoch, video).unwrap(), loader.chosen(epoch, video).unwrap());
            let crop = chosen.draws[0].crop;
            let pixel = (crop.h * crop.w) as f32 / spec.side.pow(2) as f32;
            let count = (0..4).flat_map(|t| mask(&quad.query, t)).filter(|m| *m).count() as f32;
            *shown += count * pixel / (4 * SQUARE * SQUARE) as f32 / 48.0;
            if chosen.regions[0].is_some() {
                assert!(count > 0.0, "a box that keeps what moves lost it");
            }
        }
    }
    assert!(aimed >= 8, "{aimed}");
    assert!(shown[1] > shown[0] + 0.05, "boxes by motion keep more of the square: {shown:?}");
}

/// From the cache's bytes and flow to the network's input: the GPU's way gives what the CPU's gives.
#[test]
fn a_gpu_makes_the_same_clips_of_the_same_cache() {
    let dir = tempfile::tempdir().unwrap();
    write_frames(dir.path());
    let spec = views(MotionInput::Flow);
    let l = loader(dir.path(), &spec, "", exact);
    let view = l.cache.get(0).unwrap();
    let ([h, w], side, frames) = (SIZE, spec.side, [3usize, 5, 7, 9]);
    let mut rng = stream(3, 0, 0, Purpose::Test);
    let draws: Vec<Draw> = (0..2)
        .map(|i| Draw {
            flip: i == 1,
            ..Draw::sample(&mut rng, &AugmentSpec { blur: 0.0, jitter: 0.0, ..spec.augment.clone() }, h, w)
        })
        .collect();
    // The GPU takes a clip for each draw.
    let bytes: Vec<&[u8]> = [frames, frames].as_flattened().iter().map(|&t| view.frame(t)).collect();
    let fields: Vec<Flow> = frames.iter().map(|&t| view.flow_field(view.field_of(t))).collect();
    let each: Vec<f32> = fields.iter().flat_map(|f| f.u().iter().chain(f.v())).copied().collect();
    let u = DType::F32.unit_roundoff();
    let rgb = on_gpu(|device| {
        let Device::Cuda(gpu) = device else { unreachable!() };
        data(&apply_rgb_batch(&Frames::upload(gpu, &bytes, h, w).unwrap(), &draws, side, DType::F32).unwrap())
    });
    let mut want = vec![0.0; 2 * 4 * side * side * 3];
    for (draw, out) in draws.iter().zip(want.chunks_exact_mut(4 * side * side * 3)) {
        apply_rgb(&bytes[..4], h, w, draw, side, out).unwrap();
    }
    // Nine roundings of resampling, four of normalisation by a deviation of 0.225, in either computation.
    assert_within("rgb", &rgb, &wide(&want), &vec![26.0 * u / 0.225; want.len()]);
    for motion in [MotionInput::Flow, MotionInput::FlowEdges] {
        let c = motion.channels();
        let maps: Vec<MotionMap> = fields.iter().map(|f| MotionMap::of_flow(motion, f, 8.0).unwrap()).collect();
        let planes: Vec<&[f32]> = maps.iter().flat_map(MotionMap::planes).collect();
        let kind = if motion == MotionInput::Flow { MotionKind::Flow } else { MotionKind::Map };
        let mut want = vec![0.0; 2 * 4 * side * side * c];
        for (draw, out) in draws.iter().zip(want.chunks_exact_mut(4 * side * side * c)) {
            apply_motion(&planes, c, kind, SIZE, draw, side, out).unwrap();
        }
        let got = on_gpu(|device| {
            let fields = Tensor::from_f32([8, 2, h, w], &[&each[..], &each].concat()).unwrap().to(device).unwrap();
            let maps = match motion {
                MotionInput::Flow => motion_map::scaled_flow_batch(&fields, 8.0, DType::F32),
                _ => motion_map::flow_edges_batch(&fields, 8.0, DType::F32),
            };
            let maps = maps.unwrap().reshape([2, 4, h, w, c]).unwrap();
            data(&apply_motion_batch(&maps, kind, &draws, side, DType::F32).unwrap())
        });
        // Nine roundings of resampling times a gain below 4, and of edges 22 of the map itself, in either computation.
        assert_within(motion.name(), &got, &wide(&want), &vec![2.0 * 31.0 * 4.0 * u; want.len()]);
    }
}

#[test]
fn a_description_of_clips_knows_every_motion_input() {
    assert_eq!(MotionInput::ALL.map(MotionInput::name), tubelet::weights::InputSpec::MOTION);
}
