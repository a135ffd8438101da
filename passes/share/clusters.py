"""Rows that are near each other, and their means."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

CHUNK = 512
"""Rows whose distances to others are computed at once."""
SLACK = 1e-4
"""How far a squared distance may be off that comes of products in float32, relative to a squared length."""
ROUNDS = 10
"""Of k-means."""


def within(rows: Rows, tolerance: float) -> tuple[Rows, Labels]:
    """Groups of rows that are near each other, merged until no two of their means are.

    Near is ``|a - b| <= tolerance * min(|a|, |b|)``. Since means move when groups merge, a row may end up farther than
    that from the mean of its own.

    Args:
        rows: ``[rows, numbers]``, finite.
        tolerance: relative; 0: only equal rows.

    Returns:
        The means, ``[groups, numbers]``, in the order in which their first rows come; the group of each row.
    """
    means, labels = rows, np.arange(len(rows))
    while True:
        merged = _in_order(_leaders(means, tolerance))
        if merged.max(initial=-1) + 1 == len(means):
            return means, labels
        labels = merged[labels]
        means = _averaged(rows, labels)


def nearest(rows: Rows, count: int, seed: int) -> tuple[Rows, Labels]:
    """At most so many groups of rows, of small squared distance to the means of their groups: k-means.

    Args:
        rows: ``[rows, numbers]``, finite.
        count: groups; there are more different rows than that.
        seed: of the rows that are the first means.

    Returns:
        The means and the group of each row, as ``within`` does.
    """
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of groups that nothing is nearest to
        _, found = kmeans2(rows, _spread(rows, count, seed), iter=ROUNDS, minit="matrix")
    labels = _in_order(found)
    return _averaged(rows, labels), labels


def _spread(rows: Rows, count: int, seed: int) -> Rows:
    """Different rows far from each other: each is drawn with its squared distance to those before it (k-means++)."""
    random = np.random.default_rng(seed)
    squares = np.square(rows, dtype=np.float64).sum(axis=1)
    chosen = [int(random.integers(len(rows)))]
    distances = np.full(len(rows), np.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        distances = np.minimum(distances, np.maximum(squares + squares[last] - 2.0 * (rows @ rows[last]), 0))
        distances[chosen] = 0
        if not distances.any():  # as near as float32 tells
            break
        chosen.append(int(random.choice(len(rows), p=distances / distances.sum())))
    return rows[chosen]


def _leaders(rows: Rows, tolerance: float) -> Labels:
    """For each row the nearest of those that lead a group and are near, or itself, which leads one then.

    In order of length, only rows that are a little shorter need be looked at.
    """
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    order = np.argsort(lengths, kind="stable")
    rows, lengths = rows[order], lengths[order]
    leads = np.ones(len(rows), bool)
    leaders = np.arange(len(rows))
    squares = np.square(lengths)
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, min(start + CHUNK, len(rows)))
        first = int(np.searchsorted(lengths, lengths[start] / (1 + tolerance) * (1 - SLACK)))
        others = slice(first, chunk.stop)
        distances = squares[chunk, None] + squares[None, others] - 2.0 * (rows[chunk] @ rows[others].T)
        maybe = distances <= (tolerance**2 + SLACK) * squares[chunk, None]
        for row in range(start, chunk.stop):
            found = first + np.flatnonzero(maybe[row - start, : row - first] & leads[first:row])
            leader = _nearest_of(rows, lengths, row, found, tolerance)
            if leader is not None:
                leads[row], leaders[row] = False, leader
    found_of: Labels = np.empty(len(rows), np.int64)
    found_of[order] = order[leaders]
    return found_of


def _nearest_of(rows: Rows, lengths: npt.NDArray[np.float64], row: int, others: Labels, tolerance: float) -> int | None:
    """The nearest of some shorter rows, if it is near; exactly."""
    if not len(others):
        return None
    distances = np.linalg.norm(rows[others].astype(np.float64) - rows[row], axis=1)
    near = distances <= tolerance * lengths[others]
    return int(others[near][np.argmin(distances[near])]) if near.any() else None


def _in_order(labels: Labels) -> Labels:
    """The same groups, numbered in the order in which their first rows come."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks: Labels = np.argsort(np.argsort(first)).astype(np.int64)
    return ranks[inverse]


def _averaged(rows: Rows, labels: Labels) -> Rows:
    """The mean of each group."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max(initial=-1) + 1))
    counts = np.diff(np.append(starts, len(labels)))
    sums = np.add.reduceat(rows[order].astype(np.float64), starts, axis=0)
    return (sums / counts[:, None]).astype(np.float32)
