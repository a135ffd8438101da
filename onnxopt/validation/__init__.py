"""Whether one model can take the place of another: signature, outputs, accuracy; and which change is to blame."""

from onnxopt.validation.options import RTOL, Options
from onnxopt.validation.result import VERSION, Validation
from onnxopt.validation.run import validate
from onnxopt.validation.signature import input_differences, signature_differences

__all__ = [
    "RTOL",
    "VERSION",
    "Options",
    "Validation",
    "input_differences",
    "signature_differences",
    "validate",
]
