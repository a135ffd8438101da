"""ONNX Runtime itself: the module, its version, and what it says when something goes wrong."""

from __future__ import annotations

import importlib.metadata
import re
import warnings
from typing import Any

from onnxopt.errors import RuntimeMissing


def onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        RuntimeMissing: if neither onnxruntime nor onnxruntime-gpu is installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise RuntimeMissing(
            "ONNX Runtime is not installed: pip install 'onnxopt[cpu]' (onnxruntime) "
            "or pip install 'onnxopt[gpu]' (onnxruntime-gpu)"
        ) from error
    except ImportError as error:
        raise RuntimeMissing(f"ONNX Runtime is installed but does not load: {short(error)}") from error
    return onnxruntime


def version() -> str:
    """The version of ONNX Runtime."""
    return str(onnxruntime().__version__)


def warn_if_both_installed() -> None:
    """Warn where onnxruntime and onnxruntime-gpu lie over each other: which one runs depends on the order."""
    if installed("onnxruntime") and installed("onnxruntime-gpu"):
        warnings.warn(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall one of them",
            stacklevel=2,
        )


def installed(distribution: str) -> bool:
    """Whether a distribution is installed, by the name it has in a registry."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def short(error: Exception) -> str:
    """ONNX Runtime's message without its code number, source line and stack."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0])
    return re.sub(r"/\S*\.(cc|h):\d+ .*?\) ", "", line)[:400]
