//! Integration tests, one binary: each module is a room of the house.

mod augment;
mod close;
mod conv3d;
mod flow;
mod grad;
mod layers;
mod losses;
mod video;
