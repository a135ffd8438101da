"""PruneChannels: how much goes."""

import numpy as np
import onnx_ir as ir
import pytest
from pruning import CPU, NET, NORMED, changes, l1, macs, pruned, shapes, widths, write

from onnxopt import passes
from onnxopt.core import Context
from onnxopt.errors import UsageError
from onnxopt.graph import array
from onnxopt.passes.prune import amounts
from onnxopt.passes.prune.amounts import Clock
from onnxopt.passes.prune.prune_channels import PruneChannels
from onnxopt.testing import parse

AMOUNTS = ("macs=0.5", "latency=0.5", "bytes=0.5", "ratio=0.5", "ratios=h1:0.5", "threshold=0.1")


@pytest.mark.parametrize("other", AMOUNTS[1:])
def test_two_amounts_are_refused(other: str) -> None:
    with pytest.raises(UsageError, match=r"give one of macs, .* threshold, not macs and ") as failure:
        passes.parse(f"prune-channels:{AMOUNTS[0]},{other}")
    assert failure.value.exit_code == 2


@pytest.mark.parametrize("words", [*AMOUNTS, "macs=0.5,importance=l1,repair=none,only=h1+h2", "normalised=true"])
def test_options_are_words(words: str) -> None:
    assert str(passes.parse(f"prune-channels:{words}")) == f"prune-channels:{words}"


@pytest.mark.parametrize("words", ["ratios=h1", "ratios=h1:1.0", "ratios=:0.5", "ratios=h1:half"])
def test_a_share_by_name_is_a_pattern_and_a_share(words: str) -> None:
    rewrite = passes.parse(f"prune-channels:importance=l1,repair=none,{words}")
    with pytest.raises(UsageError, match="is not PATTERN:SHARE"):
        rewrite.run(parse(NET), Context(CPU))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("importance", ["l1", "reconstruction"])
def test_a_budget_of_macs_is_kept_in_multiples_of_eight(share: float, importance: str) -> None:
    before = parse(NET)
    after, _ = pruned(PruneChannels(macs=share, importance=importance, repair="none"), before)
    assert 0.4 * share < macs(after) / macs(before) <= share
    assert all(width % 8 == 0 for width in widths(after))


def test_four_fifths_of_the_macs_stay_where_nothing_is_asked() -> None:
    before = parse(NET)
    assert 0.7 < macs(pruned(l1(multiple=1), before)[0]) / macs(before) <= 0.8


@pytest.mark.parametrize("share", [0.8, 0.5])
def test_a_budget_of_bytes_is_kept(share: float) -> None:
    before = parse(NET)
    after, _ = pruned(l1(bytes=share), before)
    sizes = [sum(value.const_value.nbytes for value in model.graph.initializers.values()) for model in (before, after)]
    assert 0.4 * share < sizes[1] / sizes[0] <= share


SHARES = {
    "of all": ({"ratio": 0.5}, (16, 12)),
    "of all, on the grid": ({"ratio": 0.5, "multiple": 8}, (16, 16)),
    "by name": ({"ratios": ("h2:0.75", "h*:0.25")}, (24, 6)),
    "of some": ({"ratios": ("w2:0.5",)}, (32, 12)),
    "in two rounds": ({"ratio": 0.75, "rounds": 2}, (8, 6)),
    "by name, in two rounds": ({"ratios": ("h1:0.75",), "rounds": 2}, (8, 24)),
    "down to the floor": ({"ratio": 0.9, "floor": 0.25}, (8, 6)),
    "down to the floor of all rounds": ({"ratio": 0.9, "floor": 0.25, "rounds": 3}, (8, 6)),
}


@pytest.mark.parametrize(("options", "expected"), SHARES.values(), ids=SHARES.keys())
def test_a_share_goes(options: dict[str, object], expected: tuple[int, int]) -> None:
    after, found = pruned(l1(**{"multiple": 1, **options}))
    assert widths(after) == expected
    assert changes(found) == {
        name: f"{old} channels became {new}"
        for name, old, new in zip(("h1", "h2"), (32, 24), expected, strict=True)
        if new < old
    }


def scaled(**factors: float) -> ir.Model:
    """NET with every fourth of the rows of a weight, and of its bias, much smaller."""
    model = parse(NET)
    for name, factor in factors.items():
        for one in (name, name.replace("w", "b")):
            numbers = array(model.graph.initializers[one])
            assert numbers is not None
            numbers = numbers.copy()
            numbers[::4] *= factor
            write(model, one, numbers)
    return model


@pytest.mark.parametrize(("threshold", "left"), [(0.1, 18), (0.001, 24)])
def test_channels_below_a_share_of_the_largest_importance_go(threshold: float, left: int) -> None:
    after, _ = pruned(l1(threshold=threshold, multiple=1), scaled(w2=0.01))
    assert widths(after) == (32, left)


def test_channels_below_an_importance_go() -> None:
    after, _ = pruned(l1(threshold=0.1, relative=False, multiple=1), scaled(w2=0.01))
    assert widths(after) == (32, 18)


def linear_clock(monkeypatch, overhead: float) -> list[float]:
    """A node takes 1, as long as it has all channels; what is measured adds a time that does not shrink."""
    measured: list[float] = []
    monkeypatch.setattr(amounts, "BLOCKS", {True: 1, False: 1})
    monkeypatch.setattr(amounts, "node_seconds", lambda model, *_: ({n.outputs[0].name: 1.0 for n in model.graph}, 0.1))

    def measure(self: Clock, groups, counts) -> float:
        gone = np.zeros(self.groups.count, bool)
        whole = self.costs.total(gone)
        gone[amounts.going_of(groups, counts)] = True
        measured.append(overhead + (1 - overhead) * self.costs.total(gone) / whole)
        return measured[-1]

    monkeypatch.setattr(Clock, "_measured", measure)
    return measured


@pytest.mark.parametrize("overhead", [0.0, 0.3])
def test_widths_are_corrected_until_the_clock_agrees(monkeypatch, overhead: float) -> None:
    measured = linear_clock(monkeypatch, overhead)
    after, _ = pruned(l1(latency=0.6, multiple=1))
    assert abs(measured[-1] - 0.6) < amounts.CLOSE * 0.6
    assert (len(measured) > 1) is (overhead > 0)
    assert widths(after) < (32, 24)


def test_a_time_that_cannot_be_reached_takes_the_nearest(monkeypatch) -> None:
    linear_clock(monkeypatch, 0.5)
    after, _ = pruned(l1(latency=0.1, multiple=1))
    assert widths(after) == (4, 3)


def test_the_model_that_is_timed_is_the_pruned_one(monkeypatch, timed) -> None:
    halved, runs = timed(1.0, 0.5), []

    def compare(before, after, **_: object):
        runs.append([one()["y"] for one in (before, after)])
        return halved

    monkeypatch.setattr(amounts.benchmark, "compare", compare)
    monkeypatch.setattr(amounts, "node_seconds", lambda *_: ({"h": 1.0, "m": 1.0, "y": 1.0}, 0.0))
    after, _ = pruned(l1(latency=0.5, normalised=True), NORMED)
    assert shapes(after)["s"] < (16,)
    assert len(runs) == 1
    assert runs[0][0].shape == runs[0][1].shape
    assert not np.array_equal(*runs[0])
