"""TV-L1 flow by OpenCV's DualTVL1OpticalFlow and by this crate, by turns, on the images of benches/tvl1.rs.

    python benches/peers/tvl1.py [threads = 2] [rounds = 3]        (pip install opencv-contrib-python numpy)

Prints one JSON line a case: the best milliseconds a pair of each, by the names of the Criterion passes. `pair` is one
thread, `pair_rows` one pair on all threads, `pairs` as many pairs as threads at once (OpenCV: a Python thread each, itself
on one), and the ratio of OpenCV's time to ours.
"""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[2]
CASES = [(64, 64), (112, 112), (224, 224), (240, 320), (388, 584)]


def texture(x, y):
    """Twelve waves, as in src/ops/tvl1/cases.rs."""
    total = np.zeros_like(x)
    for k in range(12):
        angle, period = 2.4 * k, 4 * 1.25**k
        total += np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)) + 1.7 * k)
    return np.clip(np.floor(127.5 + 10.6 * total + 0.5), 0, 255).astype(np.uint8)


def pair(h, w):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    return texture(x, y), texture(x - 2 * np.sin(6 * y / h), y - 1.5 * np.cos(5 * x / w))


def best(f, seconds=1.0):
    took, end = [], time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        f()
        took.append(time.perf_counter() - start)
    return 1000 * min(took)


def opencv(h, w, threads):
    a, b = pair(h, w)
    solvers = [cv2.optflow.createOptFlow_DualTVL1() for _ in range(threads)]
    cv2.setNumThreads(1)
    out = {"pair": best(lambda: solvers[0].calc(a, b, None))}
    with ThreadPoolExecutor(threads) as pool:
        out["pairs"] = best(lambda: list(pool.map(lambda s: s.calc(a, b, None), solvers))) / threads
    cv2.setNumThreads(threads)
    out["pair_rows"] = best(lambda: solvers[0].calc(a, b, None))
    return out


def ours(h, w, threads):
    env = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    quick = ["--warm-up-time", "0.3", "--measurement-time", "1"]
    run = ["cargo", "bench", "--quiet", "--bench", "tvl1", "--", f"/{h}x{w}/", *quick]
    subprocess.run(run, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out = {}
    for each in ("pair", "pairs", "pair_rows"):
        # Criterion writes a name's slashes as underscores.
        sample = ROOT / f"target/criterion/tvl1/{each}_{h}x{w}_f32_cpu/new/sample.json"
        sample = json.loads(sample.read_text())
        out[each] = min(t / n for t, n in zip(sample["times"], sample["iters"])) / 1e6
    out["pairs"] /= threads
    return out


def main():
    threads, rounds = [int(a) for a in sys.argv[1:3]] + [2, 3][len(sys.argv) - 1 :]
    for h, w in CASES:
        times = [(opencv(h, w, threads), ours(h, w, threads)) for _ in range(rounds)]
        peer, we = ({k: min(t[i][k] for t in times) for k in times[0][0]} for i in (0, 1))
        line = {"case": f"{h}x{w}", "threads": threads}
        for k in peer:
            line |= {f"opencv_{k}": round(peer[k], 2), k: round(we[k], 2), f"ratio_{k}": round(peer[k] / we[k], 1)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
