"""What GitHub Actions reads: annotations on the lines of the file, and the summary of the step.

Sources: GitHub's documentation of workflow commands (``::error file=...,line=...,title=...::message``, with ``%``,
line ends, and in properties ``:`` and ``,`` escaped) and of ``GITHUB_STEP_SUMMARY``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from onnxopt.ci.results import Result

SUMMARY = "GITHUB_STEP_SUMMARY"
LARGEST_SUMMARY = 1_000_000
"""Bytes of a step's summary; GitHub drops one above 1 MiB."""


def annotated(result: Result, environment: Mapping[str, str]) -> Iterator[str]:
    """A line per finding, where a workflow of GitHub is running; it stands at the model's table in the file."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    place = _in_repository(Path(result.config), environment.get("GITHUB_WORKSPACE"))
    for outcome in result.outcomes:
        for finding in outcome.findings:
            title = _property(f"onnxopt {finding.check}: {outcome.name}")
            where = f"file={_property(place)},line={outcome.line},title={title}"
            yield f"::error {where}::{_message(f'{outcome.name}: {finding.sentence}')}"


def complaint(config: Path, sentence: str, environment: Mapping[str, str]) -> str | None:
    """The annotation of a run that could not begin; None outside of a workflow."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return None
    place = _in_repository(config, environment.get("GITHUB_WORKSPACE"))
    return f"::error file={_property(place)},title=onnxopt::{_message(sentence)}"


def append_summary(markdown: str, environment: Mapping[str, str]) -> None:
    """Add to the summary of the step, where there is one; other steps may have written to it."""
    path = environment.get(SUMMARY)
    if not path:
        return
    if len(markdown.encode()) > LARGEST_SUMMARY:
        markdown = "## onnxopt\n\nThe summary is too large for this page; see the Markdown file that was written.\n"
    with open(path, "a", encoding="utf-8") as file:
        file.write(markdown)


def _in_repository(path: Path, workspace: str | None) -> str:
    """As GitHub names files: from the root of the repository."""
    return Path(os.path.relpath(path.absolute(), workspace or os.getcwd())).as_posix()


def _message(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _message(words).replace(":", "%3A").replace(",", "%2C")
