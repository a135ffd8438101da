"""Networks of the zoo with weights of low rank and a little noise: are the ranks found, and what does it gain?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from contenders import Case, Settings, prepare
from factorize_rows import Row, applied, line, rows_of
from int8 import interval
from prune_cases import tidied

from onnxopt import files
from onnxopt.benchmark import LOAD_LIMIT
from onnxopt.core import Change, Context, Refusal
from onnxopt.given import gather
from onnxopt.layers import Weight, weights
from onnxopt.options import Options
from onnxopt.pipeline import compare_speed
from onnxopt.runtime import Session
from onnxopt.samples import Samples
from onnxopt.target import Target

KNOWN = ("bert_base", "vgg11_bn")
FRACTION, NOISE, GRID, LEAST = 0.5, 0.01, 16, 8
"""Of the rank at which nothing is saved; of the size of the weights; of convolutions; and the least that is planted."""
NEAR, GAIN, FLOOR = 0.1, 1.7, 1.1
"""Wanted: ranks off by no more than a tenth; time of the model over that of the split one; error of the outputs over
that which the noise itself makes."""
WORDS = "factorize"
HEADER = f"""
Known ranks: every weight is U V of {FRACTION:g} of the rank at which nothing is saved (of convolutions, a multiple of
{GRID}), with {NOISE:.0%} of noise, in networks with random weights; {WORDS} is asked for nothing more. Errors are those
of the outputs on samples held out, relative: what the noise makes of the network without it, and what splitting makes
of that with it. Batch 1, one thread, interval of 95 %.

| model | layers | ranks found | error / noise | speed-up | s | foreign load | reached |
|---|---|---|---|---|---|---|---|"""


def known(names: Sequence[str], settings: Settings, rows: list[Row]) -> Iterator[str]:
    """The lines of the table; ``rows`` grows with them."""
    yield HEADER
    for name in names:
        for row in rows_of(name, lambda name=name: found(name, settings), rows):
            yield line(row, [] if row["error"] else cells(row))


def found(name: str, settings: Settings) -> Iterator[Row]:
    """The one row of a network."""
    given = prepare(Case(name, real=False), settings)
    model = files.load(tidied(files.load(given.model), given.model.parent))
    samples = gather(model, Options(data=str(given.calib), eval_data=str(given.held_out), metric="relative-error"))
    assert samples.held_out is not None
    clean, noisy, ranks = planted(model)
    del model
    split, said, seconds = applied(WORDS, noisy, Context(Target(), samples.calibration))
    outputs = [results(one, samples.held_out) for one in (clean, noisy, split)]
    floor, error = (off(outputs[one], outputs[one + 1]) for one in range(2))
    speed = compare_speed(noisy, split, samples.checks, Target())
    row: Row = {
        "layers": len(ranks),
        "near": sum(near(ranks[one], rank) for one, rank in ranks_of(said).items() if one in ranks),
        "floor": floor,
        "off": error,
        "gain": [speed.ratio, speed.low, speed.high],
        "seconds": seconds,
        "foreign_load": speed.environment.foreign_load,
    }
    yield row | {"missed": list(missed(row))}


def missed(row: Row) -> Iterator[str]:
    """What of the wanted is not there."""
    if row["near"] < row["layers"]:
        yield f"{row['layers'] - row['near']} ranks are off"
    if row["off"] > FLOOR * row["floor"]:
        yield f"over {FLOOR:g} of the noise"
    if row["gain"][0] < GAIN:
        yield f"under {GAIN:g}x"


def planted(model: ir.Model, seed: int = 0) -> tuple[ir.Model, ir.Model, dict[str, int]]:
    """Two copies with weights of low rank, the second with noise, and the rank of each weight that has become one."""
    clean, noisy, ranks, draw = model.clone(), model.clone(), dict[str, int](), np.random.default_rng(seed)
    for one, other in zip(weights(clean)[0], weights(noisy)[0], strict=True):
        rank = planned(one)
        if rank < LEAST or one.layers[0].group > 1:
            continue
        outputs, products = one.rows.shape
        low = draw.standard_normal((outputs, rank), np.float32) @ draw.standard_normal((rank, products), np.float32)
        low *= np.linalg.norm(one.rows) / np.linalg.norm(low)
        noise = draw.standard_normal(low.shape, np.float32)
        one.write(low)
        other.write(low + noise * np.float32(NOISE * np.linalg.norm(low) / np.linalg.norm(noise)))
        ranks[one.name] = rank
    return clean, noisy, ranks


def planned(weight: Weight) -> int:
    """The rank that a weight gets."""
    outputs, products = weight.rows.shape
    rank = FRACTION * outputs * products / (outputs + products)
    return round(rank / GRID) * GRID if weight.layers[0].node.op_type == "Conv" else int(rank)


def ranks_of(said: Sequence[Change | Refusal]) -> dict[str, int]:
    """What ``factorize`` has made of layers, where that is two of them."""
    found = ((one.node, re.match(r"rank (\d+):", one.what)) for one in said if isinstance(one, Change))
    return {name: int(match[1]) for name, match in found if match}  # what is refitted has a change of its own


def near(wanted: int, rank: int) -> bool:
    """Whether a rank is found."""
    return abs(rank - wanted) <= NEAR * wanted


def results(model: ir.Model, samples: Samples) -> np.ndarray:
    """All float outputs of a model, joined."""
    runs = [outputs for _, outputs in samples.run(Session(model, Target()))]
    flat: Iterator[Mapping[str, np.ndarray]] = iter(runs)
    return np.concatenate([np.asarray(array, np.float64).reshape(-1) for run in flat for array in run.values()])


def off(wanted: np.ndarray, given: np.ndarray) -> float:
    """The relative error of what is given."""
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


def cells(row: Row) -> list[str]:
    """Of the table."""
    load = row["foreign_load"]
    return [
        str(row["layers"]),
        f"{row['near']} within {NEAR:.0%}",
        f"{row['off']:.4f} / {row['floor']:.4f}",
        interval(row["gain"]),
        f"{row['seconds']:.0f}",
        "-" if load is None else f"{load:.0%}{' !' if load > LOAD_LIMIT else ''}",
    ]
