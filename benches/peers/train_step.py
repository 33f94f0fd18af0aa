"""The cases of benches/train_step.rs in PyTorch: forward, cross-entropy, backward, SGD in float32, channels last.

    python benches/peers/train_step.py [threads = 2] [steps = 5]        (pip install torch torchvision)

Prints one JSON line a case, by the name of the Criterion case: the best and the median step in seconds, and clips per
second at the best. `slow_r50` is written out here, as pytorchvideo defines it.
"""

import json
import statistics
import sys
import time

import torch
import torchvision
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, c, inner, out, kt, stride):
        super().__init__()
        conv = lambda i, o, k, s=1: nn.Conv3d(i, o, k, s, tuple(e // 2 for e in k), bias=False)
        self.path = nn.Sequential(
            *(conv(c, inner, (kt, 1, 1)), nn.BatchNorm3d(inner), nn.ReLU(inplace=True)),
            *(conv(inner, inner, (1, 3, 3), (1, stride, stride)), nn.BatchNorm3d(inner), nn.ReLU(inplace=True)),
            *(conv(inner, out, (1, 1, 1)), nn.BatchNorm3d(out)),
        )
        self.shortcut = nn.Identity()
        if c != out or stride != 1:
            self.shortcut = nn.Sequential(conv(c, out, (1, 1, 1), (1, stride, stride)), nn.BatchNorm3d(out))

    def forward(self, x):
        return torch.relu(self.path(x) + self.shortcut(x))


def slow_r50():
    layers = [nn.Conv3d(3, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), nn.BatchNorm3d(64), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))]
    c = 64
    for s, (count, kt) in enumerate([(3, 1), (4, 1), (6, 3), (3, 3)]):
        for b in range(count):
            layers.append(Bottleneck(c, 64 << s, 256 << s, kt, 2 if b == 0 and s > 0 else 1))
            c = 256 << s
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(c, 400))


CASES = [
    ("r2plus1d_18", lambda: torchvision.models.video.r2plus1d_18(weights=None), (2, 16, 112, 112)),
    ("slow_r50", slow_r50, (2, 8, 224, 224)),
]


def main():
    threads, steps = [int(a) for a in sys.argv[1:3]] + [2, 5][len(sys.argv) - 1 :]
    torch.set_num_threads(threads)
    for name, make, (n, t, h, w) in CASES:
        net = make().to(memory_format=torch.channels_last_3d)
        optimiser = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=1e-4, nesterov=True)
        x = torch.sin(0.7 * torch.arange(n * 3 * t * h * w, dtype=torch.float32)).reshape(n, 3, t, h, w)
        x = x.to(memory_format=torch.channels_last_3d)
        labels = torch.arange(n) * 7 % 400
        seconds = []
        for _ in range(steps + 1):  # the first warms up
            begin = time.perf_counter()
            loss = nn.functional.cross_entropy(net(x), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            seconds.append(time.perf_counter() - begin)
        best, median = min(seconds[1:]), statistics.median(seconds[1:])
        case = f"train_step/{name}/{n}x{t}x{h}x{w}/f32/cpu"
        print(json.dumps({"case": case, "best": best, "median": median, "clips_per_second": n / best}), flush=True)


main()
