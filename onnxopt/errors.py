"""What can go wrong, and the exit code of each kind.

::

    OnnxoptError
    ├── UsageError            2   words on the command line, options, recipes, an output that cannot be written
    │   └── RuntimeMissing    2   onnxruntime is not installed, or lacks the provider asked for
    ├── InputError            3   something given could not be read
    │   ├── ModelError        3   the model file
    │   └── DataError         3   the data, or what a metric needs of it
    ├── GateRefused           4   the accuracy gate refused, and --strict was given
    ├── PassBroke             5   a pass gave an invalid or different model
    └── BenchmarkFailed       6   a benchmark did not reach the asked ratio

A message is for the user: what is wrong, where, what to do. Library code raises; the
command line prints the message alone, or the traceback with ``--debug``.
"""

from __future__ import annotations

from typing import ClassVar


class OnnxoptError(Exception):
    """Anything onnxopt can explain."""

    exit_code: ClassVar[int] = 1


class UsageError(OnnxoptError):
    """The words given do not fit: an unknown pass or option, an output that cannot be written."""

    exit_code = 2


class RuntimeMissing(UsageError):
    """ONNX Runtime is not installed, or has not the provider asked for."""


class InputError(OnnxoptError):
    """Something given could not be read."""

    exit_code = 3


class ModelError(InputError):
    """The model file cannot be read, or ONNX Runtime does not take it."""


class DataError(InputError):
    """The data do not fit the model or the metric."""


class GateRefused(OnnxoptError):
    """The accuracy gate refused a model and the caller asked for that to be an error."""

    exit_code = 4


class PassBroke(OnnxoptError):
    """A pass gave a model that is invalid or computes something else."""

    exit_code = 5


class BenchmarkFailed(OnnxoptError):
    """A measured ratio is under the one asked for."""

    exit_code = 6
