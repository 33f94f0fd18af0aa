"""Decodes videos with OpenCV, decord or torchcodec as `pack` does: all frames, in order, resized to a short side of 80 pixels.

    python decode.py opencv|decord|torchcodec FOLDER

One thread decodes, and prints frames per second of processor time and of elapsed time. Frames are read in batches where the
library has such a call. `pack --threads 1` on the same folder is the other side of the comparison (docs/cache.md).
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


def opencv(path):
    import cv2

    cv2.setNumThreads(1)
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    count, sizes = 0, None
    while True:
        there, frame = video.read()
        if not there:
            return count
        sizes = sizes or size(*frame.shape[:2])
        frame = cv2.resize(frame, sizes[::-1], interpolation=cv2.INTER_AREA)
        cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        count += 1


def decord(path):
    import decord

    video = decord.VideoReader(str(path), num_threads=1)
    h, w = size(*video[0].shape[:2])
    video = decord.VideoReader(str(path), width=w, height=h, num_threads=1)
    for begin in range(0, len(video), BATCH):
        video.get_batch(range(begin, min(begin + BATCH, len(video)))).asnumpy()
    return len(video)


def torchcodec(path):
    import torch
    from torch.nn.functional import interpolate
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    video = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate")
    sizes = size(video.metadata.height, video.metadata.width)
    for begin in range(0, len(video), BATCH):
        frames = video.get_frames_in_range(begin, min(begin + BATCH, len(video))).data
        interpolate(frames.float(), sizes, mode="bilinear", antialias=True).to(torch.uint8)
    return len(video)


def main():
    decode = {"opencv": opencv, "decord": decord, "torchcodec": torchcodec}[sys.argv[1]]
    paths = sorted(p for p in Path(sys.argv[2]).rglob("*.mp4"))
    decode(paths[0])  # the library is loaded
    began, busy = time.perf_counter(), sum(os.times()[:2])
    frames = sum(decode(path) for path in paths)
    seconds, busy = time.perf_counter() - began, sum(os.times()[:2]) - busy
    print(f"{sys.argv[1]}: {len(paths)} videos, {frames} frames, {frames / busy:.0f} a second of processor time, "
          f"{frames / seconds:.0f} elapsed")


main()
