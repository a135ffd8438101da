"""What the parts of ``benchmarks/factorize.py`` share: rows of tables, and passes that are run on a copy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx_ir as ir
from int8 import cell
from threadpoolctl import threadpool_limits

from onnxopt import passes
from onnxopt.core import Change, Context, Refusal
from onnxopt.layers import weights

Row = dict[str, Any]


def rows_of(name: str, make: Callable[[], Iterator[Row]], rows: list[Row]) -> Iterator[Row]:
    """The rows that a model gives; one that says why, where it fails."""
    try:
        for row in make():
            rows.append({"name": name, "error": None, "missed": [], **row})
            yield rows[-1]
    except Exception as error:  # a row must never take the table down with it
        rows.append({"name": name, "error": f"{type(error).__name__}: {error}", "missed": []})
        yield rows[-1]


def line(row: Row, cells: Sequence[str]) -> str:
    """A row of a table; ``cells`` is not looked at where it failed."""
    if row["error"]:
        return f"| {row['name']} | failed: {cell(row['error'][:300])} |"
    reached = f"no: {'; '.join(row['missed'])}" if row["missed"] else "yes" if row.get("wanted", True) else ""
    return f"| {' | '.join(map(cell, [row['name'], *cells, reached]))} |"


def applied(words: str, model: ir.Model, context: Context) -> tuple[ir.Model, list[Change | Refusal], float]:
    """A copy that a pass has changed, what it said, and its seconds.

    Raises:
        RuntimeError: if it changed nothing.
    """
    copy, started = model.clone(), time.perf_counter()
    with threadpool_limits(limits=1, user_api="blas"):  # as the pipeline does
        found = [one for one in passes.parse(words).run(copy, context) if isinstance(one, (Change, Refusal))]
    seconds = time.perf_counter() - started
    if not any(isinstance(one, Change) for one in found):
        raise RuntimeError(f"{words} changed nothing: {'; '.join(map(str, found[:3]))}")
    return copy, found, seconds


def numbers(model: ir.Model) -> int:
    """In the weights of layers."""
    return sum(weight.rows.size for weight in weights(model)[0])
