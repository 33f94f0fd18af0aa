"""What benches/versus times, in PyTorch and OpenCV: a function for each `op`, from a problem to what solves it once, or to
several forms of it by name."""

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.transforms.v2 import functional as v2

from nets import Bottleneck, Step

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def numbers(dtype, n, t, h, w, c):
    """-1..1 of shape n c t h w, the channels innermost in memory."""
    return (2 * torch.rand(n, c, t, h, w) - 1).to(TYPES[dtype]).to(memory_format=torch.channels_last_3d)


def conv3d(p):
    """One pass of a convolution alone, by the operator that autograd calls too."""
    kernel, stride, pad = p["kernel"], p["stride"], p["pad"]
    x, w = numbers(p["dtype"], *p["x"]), numbers(p["dtype"], p["k"], *kernel, p["x"][-1])
    forward = lambda: F.conv3d(x, w, None, stride, pad)
    if p["pass"] == "fprop":
        return forward
    dy = torch.rand_like(forward())
    mask = [p["pass"] == "dgrad", p["pass"] == "wgrad", False]
    rest = (None, stride, pad, [1, 1, 1], False, [0, 0, 0], 1, mask)
    return lambda: torch.ops.aten.convolution_backward(dy, x, w, *rest)


def train_step(p):
    """A step in f32; in bf16 by autocast, and with the weights in bf16 too, which loses what small updates would add."""
    if p["dtype"] == "f32":
        return Step(p["net"], p["x"], torch.float32, False)
    return {
        "autocast": Step(p["net"], p["x"], torch.float32, True),
        "all bf16": Step(p["net"], p["x"], torch.bfloat16, False),
    }


def block(p):
    """A block as in training; the forms in bf16 are those of a step."""
    video, c = torchvision.models.video.resnet, p["x"][-1]

    def make(dtype, autocast):
        if p["inner"]:
            net = Bottleneck(c, p["inner"], c, p["temporal"], 1, p["block"].startswith("p3d"))
        else:
            factored = p["block"].startswith("r2plus1d")
            net = video.BasicBlock(c, c, video.Conv2Plus1D if factored else video.Conv3DSimple)
        net = net.to(dtype=dtype, memory_format=torch.channels_last_3d)
        x, dy = numbers(p["dtype"], *p["x"]).requires_grad_(), numbers(p["dtype"], *p["x"])
        leaves = [x, *net.parameters()]

        @torch.enable_grad()
        def run():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                y = net(x)
            if p["pass"] == "fwd_bwd":
                torch.autograd.grad(y, leaves, dy.to(y.dtype))

        return run

    if p["dtype"] == "f32":
        return make(torch.float32, False)
    return {"autocast": make(torch.float32, True), "all bf16": make(torch.bfloat16, False)}


def batch_norm(p):
    """With a residual and a rectifier."""
    c = p["x"][-1]
    x, residual, dy = (numbers(p["dtype"], *p["x"]) for _ in range(3))
    leaves = [x, residual, torch.ones(c), torch.full((c,), 0.1)]
    for leaf in leaves:
        leaf.requires_grad_()
    mean, var = torch.zeros(c), torch.ones(c)

    @torch.enable_grad()
    def run():
        y = torch.relu(F.batch_norm(x, mean, var, *leaves[2:], training=True).add_(residual))
        if p["pass"] == "fwd_bwd":
            torch.autograd.grad(y, leaves, dy)

    return run


def max_pool(p):
    x, how = numbers(p["dtype"], *p["x"]), ([1, 3, 3], [1, 2, 2], [0, 1, 1], [1, 1, 1], False)
    forward = lambda: torch.ops.aten.max_pool3d_with_indices(x, *how)
    if p["pass"] == "max_fwd":
        return forward
    y, indices = forward()
    return lambda: torch.ops.aten.max_pool3d_with_indices_backward(y, x, *how, indices)


def global_pool(p):
    x = numbers(p["dtype"], *p["x"])
    return {"pool": lambda: F.adaptive_avg_pool3d(x, 1), "mean": lambda: x.mean((2, 3, 4))}


def infonce(p):
    """The loss and the gradient of the queries."""
    q, k, queue = (F.normalize(torch.randn(rows, p["d"])) for rows in (p["n"], p["n"], p["queue"]))
    q.requires_grad_()
    first = torch.zeros(p["n"], dtype=torch.long)

    @torch.enable_grad()
    def run():
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / p["tau"]
        torch.autograd.grad(F.cross_entropy(logits, first), q)

    run.memory = True
    return run


def update(p):
    """SGD with momentum, and a moving average behind it."""
    weights = [nn.Parameter(torch.rand(*size)) for size in p["sizes"]]
    keys = [w.detach().clone() for w in weights]
    for w in weights:
        w.grad = torch.rand_like(w)
    sgd = torch.optim.SGD(weights, 1e-6, 0.9, weight_decay=1e-4, nesterov=True, fused=True)

    def run():
        sgd.step()
        torch._foreach_lerp_(keys, [w.data for w in weights], 0.001)

    return run


def augment(p):
    """torchvision's functions, of bytes as long as possible and of floats from the start."""
    side = [p["side"], p["side"]]
    clips = [(torch.arange(p["frames"] * 3 * p["h"] * p["w"]) * 7 % 256).to(torch.uint8) for _ in range(p["clips"])]
    clips = [clip.reshape(p["frames"], 3, p["h"], p["w"]) for clip in clips]

    def one(x):
        x = v2.resized_crop(x, p["h"] // 8, p["w"] // 8, p["h"] * 3 // 4, p["w"] * 3 // 4, side, antialias=False)
        x = v2.horizontal_flip(x)
        x = v2.adjust_saturation(v2.adjust_contrast(v2.adjust_brightness(x, 1.2), 0.8), 1.3)
        x = v2.gaussian_blur(v2.rgb_to_grayscale(x, 3), [3, 3], [1.0, 1.0])
        return v2.normalize(v2.to_dtype(x, torch.float32, scale=True), [0.45] * 3, [0.225] * 3)

    return {
        "bytes": lambda: [one(clip) for clip in clips],
        "floats": lambda: [one(v2.to_dtype(clip, torch.float32, scale=True)) for clip in clips],
    }


def tvl1(p):
    """OpenCV's DualTVL1."""
    try:
        from flow import DualTvl1

        return DualTvl1(p)
    except (ImportError, AttributeError):
        raise RuntimeError("there is no DualTVL1 here: pip install opencv-contrib-python") from None
