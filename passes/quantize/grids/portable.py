"""Whether pair sums are bounded, so that int8 is exact on processors without VNNI, too: an option of several passes."""

from __future__ import annotations

from typing import Any

from onnxopt.core import option
from onnxopt.target import Target


def portable_option() -> Any:
    """The field ``portable`` of a pass."""
    doc = "bound pair sums for processors without VNNI: auto asks this one"
    return option("auto", doc, choices=("auto", "yes", "no"))


def bounds_pairs(portable: str, target: Target) -> bool:
    """What the option means for a target; why pairs of products matter, see ``grid.weight_scales``."""
    return target.int8_saturates if portable == "auto" else portable == "yes"
