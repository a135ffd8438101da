"""The trained network that ships with onnxopt, and data it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True)
class DemoFiles:
    """Where the demo lies: a digit classifier and two sets of samples it was not trained on.

    Attributes:
        model: ONNX, `image` float32 ``[batch, 1, 32, 32]`` to `scores` ``[batch, 10]``.
        data: npz of 128 samples, `image` and `labels`, for calibration.
        eval_data: npz of 512 others, for measuring accuracy.
    """

    model: Path
    data: Path
    eval_data: Path


def demo_files() -> DemoFiles:
    """Return the paths of the three files, which lie beside this module."""
    folder = Path(str(files("onnxopt.models")))
    return DemoFiles(
        model=folder / "digits_resnet_tiny.onnx",
        data=folder / "digits_calibration.npz",
        eval_data=folder / "digits_eval.npz",
    )
