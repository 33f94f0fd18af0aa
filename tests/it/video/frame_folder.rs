//! Folders of frames as people keep them: with flow, masks and thumbnails beside, turned pictures, pictures cut short.

use std::fs;
use std::path::Path;

use tubelet::video::{Decode, folder};

use crate::support::videos::put;

fn save(dir: &Path, name: &str, shade: u8) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(8, 6, image::Rgb([shade; 3])).save(path).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let frames = folder::frames(dir).unwrap_or_else(|e| panic!("{e}"));
    frames.iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn pictures_beside_the_frames_are_not_frames() {
    for beside in [
        &["flow_x_#.jpg", "flow_y_#.jpg"][..],
        &["x_#.jpg", "y_#.jpg"],
        &["u_#.png", "v_#.png"],
        &["mask_#.png"],
        &["img_#_mask.png"],
        &["depth#.png", "Segmentation-#.png"],
        &["thumb_#.jpg", "thumbnail.jpg", "cover.jpg"],
        &["._img_#.jpg", ".hidden.jpg"],
        &["flowX_#.jpg", "flowY_#.jpg"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let mut want = Vec::new();
        for i in 8..12 {
            want.push(format!("img_{i:05}.jpg"));
            save(dir, &want[want.len() - 1], i);
            beside.iter().for_each(|name| save(dir, &name.replace('#', &format!("{i:05}")), 200));
        }
        put(dir, "Thumbs.db", "no picture");
        put(dir, "._img_00008.jpg", "what macOS leaves");
        assert_eq!(names(dir), want, "{beside:?}");
        assert_eq!(folder::read(dir, &Decode::default()).unwrap().t, 4);
    }
}

#[test]
fn a_series_is_known_by_what_its_names_share() {
    for series in [
        &["9.png", "10.png", "11.png"][..],
        &["v_Run_g01_c01_0009.jpeg", "v_Run_g01_c01_0010.jpg", "v_Run_g01_c01_0011.JPG"],
        &["1305031102.175304.png", "1305031102.211214.png", "1305031103.011215.png"],
        &["depth_1.png", "depth_2.png"],
        &["x_1.png", "x_2.png"],
        &["a.png", "b.png", "c.png"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        for (i, name) in series.iter().enumerate() {
            save(dir.path(), name, i as u8);
        }
        assert_eq!(names(dir.path()), series);
    }
    // One stray picture among many frames.
    let dir = tempfile::tempdir().unwrap();
    (0..20).for_each(|i| save(dir.path(), &format!("{i}.png"), i));
    save(dir.path(), "screenshot.png", 0);
    assert_eq!(names(dir.path()).len(), 20);
}

#[test]
fn two_series_of_which_either_may_be_the_frames_are_refused_by_name() {
    for (a, b) in [("left_#.png", "right_#.png"), ("#.png", "#.jpg"), ("flow_x_#.jpg", "flow_y_#.jpg")] {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..4 {
            [a, b].iter().for_each(|name| save(dir.path(), &name.replace('#', &i.to_string()), i));
        }
        let text = folder::read(dir.path(), &Decode::default()).unwrap_err().to_string();
        assert!(text.contains(a) && text.contains(b) && text.contains("4 of them"), "{text}");
    }
}

/// `TIFF` data of one entry, the orientation, as EXIF holds it.
fn exif(orientation: u8) -> Vec<u8> {
    let entry = [0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0];
    [b"II*\0\x08\0\0\0\x01\0".as_slice(), &entry, &[0; 4]].concat()
}

/// A `.jpg` of 16 x 8 pixels whose left half is white.
fn jpeg() -> Vec<u8> {
    let picture = image::RgbImage::from_fn(16, 8, |x, _| image::Rgb([if x < 8 { 255 } else { 0 }; 3]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

#[test]
fn the_orientation_of_a_frame_is_obeyed() {
    // Orientation, size as shown, and where white is: top left and bottom right.
    for (orientation, h, w, first, last) in [
        (1, 8, 16, true, false),
        (2, 8, 16, false, true),
        (3, 8, 16, false, true),
        (6, 16, 8, true, false),
        (8, 16, 8, false, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let data = [b"Exif\0\0".as_slice(), &exif(orientation)].concat();
        let length = (data.len() as u16 + 2).to_be_bytes();
        let bytes = jpeg();
        let turned = [&bytes[..2], &[0xff, 0xe1], &length, &data, &bytes[2..]].concat();
        for name in ["1.jpg", "2.jpg"] {
            fs::write(dir.path().join(name), &turned).unwrap();
        }
        let clip = folder::read(dir.path(), &Decode::default()).unwrap();
        assert_eq!((clip.t, clip.h, clip.w), (2, h, w), "orientation {orientation}");
        let alone = folder::image(&dir.path().join("1.jpg")).unwrap();
        assert_eq!((alone.t, alone.h, alone.w, &alone.rgb[..]), (1, h, w, clip.frame(0)));
        let white = |pixel: usize| clip.frame(1)[3 * pixel] > 128;
        assert_eq!((white(0), white(h * w - 1)), (first, last), "orientation {orientation}");
        let small = folder::read(dir.path(), &Decode { short_side: Some(4), ..Decode::default() }).unwrap();
        assert_eq!((small.h, small.w), (h / 2, w / 2));
    }
}

#[test]
fn a_picture_that_is_cut_short_is_refused() {
    let noise = image::RgbImage::from_fn(64, 48, |x, y| {
        let n = (x * 7919 + y * 104_729) ^ (x * y);
        image::Rgb([n as u8, (n >> 3) as u8, (n >> 5) as u8])
    });
    for name in ["1.jpg", "1.png"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        noise.save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        assert_eq!(folder::read(dir.path(), &Decode::default()).unwrap().t, 1);
        // What follows the picture is no part of it.
        fs::write(&path, [whole.as_slice(), b"trailing bytes"].concat()).unwrap();
        assert_eq!(folder::read(dir.path(), &Decode::default()).unwrap().t, 1);
        // A whole preview inside of the cut picture does not make it whole.
        let preview = [&[0xff, 0xe2, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..], &whole[2..]].concat();
        let preview = [&whole[..2], &preview].concat();
        for keep in [2.0 / 3.0, 0.9, 0.999] {
            for whole in if name.ends_with("jpg") { vec![&whole, &preview] } else { vec![&whole] } {
                let n = (whole.len() as f64 * keep) as usize;
                let n = if name.ends_with("png") { n.min(whole.len() - 32) } else { n };
                fs::write(&path, &whole[..n]).unwrap();
                let text = folder::read(dir.path(), &Decode::default()).unwrap_err().to_string();
                assert!(text.contains(name) && text.contains("cannot be decoded"), "{keep}: {text}");
            }
        }
    }
}

#[test]
fn a_thin_frame_is_not_scaled_to_an_enormous_one() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["1.png", "2.png"] {
        image::GrayImage::new(16_000, 1).save(dir.path().join(name)).unwrap();
    }
    let how = Decode { short_side: Some(80), ..Default::default() };
    let text = folder::read(dir.path(), &how).unwrap_err().to_string();
    assert!(text.contains("16000 x 1 pixels would become 1280000 x 80"), "{text}");
    assert_eq!(folder::read(dir.path(), &Decode::default()).unwrap().w, 16_000);
}
