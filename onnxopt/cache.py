"""The user's cache folder: what was learned once and holds for the next run."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

OFF = "ONNXOPT_NO_CACHE"
"""The environment variable that switches it off."""


def folder(kind: str) -> Path | None:
    """Where things of a kind are kept; None where the environment says not to keep any."""
    if os.environ.get(OFF):
        return None
    home = Path(os.path.expanduser("~"))
    system = {"darwin": home / "Library" / "Caches", "win32": home / "AppData" / "Local"}
    base = Path(os.environ.get("XDG_CACHE_HOME") or system.get(sys.platform, home / ".cache"))
    return base / "onnxopt" / kind


def keep(path: Path, content: object, most: int) -> None:
    """Write JSON all at once, and remove the oldest beside it beyond so many; where it cannot be, nothing happens."""
    import json

    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part")
        beside.write_text(json.dumps(content))
        beside.replace(path)
        trim(path.parent, most)


def trim(place: Path, kept: int) -> None:
    """Remove the oldest .json files beyond so many."""
    with contextlib.suppress(OSError):
        by_age = sorted(place.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in by_age[kept:]:
            path.unlink(missing_ok=True)
