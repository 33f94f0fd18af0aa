//! TV-L1 flow, motion maps, `.flo` files and flow pictures.

use std::path::{Path, PathBuf};
use tubelet::flow::{Flow, Gray, flo};
use tubelet::ops::tvl1::{self, Tvl1};

/// The four Middlebury pairs, where the checkout has them beside it.
fn middlebury() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = here.ancestors().map(|p| p.join("shared/data/flow")).find(|p| p.is_dir());
    if found.is_none() {
        eprintln!("skipped: no shared/data/flow in any folder above {}", here.display());
    }
    found
}

fn gray(path: &Path) -> Gray {
    let picture = image::open(path).expect("a picture").to_rgb8();
    let (w, h) = (picture.width() as usize, picture.height() as usize);
    Gray::from_rgb(picture.as_raw(), h, w).expect("a whole picture")
}

fn pair(folder: &Path) -> (Gray, Gray, Flow) {
    let truth = flo::read(folder.join("flow10.flo")).expect("a .flo file");
    (gray(&folder.join("frame10.png")), gray(&folder.join("frame11.png")), truth)
}

#[test]
fn middlebury_error_is_no_worse_than_opencv() {
    let Some(root) = middlebury() else { return };
    for (name, opencv) in [("RubberWhale", 0.156), ("Dimetrodon", 0.180), ("Grove2", 0.157), ("Urban2", 3.572)] {
        let (a, b, truth) = pair(&root.join(name));
        let flow = tvl1::flow(&a, &b, &Tvl1::default()).expect("a flow");
        let error = flow.end_point_error(&truth).expect("known pixels");
        println!("{name}: {error:.5} px (OpenCV {opencv})");
        assert!(error <= 1.02 * opencv, "{name}: end-point error {error:.4} px, OpenCV's is {opencv}");
    }
}
