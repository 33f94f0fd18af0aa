"""The cases of benches/gpu.rs in PyTorch on the same GPU: cuDNN, channels_last_3d, benchmark mode, compiled where it applies.

    target/release/deps/gpu-* --cases > cases.json          (or: cargo bench --bench gpu -- --cases)
    python benches/peers/gpu.py cases.json OUT.json [--filter TEXT] [--eager] [--dry]

Each run is timed with events after a warm-up, the second-level cache emptied before it; the median counts. What PyTorch
does in several kernels (batch norm with ReLU, the pools, InfoNCE) is timed eagerly and compiled, and the faster counts;
`--eager` compiles the whole steps alone. Figures that OUT.json has from an earlier run on the same device are kept.
`--dry` runs every case once on the CPU with small extents, to see that it works; its figures mean nothing.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

CONV = torch.ops.aten.convolution_backward
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Clock:
    """Milliseconds of a function: the median of several runs."""

    def __init__(self, device, runs):
        self.device, self.runs = device, runs
        self.flush = torch.empty(512 << 20, dtype=torch.uint8, device=device) if device == "cuda" else None

    def __call__(self, run):
        for _ in range(3 if self.flush is not None else 1):
            run()
        took = []
        for _ in range(self.runs):
            if self.flush is None:
                at = time.perf_counter()
                run()
                took.append(1e3 * (time.perf_counter() - at))
                continue
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.flush.zero_()
            start.record()
            run()
            end.record()
            end.synchronize()
            took.append(start.elapsed_time(end))
        return statistics.median(took)


def last(shape):
    """Our extents `n t h w c` as PyTorch's, `n c t h w`."""
    n, t, h, w, c = shape
    return n, c, t, h, w


class Peer:
    def __init__(self, device, dry, compiles, clock):
        self.device, self.dry, self.compiles, self.clock = device, dry, compiles, clock
        self.early = lambda took: None  # told what is known before the rest is measured

    def random(self, shape, dtype, grad=False):
        x = torch.rand(shape, device=self.device).mul_(2).sub_(1).to(dtype)
        if len(shape) == 5:
            x = x.to(memory_format=torch.channels_last_3d)
        return x.requires_grad_(grad)

    def shrink(self, shape):
        """Extents for a dry run."""
        return [min(e, 8) for e in shape[:-1]] + [shape[-1]] if self.dry else shape

    def conv3d(self, p, dtype):
        x = self.random(last(self.shrink(p["x"])), dtype)
        w = self.random((p["k"], x.shape[1] // p["groups"], *p["kernel"]), dtype)
        geometry = (p["stride"], p["pad"], p["dilation"])
        y = F.conv3d(x, w, None, *geometry, p["groups"])
        dy = self.random(tuple(y.shape), dtype)
        back = lambda *mask: CONV(dy, x, w, None, *geometry, False, [0, 0, 0], p["groups"], [*mask, False])
        run = {
            "fprop": lambda: F.conv3d(x, w, None, *geometry, p["groups"]),
            "dgrad": lambda: back(True, False),
            "wgrad": lambda: back(False, True),
        }[p["pass"]]
        with torch.no_grad():
            return {"eager": self.clock(run)}

    def forward_or_backward(self, f, inputs, backward):
        """Times `f(*inputs)`, or its backward pass alone, eagerly and compiled."""
        out = {}
        for how, g in (("eager", f), ("compiled", torch.compile(f) if self.compiles else None)):
            if g is None:
                continue
            try:
                if backward:
                    y = g(*inputs)
                    dy = torch.rand_like(y)
                    wanted = [x for x in inputs if x.requires_grad]
                    out[how] = self.clock(lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True))
                else:
                    with torch.no_grad():
                        out[how] = self.clock(lambda: g(*inputs))
            except Exception as error:  # a compiler that is absent or fails leaves the eager figure
                if how == "eager":
                    raise
                print(f"    not compiled: {error}".splitlines()[0], file=sys.stderr)
        return out

    def batch_norm(self, p, dtype):
        shape = self.shrink(p["x"])
        x = self.random(last(shape), dtype, grad=True)
        gamma, beta = (torch.ones(shape[-1], device=self.device, requires_grad=True) for _ in range(2))
        f = lambda x, g, b: torch.relu(F.batch_norm(x, None, None, g, b, training=True, eps=1e-5))
        return self.forward_or_backward(f, [x, gamma, beta], p["pass"] == "bwd_relu")

    def max_pool(self, p, dtype):
        x = self.random(last(self.shrink(p["x"])), dtype, grad=True)
        f = lambda x: F.max_pool3d(x, p["kernel"], p["stride"], p["pad"], p["dilation"])
        return self.forward_or_backward(f, [x], p["pass"] == "max_bwd")

    def channel_map(self, p, dtype):
        g = self.random(last(self.shrink(p["x"])), dtype, grad=True)
        f = lambda g: (g.mean((3, 4), keepdim=True) * g).sum(1)
        return self.forward_or_backward(f, [g], p["pass"] == "map_bwd")

    def map_alignment(self, p, dtype):
        m = self.random(tuple(p["x"]), dtype, grad=True)

        def loss(m):
            y = m.detach()
            cos = lambda a, b: (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1)
            weight = torch.softmax((y / y.mean((1, 2, 3), keepdim=True)).sum((2, 3)), 1)
            frames = (weight * cos(m.flatten(2), y.flatten(2))).sum(1)
            spatial = cos(m.mean(1).flatten(1), y.mean(1).flatten(1))
            return (3 - frames - spatial - cos(m.sum((2, 3)), y.sum((2, 3)))).mean()

        return self.forward_or_backward(loss, [m], p["pass"] == "loss_bwd")

    def linear(self, p, dtype):
        n, c, k = p["extents"]
        x, w = self.random((n, c), dtype, grad=True), self.random((k, c), dtype, grad=True)
        return self.forward_or_backward(F.linear, [x, w], p["pass"] == "bwd")

    def l2_norm(self, p, dtype):
        x = self.random(tuple(p["x"]), dtype, grad=True)
        return self.forward_or_backward(lambda x: F.normalize(x, dim=1), [x], p["pass"] == "bwd")

    def infonce(self, p, dtype):
        n, d, m = p["n"], p["d"], min(p["m"], 512) if self.dry else p["m"]
        unit = lambda rows: F.normalize(torch.randn(rows, d, device=self.device), dim=1)
        q, k, queue = unit(n).requires_grad_(), unit(n), unit(m).to(dtype)
        target = torch.zeros(n, dtype=torch.long, device=self.device)

        def loss(q, k, queue):
            negatives = (q.to(queue.dtype) @ queue.T).float()
            logits = torch.cat([(q * k).sum(1, keepdim=True), negatives], 1) / p["tau"]
            return F.cross_entropy(logits, target)

        out = {"eager": self.clock(lambda: torch.autograd.grad(loss(q, k, queue), q))}
        if self.compiles:
            compiled = torch.compile(loss)
            out["compiled"] = self.clock(lambda: torch.autograd.grad(compiled(q, k, queue), q))
        return out

    def sgd(self, p, dtype):
        make = lambda dtype=dtype: [torch.rand(s, device=self.device, dtype=dtype) for s in p["shapes"]]
        w, key, half, key_half = make(), make(), make(torch.bfloat16), make(torch.bfloat16)
        for x, g in zip(w, make()):
            x.requires_grad_(True).grad = g
        sgd = torch.optim.SGD(w, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)

        def step():
            sgd.step()
            with torch.no_grad():
                torch._foreach_lerp_(key, w, 1e-3)
                torch._foreach_copy_(half, w)
                torch._foreach_copy_(key_half, key)

        return {"eager": self.clock(step)}

    def maclr_step(self, p, dtype):
        """Both query networks with gradients, both key networks without, four terms, moving averages, SGD, the queues."""
        if self.dry:
            p = {**p, "rgb": [2, 8, 32, 32, 3], "motion": [2, 16, 32, 32, 1], "queue": 64}
        clips = {m: [self.random(last(p[m]), torch.float32) for _ in range(2)] for m in ("rgb", "motion")}
        n = p["rgb"][0]
        nets, keys, queues = {}, {}, {}
        for m, net in (("rgb", "visual_net"), ("motion", "motion_net")):
            make = lambda: Encoder(p[m][-1], p["head_hidden"], p["code"], **p[net]).to(
                self.device, memory_format=torch.channels_last_3d
            )
            nets[m], keys[m] = make(), make().requires_grad_(False)
            keys[m].load_state_dict(nets[m].state_dict())
            queues[m] = F.normalize(torch.randn(p["queue"], p["code"], device=self.device), dim=1).to(dtype)
        slow, fast = ([w for m in nets for w in side[m].parameters()] for side in (keys, nets))
        sgd = torch.optim.SGD(fast, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, foreach=True)
        target = torch.zeros(n, dtype=torch.long, device=self.device)

        def encode(net, x):
            with torch.autocast(self.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
                return F.normalize(net(x).float(), dim=1)

        def step(run):
            with torch.no_grad():
                torch._foreach_lerp_(slow, fast, 1 - p["momentum"])
                k = {m: encode(keys[m], clips[m][1]) for m in keys}
            q = {m: encode(run[m], clips[m][0]) for m in nets}
            loss = 0
            for a in nets:
                for b in nets:
                    far = (q[a].to(dtype) @ queues[b].T).float()
                    logits = torch.cat([(q[a] * k[b]).sum(1, keepdim=True), far], 1) / p["tau"]
                    loss = loss + F.cross_entropy(logits, target)
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            sgd.step()
            for m in queues:
                queues[m][:n] = k[m].to(dtype)
            return loss.item()

        out = {"eager": self.clock(lambda: step(nets))}
        self.early(out)  # compiling takes minutes
        if not self.dry:
            compiled = {m: torch.compile(net) for m, net in nets.items()}
            out["compiled"] = self.clock(lambda: step(compiled))
        return out


class Bottleneck(torch.nn.Module):
    def __init__(self, c, inner, kt, stride):
        super().__init__()
        conv = lambda i, o, k, s=1: torch.nn.Conv3d(i, o, k, s, tuple(e // 2 for e in k), bias=False)
        norm, relu, out = torch.nn.BatchNorm3d, lambda: torch.nn.ReLU(inplace=True), 4 * inner
        self.path = torch.nn.Sequential(
            *(conv(c, inner, (kt, 1, 1)), norm(inner), relu()),
            *(conv(inner, inner, (1, 3, 3), (1, stride, stride)), norm(inner), relu()),
            *(conv(inner, out, (1, 1, 1)), norm(out)),
        )
        self.shortcut = torch.nn.Identity()
        if c != out or stride != 1:
            self.shortcut = torch.nn.Sequential(conv(c, out, (1, 1, 1), (1, stride, stride)), norm(out))

    def forward(self, x):
        return torch.relu(self.path(x) + self.shortcut(x))


class Encoder(torch.nn.Sequential):
    """A ResNet-50 of clips with a projection head of two layers."""

    def __init__(self, channels, hidden, code, width, stem, temporal):
        kt, st = stem
        layers = [
            torch.nn.Conv3d(channels, width, (kt, 7, 7), (st, 2, 2), (kt // 2, 3, 3), bias=False),
            torch.nn.BatchNorm3d(width),
            torch.nn.ReLU(inplace=True),
            torch.nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]
        c = width
        for stage, count in enumerate((3, 4, 6, 3)):
            for block in range(count):
                inner = width << stage
                layers.append(Bottleneck(c, inner, temporal[stage], 2 if stage and not block else 1))
                c = 4 * inner
        head = [torch.nn.Linear(c, hidden), torch.nn.ReLU(inplace=True), torch.nn.Linear(hidden, code)]
        super().__init__(*layers, torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), *head)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("cases", help="the JSON that the bench prints")
    a.add_argument("out", help="the JSON to write")
    a.add_argument("--filter", default="", help="only cases whose name contains this")
    a.add_argument("--runs", type=int, default=15, help="timed runs of a case (default 15)")
    a.add_argument("--eager", action="store_true", help="compile nothing but whole steps")
    a.add_argument("--dry", action="store_true", help="every case once on the CPU, small")
    a = a.parse_args()
    if not a.dry and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU: nothing is timed")
    device = "cpu" if a.dry else "cuda"
    torch.backends.cudnn.benchmark = True
    # Our f32 is f32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    peer = Peer(device, a.dry, not (a.dry or a.eager), Clock(device, 1 if a.dry else a.runs))
    record = {
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "device": "cpu, dry" if a.dry else torch.cuda.get_device_name(),
        "cases": [],
    }
    if os.path.exists(a.out):
        with open(a.out) as file:
            before = json.load(file)
        if all(before.get(key) == record[key] for key in ("torch", "cudnn", "device")):
            record = before
    if not a.dry and "matmul_8192_bf16_tflops" not in record:
        x, y = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
        record["matmul_8192_bf16_tflops"] = round(2 * 8192**3 / peer.clock(lambda: x @ y) * 1e-9, 1)
        del x, y
    with open(a.cases) as file:
        cases = [c for c in json.load(file) if a.filter in c["name"]]
    failed = False
    measured = {row["name"] for row in record["cases"] if "ms" in row}
    for case in cases:
        p = case["problem"]
        if case["name"] in measured or not hasattr(peer, p["op"]):  # PyTorch has no optical flow
            continue
        torch.manual_seed(0)
        torch._dynamo.reset()

        def write(row, name=case["name"]):
            row = {"name": name, **row}
            record["cases"] = [r for r in record["cases"] if r["name"] != name] + [row]
            print(name, f"{row['ms']:.4f} ms" if "ms" in row else row.get("error", "begun"), flush=True)
            with open(a.out + ".new", "w") as file:
                json.dump(record, file, indent=1)
            os.replace(a.out + ".new", a.out)

        # Without `ms` a row is measured again by the next run.
        peer.early = lambda took: write({f"{how}_ms": ms for how, ms in took.items()})
        try:
            took = getattr(peer, p["op"])(p, TYPES[case["dtype"]])
            write({"ms": min(took.values()), **{f"{how}_ms": ms for how, ms in took.items()}})
        except Exception as error:
            failed = True
            write({"error": str(error).splitlines()[0]})
    if failed:
        sys.exit("some cases failed; their rows say why")


if __name__ == "__main__":
    main()
