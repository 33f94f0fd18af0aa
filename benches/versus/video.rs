//! Data preparation: optical flow and augmentation.

use crate::case::{Case, Unit, Work};
use rayon::prelude::*;
use serde_json::json;
use tubelet::augment::{AugmentSpec, Draw, apply_rgb};
use tubelet::flow::Flow;
use tubelet::ops::tvl1::{self, Tvl1, cases::CASES};
use tubelet::rng::{Purpose, stream};

/// Flow of one pair on all threads, and of one pair per thread; augmentation of one clip per thread.
pub fn cases() -> Vec<Case> {
    let sizes = CASES.iter().filter(|c| c.h >= 112);
    let flows = sizes.flat_map(|c| [flow(c, 1), flow(c, rayon::current_num_threads())]);
    let clips = [augment("small", 8, [128, 128], 64), augment("paper", 8, [256, 340], 224)];
    flows.chain(clips).collect()
}

fn flow(case: &'static tvl1::cases::Case, pairs: usize) -> Case {
    let kind = if pairs == 1 { "tvl1" } else { "tvl1_pairs" };
    Case {
        name: format!("{kind}/{}/cpu", case.name),
        problem: json!({"op": "tvl1", "h": case.h, "w": case.w, "pairs": pairs, "dtype": "f32"}),
        flops: 0,
        bytes: 0,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let (a, b) = case.pair();
            let truth = truth(case.h, case.w);
            let p = Tvl1::default();
            let (a2, b2, p2) = (a.clone(), b.clone(), p.clone());
            let run = move || match pairs {
                1 => tvl1::flow(&a, &b, &p).map(drop),
                _ => tvl1::flow_pairs(&vec![(&a, &b); pairs], &p).map(drop),
            };
            let check = move || Ok(json!({"end_point_error": tvl1::flow(&a2, &b2, &p2)?.end_point_error(&truth)?}));
            Ok(Work { run: Box::new(run), check: Some(Box::new(check)) })
        }),
    }
}

/// The displacement between the images of a case. The second image at `q` equals the first at `q - d(q)`, so the flow
/// at `x` is `d` at the point that `x` moves to, which is found by fixed-point iteration.
fn truth(h: usize, w: usize) -> Flow {
    let (mut us, mut vs) = (Vec::with_capacity(h * w), Vec::with_capacity(h * w));
    for i in 0..h * w {
        let (y, x) = ((i / w) as f64, (i % w) as f64);
        let (mut u, mut v) = (0.0, 0.0);
        for _ in 0..20 {
            (u, v) = (2.0 * (6.0 * (y + v) / h as f64).sin(), 1.5 * (5.0 * (x + u) / w as f64).cos());
        }
        us.push(u as f32);
        vs.push(v as f32);
    }
    Flow::new(h, w, us, vs).expect("a displacement for each pixel")
}

/// Crop, resize, flip, jitter, grey and blur of as many clips as there are threads.
fn augment(name: &str, frames: usize, [h, w]: [usize; 2], side: usize) -> Case {
    let clips = rayon::current_num_threads();
    Case {
        name: format!("augment/rgb/{name}/f32/cpu"),
        problem: json!({"op": "augment", "clips": clips, "frames": frames, "h": h, "w": w, "side": side, "dtype": "f32"}),
        flops: 0,
        bytes: (clips * frames * 3 * (h * w + 4 * side * side)) as u64,
        extra: false,
        unit: Unit::F32,
        make: Box::new(move || {
            let spec = AugmentSpec { jitter: 1.0, grey: 1.0, blur: 1.0, ..AugmentSpec::default() };
            let draws: Vec<Draw> =
                (0..clips).map(|i| Draw::sample(&mut stream(0, 0, i as u64, Purpose::Test), &spec, h, w)).collect();
            let frame: Vec<u8> = (0..h * w * 3).map(|i| (i * 7) as u8).collect();
            let length = frames * side * side * 3;
            let mut out = vec![0.0; clips * length];
            let run = move || {
                let each = out.par_chunks_mut(length).zip(&draws);
                each.try_for_each(|(out, draw)| apply_rgb(&vec![frame.as_slice(); frames], h, w, draw, side, out))
            };
            Ok(Work { run: Box::new(run), check: None })
        }),
    }
}
