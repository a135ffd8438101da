"""A cut of least capacity: which of two forms each place takes, where neighbours of unlike form cost something.

Each place has a cost in the first form and one in the second, and a pair of places one that is due where the first of
them takes the first form and the other the second. The sum of all that is due is the capacity of a cut of a network,
and a cut of least capacity is found exactly (Ford and Fulkerson, "Maximal Flow Through a Network", 1956).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

UNITS = 2**28
"""Maximum flow is exact on whole numbers: all costs in the second form together are so many."""


def least_cut(first: Sequence[float], second: Sequence[float], meet: Mapping[tuple[int, int], float]) -> frozenset[int]:
    """The places that take the first form in a cut of least capacity; where it makes no difference, they take it.

    Args:
        first: the cost of each place in the first form; infinite where that must not be.
        second: the same in the second form; always finite.
        meet: pairs of places to the cost where the first is in the first form and the second in the second.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = len(first)
    source, sink = count, count + 1
    edges = [(source, place, one) for place, one in enumerate(second)]
    edges += [(place, sink, one) for place, one in enumerate(first)]
    edges += [(a, b, one) for (a, b), one in meet.items()]
    whole = sum(second) or 1.0  # all in the second form is possible: no cut needs more, and infinite is more
    capacity = [
        min(math.ceil(one / whole * UNITS) if math.isfinite(one) else 2 * UNITS, 2 * UNITS) for *_, one in edges
    ]
    rows, columns = [a for a, *_ in edges], [b for _, b, _ in edges]
    network = csr_array((np.array(capacity, np.int32), (rows, columns)), shape=(count + 2, count + 2))
    left = network - maximum_flow(network, source, sink).flow
    backwards = csr_array(left.T)
    backwards.eliminate_zeros()
    second_side = breadth_first_order(backwards, sink, return_predecessors=False)
    return frozenset(range(count)) - frozenset(map(int, second_side))
