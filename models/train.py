"""Train the demo network and write the files that ship.

::

    python -m onnxopt.models.train digits --arch resnet_tiny --epochs 16 --seed 0 --out models/

The same command writes the same bytes on the same machine. The network of the last epoch is
kept: nothing is selected on the held-out samples.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnxopt.errors import OnnxoptError, UsageError
from onnxopt.export.export import Settings as ExportSettings
from onnxopt.export.export import export
from onnxopt.export.inputs import Input
from onnxopt.files import check_writable
from onnxopt.models import digits
from onnxopt.models.digits import Digits
from onnxopt.models.resnet_tiny import resnet_tiny
from onnxopt.models.training.loop import fit, top1
from onnxopt.models.training.settings import Settings, check_word
from onnxopt.runtime import Session
from onnxopt.target import Target

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {"resnet_tiny": resnet_tiny}
DATASETS: dict[str, Callable[..., Digits]] = {"digits": digits.load}


def main(words: Sequence[str] | None = None) -> None:
    """Train, print each epoch, export; an error becomes a sentence and an exit code."""
    try:
        _run(**vars(_parser().parse_args(words)))
    except OnnxoptError as error:
        print(f"onnxopt.models.train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def write(module: nn.Module, data: Digits, folder: Path, dataset: str, arch: str) -> float:
    """Write model and data to `folder`; return top-1 of the written model on the held-out samples."""
    data.calibration.save(folder / f"{dataset}_calibration.npz")
    data.held_out.save(folder / f"{dataset}_eval.npz")
    module.to(memory_format=torch.contiguous_format)
    path, shape = folder / f"{dataset}_{arch}.onnx", (1, *data.held_out.image.shape[1:])
    image = Input("image", shape, dynamic={0: "batch"})
    export(module, path, [image], ExportSettings(outputs=["scores"], keep_layers=True))
    return top1(Session(path, Target()).run({"image": data.held_out.image})["scores"], data.held_out.labels)


def _run(dataset: str, arch: str, standardise: str, out: Path, **options: Any) -> None:
    """What the command does."""
    settings = Settings(**options)
    check_word("data set", dataset, DATASETS)
    check_word("network", arch, ARCHITECTURES)
    check_word("standardisation", standardise, digits.STANDARDISE)
    _prepare(out / f"{dataset}_{arch}.onnx")
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    data, module = DATASETS[dataset](standardise=standardise), ARCHITECTURES[arch]()
    if settings.flip != "none" and not data.mirrors:
        raise UsageError(f"--flip {settings.flip} is not for {dataset!r}: a mirrored sign is another sign, or none")
    for epoch in fit(module, data.train, data.held_out, settings):
        print(
            f"epoch {epoch.number:3d}  loss {epoch.loss:.4f}  held-out top-1 {epoch.accuracy:.2%}  "
            f"{epoch.optimizer} at {epoch.learning_rate:.2g}  {epoch.seconds:.1f} s",
            flush=True,
        )
    result = write(module, data, out, dataset, arch)
    print(f"exported to {out}: held-out top-1 {result:.2%} of {len(data.held_out)} samples")


def _prepare(path: Path) -> None:
    """Make the folder of the file, if it is not there, and find out whether one can write to it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"there can be no folder {path.parent}: {error.strerror}") from error
    check_writable(path, source=None, force=False)


def _parser() -> argparse.ArgumentParser:
    """The command line: an option for each field of `Settings`, and what is trained on what."""
    parser = argparse.ArgumentParser(
        prog="python -m onnxopt.models.train",
        description="Train a network and export it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("dataset", help=f"what to train on: {', '.join(DATASETS)}")
    parser.add_argument("--arch", default="resnet_tiny", help=f"network: {', '.join(ARCHITECTURES)}")
    parser.add_argument(
        "--standardise", default="dataset", help=f"mean 0 and deviation 1 over the: {', '.join(digits.STANDARDISE)}"
    )
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to write to")
    for option in fields(Settings):
        default = argparse.SUPPRESS if option.default is None else option.default
        details = {"type": type(option.default), "default": default, **option.metadata}
        parser.add_argument(f"--{option.name.replace('_', '-')}", **details)
    return parser


if __name__ == "__main__":
    main()
