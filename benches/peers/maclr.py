"""MaCLR in PyTorch: the recipe of `pretrain_maclr --data DIR --preset small --no-flip`, as one would write it with OpenCV and PyTorch.

    python benches/peers/maclr.py DATA [--epochs 12] [--cache DIR] [--precision f32] [--compile]
                                        (pip install torch numpy opencv-contrib-python)

DATA is a folder in UCF101's layout (trainlist01.txt, videos/). Videos are decoded, flowed (DualTVL1) and kept as arrays in
the cache; two workers of a DataLoader cut and colour the clips while the step runs. Same clips, augmentation, networks,
losses, queues, optimiser and schedule as ours; the random numbers are others. `Maclr` is also what the goldens of
tests/fixtures/make/maclr.py are made with.

Prints a JSON line an epoch, and at the end one with steps a second and the seconds of preparing and of training.
"""

import argparse
import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIDE, CACHED, FRAMES, STRIDE, MOTION_FRAMES, EVERY = 48, 80, 8, 4, 16, 2
GREY = torch.tensor([0.299, 0.587, 0.114])
NOBODY = -1


# ---- videos


def train_videos(data):
    root = data / "videos" if (data / "videos").is_dir() else data
    return [root / line.split()[0] for line in (data / "trainlist01.txt").read_text().splitlines() if line.strip()]


def edges(flow):
    """Sobel edges of a flow, clamped at 1."""
    square = 0
    for field in (flow[..., 0], flow[..., 1]):
        for dx, dy in ((1, 0), (0, 1)):
            square = square + cv2.Sobel(field, cv2.CV_32F, dx, dy, ksize=3, borderType=cv2.BORDER_REPLICATE) ** 2
    return np.minimum(np.sqrt(square), 1)


def prepare(job):
    """Decodes a video and keeps frames of 80 pixels and edges of the flow from every second frame."""
    video, stem = job
    if Path(f"{stem}.motion.npy").exists():
        return None
    cv2.setNumThreads(1)
    capture, frames = cv2.VideoCapture(str(video)), []
    fps = capture.get(cv2.CAP_PROP_FPS)
    while (read := capture.read())[0]:
        h, w = read[1].shape[:2]
        size = (CACHED, round(h * CACHED / w)) if w < h else (round(w * CACHED / h), CACHED)
        frames.append(cv2.cvtColor(cv2.resize(read[1], size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB))
    tvl1 = cv2.optflow.createOptFlow_DualTVL1()
    tvl1.setScalesNumber(4)
    tvl1.setWarpingsNumber(2)
    tvl1.setOuterIterations(2)
    tvl1.setInnerIterations(10)
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in frames]
    starts = range(0, max(1, len(frames) - 1), EVERY)
    motion = [edges(tvl1.calc(grey[i], grey[min(i + 1, len(grey) - 1)], None)) for i in starts]
    np.save(f"{stem}.fps.npy", np.array(fps))
    np.save(f"{stem}.rgb.npy", np.stack(frames))
    np.save(f"{stem}.part.npy", np.stack(motion).astype(np.float16))
    os.rename(f"{stem}.part.npy", f"{stem}.motion.npy")
    return None


# ---- clips


def two_starts(length, fps, rng):
    """Two starts, uniform among the pairs half a second to ten seconds apart; as far apart as a short video allows."""
    room = max(length - FRAMES * STRIDE, 0)
    least, most = min(0.5 * fps, room), min(10 * fps, room)
    draw, place, order = rng.random(3)
    small, large = (room - most) ** 2, (room - least) ** 2
    places = math.sqrt(small + (large - small) * draw)
    early, late = place * places, place * places + room - places
    return (early, late) if order < 0.5 else (late, early)


def crop(rng, h, w):
    """Area 0.3 to 1, aspect 1/2 to 2 in its logarithm; the whole frame if ten tries do not fit."""
    for _ in range(10):
        area, aspect = h * w * rng.uniform(0.3, 1), math.exp(rng.uniform(-math.log(2), math.log(2)))
        height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 1 <= height <= h and 1 <= width <= w:
            return rng.integers(h - height + 1), rng.integers(w - width + 1), height, width
    return 0, 0, h, w


def resized(planes, side=SIDE):
    return F.interpolate(planes, size=(side, side), mode="bilinear", align_corners=False)


def coloured(x, rng):
    """Jitter of 0.6 with probability 0.8, grey 0.4, blur 0.5 on frames `t 3 h w` of values 0 to 1."""
    luma = lambda x: (x * GREY[:, None, None]).sum(1, keepdim=True)
    if rng.random() < 0.8:
        factors = rng.uniform(0.4, 1.6, 3)
        for which in rng.permutation(3):
            f = float(factors[which])
            if which == 0:
                x = x * f
            elif which == 1:
                x = torch.lerp(luma(x).mean((2, 3), keepdim=True).expand_as(x), x, f)
            else:
                x = torch.lerp(luma(x).expand_as(x), x, f)
            x = x.clamp_(0, 1)
    if rng.random() < 0.4:
        x = luma(x).expand_as(x)
    if rng.random() < 0.5:
        sigma = rng.uniform(0.1, 2.0)
        tail = math.exp(-0.5 / sigma**2)
        line = torch.tensor([tail, 1, tail]) / (1 + 2 * tail)
        kernel = torch.outer(line, line).expand(3, 1, 3, 3)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)
    return x


class Pairs(torch.utils.data.Dataset):
    """Two clips of each video, RGB and motion of the same moments, as `t h w c`."""

    def __init__(self, stems, seed):
        self.stems, self.seed, self.epoch = stems, seed, 0

    def __len__(self):
        return len(self.stems)

    def __getitem__(self, key):
        epoch, video = key
        stem = self.stems[video]
        frames, motion = (np.load(f"{stem}.{kind}.npy", mmap_mode="r") for kind in ("rgb", "motion"))
        rng = np.random.default_rng((self.seed, epoch, video))
        out = []
        for start in two_starts(len(frames), float(np.load(f"{stem}.fps.npy")), rng):
            y, x, h, w = crop(rng, *frames.shape[1:3])
            at = lambda n, step: [round(start + i * step) % len(frames) for i in range(n)]
            rgb = torch.from_numpy(frames[at(FRAMES, STRIDE), y : y + h, x : x + w]).permute(0, 3, 1, 2)
            rgb = coloured(resized(rgb.float().div_(255)), rng)
            rgb = rgb.sub(0.45).div_(0.225)
            fields = [min((i + EVERY // 2) // EVERY, len(motion) - 1) for i in at(MOTION_FRAMES, FRAMES * STRIDE / MOTION_FRAMES)]
            maps = resized(torch.from_numpy(motion[fields, y : y + h, x : x + w]).float()[:, None])
            out += [rgb.permute(0, 2, 3, 1).contiguous(), maps.permute(0, 2, 3, 1).contiguous()]
        return video, *out


class Order(torch.utils.data.Sampler):
    """`(epoch, video)` of all epochs in one stream, so that workers never pause between epochs."""

    def __init__(self, videos, batch, epochs, seed):
        self.videos, self.batch, self.epochs, self.seed = videos, batch, epochs, seed

    def __iter__(self):
        for epoch in range(self.epochs):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.videos)
            for i in range(0, self.videos - self.batch + 1, self.batch):
                yield [(epoch, int(v)) for v in order[i : i + self.batch]]


# ---- networks


def conv_norm(c, k, kernel, stride):
    conv = nn.Conv3d(c, k, kernel, stride, [e // 2 for e in kernel], bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(conv, nn.BatchNorm3d(k))


class Block(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1, self.conv2 = conv_norm(c, k, [3] * 3, stride), conv_norm(k, k, [3] * 3, [1] * 3)
        self.downsample = conv_norm(c, k, [1] * 3, stride)

    def forward(self, x):
        y = F.relu(self.conv1(x), inplace=True)
        return F.relu(self.conv2(y) + self.downsample(x), inplace=True)


class Encoder(nn.Module):
    """Stem, a residual block of two 3x3x3 convolutions for each further width, mean, and a normalised head."""

    def __init__(self, c, stem_t, widths, kernel, strides, hidden, code):
        super().__init__()
        self.stem = conv_norm(c, widths[0], kernel, [stem_t, 2, 2])
        pairs = zip(widths, widths[1:], strides)
        blocks = {f"layer{i + 2}": nn.Sequential(Block(c, k, stride)) for i, (c, k, stride) in enumerate(pairs)}
        for name, block in blocks.items():
            self.add_module(name, block)
        self.blocks = list(blocks)
        linears = nn.Linear(widths[-1], hidden), nn.Linear(hidden, code)
        for linear in linears:
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        head = nn.Sequential()
        head.projection = nn.ModuleDict({"0": linears[0], "1": nn.BatchNorm1d(hidden), "2": linears[1]})
        self.head = head

    def forward(self, x):
        x = F.relu(self.stem(x), inplace=True)
        for name in self.blocks:
            x = getattr(self, name)(x)
        p = self.head.projection
        code = p["2"](F.relu(p["1"](p["0"](x.mean((2, 3, 4))))))
        return F.normalize(code.to(p["2"].weight.dtype))


def small(c, stem_t):
    return Encoder(c, stem_t, [16, 32, 64, 128], [3, 5, 5], [[1, 2, 2], [2, 2, 2], [2, 2, 2]], 128, 64)


# ---- the method


class Pathway:
    """Query and key network, optimiser, and a queue of keys with their owners."""

    def __init__(self, make, queue, code=64):
        self.query, self.key = make(), make()
        for net in (self.query, self.key):
            net.to(memory_format=torch.channels_last_3d).train()
        self.key.load_state_dict(self.query.state_dict())
        self.key.requires_grad_(False)
        decayed, rest = [], []
        for module in self.query.modules():
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            (rest if norm else decayed).extend(module.parameters(recurse=False))
        groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": rest, "weight_decay": 0.0}]
        self.sgd = torch.optim.SGD(groups, 0.0, momentum=0.9, nesterov=True, fused=True)
        self.pairs = list(self.key.parameters()), list(self.query.parameters())
        self.keys = torch.zeros(queue, code, dtype=self.pairs[0][0].dtype)
        self.owners, self.at = torch.full((queue,), NOBODY), 0
        self.run = {"query": self.query, "key": self.key}

    @torch.no_grad()
    def follow(self, momentum):
        torch._foreach_lerp_(*self.pairs, 1 - momentum)

    @torch.no_grad()
    def encode_keys(self, x):
        order = torch.randperm(len(x))
        return self.run["key"](x[order].contiguous(memory_format=torch.channels_last_3d))[torch.argsort(order)]

    def push(self, keys, owners):
        rows = (self.at + torch.arange(len(keys))) % len(self.keys)
        self.keys[rows], self.owners[rows] = keys, owners
        self.at = (self.at + len(keys)) % len(self.keys)


class Maclr:
    """Both pathways and a step. Clips are `n c t h w`; the first of each video is the visual query's, motion crosswise."""

    def __init__(self, visual, motion, weights=(0.1, 1.0, 1.0, 1.0), tau=0.1, momentum=0.99, autocast=False):
        self.visual, self.motion = visual, motion
        self.weights, self.tau, self.momentum = weights, tau, momentum
        self.cast = lambda: torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()

    def term(self, q, k, pathway, owners):
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ pathway.keys.T], 1) / self.tau
        hidden = (owners[:, None] == pathway.owners) | (pathway.owners == NOBODY)
        logits = logits.masked_fill(F.pad(hidden, (1, 0)), -math.inf)
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def step(self, rgb, motion, owners, lr):
        """The losses vv, mm, vm, mv before the update."""
        v, m = self.visual, self.motion
        v.follow(self.momentum)
        m.follow(self.momentum)
        with self.cast():
            k_v, k_m = v.encode_keys(rgb[1]), m.encode_keys(motion[0])
            v.push(k_v, owners)
            m.push(k_m, owners)
            q_v, q_m = v.run["query"](rgb[0]), m.run["query"](motion[1])
        terms = [(q_v, k_v, v), (q_m, k_m, m), (q_v, k_m, m), (q_m, k_v, v)]
        losses = [self.term(q, k, pathway, owners) for q, k, pathway in terms]
        for pathway in (v, m):
            pathway.sgd.zero_grad()
        sum(w * loss for w, loss in zip(self.weights, losses)).backward()
        for pathway in (v, m):
            for group in pathway.sgd.param_groups:
                group["lr"] = lr
            pathway.sgd.step()
        return [float(loss.detach()) for loss in losses]


def rate(step, per_epoch, steps, base=0.03):
    if step < per_epoch:
        return base * (0.01 + 0.99 * step / per_epoch)
    return base * 0.5 * (1 + math.cos(math.pi * (step - per_epoch) / max(steps - per_epoch, 1)))


# ---- the run


def cached(data, cache, threads):
    """The stem of each training video's files in the cache, after making those that are not there."""
    cache.mkdir(parents=True, exist_ok=True)
    videos = train_videos(data)
    stems = [str(cache / hashlib.sha1(str(v).encode()).hexdigest()[:16]) for v in videos]
    with multiprocessing.Pool(threads) as pool:
        for _ in pool.imap_unordered(prepare, zip(videos, stems), chunksize=4):
            pass
    return stems


def main():
    p = argparse.ArgumentParser()
    p.add_argument("data", type=Path)
    p.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "maclr-peer")
    p.add_argument("--epochs", type=int, default=12)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)

    began = time.perf_counter()
    stems = cached(a.data, a.cache, a.threads)
    prepared = time.perf_counter() - began
    per_epoch = len(stems) // a.batch
    steps = per_epoch * a.epochs
    queue = max(min(len(stems), 256) // a.batch, 1) * a.batch
    maclr = Maclr(Pathway(lambda: small(3, 1), queue), Pathway(lambda: small(1, 2), queue), autocast=a.precision == "bf16")
    if a.compile:
        for pathway in (maclr.visual, maclr.motion):
            pathway.run = {name: torch.compile(net) for name, net in pathway.run.items()}

    began = time.perf_counter()
    loader = torch.utils.data.DataLoader(
        Pairs(stems, a.seed), batch_sampler=Order(len(stems), a.batch, a.epochs, a.seed), num_workers=a.workers, prefetch_factor=2
    )
    ended, took, waited, losses = began, [], [], []
    for step, (video, *clips) in enumerate(loader):
        waited.append(time.perf_counter() - ended)
        # `n t h w c` in memory is channels_last_3d.
        rgb_a, motion_a, rgb_b, motion_b = (x.permute(0, 4, 1, 2, 3) for x in clips)
        terms = maclr.step((rgb_a, rgb_b), (motion_a, motion_b), video, rate(step, per_epoch, steps))
        losses.append(sum(w * loss for w, loss in zip(maclr.weights, terms)))
        now = time.perf_counter()
        took.append(now - ended)
        ended = now
        if (step + 1) % per_epoch == 0:
            mean = statistics.fmean(losses[-per_epoch:])
            print(json.dumps({"epoch": step // per_epoch, "loss": mean, "seconds": sum(took[-per_epoch:])}), flush=True)
    seconds = time.perf_counter() - began
    summary = {
        "steps": steps,
        "cache_seconds": prepared,
        "seconds": seconds,
        "loading_seconds": sum(waited),
        "step_ms": 1e3 * statistics.median(took),
        "loss_first": statistics.fmean(losses[:per_epoch]),
        "loss_last": statistics.fmean(losses[-per_epoch:]),
    }
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
