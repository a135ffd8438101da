"""Values of two networks between their pieces, batch by batch; what does not fit into memory lies in files."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable
from pathlib import Path
from types import TracebackType

import numpy as np

BUDGET = 2**30
"""Bytes in memory."""


class Shelf:
    """Arrays by key and batch. A context manager: its files go with it."""

    def __init__(self, budget: int = BUDGET) -> None:
        """At most ``budget`` bytes in memory."""
        self._budget, self._held, self._files = budget, 0, 0
        self._arrays: dict[Hashable, dict[int, np.ndarray | Path]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="onnxopt-")

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._arrays.clear()
        self._folder.cleanup()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._arrays

    def put(self, key: Hashable, batch: int, array: np.ndarray) -> None:
        """Keep an array: in memory if there is room (strings always), else in a file."""
        array = np.asarray(array)
        kept: np.ndarray | Path = array
        if self._held + array.nbytes <= self._budget or array.dtype.hasobject:
            self._held += array.nbytes
        else:
            self._files += 1
            kept = Path(self._folder.name) / f"{self._files}.npy"
            np.save(kept, array, allow_pickle=False)
        self._arrays.setdefault(key, {})[batch] = kept

    def get(self, key: Hashable, batch: int) -> np.ndarray:
        """The array, not to be written to."""
        kept = self._arrays[key][batch]
        found: np.ndarray = np.load(kept, mmap_mode="r", allow_pickle=False) if isinstance(kept, Path) else kept
        return found

    def drop(self, key: Hashable) -> None:
        """Forget an array of all batches."""
        for kept in self._arrays.pop(key, {}).values():
            if isinstance(kept, Path):
                kept.unlink()
            else:
                self._held -= kept.nbytes
