"""A result as a file: JSON, Markdown, JUnit XML, or the array that the common benchmark action reads.

The ending of a path says the form, or a word before it does: ``bench.json``, ``bench.md``, ``bench.xml``,
``bench.smaller.json``; ``json:``, ``markdown:``, ``junit:``, ``smaller:``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from onnxopt import files
from onnxopt.errors import UsageError
from onnxopt.speed.result import Measurement, Speed
from onnxopt.speed.tables import environment_line, input_line, model_lines, names, ratio, tables, with_interval

ENDINGS = {".smaller.json": "smaller", ".json": "json", ".md": "markdown", ".xml": "junit"}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def form_of(words: str) -> tuple[str, Path]:
    """The form and the path of ``--save``.

    Raises:
        UsageError: where neither a word nor the ending says the form.
    """
    word, colon, path = words.partition(":")
    if colon and path and word in FORMS:
        return word, Path(path)
    for ending, form in ENDINGS.items():
        if words.endswith(ending):
            return form, Path(words)
    raise UsageError(
        f"--save {words}: the ending says the form: {', '.join(sorted(ENDINGS))}; "
        f"or a word before the path does: {', '.join(f'{form}:' for form in FORMS)}"
    )


def write(result: Speed, form: str, path: Path) -> None:
    """Write a result in a form.

    Raises:
        UsageError: where it cannot be written.
    """
    files.write_text(path, FORMS[form](result))


def _json(result: Speed) -> str:
    return json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n"


def _markdown(result: Speed) -> str:
    several_models, several_settings = len(result.models) > 1, len(result.settings) > 1
    parts = ["# onnxopt bench\n"]
    for table in tables(result):
        heading = [*["setting"] * several_settings, *["model"] * several_models, *table.columns]
        rows = [[*[row.setting] * several_settings, *[row.model] * several_models, *row.cells] for row in table.rows]
        parts += [f"## {table.title.capitalize()}\n", _row(heading), _row(["---"] * len(heading)), *map(_row, rows), ""]
    parts += [f"- model: `{line}`" for line in model_lines(result)]
    parts += [f"- input: {input_line(result)}", f"- environment: {environment_line(result.environment)}"]
    parts += [f"- **missed**: {failure.sentence}" for failure in result.failures]
    parts += [f"- warning: {warning}" for warning in result.warnings]
    parts += ["- in brackets: intervals of 95 %; of a fresh process the smallest and the largest of a few"]
    return "\n".join(parts) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _junit(result: Speed) -> str:
    """A test case for each model in each setting, whose time is the median latency; missed limits are failures."""
    cases = [(found, _sentences(result, found)) for found in result.measurements]
    failures = sum(bool(sentences) for _, sentences in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", {"name": "onnxopt bench", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "onnxopt bench", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in result.environment.__dict__.items():
        ElementTree.SubElement(properties, "property", {"name": name, "value": xml_text(str(value))})
    for found, missed in cases:
        time, suite_name = f"{found.timing.median:.9f}", f"onnxopt bench ({found.setting.label})"
        words = {"classname": xml_text(suite_name), "name": xml_text(found.model), "time": time}
        case = ElementTree.SubElement(suite, "testcase", words)
        if missed:
            failure = ElementTree.SubElement(
                case, "failure", {"message": xml_text(missed[0]), "type": "BenchmarkFailed"}
            )
            failure.text = xml_text("\n".join(missed))
        ElementTree.SubElement(case, "system-out").text = xml_text("\n".join(_told(found)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _sentences(result: Speed, found: Measurement) -> list[str]:
    """The limits that a model missed in a setting; of a model that is given twice, the last one did."""
    same = [each for each in result.measurements if (each.model, each.setting) == (found.model, found.setting)]
    if same[-1] is not found:
        return []
    return [f.sentence for f in result.failures if (f.model, f.setting) == (found.model, found.setting.label)]


def xml_text(text: str) -> str:
    """The text with ? for each character that XML 1.0 has no form for."""
    return _NOT_IN_XML.sub("?", text)


def _told(found: Measurement) -> Iterator[str]:
    """A measurement in lines."""
    for percent, numbers in found.percentiles.items():
        yield f"p{percent} {with_interval(*numbers, 1e-3)} ms"
    if found.comparison is not None:
        yield f"ratio {ratio(found.comparison)}, {found.comparison.verdict.value}"
    yield from found.warnings


def _smaller(result: Speed) -> str:
    """The array of ``customSmallerIsBetter`` of github-action-benchmark: name, unit, value, range, extra."""
    shown = {model.path: name for model, name in zip(result.models, names(result), strict=True)}
    entries = [
        {**entry, "name": f"{shown[found.model]} ({found.setting.label}): {entry['name']}", "extra": extra}
        for found in result.measurements
        for extra in ["\n".join(_extra(result, found))]
        for entry in _entries(found)
    ]
    sizes = [{"name": f"{shown[model.path]}: file", "unit": "bytes", "value": model.size} for model in result.models]
    once = {entry["name"]: entry for entry in (*entries, *sizes)}
    return json.dumps([*once.values()], indent=2, allow_nan=False) + "\n"


def _entries(found: Measurement) -> Iterator[dict[str, Any]]:
    for percent, (value, low, high) in found.percentiles.items():
        yield _entry(f"p{percent}", "ms", 1e3, value, low, high)
    for streams in found.streams:
        value, low, high = streams.per_second
        ends = (1 / high, 1 / low if low else float("inf"))
        yield _entry(f"time per sample, {streams.streams} streams", "ms", 1e3, 1 / value, *ends)
    if found.fresh is not None:
        for name, spread in (("load", found.fresh.load), ("first run", found.fresh.first_run)):
            yield _entry(name, "ms", 1e3, spread.median, spread.low, spread.high)
        for name, spread in (("memory after a run", found.fresh.resident), ("memory at most", found.fresh.peak)):
            yield _entry(name, "bytes", 1, spread.median, spread.low, spread.high)


def _entry(name: str, unit: str, factor: float, value: float, low: float, high: float) -> dict[str, Any]:
    ends = " .. ".join("?" if end == float("inf") else f"{end * factor:.4g}" for end in (low, high))
    return {"name": name, "unit": unit, "value": value * factor, "range": ends}


def _extra(result: Speed, found: Measurement) -> Iterator[str]:
    """What a chart shows of a point: hash, ratio, machine."""
    yield next(f"sha256 {model.sha256}" for model in result.models if model.path == found.model)
    if found.comparison is not None and found.against is not None:
        against = Path(found.against[0]).name
        yield f"ratio against {against}: {ratio(found.comparison)}, {found.comparison.verdict.value}"
    yield environment_line(found.environment)


FORMS: Mapping[str, Callable[[Speed], str]] = {
    "json": _json,
    "markdown": _markdown,
    "junit": _junit,
    "smaller": _smaller,
}
