"""The cut that passes share: against all placements of small networks."""

import itertools
import math

import numpy as np
import pytest

from onnxopt.passes.cut import least_cut


@pytest.mark.parametrize("seed", range(30))
def test_no_placement_costs_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 8))
    first, second = (rng.integers(0, 9, count).astype(float).tolist() for _ in range(2))
    if rng.random() < 0.5:
        first[int(rng.integers(count))] = math.inf
    pairs = rng.integers(0, count, (2 * count, 2))
    meet = {(int(a), int(b)): float(rng.integers(0, 9)) for a, b in pairs if a != b}

    def due(chosen: frozenset[int]) -> float:
        own = sum(first[place] if place in chosen else second[place] for place in range(count))
        return own + sum(one for (a, b), one in meet.items() if a in chosen and b not in chosen)

    every = [frozenset(c) for size in range(count + 1) for c in itertools.combinations(range(count), size)]
    found = least_cut(first, second, meet)
    best = min(map(due, every))
    assert due(found) == pytest.approx(best, rel=1e-5)


def test_the_first_form_where_it_costs_the_same() -> None:
    assert least_cut([1.0, 0.0, 2.0], [1.0, 0.0, 1.0], {}) == {0, 1}
