"""A report made by hand, whose model has hostile names."""

import dataclasses

import numpy as np
import pytest

from onnxopt.benchmark import NOISE_FLOOR, Comparison, Timing, judge, measured_in
from onnxopt.core import Change, Exactness, Refusal, Saved
from onnxopt.fresh import Fresh, Spread
from onnxopt.gate import Drop
from onnxopt.pipeline import Outcome, Step
from onnxopt.report import Details, Layer, Layers, Origin, Report, Summary
from onnxopt.report.origin import HashedFile

EVIL = "</script><script>document.title='owned'</script>\"'&amp;<img src=x onerror=\"document.title='owned'\"> $\\frac$ | {{7*7}}"
"""A name of a node that tries to leave wherever it is written."""


@pytest.fixture
def evil() -> str:
    return EVIL


@pytest.fixture
def speed() -> Comparison:
    """8 ms against 3 ms, with a tail."""
    random = np.random.default_rng(0)
    a, b = (tuple(base + random.exponential(base / 20, 300)) for base in (8e-3, 3e-3))
    environment = measured_in(1, 0.02)
    return Comparison(Timing(a), Timing(b), 2.63, 2.55, 2.71, 0.95, NOISE_FLOOR, judge(2.55, 2.71), environment)


@pytest.fixture
def dropped() -> Drop:
    return Drop("top1", 2000, 0.9, 0.897, 0.003, -0.002, 0.008, 0.95, True)


@pytest.fixture
def report(speed: Comparison, dropped: Drop) -> Report:
    """Folded, then int8 as kept; one refused by the gate, one undone, one that found nothing."""
    fold = Step(
        "fold-batch-norm", Exactness.ROUNDING, Outcome.KEPT, "1 changes", 0.1, (Change(EVIL, "folded"),), size=4_950_000
    )
    int8 = Step(
        "quantize-int8", Exactness.LOSSY, Outcome.KEPT, "faster", 9.0,
        (Change("conv", "in int8", Saved(3_600_000, 10), "QLinearConv", 1e-4),),
        (Refusal(EVIL, f"stays in float: {EVIL}", noise=0.01),), drop=dropped, speed=speed, size=1_350_000,
    )  # fmt: skip
    refused = dataclasses.replace(dropped, after=0.8, drop=0.1, low=0.09, high=0.11, passed=False)
    prune = Step("prune-channels:macs=0.5", Exactness.LOSSY, Outcome.REFUSED, "top1 drops by 0.1", 5.0, drop=refused)
    undone = Step("simplify", Exactness.ROUNDING, Outcome.UNDONE, f"value {EVIL!r} is off", 1.0)
    nothing = Step("fuse-pad", Exactness.ROUNDING, Outcome.NOTHING, "nothing to do", 0.01)
    rows = (
        Layer(
            EVIL,
            "Conv",
            "Conv",
            "Conv",
            "Conv",
            5e-4,
            4.8e-4,
            20.0,
            ("fold-batch-norm: folded",),
            (f"quantize-int8: {EVIL}",),
        ),
        Layer("conv", "Conv", "QLinearConv", "Conv", "QLinearConv", 2e-3, 6e-4, 40.0, (), ()),
        Layer("gone", "Relu", None, "Relu", None, 1e-5, None, None, (), ("one: reason", "two: another reason")),
    )
    memory = [Fresh(*(Spread((n, 1.1 * n, 1.2 * n)) for n in (0.02 * f, 0.01, 4e7 * f, 3.5e7 * f))) for f in (1.0, 0.5)]
    files = (HashedFile("model", f"/m/{EVIL}.onnx", 4_956_260, "91" * 32), HashedFile("data", "/d", 10**12, None))
    machine = {
        "processor": "Test",
        "cores": 2,
        "instruction_sets": ["avx2"],
        "memory": 8e9,
        "system": "Linux",
        "load": 0.5,
    }
    return Report(
        source=f"/models/{EVIL}.onnx",
        output="/out/m.onnx",
        settings={"goal": "latency", "seed": 0, "passes": [EVIL], "max_drop": None},
        data="d.npz: 2000 samples",
        before=Summary(4_956_260, 4_940_000, {"Conv": 2, EVIL: 1}, 2_680_462),
        after=Summary(1_356_517, 1_300_000, {"Conv": 2}, 1_166_848),
        steps=(fold, undone, nothing, int8, prune),
        drop=dropped,
        speed=speed,
        ended="complete",
        notes=(f"a note about {EVIL}",),
        seconds=46.2,
        peak_memory=626_368_512,
        origin=Origin(("onnxopt", "optimize", EVIL), files, 7, {"onnxopt": "0.1.0", "numpy": "2.4"}, machine, "2026-01-01T00:00:00+00:00"),
        details=Details(Layers(rows, 12, 7e-5, 6.5e-6), memory[0], memory[1]),
    )  # fmt: skip
