"""Small graphs timed by themselves: side by side, once, and what is kept of it."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxopt import cache
from onnxopt import parts as module
from onnxopt.errors import ModelError
from onnxopt.parts import costs
from onnxopt.stopwatch import Cost
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
PARTS = {
    "conv": "g (float[1,4,6,6] x) => (float[1,8,6,6] y) <float[8,4,1,1] w> { y = Conv(x, w) }",
    "two": "g (float[3,4] x) => (float[3,4] y) <float[4,4] w> { h = MatMul(x, w)  y = Tanh(h) }",
    "joined": "g (float[3,4] a, float[3,4] b) => (float[3,4] y) { y = Add(a, b) }",
}


def parsed(*names: str) -> dict[str, ir.Model]:
    return {name: parse(PARTS[name]) for name in names or PARTS}


def used_by_others(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    class Load:
        def share(self) -> float:
            return share

    monkeypatch.setattr(module, "ForeignLoad", Load)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parts the stopwatch is asked for, each time; the machine is quiet."""
    used_by_others(monkeypatch, 0.0)
    asked: list[int] = []

    def part_costs(models: list[ir.Model], target: Target, seconds: float) -> list[dict[str, Cost]]:
        asked.append(len(models[0].graph.outputs))
        return [{value.name or "": Cost(0.25, 1.0, 0.5) for value in model.graph.outputs} for model in models]

    monkeypatch.setattr(module, "part_costs", part_costs)
    return asked


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Path]]:
    """A cache folder that is on, and the files in it."""
    monkeypatch.delenv(cache.OFF, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: sorted(tmp_path.rglob("*.json"))


def test_parts_are_timed_side_by_side() -> None:
    found = costs(parsed(), CPU, 0.0)
    assert found.keys() == PARTS.keys()
    assert all(cost.kernel > 0 for cost in found.values())


def test_a_larger_part_takes_longer() -> None:
    text = "g (float[{m},64] x) => (float[{m},64] y) <float[64,64] w> {{ y = MatMul(x, w) }}"
    found = costs({str(m): parse(text.format(m=m)) for m in (1, 400)}, CPU, 0.5)
    assert found["400"].kernel > 10 * found["1"].kernel


def test_a_part_that_does_not_run_is_missing_and_the_others_are_not() -> None:
    models = parsed("conv", "two")
    unknown = parse("g (float[3,4] x) => (float[3,4] y) { y = Relu(x) }")
    next(iter(unknown.graph)).op_type = "NoSuchOperator"
    found = costs({"odd": unknown, **models}, CPU, 0.0)
    assert found.keys() == models.keys()


def test_large_parts_and_other_opsets_are_timed_apart(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    costs({**parsed("two", "joined"), "old": parse(PARTS["two"], opset=13)}, CPU, 0.0)
    assert calls == [2, 1]
    monkeypatch.setattr(module, "LARGEST", 100)
    costs(parsed(), CPU, 0.0)
    assert calls == [2, 1, 1, 1, 1]


def test_the_second_time_nothing_is_timed(kept: Callable[[], list[Path]], calls: list[int]) -> None:
    first = costs(parsed("conv"), CPU, 0.0)
    assert costs(parsed("conv"), CPU, 0.0) == first
    assert (calls, len(kept())) == ([1], 1)
    assert costs(parsed(), CPU, 0.0).keys() == PARTS.keys()
    assert (calls, len(kept())) == ([1, 2], 1)
    assert costs(parsed(), CPU, 0.0)["conv"] == first["conv"]
    assert calls == [1, 2]


OTHERWISE = {
    "another version of ONNX Runtime": ("version", lambda: "0.1"),
    "another processor": ("processor", lambda: "Z80"),
    "measured otherwise": ("VERSION", 0),
}


@pytest.mark.parametrize(("name", "value"), OTHERWISE.values(), ids=OTHERWISE.keys())
def test_what_was_measured_elsewhere_does_not_count(
    name: str, value: object, kept: Callable[[], list[Path]], calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(parsed(), CPU, 0.0)
    monkeypatch.setattr(module, name, value)
    costs(parsed(), CPU, 0.0)
    assert (calls, len(kept())) == ([3, 3], 2)


def altered(change: Callable[[list[object]], object]) -> Callable[[str], str]:
    """The file with the cost of one part changed."""

    def alter(text: str) -> str:
        content = json.loads(text)
        change(next(iter(content.values())))
        return json.dumps(content)

    return alter


DAMAGED: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda _: "",
    "cut short": lambda text: text[: len(text) // 2],
    "not text": lambda _: b"\xff\xfe",
    "a list": lambda _: "[1]",
    "a number for a part": lambda _: '{"a": 1}',
    "nested without end": lambda _: "[" * 100_000,
    "a number that is missing": altered(lambda cost: cost.pop()),
    "no number": altered(lambda cost: cost.__setitem__(0, "a")),
    "NaN": altered(lambda cost: cost.__setitem__(1, float("nan"))),
    "infinity": altered(lambda cost: cost.__setitem__(2, float("inf"))),
    "a negative number": altered(lambda cost: cost.__setitem__(0, -1e-9)),
    "a number beyond all floats": altered(lambda cost: cost.__setitem__(1, 10**400)),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_measured_again(
    damage: Callable[[str], str | bytes], kept: Callable[[], list[Path]], calls: list[int]
) -> None:
    first = costs(parsed(), CPU, 0.0)
    (path,) = kept()
    whole = path.read_text()
    told = damage(whole)
    path.write_bytes(told if isinstance(told, bytes) else told.encode())
    assert costs(parsed(), CPU, 0.0) == first
    assert (calls, path.read_text()) == ([3, 3], whole)


def test_nothing_is_kept_where_the_user_says_so(
    kept: Callable[[], list[Path]], calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    costs(parsed("two"), CPU, 0.0)
    monkeypatch.setenv(cache.OFF, "1")
    costs(parsed("two"), CPU, 0.0)
    costs(parsed(), CPU, 0.0)
    assert (calls, len(kept())) == ([1, 1, 3], 1)


def test_nothing_is_kept_of_a_busy_machine(
    kept: Callable[[], list[Path]], calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    used_by_others(monkeypatch, 0.5)
    assert costs(parsed(), CPU, 0.0) == costs(parsed(), CPU, 0.0)
    assert (calls, kept()) == ([3, 3], [])


def test_a_folder_that_cannot_be_written_is_no_error(
    kept: Callable[[], list[Path]], calls: list[int], tmp_path: Path
) -> None:
    (tmp_path / "onnxopt").write_text("a file where the folder would be")
    assert costs(parsed(), CPU, 0.0) == costs(parsed(), CPU, 0.0)
    assert (calls, kept()) == ([3, 3], [])


def test_the_oldest_files_go(kept: Callable[[], list[Path]], calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    for threads in (1, 2, 3):
        costs(parsed(), Target(threads=threads), 0.0)
    assert (calls, len(kept())) == ([3, 3, 3], 2)


def test_a_part_that_fails_while_it_runs_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(models: list[ir.Model], target: Target, seconds: float) -> list[dict[str, Cost]]:
        raise ModelError("no")

    monkeypatch.setattr(module, "part_costs", fail)
    assert costs(parsed(), CPU, 0.0) == {}
