"""What fewer channels changed in a network, made good in closed form. Read ``network.py`` first."""

from onnxopt.passes.repair.network import METHODS, repair
from onnxopt.passes.repair.sites import KeptChannels

__all__ = ["METHODS", "KeptChannels", "repair"]
