//! The named parameters of one network.

use crate::error::Result;
use crate::tensor::{Device, Tensor};
use std::ops::{Index, IndexMut};

/// The role of a parameter in its layer, which determines its initial value, its weight decay, and its layout in a
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Filter of a convolution, `k kt kh kw c`.
    ConvWeight,
    /// Matrix of a linear layer, `o i`.
    LinearWeight,
    /// Bias of a linear layer, `o`.
    Bias,
    /// Scale of a normalisation (PyTorch: `weight`), `c`.
    NormScale,
    /// Shift of a normalisation (PyTorch: `bias`), `c`.
    NormShift,
    /// Moving average of a normalisation's means, `c`.
    RunningMean,
    /// Moving average of a normalisation's variances, `c`.
    RunningVar,
}

impl Role {
    /// Whether it is trained by gradients; running statistics are updated by passes in training mode instead.
    #[must_use]
    pub fn trains(self) -> bool {
        !matches!(self, Role::RunningMean | Role::RunningVar)
    }

    /// Whether weight decay applies: to everything that is trained except normalisations (`docs/papers/maclr.md`
    /// section 5, BN weight decay 0).
    #[must_use]
    pub fn decays(self) -> bool {
        matches!(self, Role::ConvWeight | Role::LinearWeight | Role::Bias)
    }
}

/// One parameter, or one running statistic.
#[derive(Clone, Debug)]
pub struct Param {
    /// Its name in PyTorch's `state_dict`.
    pub name: String,
    /// Its value, f32.
    pub value: Tensor,
    /// Its role.
    pub role: Role,
}

impl Param {
    /// The name of the layer it belongs to: its own name without the last component.
    #[must_use]
    pub fn module(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(module, _)| module)
    }
}

/// Index of a parameter in the [`Params`] it was created with, and in every clone of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(usize);

/// All parameters and running statistics of one network, in the order in which they were created. Clones share memory
/// until one of them is written.
#[derive(Clone, Debug, Default)]
pub struct Params {
    list: Vec<Param>,
    /// Batches seen in training mode: PyTorch's `num_batches_tracked`, which is the same for every layer of a network.
    pub batches: u64,
}

impl Params {
    /// No parameters yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one. Names must be unique, since a file is keyed by them.
    pub fn push(&mut self, name: impl Into<String>, value: Tensor, role: Role) -> ParamId {
        let name = name.into();
        debug_assert!(self.find(&name).is_none(), "two parameters are called {name}");
        self.list.push(Param { name, value, role });
        ParamId(self.list.len() - 1)
    }

    /// `len` entries of which only the given ones have values: for a second run of a part of a network.
    pub(super) fn holding(len: usize, some: &[(ParamId, Tensor)]) -> Params {
        let nothing = Param { name: String::new(), value: Tensor::zeros([0]), role: Role::RunningMean };
        let mut list = vec![nothing; len];
        for (id, value) in some {
            list[id.0].value = value.clone();
        }
        Params { list, batches: 0 }
    }

    /// Number of entries, including running statistics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The entry called `name`.
    pub fn find(&self, name: &str) -> Option<ParamId> {
        self.list.iter().position(|p| p.name == name).map(ParamId)
    }

    /// All entries in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ParamId, &Param)> {
        self.list.iter().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// All entries in order, to be changed.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (ParamId, &mut Param)> {
        self.list.iter_mut().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// The values of two different entries, to be changed.
    pub(super) fn two_mut(&mut self, [a, b]: [ParamId; 2]) -> [&mut Tensor; 2] {
        let both = self.list.get_disjoint_mut([a.0, b.0]).expect("two indices of this network");
        both.map(|p| &mut p.value)
    }

    /// The entries that are trained by gradients.
    pub fn trainable(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.iter().filter(|(_, p)| p.role.trains())
    }

    /// The device of the parameters; the CPU when there are none.
    #[must_use]
    pub fn device(&self) -> Device {
        self.list.first().map_or(Device::Cpu, |p| p.value.device())
    }

    /// The same parameters on `device`.
    ///
    /// # Errors
    /// As [`Tensor::to`].
    pub fn to(&self, device: &Device) -> Result<Params> {
        let mut moved = self.clone();
        for p in &mut moved.list {
            p.value = p.value.to(device)?;
        }
        Ok(moved)
    }

    /// The number of trained numbers, which papers call the number of parameters.
    #[must_use]
    pub fn count(&self) -> usize {
        self.trainable().map(|(_, p)| p.value.shape().len()).sum()
    }
}

impl ParamId {
    /// Its index, for arrays parallel to [`Params`] (momentum, …).
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

impl Index<ParamId> for Params {
    type Output = Param;

    fn index(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }
}

impl IndexMut<ParamId> for Params {
    fn index_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.list[id.0]
    }
}
