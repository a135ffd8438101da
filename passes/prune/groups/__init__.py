"""Dependency groups: which channels of a model can go, and what must go with them. Read ``tracer.py`` first."""

from onnxopt.passes.prune.groups import (  # each registers its rules
    attention,
    control,
    elementwise,
    linear,
    norms,
    quantized,
    recurrent,
    reduction,
    reshape,
    shapes,
    sizes,
    slicing,
)
from onnxopt.passes.prune.groups.groups import CONVOLUTIONS, Group, Groups, channel_axis, find
from onnxopt.passes.prune.groups.tracer import RULES, Role
from onnxopt.passes.prune.groups.unshare import unshare

__all__ = [
    "CONVOLUTIONS",
    "RULES",
    "Group",
    "Groups",
    "Role",
    "attention",
    "channel_axis",
    "control",
    "elementwise",
    "find",
    "linear",
    "norms",
    "quantized",
    "recurrent",
    "reduction",
    "reshape",
    "shapes",
    "sizes",
    "slicing",
    "unshare",
]
