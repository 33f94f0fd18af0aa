//! What the examples share: pictures are drawn without a font of the system, and the summary keeps its contract.

#[path = "../../../examples/support/mod.rs"]
pub mod support;

use serde_json::Value;
use std::fs;
use support::sheet::{Key, Legend, Sample, Strip};
use support::{curves, sheet, summary::Summary};
use tubelet::flow::Flow;

#[test]
fn curves_are_drawn_from_a_log_cut_short() {
    let dir = tempfile::tempdir().unwrap();
    let (log, out) = (dir.path().join("metrics.jsonl"), dir.path().join("curves.png"));
    let mut text = String::new();
    for step in 0..300 {
        let (epoch, x) = (step / 30, f64::from(step));
        let wave = (x * 0.7).sin() * 0.3;
        let loss = |scale: f64| scale * (1.0 + 4.0 * (-x / 90.0).exp()) + wave;
        let (vv, mm, vm, mv) = (loss(1.0), loss(0.8), loss(1.2), loss(1.1));
        text += &format!(
            "{{\"epoch\":{epoch},\"step\":{step},\"loss\":{},\"loss_vv\":{vv},\"loss_mm\":{mm},\"loss_vm\":{vm},\"loss_mv\":{mv}}}\n",
            vv + mm + vm + mv
        );
        if step % 60 == 59 {
            text += &format!("{{\"epoch\":{epoch},\"step\":{step},\"probe_top1\":{},\"knn_top1\":0.3}}\n", x / 600.0);
        }
    }
    fs::write(&log, text + "{\"epoch\":9,\"st").unwrap();
    curves::draw(&log, &[("probe_top1", 0.17)], "random network", &out).unwrap();
    let picture = image::open(&out).unwrap().to_rgb8();
    assert_eq!(picture.dimensions(), (1200, 540));
    let dark = |x0: u32, x1: u32| (x0..x1).any(|x| (0..480).any(|y| picture.get_pixel(x, y).0[0] < 80));
    assert!(dark(0, 600) && dark(600, 1200), "both halves carry ink");

    // The key lies below the plot: a line along its upper edge is seen in every column, for its whole length.
    let level: String =
        (0..60).map(|step| format!("{{\"epoch\":{step},\"step\":{step},\"loss\":2.0,\"loss_vv\":1.0}}\n")).collect();
    fs::write(&log, level).unwrap();
    curves::draw(&log, &[], "random network", &out).unwrap();
    let picture = image::open(&out).unwrap().to_rgb8();
    let ink = |x: u32| (45..480).any(|y| picture.get_pixel(x, y).0.iter().all(|&v| v < 80));
    let columns: Vec<u32> = (90..560).filter(|&x| !ink(x)).collect();
    assert!(columns.is_empty(), "nothing to be seen of the line at {columns:?}");

    fs::write(&log, "{\"epoch\":0,\"step\":0,\"lr\":0.1}\n").unwrap();
    assert!(curves::draw(&log, &[], "", &out).unwrap_err().to_string().contains("no losses"));
}

#[test]
fn a_sheet_shows_frames_flow_and_maps() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("sheet.png");
    let (t, h, w) = (11, 32, 48);
    let frame = |i: usize| -> Vec<u8> { (0..h * w * 3).map(|p| (p + 20 * i) as u8).collect() };
    let frames: Vec<Vec<u8>> = (0..t).map(frame).collect();
    let views: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let flow = |i: usize| Flow::new(h, w, vec![i as f32; h * w], vec![-1.0; h * w]).unwrap();
    let flows: Vec<Flow> = (0..t).map(flow).collect();
    let map: Vec<f32> = (0..h * w).map(|i| i as f32 / (h * w) as f32).collect();
    let strips = vec![
        Strip::rgb("frames", &views, h, w).unwrap(),
        Strip::flow("flow", &flows, 4.0).unwrap(),
        Strip::map("flow edges", &[map.as_slice(); 3], h, w).unwrap(),
    ];
    sheet::draw(&out, &Legend::default(), &[Sample { title: "class, video".into(), strips }]).unwrap();
    let picture = image::open(&out).unwrap().to_rgb8();
    assert!(picture.width() > 8 * 96 && picture.height() > 3 * 96);
    let sample = Sample { title: "video".into(), strips: vec![Strip::rgb("frames", &views, h, w).unwrap()] };
    let key = [true, false].map(|outline| Key { colour: [235, 60, 50], outline, meaning: "what red means" }).into();
    let legends = [
        Legend::default(),
        Legend { key, ..Legend::default() },
        Legend { text: vec!["what the colours of flow mean, in words ".repeat(9)], ..Legend::default() },
        Legend { wheel: true, ..Legend::default() },
    ];
    let drawn = legends.map(|legend| {
        sheet::draw(&out, &legend, std::slice::from_ref(&sample)).unwrap();
        image::open(&out).unwrap().to_rgb8()
    });
    let heights = drawn.each_ref().map(|picture| picture.height());
    assert!(heights[1..].iter().all(|height| *height > heights[0]), "each has a place of its own: {heights:?}");
    assert!(heights[2] > heights[0] + 2 * 19, "a long text has several lines: {heights:?}");
    // The wheel: white in the middle, where nothing moves, and red on its right, as what moves to the right.
    let (middle, right) = (drawn[3].get_pixel(16 + 36, 16 + 36).0, drawn[3].get_pixel(16 + 70, 16 + 36).0);
    assert!(
        middle.iter().all(|v| *v > 230) && right[0] > 230 && right[1] < 60 && right[2] < 60,
        "{middle:?} {right:?}"
    );
    assert!(Strip::rgb("short", &[&frames[0][1..]], h, w).is_err());
    assert!(Strip::flow("none", &[], 1.0).is_err());
}

#[test]
fn a_sheet_shows_as_many_classes_as_it_has_rows_for() {
    let of = |labels: &[usize]| -> Vec<usize> {
        sheet::spread(labels, sheet::ROWS).into_iter().map(|i| labels[i]).collect()
    };
    let by_class = |classes: usize, each: usize| -> Vec<usize> { (0..classes * each).map(|i| i / each).collect() };
    assert_eq!(of(&by_class(8, 24)), (0..8).collect::<Vec<_>>());
    assert_eq!(of(&(0..192).map(|i| i % 8).collect::<Vec<_>>()).len(), 8);
    assert_eq!(of(&by_class(2, 24)), [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(of(&by_class(16, 3)), (0..8).map(|i| 2 * i).collect::<Vec<_>>());
    assert_eq!((of(&[5, 7]), of(&[])), (vec![5, 7], vec![]));
}

#[test]
fn the_summary_is_one_flat_object() {
    let dir = tempfile::tempdir().unwrap();
    let mut summary = Summary::default();
    summary.set("method", "maclr").set("steps", 30).set("loss_last", 1.5f64).set("probe_top1", f64::NAN);
    summary.finish(dir.path()).unwrap();
    let text = fs::read_to_string(dir.path().join("summary.json")).unwrap();
    assert_eq!(text.lines().count(), 1);
    let read: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&read["method"], &read["steps"]), (&Value::from("maclr"), &Value::from(30)));
    assert!(read["probe_top1"].is_null());
    assert!(Summary::default().finish(&dir.path().join("absent")).unwrap_err().to_string().contains("absent"));
}
