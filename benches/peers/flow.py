"""OpenCV's DualTVL1OpticalFlow on the images of src/ops/tvl1/cases.rs."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np


def texture(x, y):
    """Twelve waves, as in src/ops/tvl1/cases.rs."""
    total = np.zeros_like(x)
    for k in range(12):
        angle, period = 2.4 * k, 4 * 1.25**k
        total += np.sin(2 * np.pi / period * (x * np.cos(angle) + y * np.sin(angle)) + 1.7 * k)
    return np.clip(np.floor(127.5 + 10.6 * total + 0.5), 0, 255).astype(np.uint8)


class DualTvl1:
    """One pair with OpenCV's own threads; several pairs each on a thread of their own."""

    def __init__(self, p):
        h, w, self.pairs = p["h"], p["w"], p["pairs"]
        y, x = np.mgrid[0:h, 0:w].astype(float)
        self.images = texture(x, y), texture(x - 2 * np.sin(6 * y / h), y - 1.5 * np.cos(5 * x / w))
        # What the second image shows at q the first shows at q - d(q): the flow is the d of where it leads.
        u, v = np.zeros_like(x), np.zeros_like(x)
        for _ in range(20):
            u, v = 2 * np.sin(6 * (y + v) / h), 1.5 * np.cos(5 * (x + u) / w)
        self.truth = np.stack([u, v], -1)
        self.solvers = [cv2.optflow.createOptFlow_DualTVL1() for _ in range(self.pairs)]
        self.pool = ThreadPoolExecutor(self.pairs)
        self.threads = p["threads"] if self.pairs == 1 else 1

    def __call__(self):
        cv2.setNumThreads(self.threads)
        solve = lambda solver: solver.calc(*self.images, None)
        if self.pairs == 1:
            return solve(self.solvers[0])
        return list(self.pool.map(solve, self.solvers))[0]

    def check(self):
        return {"end_point_error": float(np.linalg.norm(self() - self.truth, axis=-1).mean())}
