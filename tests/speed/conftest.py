"""Models on disk, results without a clock, and a comparison that takes no time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt import benchmark, files
from onnxopt.benchmark import Comparison, Timing
from onnxopt.fresh import Fresh, Spread
from onnxopt.speed import Measurement, ModelFile, Setting, Speed
from onnxopt.speed.streams import Throughput
from onnxopt.target import Target
from onnxopt.testing import parse


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a model of this text."""

    def saved(text: str, name: str = "m.onnx") -> Path:
        return files.save(parse(text), tmp_path / name)[0]

    return saved


def _compared(ratio: float = 1.0, low: float = 0.99, high: float = 1.01, load: float = 0.0) -> Comparison:
    """20 ms of the first, and of the second what the ratio says."""
    first = 0.02 * np.linspace(0.9, 1.1, 400)
    return Comparison(
        a=Timing(tuple(first)),
        b=Timing(tuple(first / ratio)),
        ratio=ratio,
        low=low,
        high=high,
        confidence=0.95,
        floor=0.005,
        verdict=benchmark.judge(low, high, 0.005),
        environment=benchmark.measured_in(1, load),
        loads=6,
    )


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every comparison loads and runs both once, and finds what ``_compared`` says; what was asked of each."""
    asked: list[dict[str, Any]] = []

    def compare_loads(a: benchmark.Load, b: benchmark.Load, **words: Any) -> Comparison:
        a()()
        b()()
        asked.append(words)
        return _compared()

    monkeypatch.setattr(benchmark, "compare_loads", compare_loads)
    return asked


@pytest.fixture
def result() -> Speed:
    """Two models in two settings, with everything."""
    settings = [Setting(Target(), batch) for batch in (1, 8)]
    models = tuple(ModelFile(f"some/{name}.onnx", 1_500_000, name * 64, {}) for name in ("a", "b"))
    pairs = [_compared(2.0, 1.9, 2.1), _compared(0.9, 0.85, 0.96, load=0.4)]
    spread = Spread((0.1, 0.2, 0.3))
    fresh = Fresh(spread, spread, Spread((2e6, 3e6)), Spread((1e6, 2e6)))
    found = []
    for setting, pair in zip(settings, pairs, strict=True):
        through = Throughput(2, 40, setting.batch or 1, pair.a, None)
        base = (setting, {"x": (setting.batch or 1, 4)}, setting.batch or 1)
        found += [
            Measurement("some/a.onnx", *base, pair.a, None, None, (through,), fresh, pair.environment, ()),
            Measurement(
                "some/b.onnx", *base, pair.b, ("some/a.onnx", setting.label), pair, (), fresh, pair.environment,
                (pair.environment.load_warning,) if pair.environment.load_warning else (),
            ),
        ]  # fmt: skip
    return Speed(models, "random inputs", tuple(found))


@pytest.fixture
def compared() -> Callable[..., Comparison]:
    """A comparison from its ratio and the ends of its interval."""
    return _compared
