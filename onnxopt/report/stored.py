"""Read a report that was stored as JSON. It may come from anywhere: all that is shown is checked first."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxopt.errors import DataError
from onnxopt.report.numbers import Content
from onnxopt.report.value import VERSION

LARGEST = 64 * 2**20
"""Bytes of a file that is read at all."""
MAGNITUDE = 1e18
"""Of numbers: beyond it nothing here is counted or timed."""

Check = Callable[[Any, str], None]
"""Raises DataError, with the place, for a value that is not as it should be."""


def read(path: Path) -> Content:
    """The content of a stored report.

    Raises:
        DataError: if it cannot be read, is no report, or one of another version.
    """
    content = _parse(path)
    if not isinstance(content, dict) or "version" not in content or "steps" not in content:
        raise DataError(f"{path} is no report of onnxopt; make one with onnxopt optimize --report {path.stem}.json")
    version = content["version"]
    if version != VERSION:
        which = "older" if isinstance(version, int) and version < VERSION else "other"
        raise DataError(
            f"{path} is a report of version {str(version)[:20]}, and this onnxopt shows version {VERSION}: "
            f"it was made by an {which} onnxopt; run onnxopt optimize again"
        )
    try:
        REPORT(content, "")
    except DataError as error:
        raise DataError(f"{path} is damaged: {error}") from None
    return content


def _parse(path: Path) -> Any:
    try:
        if not path.is_file():
            raise DataError(f"there is no file {path}")
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has more than {LARGEST >> 20} MB: that is no report")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON, or is cut off") from error


def _is(kinds: type | tuple[type, ...], words: str) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise DataError(f"{where or 'the whole'} is not {words}")

    return check


def _number(value: Any, where: str) -> None:
    _is((int, float), "a number")(value, where)
    if not abs(value) <= MAGNITUDE:  # nor is it, where it is NaN
        raise DataError(f"{where} is no number that can be")


def _positive(value: Any, where: str) -> None:
    _number(value, where)
    if value < 0:
        raise DataError(f"{where} is negative")


def _maybe(check: Check) -> Check:
    def wrapped(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return wrapped


def _record(**fields: Check) -> Check:
    """An object with at least these names; a final ``_`` only keeps a name from being a word of Python."""

    def check(value: Any, where: str) -> None:
        _is(dict, "an object")(value, where)
        for name, inner in fields.items():
            key = name.removesuffix("_")
            if key not in value:
                raise DataError(f"{where}/{key} is missing")
            inner(value[key], f"{where}/{key}")

    return check


def _list(each: Check) -> Check:
    def check(value: Any, where: str) -> None:
        _is(list, "a list")(value, where)
        for place, one in enumerate(value):
            each(one, f"{where}/{place}")

    return check


def _names(each: Check) -> Check:
    def check(value: Any, where: str) -> None:
        _is(dict, "an object")(value, where)
        for name, one in value.items():
            each(one, f"{where}/{name[:60]}")

    return check


def _histogram(value: Any, where: str) -> None:
    _record(edges=_list(_positive), before=_list(_positive), after=_list(_positive))(value, where)
    edges = value["edges"]
    rising = all(a < b for a, b in itertools.pairwise(edges))
    if not rising or not len(edges) - 1 == len(value["before"]) == len(value["after"]) > 0:
        raise DataError(f"{where} is no histogram")


_text, _flag = _is(str, "text"), _is(bool, "true or false")
_texts = _list(_text)
_summary = _record(
    bytes=_positive, download_bytes=_positive, weight_bytes=_positive, nodes=_positive, operators=_names(_positive)
)
_drop = _record(
    metric=_text, samples=_positive, before=_maybe(_number), after=_maybe(_number), drop=_maybe(_number),
    low=_maybe(_number), high=_maybe(_number), confidence=_positive, passed=_flag,
)  # fmt: skip
_speed = _record(
    ratio=_positive, low=_positive, high=_maybe(_positive), confidence=_positive, verdict=_text, warnings=_texts,
    environment=_record(foreign_load=_number),
    a=_record(iterations=_positive, median=_positive), b=_record(iterations=_positive, median=_positive),
)  # fmt: skip
_percentile = _record(value=_positive, low=_positive, high=_positive)
_percentiles = _record(p50=_percentile, p90=_percentile, p99=_percentile)
_spread = _record(median=_positive, low=_positive, high=_positive)
_loaded = _record(load=_spread, peak=_spread, resident=_spread)
_step = _record(
    pass_=_text, outcome=_text, why=_text, seconds=_positive, exactness=_text, against=_text, bytes=_maybe(_positive),
    changes=_list(_record(node=_text, what=_text)), refusals=_list(_record(node=_text, why=_text)),
    drop=_maybe(_drop), speed=_maybe(_speed),
)  # fmt: skip
_stairs = _list(_record(name=_text, from_=_positive, to=_positive, by=_number))
_layer = _record(
    name=_text, op=_text, planned=_maybe(_text), kernel_before=_maybe(_text), kernel=_maybe(_text),
    seconds_before=_maybe(_positive), seconds=_maybe(_positive), sqnr_db=_maybe(_number), changes=_texts,
    refusals=_texts,
)  # fmt: skip
_machine = _record(
    processor=_text, cores=_positive, instruction_sets=_texts, memory=_positive, system=_text, load=_maybe(_number)
)
REPORT = _record(
    version=_number, source=_text, output=_maybe(_text), kept_original=_flag, settings=_names(lambda *_: None),
    data=_text, before=_summary, after=_summary,
    ratios=_record(
        bytes=_maybe(_positive), download_bytes=_maybe(_positive), resident=_maybe(_positive), time=_maybe(_positive),
        time_low=_maybe(_positive), time_high=_maybe(_positive),
    ),
    steps=_list(_step), stairs=_record(bytes=_stairs, seconds=_stairs),
    ledger=_names(_record(file=_number, session=_number)),
    accuracy=_maybe(_drop), speed=_maybe(_speed),
    latency=_maybe(
        _record(confidence=_positive, before=_percentiles, after=_percentiles, histogram=_histogram)
    ),
    memory=_maybe(_record(processes=_positive, before=_loaded, after=_loaded)),
    layers=_maybe(_record(rows=_list(_layer), left_out=_positive, rest_before=_positive, rest=_positive)),
    ended=_text, notes=_texts, seconds=_positive, peak_memory=_positive,
    origin=_record(
        command=_texts, seed=_number, versions=_names(_text), machine=_machine, when=_text,
        files=_list(_record(role=_text, path=_text, size=_positive, sha256=_maybe(_text))),
    ),
)  # fmt: skip
