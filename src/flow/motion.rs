//! The input of the motion network.

use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::ops::motion_map;
use std::fmt;
use std::str::FromStr;

/// Kind of input of the motion network (`docs/papers/maclr.md` section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum MotionInput {
    /// `mean_rgb |I_{t+1} - I_t| / 255`, one channel; needs no flow.
    #[cfg_attr(feature = "serde", serde(rename = "frame-diff"))]
    FrameDifference,
    /// `(u, v)` clamped to `±clamp` pixels and divided by it, two channels. Flipping the video must negate `u`.
    Flow,
    /// Sobel edges of the flow, clamped, one channel: invariant to a panning camera, and equivariant to flips.
    FlowEdges,
    /// Flow less its median in the frame, as for [`MotionInput::Flow`], and its edges: three channels. Invariant to a panning
    /// camera, and it keeps the direction of what moves.
    #[cfg_attr(feature = "serde", serde(rename = "flow+edges"))]
    FlowAndEdges,
}

impl MotionInput {
    /// All variants: those that the paper compares, in its order, and ours.
    pub const ALL: [MotionInput; 4] =
        [MotionInput::FrameDifference, MotionInput::Flow, MotionInput::FlowEdges, MotionInput::FlowAndEdges];

    /// The name on the command line: `frame-diff`, `flow`, `flow-edges` or `flow+edges`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MotionInput::FrameDifference => "frame-diff",
            MotionInput::Flow => "flow",
            MotionInput::FlowEdges => "flow-edges",
            MotionInput::FlowAndEdges => "flow+edges",
        }
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            MotionInput::FrameDifference | MotionInput::FlowEdges => 1,
            MotionInput::Flow => 2,
            MotionInput::FlowAndEdges => 3,
        }
    }

    /// Whether its first two channels are `u` and `v`.
    #[must_use]
    pub fn has_direction(self) -> bool {
        matches!(self, MotionInput::Flow | MotionInput::FlowAndEdges)
    }

    /// Whether it is computed from flow.
    #[must_use]
    pub fn needs_flow(self) -> bool {
        self != MotionInput::FrameDifference
    }
}

impl fmt::Display for MotionInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for MotionInput {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let known = MotionInput::ALL.into_iter().find(|m| m.name() == s);
        known.ok_or_else(|| Error::param("motion", "input", s, "it must be frame-diff, flow, flow-edges or flow+edges"))
    }
}

/// Motion input at one moment: a plane `h w` per channel. A separate type, because data in the order `h w c` has the
/// same length and could be mistaken for planes.
#[derive(Clone, Debug, PartialEq)]
pub struct MotionMap {
    planes: Vec<Vec<f32>>,
    size: [usize; 2],
}

impl MotionMap {
    /// The map of a flow field; `None` if `input` is not computed from flow. `clamp` is in pixels and above 0.
    #[must_use]
    pub fn of_flow(input: MotionInput, flow: &Flow, clamp: f32) -> Option<MotionMap> {
        let planes = match input {
            MotionInput::FrameDifference => return None,
            MotionInput::Flow => motion_map::scaled_flow(flow, clamp).into(),
            MotionInput::FlowEdges => vec![motion_map::flow_edges(flow, clamp)],
            MotionInput::FlowAndEdges => {
                let [u, v] = motion_map::scaled_flow(&flow.less_median(), clamp);
                vec![u, v, motion_map::flow_edges(flow, clamp)]
            }
        };
        Some(MotionMap { planes, size: [flow.h(), flow.w()] })
    }

    /// The difference of two frames `h w 3`, one channel.
    ///
    /// # Errors
    /// `Shape` when a frame has not `3·h·w` bytes.
    pub fn of_frames(this: &[u8], next: &[u8], [h, w]: [usize; 2]) -> Result<MotionMap> {
        for frame in [this, next] {
            if Some(frame.len()) != h.checked_mul(w).and_then(|n| n.checked_mul(3)) {
                let got = format!("{} bytes", frame.len());
                return Err(Error::shape("frame difference", "frames", format!("{h}x{w}x3 bytes"), got));
            }
        }
        Ok(MotionMap { planes: vec![motion_map::frame_difference(this, next)], size: [h, w] })
    }

    /// The channels in order (for flow: `u`, then `v`), each `h w`.
    pub fn planes(&self) -> impl Iterator<Item = &[f32]> {
        self.planes.iter().map(Vec::as_slice)
    }

    /// Rows and columns.
    #[must_use]
    pub fn size(&self) -> [usize; 2] {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A square that moves over ground which a camera pans past: of flow and edges, the camera leaves nothing, and the square keeps
    /// its direction. Of flow itself, the camera stays.
    #[test]
    fn a_panning_camera_leaves_flow_and_edges_as_they_are() {
        let field = |pan: [f32; 2]| {
            let inside = |i: usize| (2..5).contains(&(i % 9)) && (3..6).contains(&(i / 9));
            let plane = |c: usize, by: f32| (0..81).map(|i| pan[c] + if inside(i) { by } else { 0.0 }).collect();
            Flow::new(9, 9, plane(0, -0.5), plane(1, 0.25)).unwrap()
        };
        // Binary fractions: differences are exact.
        let (still, pans) = (field([0.0; 2]), field([0.75, -1.5]));
        let map = |input, flow: &Flow| MotionMap::of_flow(input, flow, 2.0).unwrap();
        let both = map(MotionInput::FlowAndEdges, &pans);
        assert_eq!(both, map(MotionInput::FlowAndEdges, &still));
        assert_ne!(map(MotionInput::Flow, &pans), map(MotionInput::Flow, &still));
        let planes: Vec<&[f32]> = both.planes().collect();
        let [u, v, edges] = planes[..] else { panic!("three channels") };
        assert_eq!([u[4 * 9 + 3], v[4 * 9 + 3], u[0], v[0]], [-0.25, 0.125, 0.0, 0.0]);
        assert_eq!(edges, map(MotionInput::FlowEdges, &still).planes().next().unwrap());
    }
}
