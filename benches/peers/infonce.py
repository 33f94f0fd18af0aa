"""The cases of benches/infonce.rs in PyTorch on two threads, the best of several, in milliseconds.

Run:  python benches/peers/infonce.py
"""

import time

import torch
import torch.nn.functional as F

torch.set_num_threads(2)
CASES = {"small": (32, 128, 256, 0.1), "paper": (256, 128, 65536, 0.1)}


def loss(q, k, queue, tau):
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1) / tau
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def best(f, seconds=5.0):
    f()
    least, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        at = time.perf_counter()
        f()
        least = min(least, time.perf_counter() - at)
    return least * 1e3


for name, (n, d, m, tau) in CASES.items():
    torch.manual_seed(0)
    q, k, queue = (F.normalize(torch.randn(r, d)) for r in (n, n, m))
    q.requires_grad_()

    def forward():
        with torch.no_grad():
            loss(q, k, queue, tau)

    print(f"infonce/fwd/{name}/f32/cpu {best(forward):.3f} ms")
    print(f"infonce/fwd_bwd/{name}/f32/cpu {best(lambda: torch.autograd.grad(loss(q, k, queue, tau), q)):.3f} ms")
