"""Layers with constant weights, and the constants themselves: to be read and to be written as rows."""

from onnxopt.layers.node import FLOATS, WEIGHTED, Layer, Twins, layer, layers
from onnxopt.layers.table import Table, tables
from onnxopt.layers.weight import Rows, Weight, changed, weights

__all__ = [
    "FLOATS",
    "WEIGHTED",
    "Layer",
    "Rows",
    "Table",
    "Twins",
    "Weight",
    "changed",
    "layer",
    "layers",
    "tables",
    "weights",
]
