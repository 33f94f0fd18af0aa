//! Limits of tensor maps, and faults of copies through them.

mod support;

use ptxsim::{Access::*, *};
use support::tensor::*;
use support::*;

/// A small valid map of tiles, and one of im2col.
fn maps() -> [TensorMap; 2] {
    let tiled = TensorMap {
        element: Element::Bf16,
        address: 0x1000,
        extents: vec![64, 8, 8, 8, 2],
        strides: vec![128, 1024, 8192, 65536],
        window: Window::Tiled { extent: vec![64, 1, 2, 3, 1] },
        steps: vec![1; 5],
        swizzle: Swizzle::B128,
        fill: Fill::Zero,
    };
    let window = Window::Im2col { lower: vec![-16, 0, 1], upper: vec![15, 0, -1], channels: 64, pixels: 1024 };
    [tiled.clone(), TensorMap { window, ..tiled }]
}

/// Changes lower and upper corner, channels and pixels.
type Change = dyn Fn(&mut Vec<i32>, &mut Vec<i32>, &mut u32, &mut u32);

#[test]
fn limits_of_maps() {
    let m = Machine::new(Config::default());
    let [tiled, im2col] = maps();
    m.tensor_map(&tiled).unwrap();
    m.tensor_map(&im2col).unwrap();
    let refused = |map: &TensorMap, change: &dyn Fn(&mut TensorMap), says: &str| {
        let mut map = map.clone();
        change(&mut map);
        let f = m.tensor_map(&map).expect_err(says);
        assert!(matches!(&f, Fault::TensorMap(m) if m.contains(says)), "{says}: {f}");
    };
    for map in [&tiled, &im2col] {
        refused(map, &|m| m.address += 8, "multiple of 16");
        refused(map, &|m| m.extents[2] = 0, "extent 0");
        refused(map, &|m| m.extents[0] = (1 << 32) + 1, "2^32");
        refused(map, &|m| m.strides[1] += 8, "multiple of 16");
        refused(map, &|m| m.strides[3] = 1 << 40, "2^40");
        refused(map, &|m| m.strides.truncate(3), "3 strides");
        refused(map, &|m| m.steps[4] = 0, "between 1 and 8");
        refused(map, &|m| m.steps[1] = 9, "between 1 and 8");
        refused(map, &|m| m.steps.truncate(2), "2 element strides");
        refused(map, &|m| m.swizzle = Swizzle::B64, "longer");
        refused(map, &|m| (m.element, m.fill) = (Element::U16, Fill::Nan), "NaN");
        refused(map, &|m| m.extents.push(1), "6 dimensions");
    }
    fn boxed(m: &mut TensorMap) -> &mut Vec<u32> {
        let Window::Tiled { extent } = &mut m.window else { unreachable!() };
        extent
    }
    refused(&tiled, &|m| boxed(m)[0] = 60, "multiple of 16");
    refused(&tiled, &|m| boxed(m)[1] = 257, "257");
    refused(&tiled, &|m| boxed(m)[1] = 0, "extent 0");
    refused(&tiled, &|m| boxed(m).truncate(4), "4 dimensions");
    let column = |change: &Change, says: &str| {
        refused(
            &im2col,
            &|m| {
                let Window::Im2col { lower, upper, channels, pixels } = &mut m.window else { unreachable!() };
                change(lower, upper, channels, pixels);
            },
            says,
        );
    };
    column(&|l, _, _, _| l[0] = -17, "lower corner");
    column(&|_, u, _, _| u[2] = 16, "upper corner");
    column(&|_, u, _, _| u[1] = -8, "is empty");
    column(&|l, _, _, _| l.truncate(2), "lower corner has 2");
    column(&|_, _, c, _| *c = 257, "257 channels");
    column(&|_, _, c, _| *c = 4, "multiple of 16");
    column(&|_, _, _, p| *p = 1025, "1025 pixels");
    column(&|_, _, _, p| *p = 0, "0 pixels");
    // Fewer dimensions have wider corners.
    let fewer = |rank: usize, corner: i32| {
        let mut map = im2col.clone();
        map.extents.truncate(rank);
        map.strides.truncate(rank - 1);
        map.steps.truncate(rank);
        let (lower, upper) = (vec![-corner; rank - 2], vec![corner - 1; rank - 2]);
        map.window = Window::Im2col { lower, upper, channels: 64, pixels: 1 };
        map
    };
    m.tensor_map(&fewer(4, 128)).unwrap();
    m.tensor_map(&fewer(3, 32768)).unwrap();
    refused(&fewer(4, 129), &|_| {}, "lower corner");
    refused(&fewer(3, 32769), &|_| {}, "lower corner");
    refused(&im2col, &|m| (m.extents.truncate(2), m.strides.truncate(1), m.steps.truncate(2)).0, "3 to 5");
}

/// A case that is right.
fn plain() -> Case {
    let [tiled, _] = maps();
    let map = TensorMap {
        extents: vec![64, 4],
        strides: vec![128],
        steps: vec![1; 2],
        window: Window::Tiled { extent: vec![64, 2] },
        ..tiled
    };
    Case { data: vec![1; 512], map, at: vec![0, 1], offsets: vec![] }
}

#[test]
fn maps_that_are_wrong_in_a_launch() {
    let case = plain();
    let text = loader(2, false);
    let d = Device::hopper(&text, Order::Forward);
    let (tensor, out) = (d.bytes(&case.data), d.empty(256));
    let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..case.map.clone() }).unwrap();
    let region = Region { ptr: tensor.ptr, bytes: 512, access: Read };
    let go = |d: &Device, map: &[u8; 128], region: Region| {
        let mut params = vec![Param::TensorMap(map, region), out.p(Write), int(256)];
        params.extend(case.params());
        d.launch("k", [1; 3], [32, 1, 1], 0, &params).map(|_| ())
    };
    go(&d, &map, region).unwrap();
    let mut bad = map;
    bad[9] ^= 1;
    for (map, region) in [(&bad, region), (&map, Region { bytes: 511, ..region }), (&[0; 128], region)] {
        let f = go(&d, map, region).unwrap_err();
        assert!(matches!(f, Fault::Launch(_)), "{f}");
    }
    // The right map is a parameter, but the kernel takes its address elsewhere.
    let wrong = |from: &str, to: &str| {
        let d = Device::hopper(&text.replace(from, to), Order::Forward);
        let tensor = d.bytes(&case.data);
        let out = d.empty(256);
        let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..case.map.clone() }).unwrap();
        let region = Region { ptr: tensor.ptr, bytes: 512, access: Read };
        let mut params = vec![Param::TensorMap(&map, region), out.p(Write), int(256)];
        params.extend(case.params());
        d.launch("k", [1; 3], [32, 1, 1], 0, &params).unwrap_err()
    };
    let three = text.replace(".tensor.2d", ".tensor.3d").replace("{%c0, %c1}", "{%c0, %c1, %c2}");
    for (from, to) in [
        ("[%rd1, {%c0", "[%rd1+64, {%c0"),
        ("[%rd1, {%c0", "[%rd1+8, {%c0"),
        ("[%rd1, {%c0", "[%rd1+128, {%c0"),
        (&text, &three),
        (&text, &loader(3, true)),
    ] {
        let f = wrong(from, to);
        assert!(matches!(f, Fault::Illegal(_)), "{f}");
    }
    // A window that no shared memory holds.
    let mut huge = plain();
    huge.map.window = Window::Tiled { extent: vec![64, 256, 256, 256, 256] };
    (huge.map.extents, huge.map.strides) = (vec![64, 1, 1, 1, 4], vec![128; 4]);
    (huge.map.steps, huge.at) = (vec![1; 5], vec![0; 5]);
    let f = huge.load_as(256, Order::Forward).unwrap_err();
    assert!(matches!(f, Fault::OutOfBounds(Space::Shared, _)), "{f}");
    let f = wrong("[%r4], [%rd1", "[%r4+64], [%rd1");
    assert!(matches!(f, Fault::Misaligned(Space::Shared, _)), "{f}");
    let f = wrong("[%r4], [%rd1", "[%r4+40832], [%rd1");
    assert!(matches!(f, Fault::OutOfBounds(Space::Shared, _)), "{f}");
}

#[test]
fn columns_begin_inside_their_bounding_box() {
    let [_, im2col] = maps();
    let window = Window::Im2col { lower: vec![-1; 3], upper: vec![-1; 3], channels: 64, pixels: 9 };
    let map = TensorMap { window, ..im2col };
    let data = vec![1; 2 * 64 * 512 * 2];
    let case = |at: [i32; 3], offset: u16| {
        let at = vec![0, at[0], at[1], at[2], 0];
        Case { map: map.clone(), data: data.clone(), at, offsets: vec![offset, 0, 0] }
    };
    case([-1; 3], 31).load(Order::Forward).unwrap();
    case([6; 3], 0).load(Order::Forward).unwrap();
    for (at, offset) in [([-2, 0, 0], 0), ([0, 7, 0], 0), ([0, 0, 8], 0), ([0; 3], 32)] {
        let f = case(at, offset).load(Order::Forward).unwrap_err();
        assert!(matches!(f, Fault::Illegal(_)), "{f}");
    }
}
