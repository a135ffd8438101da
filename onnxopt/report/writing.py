"""Write a report: the ending of the path says the form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from onnxopt import files
from onnxopt.errors import UsageError
from onnxopt.report.markdown import markdown
from onnxopt.report.numbers import Content
from onnxopt.report.value import Report


def _json(content: Content) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _html(content: Content) -> str:
    from onnxopt.report.html import html  # matplotlib is only needed here

    return html(content)


FORMS = MappingProxyType[str, Callable[[Content], str]]({".json": _json, ".md": markdown, ".html": _html})


def check_form(path: Path) -> None:
    """Find out before the work that a report of this kind cannot be written.

    Raises:
        UsageError: for an ending that names no form.
    """
    if path.suffix not in FORMS:
        *most, last = FORMS
        raise UsageError(f"--report {path}: the ending says the form; there are {', '.join(most)} and {last}")


def write(report: Report, path: Path) -> None:
    """Write the report in the form that the ending of the path names.

    Raises:
        UsageError: for another ending, or where it cannot be written.
    """
    write_content(report.to_dict(), path)


def write_content(content: Content, path: Path) -> None:
    """The same of a report that was stored.

    Raises:
        UsageError: as ``write``.
    """
    check_form(path)
    text = FORMS[path.suffix](content)
    files.write_text(path, text.encode(errors="replace").decode())  # half a surrogate pair may be part of a name
