"""Small models and data that several tests share; and what is printed at the end."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import benchmark, files
from onnxopt.runtime import missing_gpu, onnxruntime
from onnxopt.runtime.binding import bound as on_device
from onnxopt.runtime.placement import RECORD
from onnxopt.target import PROVIDERS, Target
from onnxopt.testing import parse

os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's: the tests share the cores already
os.environ.setdefault("ONNXOPT_NO_CACHE", "1")  # nothing that a test learns is kept for the next
CONV_NET = """g (float[n,3,8,8] x) => (float[n,4] y)
<float[16,3,3,3] w1, float[16] s, float[16] b, float[16] m, float[16] v,
 float[16,16,3,3] w2, float[16] c, float[16,4] w3, float[4] d>
{ h = Conv<pads=[1,1,1,1]>(x, w1)
  i = BatchNormalization(h, s, b, m, v)
  j = Relu(i)
  k = Conv<pads=[1,1,1,1]>(j, w2, c)
  l = Relu(k)
  p = GlobalAveragePool(l)
  f = Flatten(p)
  y = Gemm(f, w3, d) }"""


@pytest.fixture
def conv_net() -> ir.Model:
    """Conv, BatchNormalization, Relu, Conv, Relu, pool, Gemm: 4 classes of 3x8x8 images."""
    return parse(CONV_NET)


@pytest.fixture
def conv_net_file(conv_net: ir.Model, tmp_path: Path) -> Path:
    """The same as a file."""
    return files.save(conv_net, tmp_path / "model.onnx")[0]


@pytest.fixture
def save_npz(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays to an .npz and return its path."""

    def save(name: str = "data.npz", **arrays: np.ndarray) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


@pytest.fixture
def images() -> np.ndarray:
    """60 random images of 3x8x8."""
    return np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def timed() -> Callable[[float, float], benchmark.Comparison]:
    """A comparison of contenders that take exactly so long, on a clock that only they move."""

    def compare(a: float, b: float) -> benchmark.Comparison:
        now = [0.0]

        def advance(seconds: float) -> Callable[[], None]:
            return lambda: now.__setitem__(0, now[0] + seconds)

        return benchmark.compare(advance(a), advance(b), clock=lambda: now[0])

    return compare


@pytest.fixture
def gpu() -> Target:
    """The GPU; tests that need one are skipped with what is missing."""
    if missing := missing_gpu():
        pytest.skip(missing)
    return Target("cuda")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A GPU that is the CPU; providers, and other settings, of the sessions made there."""
    ort, made = onnxruntime(), list[tuple[Any, ...]]()
    real = ort.InferenceSession

    def load(source: Any, options: Any, providers: list[Any], enable_fallback: int) -> Any:
        recorded = options.get_session_config_entry(RECORD) if isinstance(providers[0], tuple) else "0"
        made.append((providers, enable_fallback, recorded))
        session = real(source, options, providers=["CPUExecutionProvider"])
        session.get_providers = lambda: [PROVIDERS["cuda"], PROVIDERS["cpu"]]
        return session

    def bound(session: Any, feeds: Any, device: str, number: int) -> Callable[[], None]:
        return on_device(session, feeds, "cpu")

    monkeypatch.setattr("onnxopt.runtime.session.missing_gpu", lambda target: None)
    monkeypatch.setattr("onnxopt.runtime.session.bound", bound)
    monkeypatch.setattr(ort, "InferenceSession", load)
    return made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many of ONNX's backend models went through the passes, over all workers."""
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "backend models" and report.when == "teardown":
                    total.update(value)
    if total:
        counts = ", ".join(f"{name} {count}" for name, count in total.most_common())
        terminalreporter.write_line(f"ONNX backend models: {counts}")
