"""What accuracy will be lost, foreseen on calibration samples."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import softmax

from onnxopt.data import open_dataset
from onnxopt.errors import DataError
from onnxopt.forecast import Forecast
from onnxopt.metrics import METRICS
from onnxopt.metrics.task import TopK
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
NET = "g (float[n,6] x) => (float[n,4] y) <float[6,4] w> { y = MatMul(x, w) }"
TOP1 = METRICS["top1"]


def noisy(model: ir.Model, noise: float) -> ir.Model:
    """The same with other weights."""
    copy = model.clone()
    numbers = copy.graph.initializers["w"].const_value.numpy()
    other = numbers + noise * np.random.default_rng(3).normal(size=numbers.shape).astype(np.float32)
    copy.graph.initializers["w"].const_value = ir.tensor(other)
    return copy


@pytest.fixture
def samples(save_npz: Callable[..., Path]) -> Callable[..., Samples]:
    """Samples whose labels are drawn by the probabilities that the model gives, at a temperature."""

    def make(model: ir.Model, count: int, temperature: float = 1.0, seed: int = 0) -> Samples:
        random = np.random.default_rng(seed)
        x = random.normal(size=(count, 6)).astype(np.float32)
        y = Session(model, CPU).run({"x": x})["y"]
        labels = np.array([random.choice(4, p=p) for p in softmax(y.astype(np.float64) / temperature, axis=1)])
        return Samples(open_dataset(str(save_npz(x=x, labels=labels)), input_specs(model)))

    return make


def accuracy(model: ir.Model, data: Samples) -> float:
    batch = next(iter(data.data.batches(len(data))))
    return float((Session(model, CPU).run(batch.feeds)["y"].argmax(axis=1) == batch.labels).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_the_drop_is_foreseen(samples: Callable[..., Samples], noise: float, temperature: float) -> None:
    """From 500 samples nearly what 40,000 have."""
    model = parse(NET)
    changed = noisy(model, noise)
    many = samples(model, 40_000, temperature, seed=1)
    true = accuracy(model, many) - accuracy(changed, many)
    few = samples(model, 500, temperature, seed=2)
    found = Forecast(model, TOP1, [few], CPU).drop([changed])
    assert found == pytest.approx(true, rel=0.35, abs=0.004)


def test_it_varies_less_than_the_drop_itself(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    changed = noisy(model, 0.3)
    foreseen, measured = [], []
    for seed in range(20):
        few = samples(model, 100, seed=seed)
        foreseen.append(Forecast(model, TOP1, [few], CPU).drop([changed]))
        measured.append(accuracy(model, few) - accuracy(changed, few))
    assert np.std(foreseen) < 0.5 * np.std(measured)


def test_the_original_loses_nothing(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    for metric in ("top1", "agreement", "cosine", "relative-error"):
        assert Forecast(model, METRICS[metric], [samples(model, 50)], CPU).drop([model]) == pytest.approx(0, abs=1e-6)


def test_each_model_is_judged_on_its_part(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    halves = samples(model, 100).split(0.5, 0)
    bad = noisy(model, 20.0)
    forecast = Forecast(model, METRICS["agreement"], halves, CPU)
    one, other, both = (forecast.drop(pair) for pair in ([bad, model], [model, bad], [bad, bad]))
    assert one > 0 < other
    assert both == pytest.approx(one + other)


def test_the_temperature_is_that_of_the_labels(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    for temperature in (0.5, 1.0, 2.5):
        data = samples(model, 5000, temperature)
        batch = next(iter(data.data.batches(5000)))
        found = TOP1.learned([batch.labels], [Session(model, CPU).run(batch.feeds)])
        assert isinstance(found, TopK)
        assert found.temperature == pytest.approx(temperature, rel=0.1)


def test_probabilities_are_taken_as_such(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    text = NET.replace("y = MatMul(x, w)", "h = MatMul(x, w)  y = Softmax(h)")
    data, probable = samples(model, 300), parse(text)
    changed = [noisy(one, 0.5) for one in (model, probable)]
    found = [
        Forecast(one, TOP1, [data], CPU).drop([other]) for one, other in zip((model, probable), changed, strict=True)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_what_is_not_finite_is_never_right(samples: Callable[..., Samples]) -> None:
    model = parse(NET)
    broken = noisy(model, 0.0)
    numbers = broken.graph.initializers["w"].const_value.numpy().copy()
    numbers[0] = np.nan
    broken.graph.initializers["w"].const_value = ir.tensor(numbers)
    assert Forecast(model, TOP1, [samples(model, 300)], CPU).drop([broken]) > 0.4


def test_states_are_not_judged(save_npz: Callable[..., Path]) -> None:
    text = """g (float[1,6] x, float[1,6] s) => (float[1,6] y, float[1,6] t) { t = Add(x, s)  y = Identity(x) }"""
    model, other = parse(text), parse(text.replace("Add", "Sub"))
    state, x = {"s": "t"}, np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    data = open_dataset(str(save_npz(x=x)), input_specs(model), optional=state)
    walked = Samples(data, state, {"s": np.zeros((1, 6), np.float32)})
    assert Forecast(model, METRICS["relative-error"], [walked], CPU).drop([other]) == 0


def test_labels_are_needed_where_the_metric_needs_them(save_npz: Callable[..., Path]) -> None:
    model = parse(NET)
    data = Samples(open_dataset(str(save_npz(x=np.zeros((5, 6), np.float32))), input_specs(model)))
    with pytest.raises(DataError, match="needs labels"):
        Forecast(model, TOP1, [data], CPU)
