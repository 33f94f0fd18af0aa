//! The choice of what the motion network sees.

use crate::error::{Error, Result};
use crate::flow::Flow;
use crate::ops::motion_map;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// The motion network's input (MaCLR compares these three and settles on edges of the flow).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MotionInput {
    /// `mean_rgb |I_{t+1} - I_t| / 255`, one channel; needs no flow.
    #[serde(rename = "frame-diff")]
    FrameDifference,
    /// `(u, v)` clamped to `±clamp` pixels and divided by it, two channels. Mirroring the video must negate `u`.
    Flow,
    /// Sobel edges of the flow, clamped, one channel: blind to a panning camera and to mirroring.
    FlowEdges,
}

impl MotionInput {
    /// All, in the order of the paper.
    pub const ALL: [MotionInput; 3] = [MotionInput::FrameDifference, MotionInput::Flow, MotionInput::FlowEdges];

    /// The name on a command line: `frame-diff`, `flow` or `flow-edges`.
    pub fn name(self) -> &'static str {
        match self {
            MotionInput::FrameDifference => "frame-diff",
            MotionInput::Flow => "flow",
            MotionInput::FlowEdges => "flow-edges",
        }
    }

    /// Channels of the map. A network of three input channels takes a map of one repeated ([`repeat`]).
    pub fn channels(self) -> usize {
        match self {
            MotionInput::FrameDifference | MotionInput::FlowEdges => 1,
            MotionInput::Flow => 2,
        }
    }

    /// The clamp in pixels that suits the input: 10 for edges (Sobel sums) as for flow; a frame difference has none.
    pub fn default_clamp(self) -> f32 {
        10.0
    }

    /// Whether flow has to be computed for it.
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
        known.ok_or_else(|| Error::param("motion", "input", s, "it must be frame-diff, flow or flow-edges"))
    }
}

/// The map of a flow, `h w c` with `c` = [`MotionInput::channels`]; `None` where the input is not made of flow.
pub fn map_of_flow(input: MotionInput, flow: &Flow, clamp: f32) -> Option<Vec<f32>> {
    match input {
        MotionInput::FrameDifference => None,
        MotionInput::Flow => Some(motion_map::scaled_flow(flow, clamp)),
        MotionInput::FlowEdges => Some(motion_map::flow_edges(flow, clamp)),
    }
}

/// Each pixel of a one-channel map `channels` times, `h w` to `h w channels`.
pub fn repeat(map: &[f32], channels: usize) -> Vec<f32> {
    map.iter().flat_map(|&x| std::iter::repeat_n(x, channels)).collect()
}
