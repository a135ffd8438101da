"""How many bits: the knapsack, trials on other samples, and the curve of the drop."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibrate.divergence import Reference
from onnxopt.core import Context
from onnxopt.data import open_dataset
from onnxopt.forecast import Forecast
from onnxopt.passes.cluster.allocation import Allocation
from onnxopt.passes.cluster.fewest import AMOUNTS, fewest
from onnxopt.passes.cluster.found import Wanted
from onnxopt.passes.cluster.study import Study
from onnxopt.passes.cluster.trials import Curve, Expected, Trials
from onnxopt.passes.cluster.units import LEVELS, Unit
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
DEPTH = 8
WANTED = Wanted(8, (), ())


class FakeUnit(Unit):
    """Costs what it says."""

    def __init__(self, name: str, count: int, scale: float) -> None:
        self.name, self.numbers, self.scale = name, np.zeros(count), scale

    def coded(self, levels: int):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def loss(self, form):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def error(self, levels: int) -> float:
        return self.scale / levels**2

    def size(self, levels: int) -> float:
        return self.numbers.size * np.log2(levels) / 8


def test_the_allocation_is_that_of_a_knapsack() -> None:
    """Against all choices of three units."""
    units = [FakeUnit("a", 1000, 1.0), FakeUnit("b", 3000, 0.2), FakeUnit("c", 500, 5.0)]
    sensitivities = {"a": 2.0, "b": 1.0, "c": 0.5}
    found = Allocation(units, sensitivities)
    few = [levels for levels in LEVELS if levels <= 256]
    for bits in (2.5, 3.5, 5.0):
        chosen = found.within(bits)
        assert found.bits(chosen) <= bits + 1e-9
        divergence = found.divergence(chosen)
        least = min(
            found.divergence(one)
            for a in few
            for b in few
            for c in few
            if found.bits(one := {"a": a, "b": b, "c": c}) <= found.bits(chosen)
        )
        assert divergence <= 1.0001 * least


def test_what_counts_more_gets_more_levels() -> None:
    units = [FakeUnit("a", 1000, 1.0), FakeUnit("b", 1000, 1.0)]
    chosen = Allocation(units, {"a": 100.0, "b": 1.0}).within(4)
    assert chosen["a"] > 2 * chosen["b"]


def test_no_budget_is_too_small_to_be_an_answer() -> None:
    units = [FakeUnit("a", 1000, 1.0)]
    assert Allocation(units, {"a": 1.0}).within(0.1) == {"a": min(LEVELS)}


# --- trials ---


def deep(width: int = 24, depth: int = DEPTH) -> ir.Model:
    """A residual network, in which errors add up."""
    layers = "  ".join(
        f"a{i} = MatMul(x{i}, u{i})  b{i} = Add(a{i}, c{i})  r{i} = Relu(b{i})  d{i} = MatMul(r{i}, v{i})  "
        f"e{i} = Add(d{i}, f{i})  x{i + 1} = Add(x{i}, e{i})"
        for i in range(depth)
    )
    weights = ", ".join(
        f"float[{width},{width}] u{i}, float[{width}] c{i}, float[{width},{width}] v{i}, float[{width}] f{i}"
        for i in range(depth)
    )
    model = parse(f"g (float[n,{width}] x) => (float[n,5] y) <{weights}, float[{width},5] w> "
                  f"{{ x0 = Identity(x)  {layers}  y = MatMul(x{depth}, w) }}")  # fmt: skip
    random = np.random.default_rng(0)
    for value in model.graph.initializers.values():
        shape = value.const_value.shape.numpy()
        scale = 1 / np.sqrt(width) if len(shape) == 2 else 0.1
        value.const_value = ir.tensor((scale * random.normal(size=shape)).astype(np.float32))
    return model


@pytest.fixture
def contexts(save_npz: Callable[..., Path]) -> Callable[..., Context]:
    def make(model: ir.Model, count: int, seed: int = 0) -> Context:
        random = np.random.default_rng(seed)
        x = random.normal(size=(count, 4)) @ np.random.default_rng(9).normal(size=(4, 24)) + 0.3 * random.normal(
            size=(count, 24)
        )
        x = x.astype(np.float32)
        labels = Session(model, CPU).run({"x": x})["y"].argmax(axis=1)
        data = open_dataset(str(save_npz(f"{seed}.npz", x=x, labels=labels)), input_specs(model))
        return Context(CPU, Samples(data))

    return make


def test_in_step_errs_less_than_each_by_itself_on_other_samples(contexts: Callable[..., Context]) -> None:
    model = deep()
    study = Study(model, contexts(model, 400), WANTED)
    others = contexts(model, 400, seed=1)
    assert others.calibration is not None
    reference = Reference(model, others.calibration, CPU)
    levels = study.allocation.within(3.5)
    apart, in_step = (reference.divergence(study.coded(levels, in_step=one).model) for one in (False, True))
    assert in_step < 0.7 * apart


def test_the_divergence_on_other_samples_is_foreseen(contexts: Callable[..., Context]) -> None:
    model = deep()
    study = Study(model, contexts(model, 80), WANTED)
    others = contexts(model, 2000, seed=1)
    assert others.calibration is not None
    reference = Reference(model, others.calibration, CPU)
    trials = Trials(study)
    for bits in (3.5, 5.0):
        levels = study.allocation.within(bits)
        expected = trials.apart(levels)
        true = reference.divergence(study.apart(levels).model)
        assert expected.divergence == pytest.approx(true, rel=0.5)
        coded, expected = trials.in_step(levels)
        assert expected.divergence == pytest.approx(reference.divergence(coded.model), rel=0.6)


def test_as_few_bits_as_the_drop_allows(contexts: Callable[..., Context]) -> None:
    model = deep()
    study = Study(model, contexts(model, 200), WANTED)
    trials, taken = Trials(study), []
    for drop in (0.3, 0.03, 0.003):
        found = fewest(study, trials, drop)
        taken.append(study.allocation.bits(found.levels))
        said = float(found.words.rpartition(" ")[2])
        assert said <= 1.1 * drop
    assert taken == sorted(taken)
    assert min(AMOUNTS) < taken[1] < taken[2]


def test_where_outputs_do_not_move_but_for_rounding_the_fewest_bits_do(
    contexts: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of saturated classifiers: the divergence is then less than nothing."""
    monkeypatch.setattr(Reference, "divergence", lambda *_: -1e-22)
    monkeypatch.setattr(Forecast, "drop", lambda *_: 0.0)
    model = deep(depth=2)
    study = Study(model, contexts(model, 40), WANTED)
    assert fewest(study, Trials(study), 0.01).levels == study.allocation.within(min(AMOUNTS))


def test_with_very_few_samples_models_are_judged_on_those(contexts: Callable[..., Context]) -> None:
    model = deep(depth=1)
    study = Study(model, contexts(model, 5), WANTED)
    assert Trials(study).apart(study.allocation.within(4)).divergence > 0


def test_a_drop_that_grows_with_the_divergence_is_read_off_a_curve() -> None:
    curve = Curve([Expected(0, divergence, 0.2 * divergence) for divergence in (0.01, 0.1, 0.5)])
    assert curve.drop(0.05) == pytest.approx(0.01)
    assert curve.divergence(0.01) == pytest.approx(0.05)


def test_a_drop_that_grows_with_its_root() -> None:
    curve = Curve([Expected(0, divergence, 0.2 * divergence**0.5) for divergence in (0.01, 0.1, 0.5)])
    assert curve.drop(0.04) == pytest.approx(0.04, rel=1e-3)


def test_where_nothing_is_lost_nothing_is_expected() -> None:
    curve = Curve([Expected(0.1, 0.1, 0.0), Expected(0.01, 0.01, -0.001)])
    assert curve.drop(0.1) == 0
    assert curve.divergence(0.001) == np.inf
