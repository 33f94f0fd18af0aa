//! Kernels with typed parameters.
//!
//! An operation's `cuda.rs` declares its kernels as statics: the module, the entries that share a parameter list (one per
//! data type or tile size), and that list as a type. A test compares every list with the `.entry` in the PTX.
//!
//! ```text
//! static MODULE: Module = Module::new("arith", include_str!("../../../ptx/arith.sm_80.ptx"));
//! static SCALE: Kernel<(In, Out, f32, u32)> = Kernel::new(&MODULE, &["arith_scale_f32", "arith_scale_bf16"]);
//! SCALE.launch(gpu, a.dtype().index(), Spread::cover(n, 256), (a.input(), y.output(), 2.0, n as u32))?;
//! ```

use super::{Access, Arg, EncodedMap, Gpu, Launch, Region, Spread};
use crate::error::Result;
use std::marker::PhantomData;

/// A PTX module embedded in this library.
pub struct Module {
    /// The operation it belongs to.
    pub name: &'static str,
    /// PTX source.
    pub ptx: &'static str,
}

impl Module {
    pub const fn new(name: &'static str, ptx: &'static str) -> Self {
        Module { name, ptx }
    }
}

/// Type of a parameter in the PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// `.u64`: a device pointer.
    Pointer,
    /// `.u32`.
    U32,
    /// `.f32`.
    F32,
    /// `.b8 [bytes]`: a struct.
    Struct {
        /// Its size.
        bytes: usize,
        /// Its alignment.
        align: usize,
    },
}

/// A kernel declaration, for comparison with the PTX.
#[derive(Clone, Copy)]
pub struct Declared {
    /// Name of the module.
    pub module: &'static str,
    /// PTX source of the module.
    pub ptx: &'static str,
    /// The entries that share the parameter list.
    pub entries: &'static [&'static str],
    /// The parameter list.
    pub parameters: &'static [Parameter],
}

#[cfg(feature = "testing")]
impl Declared {
    /// The kernel's module on a GPU, loaded unless it is.
    ///
    /// # Errors
    /// `Driver` with the driver's log; `Format` and `Io` for a cubin of [`Gpu::with_cubins`].
    pub fn load(&self, gpu: &Gpu) -> Result<super::ModuleId> {
        gpu.load((self.module, self.ptx))
    }
}

/// Entries of one module that share a parameter list `A`.
pub struct Kernel<A> {
    module: &'static Module,
    entries: &'static [&'static str],
    args: PhantomData<fn(A)>,
}

impl<A: Args> Kernel<A> {
    pub const fn new(module: &'static Module, entries: &'static [&'static str]) -> Self {
        Kernel { module, entries, args: PhantomData }
    }

    pub fn declared(&self) -> Declared {
        Declared { module: self.module.name, ptx: self.module.ptx, entries: self.entries, parameters: A::PARAMETERS }
    }

    /// Submits a launch of entry number `which` to `gpu`.
    pub fn launch(&self, gpu: &Gpu, which: usize, spread: Spread, args: A) -> Result<()> {
        self.launch_reaching(gpu, which, spread, args, &[])
    }

    /// Like [`Kernel::launch`], for a kernel that also follows pointers stored in tables.
    pub fn launch_reaching(&self, gpu: &Gpu, which: usize, spread: Spread, args: A, reached: &[Region]) -> Result<()> {
        let Module { name, ptx } = *self.module;
        let function = gpu.function((name, ptx), self.entries[which], spread.shared)?;
        args.with(|args| gpu.launch(function, &Launch { spread, args, reached }))
    }
}

/// A pointer to memory the kernel only reads.
#[derive(Clone, Copy)]
pub struct In(pub u64, pub usize);
/// A pointer to memory the kernel overwrites completely.
#[derive(Clone, Copy)]
pub struct Out(pub u64, pub usize);
impl Out {
    /// The same memory, once it is written, as the input of a later kernel.
    pub fn written(self) -> In {
        In(self.0, self.1)
    }
}

/// A pointer to memory the kernel updates.
#[derive(Clone, Copy)]
pub struct InOut(pub u64, pub usize);
/// A pointer to scratch memory.
#[derive(Clone, Copy)]
pub struct Scratch(pub u64, pub usize);

/// A tensor that TMA reads.
#[derive(Clone, Copy)]
pub struct Map(pub EncodedMap);

/// A plain struct passed by value, with the layout of its C counterpart.
#[derive(Clone, Copy)]
pub struct Pod<T: bytemuck::Pod>(pub T);

/// One argument and its parameter type.
pub trait Argument {
    const PARAMETER: Parameter;
    fn arg(&self) -> Arg<'_>;
}

macro_rules! pointer {
    ($($name:ident $access:ident)*) => {$(
        impl Argument for $name {
            const PARAMETER: Parameter = Parameter::Pointer;
            fn arg(&self) -> Arg<'_> {
                Arg::Pointer(Region { ptr: self.0, bytes: self.1, access: Access::$access })
            }
        }
    )*};
}

pointer! { In Read  Out Write  InOut ReadWrite  Scratch Scratch }

impl Argument for Map {
    const PARAMETER: Parameter = Parameter::Struct { bytes: 128, align: 64 };
    fn arg(&self) -> Arg<'_> {
        Arg::TensorMap(&self.0)
    }
}

impl Argument for u32 {
    const PARAMETER: Parameter = Parameter::U32;
    fn arg(&self) -> Arg<'_> {
        Arg::Value(bytemuck::bytes_of(self))
    }
}

impl Argument for f32 {
    const PARAMETER: Parameter = Parameter::F32;
    fn arg(&self) -> Arg<'_> {
        Arg::Value(bytemuck::bytes_of(self))
    }
}

impl<T: bytemuck::Pod> Argument for Pod<T> {
    const PARAMETER: Parameter = Parameter::Struct { bytes: size_of::<T>(), align: align_of::<T>() };
    fn arg(&self) -> Arg<'_> {
        Arg::Value(bytemuck::bytes_of(&self.0))
    }
}

/// An argument list.
pub trait Args {
    const PARAMETERS: &'static [Parameter];
    fn with<R>(&self, f: impl FnOnce(&[Arg]) -> R) -> R;
}

macro_rules! tuples {
    ($(($($t:ident $i:tt)*))*) => {$(
        impl<$($t: Argument),*> Args for ($($t,)*) {
            const PARAMETERS: &'static [Parameter] = &[$($t::PARAMETER),*];
            fn with<R>(&self, f: impl FnOnce(&[Arg]) -> R) -> R {
                f(&[$(self.$i.arg()),*])
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0 B 1)
    (A 0 B 1 C 2)
    (A 0 B 1 C 2 D 3)
    (A 0 B 1 C 2 D 3 E 4)
    (A 0 B 1 C 2 D 3 E 4 F 5)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12 N 13)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12 N 13 O 14)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12 N 13 O 14 P 15)
    (A 0 B 1 C 2 D 3 E 4 F 5 G 6 H 7 I 8 J 9 K 10 L 11 M 12 N 13 O 14 P 15 Q 16 S 17 T 18 U 19)
}
