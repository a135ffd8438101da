"""Ranges that were learned before, kept in the user's cache folder under a hash of all that decides them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import onnx_ir as ir

from onnxopt import cache, files, runtime
from onnxopt.calibrate.ranges import VERSION, Ranges
from onnxopt.errors import DataError, ModelError, UsageError
from onnxopt.samples import Samples
from onnxopt.target import Target

ESTIMATION = 1
"""Raise it when the same data shall give other ranges than before."""
KEPT = 256
"""Files at most (some 10 kB each); the oldest go."""


def key(model: ir.Model, samples: Samples, names: Iterable[str], target: Target, method: str) -> str | None:
    """SHA-256 (hex) of model, data, state, names, method, provider and versions; None if the model is over 1.8 GB.

    All samples are hashed as the model is fed them (``Dataset.digest`` looks at 32): ranges of other data would be
    a silent error. For ResNet-50 hashing takes 0.5 s, nearly all for the weights; 100 images take 15 s to run.
    """
    try:
        contents = files.to_bytes(model)
    except ModelError:
        return None
    versions = (VERSION, ESTIMATION, metadata.version("onnxopt"), runtime.version())
    content = hashlib.sha256(contents)
    del contents
    words = (versions, sorted(names), method, target.provider, sorted(samples.state.items()))
    content.update(repr(words).encode())
    for feeds in itertools.chain([samples.start], (batch.feeds for batch in samples.data.batches(1))):
        for name, array in sorted(feeds.items()):
            content.update(f"{name} {array.dtype} {array.shape}".encode())
            content.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return content.hexdigest()


def find(folder: Path, name: str) -> Ranges | None:
    """What was kept under this name; None if there is nothing, or it is damaged."""
    try:
        return Ranges.load(folder / f"{name}.json")
    except DataError:
        return None


def keep(folder: Path, name: str, ranges: Ranges) -> None:
    """Keep ranges for the next time; where that is not possible, nothing happens."""
    with contextlib.suppress(OSError, UsageError):
        folder.mkdir(parents=True, exist_ok=True)
        ranges.save(folder / f"{name}.json")
        cache.trim(folder, KEPT)
