//! Weights of other programs: formats, hostile files, names, where a network lies.

mod hostile;
mod names;
mod places;
mod torch;
