"""The cases of benches/conv3d.rs in PyTorch: f32, channels_last_3d, as many threads as asked for.

    python benches/peers/conv3d.py [--filter TEXT] [--threads N] [--seconds S]

Prints one line `conv3d/<pass>/<case>/f32/cpu <milliseconds> <GFLOP/s>` per case and pass: the best of the runs.
The cases are read from src/ops/conv3d/cases.rs, so there is one table.
"""

import argparse
import pathlib
import re
import time

import torch

CASES = pathlib.Path(__file__).parents[2] / "src/ops/conv3d/cases.rs"


def cases():
    text = CASES.read_text().split("pub const LAYERS", 1)[1]
    numbers = r"\[([\d, ]+)\]"
    row = re.compile(rf'case\(\s*"([^"]+)",\s*{numbers},\s*(\d+),\s*{numbers},\s*{numbers},')
    for name, x, k, kernel, stride in row.findall(text):
        ints = lambda s: [int(v) for v in s.split(",") if v.strip()]
        yield name, ints(x), int(k), ints(kernel), ints(stride)


def best(run, seconds, clock):
    run()
    took, start, n = [], time.perf_counter(), 0
    while n < 3 or (time.perf_counter() - start < seconds and n < 30):
        t = clock()
        run()
        took.append(clock() - t)
        n += 1
    return min(took)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--filter", default="", help="only cases whose name contains this")
    a.add_argument("--threads", type=int, default=2, help="threads of PyTorch (default 2)")
    a.add_argument("--seconds", type=float, default=0.4, help="time for each case and pass (default 0.4)")
    a.add_argument("--cpu-time", action="store_true", help="processor instead of wall time: for a shared machine")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    clock = time.process_time if a.cpu_time else time.perf_counter
    for name, (n, t, h, w, c), k, kernel, stride in cases():
        if a.filter not in name:
            continue
        pad = [e // 2 for e in kernel]
        x = torch.randn(n, c, t, h, w).to(memory_format=torch.channels_last_3d)
        f = torch.randn(k, c, *kernel).to(memory_format=torch.channels_last_3d)
        y = torch.nn.functional.conv3d(x, f, None, stride, pad)
        dy = torch.randn_like(y)
        back = lambda mask: torch.ops.aten.convolution_backward(
            dy, x, f, None, stride, pad, [1, 1, 1], False, [0, 0, 0], 1, mask
        )
        flops = 2 * y.numel() * c * kernel[0] * kernel[1] * kernel[2]
        passes = {
            "fprop": lambda: torch.nn.functional.conv3d(x, f, None, stride, pad),
            "dgrad": lambda: back([True, False, False]),
            "wgrad": lambda: back([False, True, False]),
        }
        with torch.no_grad():
            for name_of_pass, run in passes.items():
                s = best(run, a.seconds, clock)
                print(f"conv3d/{name_of_pass}/{name}/f32/cpu {1e3 * s:.3f} {flops / s * 1e-9:.1f}", flush=True)


if __name__ == "__main__":
    main()
