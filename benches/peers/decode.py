"""Decodes videos with OpenCV, decord or torchcodec as `cargo bench --bench decode` does: resized to a short side of 80 pixels.

    python decode.py opencv|decord|torchcodec FOLDER [STEP]

Every frame, in order, or every STEP-th. One thread decodes, and prints frames of the videos (also those that are passed over) per
second of processor time and of elapsed time. Frames are read in batches where the library has such a call.
"""

import os
import sys
import time
from pathlib import Path

SIDE = 80
BATCH = 32


def size(h, w):
    short = min(h, w)
    return (h * SIDE + short // 2) // short, (w * SIDE + short // 2) // short


def batches(n, step):
    all = range(0, n, step)
    return [all[begin:begin + BATCH] for begin in range(0, len(all), BATCH)]


def opencv(path, step):
    import cv2

    cv2.setNumThreads(1)
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count, sizes = 0, None
    while video.grab():
        count += 1
        if (count - 1) % step:
            continue
        _, frame = video.retrieve()
        sizes = sizes or size(*frame.shape[:2])
        frame = cv2.resize(frame, sizes[::-1], interpolation=cv2.INTER_AREA)
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    return count


def decord(path, step):
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    h, w = size(*video[0].shape[:2])
    video = decord.VideoReader(str(path), width=w, height=h, num_threads=1)
    for some in batches(len(video), step):
        video.get_batch(some).asnumpy()
    return len(video)


def torchcodec(path, step):
    import torch
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    video = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate")
    sizes = size(video.metadata.height, video.metadata.width)
    for some in batches(len(video), step):
        frames = video.get_frames_in_range(some.start, some.stop, step).data
        interpolate(frames.float(), sizes, mode="bilinear", antialias=True).to(torch.uint8)
    return len(video)


def main():
    decode = {"opencv": opencv, "decord": decord, "torchcodec": torchcodec}[sys.argv[1]]
    step = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    paths = sorted(p for p in Path(sys.argv[2]).rglob("*.mp4"))
    decode(paths[0], step)  # the library is loaded
    began, busy = time.perf_counter(), sum(os.times()[:2])
    frames = sum(decode(path, step) for path in paths)
    seconds, busy = time.perf_counter() - began, sum(os.times()[:2]) - busy
    print(f"{sys.argv[1]}: {len(paths)} videos, {frames} frames, every {step}: {frames / busy:.0f} a second of processor time, "
          f"{frames / seconds:.0f} elapsed")


main()
