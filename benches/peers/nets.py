"""The networks of benches/versus/nets.rs in PyTorch: torchvision's where it has them, else written out."""

import torch
import torchvision
from torch import nn


def conv(c, k, kernel, stride=(1, 1, 1)):
    """Without bias; odd kernels are padded, even ones are not."""
    return nn.Conv3d(c, k, kernel, stride, tuple(e // 2 if e % 2 else 0 for e in kernel), bias=False)


class Bottleneck(nn.Module):
    """1x1x1 or 3x1x1, 1x3x3, 1x1x1; with `pseudo` 1x1x1, 1x3x3 and 3x1x1 under one normalisation, 1x1x1 (P3D-A)."""

    def __init__(self, c, inner, out, kt, stride, pseudo):
        super().__init__()
        norm, relu = nn.BatchNorm3d, lambda: nn.ReLU(inplace=True)
        path = [conv(c, inner, (1 if pseudo else kt, 1, 1)), norm(inner), relu()]
        path += [conv(inner, inner, (1, 3, 3), (1, stride, stride))]
        path += [conv(inner, inner, (kt, 1, 1))] if pseudo else []
        path += [norm(inner), relu(), conv(inner, out, (1, 1, 1)), norm(out)]
        self.path = nn.Sequential(*path)
        self.shortcut = nn.Identity()
        if c != out or stride != 1:
            self.shortcut = nn.Sequential(conv(c, out, (1, 1, 1), (1, stride, stride)), norm(out))

    def forward(self, x):
        return torch.relu(self.path(x) + self.shortcut(x))


def resnet50(stem, stride, temporal, pseudo=False):
    layers = [conv(3, 64, stem, stride), nn.BatchNorm3d(64), nn.ReLU(inplace=True)]
    layers += [nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))]
    c = 64
    for s, (count, kt) in enumerate(zip((3, 4, 6, 3), temporal)):
        for block in range(count):
            layers.append(Bottleneck(c, 64 << s, 256 << s, kt, 2 if s and not block else 1, pseudo))
            c = 256 << s
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(c, 400))


NETS = {
    "r2plus1d_18": lambda: torchvision.models.video.r2plus1d_18(weights=None),
    "r3d_18": lambda: torchvision.models.video.r3d_18(weights=None),
    "slow_r50": lambda: resnet50((1, 7, 7), (1, 2, 2), (1, 1, 3, 3)),
    "cvrl_r3d50": lambda: resnet50((5, 7, 7), (2, 2, 2), (1, 1, 3, 3)),
    "p3d_a50": lambda: resnet50((4, 7, 7), (4, 2, 2), (3, 3, 3, 3), pseudo=True),
}


class Step:
    """A training step: forward, cross-entropy, backward, SGD."""

    def __init__(self, name, x, dtype, autocast):
        n, t, h, w, c = x
        self.net = NETS[name]().to(dtype=dtype, memory_format=torch.channels_last_3d)
        self.sgd = torch.optim.SGD(self.net.parameters(), 0.01, 0.9, weight_decay=1e-4, nesterov=True, fused=True)
        self.x = (2 * torch.rand(n, c, t, h, w) - 1).to(dtype).to(memory_format=torch.channels_last_3d)
        self.labels = torch.arange(n) * 7 % 400
        self.autocast = autocast

    @torch.enable_grad()
    def __call__(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = nn.functional.cross_entropy(self.net(self.x).float(), self.labels)
        self.sgd.zero_grad(set_to_none=True)
        loss.backward()
        self.sgd.step()
        return loss.item()
