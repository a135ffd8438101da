"""The report as one HTML file: nothing is fetched, no script but ours runs, and all numbers are those of the JSON form.

Names in a model are hostile: the template escapes all that it shows, and the JSON that the page carries cannot end its
element. A Content-Security-Policy lets only the one script run whose hash it names.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from onnxopt.report import plots, tables
from onnxopt.report.numbers import Content, Number, number, pointer, shell
from onnxopt.report.sentences import Sentence, text, verdict

PAGE, STYLE, SCRIPT = "page.html.j2", "page.css", "page.js"
SYMBOLS = {"kept": "✓", "refused": "✕", "undone": "↺", "failed": "!"}


def html(content: Content) -> str:
    """The page.

    Args:
        content: as ``Report.to_dict`` gives it, or as ``stored.read`` has checked it.
    """
    script = _resource(SCRIPT)
    page = _environment().get_template(PAGE)
    known = content["layers"]["rows"] if content["layers"] else []
    return page.render(
        report=content,
        name=PurePath(content["source"].replace("\\", "/")).name,
        verdict=verdict(content),
        title=text(verdict(content)),
        rows=tables.before_and_after(content),
        steps=list(zip(content["steps"], tables.step_rows(content), strict=True)),
        layers=_slowest_first(known, tables.layer_rows(content) if known else []),
        longest=_longest(known),
        command=shell(content["origin"]["command"]),
        plots={
            "latency": plots.latencies(content),
            "seconds": plots.stairs(content, "seconds"),
            "bytes": plots.stairs(content, "bytes"),
        },
        symbols=SYMBOLS,
        style=Markup(_resource(STYLE)),
        script=Markup(script),
        policy=_policy(script),
        embedded=_embedded(content),
    )


def cell(sentence: Sentence) -> Markup:
    """Words escaped, numbers with their places."""
    return Markup("").join(_number(part) if isinstance(part, Number) else escape(part) for part in sentence)


def halves(sentence: Sentence) -> tuple[Sentence, Sentence]:
    """What is before the brackets of an interval, and the rest, which is smaller print."""
    starts = (place for place, part in enumerate(sentence) if isinstance(part, str) and part.startswith(" ["))
    place = next(starts, len(sentence))
    return sentence[:place], sentence[place:]


def breakable(name: str) -> Markup:
    """A name that breaks between its parts, where it must."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/._:])", name))


def _number(part: Number) -> Markup:
    value = json.dumps(part.value)
    return Markup('<span class="n" data-field="{}" data-value="{}">{}</span>').format(part.field, value, part.text)


def _slowest_first(known: Sequence[dict[str, Any]], rows: Sequence[tables.Row]) -> list[tuple[int, Any, tables.Row]]:
    """Place in the graph, layer and row; those without a time before come last."""
    found = [(place, layer, row) for place, (layer, row) in enumerate(zip(known, rows, strict=True), 1)]
    return sorted(found, key=lambda one: (one[1]["seconds_before"] is None, -(one[1]["seconds_before"] or 0.0)))


def _longest(rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of the slowest layer, which has the longest bar."""
    return max((row[end] or 0.0 for row in rows for end in ("seconds_before", "seconds")), default=0.0) or 1.0


@functools.cache
def _environment() -> Environment:
    """Everything is escaped; a name that the template lacks is an error."""
    loader = PackageLoader("onnxopt.report", "")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(cell=cell, halves=halves, breakable=breakable, said=tables.said)
    made.globals.update(number=lambda *words: cell([number(*words)]), pointer=pointer)
    return made


def _policy(script: str) -> str:
    """What the page may do: its own style, its own script, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _embedded(content: Content) -> Markup:
    """The JSON form, which no word in it can leave: in JSON these signs may be written as numbers anywhere."""
    words = json.dumps(content, allow_nan=False)
    for sign in "<>&\u2028\u2029":
        words = words.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(words)


def _resource(name: str) -> str:
    return resources.files("onnxopt.report").joinpath(name).read_text(encoding="utf-8").strip()
