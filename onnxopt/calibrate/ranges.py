"""Ranges: what calibration learned, as a value that can be written and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxopt import files
from onnxopt.errors import DataError

VERSION = 1
"""Of the JSON form. 1: first."""


@dataclass(frozen=True)
class Ranges:
    """What calibration learned.

    Attributes:
        bounds: value name to the low and high end of its range, in the unit of the value. Values that never held
            a number (a past of length 0) are left out.
        samples: number of samples seen.
        method: how the ends were estimated (see ``onnxopt.calibrate.METHODS``).
        chosen: value name to the estimator whose range it has, where the method is ``auto``.
    """

    bounds: Mapping[str, tuple[float, float]]
    samples: int
    method: str = "min-max"
    chosen: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text; numbers read back to the same bits."""
        content = {
            "version": VERSION,
            "method": self.method,
            "samples": self.samples,
            "bounds": {name: list(ends) for name, ends in self.bounds.items()},
            "chosen": dict(self.chosen),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Ranges:
        """What ``to_json`` wrote.

        Raises:
            DataError: if it is something else, damaged, or of another version.
        """
        try:
            content = json.loads(text)
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}, not {VERSION}")
            bounds = {str(name): _ends(*pair) for name, pair in content["bounds"].items()}
            chosen = {str(name): str(word) for name, word in content["chosen"].items()}
            return cls(bounds, int(content["samples"]), str(content["method"]), chosen)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"these are not ranges that onnxopt wrote ({error}); calibrate again") from None

    def save(self, path: Path) -> None:
        """Write a file, completely or not at all.

        Raises:
            UsageError: if the place cannot be written.
        """
        files.write_text(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Read what ``save`` wrote.

        Raises:
            DataError: if the file cannot be read, or does not hold ranges.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def _ends(low: Any, high: Any) -> tuple[float, float]:
    ends = float(low), float(high)
    if not (math.isfinite(ends[0]) and math.isfinite(ends[1]) and ends[0] <= ends[1]):
        raise ValueError(f"a range from {low} to {high}")
    return ends
