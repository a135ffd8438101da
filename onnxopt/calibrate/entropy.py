"""The range that loses the least information (``entropy``).

Source: S. Migacz, "8-bit inference with TensorRT", NVIDIA GTC 2017, slides "Entropy Calibration" (pseudocode).

For a threshold T the numbers beyond it are clipped: P is their histogram, with what was clipped in its last bins.
Q is what ``levels`` levels can tell of the histogram inside T: the numbers of a level, evenly spread over its bins
that are not empty. The T with the least divergence ``KL(P || Q) = sum of P log(P / Q)`` is taken.

What differs from the slides: the histogram keeps the sign of the numbers, and the levels cover
``[max(low, -T), min(high, T)]``, since our grid is asymmetric (after a Relu, all 256 lie above 0; where both signs
occur, 128 on either side as there); T moves by 8 bins, not by 1; the bin of the zeros is given no more
than its neighbour, as in NVIDIA's later pytorch-quantization, for zeros are exact at every T.

It is here because others have it, and fails where a number is frequent: P and Q look alike where T lies at it, however
much is clipped. In mobilenet_v1_025_128 a channel that is always 1.47 hides all above it, and no prediction is left.
"""

from __future__ import annotations

import math

import numpy as np

from onnxopt.calibrate.histogram import Array, Histogram

STRIDE = 8
"""Bins from one threshold to the next: 0.4 to 0.8 % of the largest number."""
FLOOR = 1e-12
"""The share of numbers that Q holds at least: clipped numbers in a bin that was empty would cost infinitely much."""


def entropy(histogram: Histogram, levels: int) -> tuple[float, float]:
    """The range ``[max(low, -T), min(high, T)]`` of least divergence.

    The smallest T tried gives every level one bin, so a number 16 times as far out as the others hides them.
    """
    edges, counts = histogram.density()
    counts = counts.astype(np.float64)
    zero = -histogram.first
    if 0 <= zero < len(counts) > 1:
        counts[zero] = min(counts[zero], counts[zero + 1 if zero + 1 < len(counts) else zero - 1])
    low, high, width = histogram.low, histogram.high, histogram.width
    nearest, furthest = max(low, -high, 0.0) // width * width, max(-low, high)
    best, least = (low, high), math.inf
    for threshold in (*np.arange(nearest, furthest, STRIDE * width), furthest):
        ends = max(low, -threshold), min(high, threshold)
        extent = max(ends[1], 0.0) - min(ends[0], 0.0)
        if ends[0] < ends[1] and extent >= levels * width:
            divergence = _divergence(edges, counts, ends, levels)
            if divergence <= least:  # of several alike the widest
                best, least = (float(ends[0]), float(ends[1])), divergence
    return best


def _divergence(edges: Array, counts: Array, ends: tuple[float, float], levels: int) -> float:
    """KL(P || Q) of one threshold, in nats."""
    start, stop = np.searchsorted(edges, ends[0]), np.searchsorted(edges, ends[1])
    inside = counts[start:stop]
    p = inside.copy()
    p[0] += counts[:start].sum()
    p[-1] += counts[stop:].sum()

    bottom, top = min(ends[0], 0.0), max(ends[1], 0.0)
    centers = (edges[start:stop] + edges[start + 1 : stop + 1]) / 2
    level = ((centers - bottom) / (top - bottom) * levels).astype(np.intp).clip(max=levels - 1)
    filled = inside > 0
    shared = np.bincount(level, inside) / np.maximum(np.bincount(level, filled), 1.0)
    q = np.where(filled, shared[level], 0.0)
    if not q.any():
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], FLOOR))))
