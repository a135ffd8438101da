"""What pruning changed, made good in closed form. Read ``network.py`` first."""

from onnxopt.passes.prune.repair.network import METHODS, repair
from onnxopt.passes.prune.repair.sites import KeptChannels

__all__ = ["METHODS", "KeptChannels", "repair"]
