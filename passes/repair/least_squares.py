"""Ridge least squares from second moments: how the weights of a layer change so that its outputs err least.

A layer reads x and is off by r, what it should give less what it does. The change D of its weights and the shift s of
its bias that make up for it minimise

    E |r - x D - s|^2 + ridge * m * |D|^2,    so that    D = (G + ridge m I)^-1 C,    s = E[r] - E[x] D,

with ``G = cov(x, x)``, ``C = cov(x, r)``, m the mean of G's diagonal: the ridge pulls towards the weights as they are.
A layer that can have no bias has s = 0, and moments about zero in place of covariances. Arrays are by group of a
convolution: x ``[groups, vectors, products]``, r ``[groups, vectors, channels]``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.linalg

Numbers = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Candidates. Measured (`facts/pruning.md`): 1e-3 fits 500 small images, 10 the last layers of an ImageNet network and
a hundred images; one for all ruins either."""
HARDLY = 1.02
"""Errors up to so many times the least count as the least, and the smaller ridge wins: what a large one leaves
uncorrected adds up over the layers, the noise of fits does not."""


@dataclass
class Sums:
    """Over vectors.

    Attributes:
        about: near the mean of x, ``[groups, products]``: x is taken about it, as single precision demands.
        count: of vectors.
        x: ``[groups, products]``.
        r: ``[groups, channels]``.
        xx: ``x^T x``, ``[groups, products, products]``.
        xr: ``x^T r``, ``[groups, products, channels]``.
        rr: ``|r|^2``.
    """

    about: Array
    count: int
    x: Numbers
    r: Numbers
    xx: Numbers
    xr: Numbers
    rr: float

    @classmethod
    def none(cls, about: Array, channels: int) -> Sums:
        """Of no vectors."""
        groups, products = about.shape
        x, r = np.zeros((groups, products)), np.zeros((groups, channels))
        return cls(about, 0, x, r, np.zeros((groups, products, products)), np.zeros((groups, products, channels)), 0.0)

    def add(self, x: Array, r: Array) -> None:
        """Take in vectors."""
        x = x - self.about[:, None]
        turned = x.transpose(0, 2, 1)
        self.count += x.shape[1]
        self.x += x.sum(1, dtype=np.float64)
        self.r += r.sum(1, dtype=np.float64)
        self.xx += turned @ x
        self.xr += turned @ r
        self.rr += float(np.square(r, dtype=np.float64).sum())

    def __add__(self, other: Sums) -> Sums:
        """Of both."""
        xx, xr = self.xx + other.xx, self.xr + other.xr
        return Sums(
            self.about, self.count + other.count, self.x + other.x, self.r + other.r, xx, xr, self.rr + other.rr
        )


@dataclass(frozen=True)
class Moments:
    """The same as means.

    Attributes:
        x: mean of x, ``[groups, products]``.
        r: mean of r, ``[groups, channels]``.
        xx: G, ``[groups, products, products]``.
        xr: C, ``[groups, products, channels]``.
        rr: the variance of r, summed over channels.
    """

    x: Numbers
    r: Numbers
    xx: Numbers
    xr: Numbers
    rr: float

    @classmethod
    def of(cls, sums: Sums) -> Moments:
        """Of at least one vector."""
        x, r = sums.x / sums.count, sums.r / sums.count
        xx = sums.xx / sums.count - x[:, :, None] * x[:, None]
        xr = sums.xr / sums.count - x[:, :, None] * r[:, None]
        return cls(sums.about + x, r, xx, xr, max(sums.rr / sums.count - float((r * r).sum()), 0.0))

    def about_zero(self) -> Moments:
        """With G and C about zero."""
        x = self.x[:, :, None]
        return replace(self, xx=self.xx + x * self.x[:, None], xr=self.xr + x * self.r[:, None])

    def error(self, fit: Fit) -> float:
        """``E |r - x D - s|^2``."""
        left = self.r - np.einsum("gp,gpc->gc", self.x, fit.weights) - fit.bias
        missed = float((left * left).sum())
        if fit.ridge is None:
            return self.rr + missed
        explained = 2 * float((fit.weights * self.xr).sum()) - float((fit.weights * (self.xx @ fit.weights)).sum())
        return max(self.rr - explained, 0.0) + missed


@dataclass(frozen=True)
class Fit:
    """What changes in a layer.

    Attributes:
        weights: D, ``[groups, products, channels]``.
        bias: s, ``[groups, channels]``.
        ridge: None where D is 0.
    """

    weights: Numbers
    bias: Numbers
    ridge: float | None = None


def nothing(moments: Moments) -> Fit:
    """The layer as it is."""
    return Fit(np.zeros_like(moments.xr), np.zeros_like(moments.r))


def corrected(moments: Moments) -> Fit:
    """A bias that takes up the mean error, and weights as they are."""
    return replace(nothing(moments), bias=moments.r)


def fitted(moments: Moments, ridge: float, *, biased: bool) -> Fit:
    """The best D and s with this ridge."""
    used = moments if biased else moments.about_zero()
    weights = _solved(damped(used.xx, ridge), used.xr)
    bias = moments.r - np.einsum("gp,gpc->gc", moments.x, weights)
    return Fit(weights, bias if biased else np.zeros_like(bias), ridge)


def damped(moments: Numbers, ridge: float) -> Numbers:
    """Moments ``[..., products, products]`` with a ridge relative to the mean of their diagonal."""
    mean = np.maximum(np.diagonal(moments, axis1=-2, axis2=-1).mean(-1), 1e-12)
    found: Numbers = moments + ridge * mean[..., None, None] * np.eye(moments.shape[-1])
    return found


def _solved(matrices: Numbers, right: Numbers) -> Numbers:
    """``matrix^-1 right`` of each group; of many small ones at once."""
    if len(matrices) > 1:
        return np.asarray(np.linalg.solve(matrices, right), np.float64)
    return np.asarray(scipy.linalg.solve(matrices[0], right[0], assume_a="pos", check_finite=False))[None]


def chosen(first: Moments, held: Moments, *, whole: bool, biased: bool) -> Fit:
    """The fit on the first samples that errs least on those held out.

    Args:
        first: of the samples that are fitted on.
        held: of the others.
        whole: whether weights may change; else the bias alone.
        biased: whether the layer has a bias.
    """
    fits = [nothing(first)]
    if biased:
        fits.append(corrected(first))
    if whole:
        fits.append(_best(first, held, biased=biased))
    return min(fits, key=held.error)


def _best(first: Moments, held: Moments, *, biased: bool) -> Fit:
    """That with the least ridge that errs hardly more than the best: from the middle one on, downhill."""
    tried: dict[int, tuple[float, Fit]] = {}

    def error(one: int) -> float:
        if one not in tried:
            fit = fitted(first, RIDGES[one], biased=biased)
            tried[one] = held.error(fit), fit
        return tried[one][0]

    place = len(RIDGES) // 2
    while (best := min((one for one in (place, place - 1, place + 1) if 0 <= one < len(RIDGES)), key=error)) != place:
        place = best
    least = error(place)
    while place > 0 and error(place - 1) <= HARDLY * least:
        place -= 1
    return tried[place][1]
