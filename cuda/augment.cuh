// What the passes of augmentation are told: one struct for each clip, and the extents of all.
#pragma once
#include "common/elements.cuh"

// The augmentation of one clip; the same struct as `augment::cuda::Clip`.
struct Clip {
    // Top, left, height and width of the crop, in pixels of the frames.
    double crop[4];
    float brightness, contrast, saturation, hue;
    // The weights of a blur's middle and neighbours; of boxes, of their pixels and of the outermost ones.
    float inner, outer;
    float mean[3], inverse_std[3];
    // Four colour operations in their order, four bits each; then what else is done.
    u32 order, flags;
};

#define FLIP 1u
#define JITTER 2u
#define GREY 4u
#define BLUR 8u
// Blurred by boxes in a pass of its own, which reach one pixel to each side, or two.
#define BOXES 16u
#define TWO 32u

#define BRIGHTNESS 0u
#define CONTRAST 1u
#define SATURATION 2u
#define HUE 3u

// Extents of a launch; the same struct as `augment::cuda::Extents`.
struct Extents {
    // Frames of a clip, their extents, the side of the result, blocks of a frame in the pass for the mean.
    int t, h, w, side, chunks;
};
