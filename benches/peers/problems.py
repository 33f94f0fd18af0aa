"""What benches/versus times, in PyTorch: a function for each `op`, from a problem to what solves it once (or to several
forms of it by name)."""

import torch

from nets import Step

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def versions(threads):
    return {"pytorch": torch.__version__}


def numbers(dtype, n, t, h, w, c):
    """-1..1 of shape n c t h w, the channels innermost in memory."""
    return (2 * torch.rand(n, c, t, h, w) - 1).to(TYPES[dtype]).to(memory_format=torch.channels_last_3d)


def conv3d(p):
    """One pass of a convolution alone, by the operator that autograd calls too."""
    kernel, stride, pad = p["kernel"], p["stride"], p["pad"]
    x, w = numbers(p["dtype"], *p["x"]), numbers(p["dtype"], p["k"], *kernel, p["x"][-1])
    forward = lambda: torch.nn.functional.conv3d(x, w, None, stride, pad)
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
