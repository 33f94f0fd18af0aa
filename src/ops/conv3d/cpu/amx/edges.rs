//! A test that wgrad on AMX tiles does not access memory outside its operands and its result.

use super::correlate::{applies, run};
use super::correlate_operands::Numbers;
use crate::cpu::Isa;
use crate::ops::batch_norm::{Lines, Norm};
use crate::ops::conv3d::cases::SMALL;
use crate::tensor::Tensor;
use half::bf16;

/// Numbers directly followed, or directly preceded, by an inaccessible page.
struct Edge<T> {
    map: *mut u8,
    bytes: usize,
    at: *mut T,
    len: usize,
}

const PAGE: usize = 4096;

impl<T: Copy> Edge<T> {
    fn new(values: &[T], at_end: bool) -> Self {
        let inner = size_of_val(values).next_multiple_of(PAGE);
        let bytes = inner + 2 * PAGE;
        let (read, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: fresh memory; only the inner pages are made accessible.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, private, -1, 0).cast::<u8>();
            assert_eq!(libc::mprotect(map.add(PAGE).cast(), inner, read), 0);
            let at = map.add(PAGE + if at_end { inner - size_of_val(values) } else { 0 }).cast::<T>();
            at.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Edge { map, bytes, at, len: values.len() }
        }
    }

    fn get(&mut self) -> &mut [T] {
        // SAFETY: `len` numbers were written.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

impl<T> Drop for Edge<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.map.cast(), self.bytes) };
    }
}

#[test]
fn nothing_outside_is_touched() {
    if !Isa::available().contains(&Isa::Amx) {
        return eprintln!("no tiles here");
    }
    for p in SMALL.iter().filter(|c| c.geometry.groups == 1).map(|c| c.problem()) {
        let x: Vec<f32> = (0..p.x_shape().len()).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
        let dy: Vec<f32> = (0..p.y_shape().len()).map(|i| (i * 5 % 11) as f32 - 5.0).collect();
        let [narrow_x, narrow_dy] = [&x, &dy].map(|v| v.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>());
        for at_end in [false, true] {
            let (mut x, mut dy) = (Edge::new(&x, at_end), Edge::new(&dy, at_end));
            let (mut narrow_x, mut narrow_dy) = (Edge::new(&narrow_x, at_end), Edge::new(&narrow_dy, at_end));
            let mut dw = [(); 3].map(|()| Edge::new(&vec![f32::NAN; p.w_shape().len()], at_end));
            let [a, b, c] = &mut dw;
            // SAFETY: the test checked that AMX is available; the operands are of `p`.
            unsafe {
                run(&p, Numbers::Bf16(narrow_x.get()), None, Numbers::Bf16(narrow_dy.get()), a.get()).unwrap();
                run(&p, Numbers::F32(x.get(), 2), None, Numbers::F32(dy.get(), 2), b.get()).unwrap();
                run(&p, Numbers::F32(x.get(), 3), None, Numbers::F32(dy.get(), 3), c.get()).unwrap();
            }
            assert!(a.get() == b.get() && a.get() == c.get(), "{p:?}");
            if [1, 2, 3].iter().all(|&parts| applies(&p, parts)) {
                // A prologue of small integers, so that all precisions are exact.
                let number = |i: usize| (i % 3) as f32;
                let array: Vec<f32> = (0..p.c).map(number).collect();
                let array = Tensor::from_f32([p.c], &array).unwrap();
                let norm = Norm::new(&array, &array, &array, &array).unwrap();
                let lines = Lines::new(&norm.rows(p.x_shape()).unwrap(), &norm).unwrap();
                // SAFETY: as above.
                unsafe {
                    run(&p, Numbers::Bf16(narrow_x.get()), Some(&lines), Numbers::Bf16(narrow_dy.get()), a.get())
                        .unwrap();
                    run(&p, Numbers::F32(x.get(), 2), Some(&lines), Numbers::F32(dy.get(), 2), b.get()).unwrap();
                    run(&p, Numbers::F32(x.get(), 3), Some(&lines), Numbers::F32(dy.get(), 3), c.get()).unwrap();
                }
                assert!(a.get() == b.get() && a.get() == c.get(), "{p:?} after a prologue");
            }
        }
    }
}
