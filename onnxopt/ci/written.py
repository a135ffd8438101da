"""Where a run is written, and when: after every model, so that what was found outlives the process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from onnxopt import files
from onnxopt.ci.junit import junit
from onnxopt.ci.markdown import markdown
from onnxopt.ci.results import Result
from onnxopt.ci.smaller import smaller_is_better
from onnxopt.errors import UsageError

FORMS: Mapping[str, Callable[[Result], str]] = {
    "json": lambda result: json.dumps(result.to_dict(), indent=2, default=str, allow_nan=False) + "\n",
    "markdown": markdown,
    "junit": junit,
    "smaller": smaller_is_better,
}


def prepare(places: Mapping[str, Path]) -> None:
    """Make the folders, and find out before the work whether the files can be written.

    Raises:
        UsageError: where one cannot.
    """
    for path in places.values():
        make_folder(path.absolute().parent)
        files.check_writable(path, source=None, force=True)


def write(result: Result, places: Mapping[str, Path]) -> None:
    """Write each form to its place, whole or not at all.

    Raises:
        UsageError: where one cannot be written.
    """
    for form, path in places.items():
        files.write_text(path, FORMS[form](result))


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        UsageError: where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}") from error
