"""Run models: the only package that runs ONNX Runtime."""

from onnxopt.runtime.fallback import Fallback, fallbacks, notes, told
from onnxopt.runtime.gpu import missing_gpu
from onnxopt.runtime.inputs import Outputs, check_state, input_specs, zero_state
from onnxopt.runtime.library import onnxruntime, version, warn_if_both_installed
from onnxopt.runtime.session import Session, built_graph, kernels

__all__ = [
    "Fallback",
    "Outputs",
    "Session",
    "built_graph",
    "check_state",
    "fallbacks",
    "input_specs",
    "kernels",
    "missing_gpu",
    "notes",
    "onnxruntime",
    "told",
    "version",
    "warn_if_both_installed",
    "zero_state",
]
