"""A file with models, and an adapter that measures nothing and says what a test wants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxopt.ci import adapter
from onnxopt.ci.results import Accuracy, Median, Speed

MACHINE = {"processor": "A", "cores": 2, "python": "3", "platform": "here", "onnxruntime": "1.22"}


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Write onnxopt.toml with these models; their files exist and are empty."""

    def write(*models: str, head: str = "") -> Path:
        tables = []
        for name in models:
            (tmp_path / f"{name}.onnx").touch()
            (tmp_path / f"{name}-old.onnx").touch()
            tables.append(f'[[model]]\nname = "{name}"\npath = "{name}.onnx"\nbaseline = "{name}-old.onnx"\n')
        path = tmp_path / "onnxopt.toml"
        path.write_text(f"version = 1\n{head}\n" + "\n".join(tables))
        return path

    return write


def accurate(drop: float = 0.0, **rest: Any) -> Accuracy:
    """A model whose top1 drops by so much."""
    score = {"metric": "top1", "before": 0.9, "after": 0.9 - drop, "drop": drop, "samples": 100}
    problems = (f"top1 drops by {drop:.4f}, more than is allowed",) if drop > 0.01 else ()
    return Accuracy("old.onnx", f"top1 drop {drop:+.4f}", problems=problems, score=score, **rest)


def takes(share: float, doubt: float = 0.001, **rest: Any) -> Speed:
    """A model whose run takes such a share of the baseline's time, with a relative doubt."""
    ratio = 1 / share
    after = Median(share * 1e-3, share * 0.99e-3, share * 1.01e-3)
    before = Median(1e-3, 0.99e-3, 1.01e-3)
    ends = {"ratio": ratio, "low": ratio / (1 + doubt), "high": ratio * (1 + doubt)}
    return Speed("cpu, 1 thread", "old.onnx", before, after, **ends, environment=MACHINE, **rest)


class Fake:
    """What each function of the adapter answers, by the model's name; and what was asked."""

    accurate = staticmethod(accurate)
    takes = staticmethod(takes)
    machine = MACHINE

    def __init__(self) -> None:
        self.accuracy: dict[str, Any] = {}
        self.speed: dict[str, Any] = {}
        self.optimized: dict[str, Any] = {}
        self.layers: tuple[str, ...] = ("node 'conv_7'",)
        self.size = 1000
        self.calls: list[tuple[Any, ...]] = []

    def answer(self, table: dict[str, Any], key: str, otherwise: Any) -> Any:
        """The answer; an exception is raised, of a list the next is taken."""
        found = table.get(key, otherwise)
        found = found.pop(0) if isinstance(found, list) else found
        if isinstance(found, BaseException):
            raise found
        return found


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The adapter, replaced."""
    fake = Fake()

    def timed(entry, baseline, model, place):
        fake.calls.append(("timed", entry.name, baseline and baseline.name, model.name, place))
        return fake.answer(fake.speed, entry.name, takes(1.0))

    def compared(entry, reference, model):
        fake.calls.append(("compared", entry.name, reference.name, model.name))
        return fake.answer(fake.accuracy, entry.name, accurate())

    def optimized(entry):
        fake.calls.append(("optimized", entry.name))
        return fake.answer(fake.optimized, entry.name, adapter.Optimized("optimized", ()))

    def explained(entry, reference, model):
        fake.calls.append(("explained", entry.name, reference.name, model.name))
        return adapter.Explained(fake.layers)

    monkeypatch.setattr(adapter, "timed", timed)
    monkeypatch.setattr(adapter, "compared", compared)
    monkeypatch.setattr(adapter, "optimized", optimized)
    monkeypatch.setattr(adapter, "explained", explained)
    monkeypatch.setattr(adapter, "size", lambda path: fake.size)
    monkeypatch.setattr(adapter, "machine", lambda: MACHINE)
    return fake
