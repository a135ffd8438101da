"""Codes for the weights of a layer, chosen so that the outputs of the layer err least.

With w a row of weights, v the row that stands for it and H the second moments of what the row is multiplied with, the
error is ``(w - v) H (w - v)^T``, and ``v = scale * table[codes]``: one table for all rows, one scale for each.

1. Scales and table are found in turns: the table by k-means over the rows divided by their scales, each scale by trying
   some.
2. Codes are chosen column by column, each making good the errors of those before (``calibrate.hessian``).
3. Coordinate descent: each weight in turn takes the value that is best beside all others, some times over. Then the
   scales are fitted by least squares, ``scale = (w H u^T) / (u H u^T)``, ``u = table[codes]``, and one turn follows.

Step 2 alone is OPTQ with a table for a grid. The scale of a row from its largest weight in place of its power, step 3
and the fit take the divergence at 4 bits from 0.112 to 0.049 (squeezenet11), 1.15 to 0.24 (mobilenet_v1), 0.0121 to
0.0108 (resnet56), measured on calibration samples.

Source: Frantar, Ashkboos, Hoefler, Alistarh, "OPTQ", ICLR 2023; coordinate descent as in Behdin et al., "QuantEase",
2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.calibrate.hessian import Numbers, factored, fed_back, in_turn, ordered
from onnxopt.passes.cluster.codebook import LEAST, Codes, fitted, halved, middles, nearest, whole

DESCENTS = 2
BLOCK = 64
"""Columns after which changes are carried on to all others."""


@dataclass(frozen=True)
class Coded:
    """Weights as codes.

    Attributes:
        codes: ``[groups, channels, products]``, into the table.
        table: ascending, float64 ``[levels]``, each a float16 or float32.
        scales: ``[groups, channels]``.
    """

    codes: Codes
    table: Numbers
    scales: Numbers

    @property
    def values(self) -> Numbers:
        """What stands for the weights, ``[groups, channels, products]``."""
        found: Numbers = self.table[self.codes] * self.scales[..., None]
        return found


class Coder:
    """Codes of one weight, with tables of any size; what they all need is computed once.

    Args:
        weights: ``[groups, channels, products]``.
        moments: second moments of what the rows are multiplied with, ``[groups, products, products]``.
        scales: of the rows, ``[groups, channels]``, where they are given; tables are whole numbers then.
    """

    def __init__(self, weights: Numbers, moments: Numbers, scales: Numbers | None = None) -> None:
        """Order the columns and factor the moments."""
        self._scales = scales
        self._order = in_turn(moments)
        self._moments = ordered(moments, self._order)
        self._factor, root = factored(self._moments)
        self._weights = np.take_along_axis(weights, self._order[:, None], 2)
        channels, products = weights.shape[1:]
        self._rows = self._weights.reshape(-1, products)
        self._left = np.repeat(root**2, channels, axis=0)
        """Of an error of rounding, what feedback leaves, ``[rows, products]``."""
        power = np.repeat(np.diagonal(moments, axis1=1, axis2=2), channels, axis=0)
        power = np.take_along_axis(power, np.repeat(self._order, channels, axis=0), 1)
        self._power = power / max(float(power.mean()), 1e-30)

    def coded(self, levels: int) -> Coded:
        """The weights with a table of so many values; with ``codebook.GRID`` of them it is the grid of 8 bits."""
        if self._scales is None:
            table, scales = fitted(self._rows, self._power, self._left, levels)
            scales = scales.reshape(self._weights.shape[:2])
        else:
            table, scales = whole(self._rows, self._power, self._scales.reshape(-1), levels), self._scales
        codes, borders = np.zeros(self._weights.shape, np.uint8), middles(table)

        def choose(j: int, wanted: Numbers) -> Numbers:
            codes[..., j] = np.searchsorted(borders, wanted / scales)
            chosen: Numbers = table[codes[..., j]] * scales
            return chosen

        fed_back(self._weights, self._factor, choose)
        for _ in range(DESCENTS):
            self._descend(codes, table, scales)
        if self._scales is None:
            scales = self._refitted(codes, table, scales)
            self._descend(codes, table, scales)
        return Coded(np.take_along_axis(codes, np.argsort(self._order)[:, None], 2), table, scales)

    def _descend(self, codes: Codes, table: Numbers, scales: Numbers) -> None:
        """Change each weight in turn to what is best beside all others; in place."""
        products, borders = codes.shape[2], middles(table)
        off = (self._weights - table[codes] * scales[..., None]) @ self._moments
        own = np.maximum(np.diagonal(self._moments, axis1=1, axis2=2), 1e-30)
        for start in range(0, products, BLOCK):
            block = slice(start, min(start + BLOCK, products))
            among = self._moments[:, block, block]
            before = table[codes[..., block]] * scales[..., None]
            here = off[..., block].copy()
            for j in range(block.stop - start):
                value = table[codes[..., start + j]] * scales
                wanted = value + here[..., j] / own[:, None, start + j]
                code = np.searchsorted(borders, wanted / scales)
                change = table[code] * scales - value
                codes[..., start + j] = code
                here[..., j + 1 :] -= change[..., None] * among[:, None, j, j + 1 :]
            change = table[codes[..., block]] * scales[..., None] - before
            off -= change @ self._moments[:, block]

    def _refitted(self, codes: Codes, table: Numbers, scales: Numbers) -> Numbers:
        """The scale of each row by least squares."""
        values = table[codes]
        seen = values @ self._moments
        above, below = (self._weights * seen).sum(axis=2), (values * seen).sum(axis=2)
        found = halved(np.where(below > 0, above / np.maximum(below, 1e-300), scales))
        return np.where(found > LEAST, found, scales)


def plain(rows: Numbers, levels: int) -> Coded:
    """Codes of rows ``[rows, products]`` by their numbers alone, as one group: those of the nearest values."""
    table, scales = fitted(rows, np.ones(()), np.ones(()), levels)
    codes = nearest(table, rows / scales[:, None])
    return Coded(codes[None], table, scales[None])
