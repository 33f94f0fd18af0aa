//! Weights of other programs: formats, hostile files, names, where a network lies.

pub mod hostile;
pub mod names;
pub mod places;
pub mod plain_pytorch;
pub mod torch;
pub mod torchvision;
