//! Copies of tensors: tiles and columns of any geometry against plain loops.

mod support;

use ptxsim::{Access::*, *};
use support::tensor::*;
use support::*;

#[test]
fn tiles_of_any_geometry() {
    let mut r = Rng(11);
    for k in 0..150 {
        let case = tile(&mut r);
        let mut want = vec![];
        let size = case.map.element.size() as usize;
        let mut inside = 0;
        each(&case.map, &case.at, |at| {
            inside += u64::from(at.iter().zip(&case.map.extents).all(|(c, e)| *c >= 0 && *c < *e as i64));
            want.extend((0..size).map(|b| element(&case.map, &case.data, at, b)));
        });
        let (got, c) = case.load(ORDERS[k % 3]).unwrap_or_else(|f| panic!("{:?} at {:?}: {f}", case.map, case.at));
        assert_eq!(got, want, "{:?} at {:?}", case.map, case.at);
        assert_eq!(c.bulk_bytes_loaded, inside * size as u64);
    }
}

#[test]
fn stores_leave_out_what_lies_outside() {
    let mut r = Rng(12);
    for k in 0..60 {
        let case = tile(&mut r);
        let d = Device::hopper(&storer(case.map.extents.len()), ORDERS[k % 3]);
        let source = random_bytes(&mut r, case.bytes());
        let mut permuted_source = vec![0; source.len()];
        source.iter().enumerate().for_each(|(i, v)| permuted_source[permuted(i, case.map.swizzle)] = *v);
        let (tensor, from) = (d.bytes(&case.data), d.bytes(&permuted_source));
        let map = d.machine.tensor_map(&TensorMap { address: tensor.ptr, ..case.map.clone() }).unwrap();
        let region = |access| Region { ptr: tensor.ptr, bytes: tensor.bytes, access };
        let mut params = vec![Param::TensorMap(&map, region(ReadWrite)), from.p(Read), int(source.len())];
        params.extend(case.params());
        let size = case.map.element.size() as usize;
        d.launch("k", [1; 3], [32, 1, 1], 0, &params).unwrap_or_else(|f| panic!("{:?}: {f}", case.map));
        let mut want = case.data.clone();
        let mut at_source = 0;
        each(&case.map, &case.at, |at| {
            if at.iter().zip(&case.map.extents).all(|(c, e)| *c >= 0 && *c < *e as i64) {
                let outer: usize = at[1..].iter().zip(&case.map.strides).map(|(c, s)| *c as usize * *s as usize).sum();
                let to = outer + at[0] as usize * size;
                want[to..to + size].copy_from_slice(&source[at_source..at_source + size]);
            }
            at_source += size;
        });
        assert_eq!(d.read(&tensor), want, "{:?} at {:?}", case.map, case.at);
        if want != case.data {
            params[0] = Param::TensorMap(&map, region(Read));
            let f = d.launch("k", [1; 3], [32, 1, 1], 0, &params).unwrap_err();
            assert!(matches!(f, Fault::ReadOnly(_)), "{f}");
        }
    }
}

/// A convolution's geometry in one spatial dimension.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: i64,
    taps: i64,
    stride: i64,
    padding: i64,
    dilation: i64,
}

impl Axis {
    fn reach(&self) -> i64 {
        (self.taps - 1) * self.dilation
    }

    fn output(&self) -> i64 {
        (self.input + 2 * self.padding - self.reach() - 1) / self.stride + 1
    }
}

#[test]
fn columns_are_the_taps_of_convolutions() {
    let mut r = Rng(13);
    for k in 0..60 {
        let spatial = pick(&mut r, 1, 3) as usize;
        let axes: Vec<Axis> = (0..spatial)
            .map(|_| {
                loop {
                    let a = Axis {
                        input: pick(&mut r, 1, 9),
                        taps: pick(&mut r, 1, 4),
                        stride: pick(&mut r, 1, 8),
                        padding: pick(&mut r, 0, 4),
                        dilation: pick(&mut r, 1, 3),
                    };
                    if a.input + 2 * a.padding > a.reach() {
                        break a;
                    }
                }
            })
            .collect();
        let (batch, channels, window) = (pick(&mut r, 1, 3), 8 * pick(&mut r, 1, 9), 64);
        let pixels = pick(&mut r, 1, 100);
        let mut extents = vec![channels as u64];
        extents.extend(axes.iter().map(|a| a.input as u64));
        extents.push(batch as u64);
        let mut strides = vec![2 * channels as u64];
        for e in &extents[1..=spatial] {
            strides.push(strides[strides.len() - 1] * e);
        }
        let mut steps = vec![1];
        steps.extend(axes.iter().map(|a| a.stride as u32));
        steps.push(1);
        let data = random_bytes(&mut r, 2 * extents.iter().product::<u64>() as usize);
        let map = TensorMap {
            element: Element::Bf16,
            address: 0,
            extents,
            strides,
            window: Window::Im2col {
                lower: axes.iter().map(|a| -a.padding as i32).collect(),
                upper: axes.iter().map(|a| (a.padding - a.reach()) as i32).collect(),
                channels: window,
                pixels: pixels as u32,
            },
            steps,
            swizzle: Swizzle::B128,
            fill: Fill::Zero,
        };
        // Any output pixel, any tap, any channel.
        let outputs: Vec<i64> = axes.iter().map(Axis::output).collect();
        let all = outputs.iter().product::<i64>() * batch;
        let first = pick(&mut r, 0, all - 1);
        let place = |pixel: i64| {
            let mut left = pixel;
            let mut at: Vec<i64> = outputs
                .iter()
                .map(|o| {
                    let c = left % o;
                    left /= o;
                    c
                })
                .collect();
            at.push(left);
            at
        };
        let taps: Vec<i64> = axes.iter().map(|a| pick(&mut r, 0, a.taps - 1)).collect();
        let channel = pick(&mut r, 0, channels / 8 - 1) * 8;
        let start = place(first);
        let mut at = vec![channel as i32];
        at.extend(axes.iter().zip(&start).map(|(a, c)| (c * a.stride - a.padding) as i32));
        at.push(start[spatial] as i32);
        let offsets = axes.iter().zip(&taps).map(|(a, t)| (t * a.dilation) as u16).collect();
        let case = Case { map, data, at, offsets };
        let mut want = vec![];
        for pixel in first..first + pixels {
            let out = place(pixel);
            for c in channel..channel + window as i64 {
                let mut at = vec![c];
                at.extend((0..spatial).map(|i| {
                    let a = axes[i];
                    out[i] * a.stride - a.padding + taps[i] * a.dilation
                }));
                at.push(out[spatial]);
                want.extend((0..2).map(|b| element(&case.map, &case.data, &at, b)));
            }
        }
        let (got, _) = case.load(ORDERS[k % 3]).unwrap_or_else(|f| panic!("{axes:?}: {f}"));
        assert_eq!(got, want, "{axes:?}, {taps:?}, pixel {first}");
    }
}
