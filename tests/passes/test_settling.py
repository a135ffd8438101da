"""What ONNX Runtime does not fold or load is taken back, and the rest stays."""

import numpy as np
import onnx_ir as ir
import pytest
from stored import CPU

from onnxopt import files
from onnxopt.core import Change, Refusal
from onnxopt.passes.settling import settle
from onnxopt.passes.store.coded import Coded, Decode
from onnxopt.testing import lines, parse

TEXT = """g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] u, float[8,8,1,1] v, float[8,8,1,1] w>
{ a = Conv(x, u)  b = Conv(a, v)  y = Conv(b, w) }"""
INTEGERS = np.ones((8, 8, 1, 1), np.int8)
STEP = np.array(0.1, np.float32)


def good(name: str) -> Coded:
    return Coded(name, "in 8 bits", {"q": INTEGERS}, (Decode("Cast", ("q",), {"to": int(ir.DataType.FLOAT)}),))


def unfolded(name: str) -> Coded:
    return Coded(name, "in 8 bits", {"q": INTEGERS, "s": STEP}, (Decode("DequantizeLinear", ("q", "s")),))


def unknown(name: str) -> Coded:
    return Coded(name, "in 8 bits", {"q": INTEGERS}, (Decode("NoSuchOperator", ("q",), domain="nowhere"),))


def settled(*stored: Coded) -> tuple[list[str], list[str], list[str]]:
    """The nodes after, what was changed, and why the rest was not."""
    model = parse(TEXT)
    said = settle(model, stored, CPU)
    changes, refusals = ([item for item in said if isinstance(item, kind)] for kind in (Change, Refusal))
    files.to_bytes(model)
    return lines(model), [item.node for item in changes], [item.why for item in refusals]


def test_all_that_are_good_are_written() -> None:
    after, changed, why = settled(good("u"), good("w"))
    assert after == [
        "Cast(const) -> w",
        "Cast(const) -> u",
        "Conv(x, u) -> a",
        "Conv(a, const) -> b",
        "Conv(b, w) -> y",
    ]
    assert changed == ["a", "y"]
    assert not why


def test_what_is_not_folded_is_taken_back() -> None:
    after, changed, why = settled(good("u"), unfolded("v"))
    assert after == ["Cast(const) -> u", "Conv(x, u) -> a", "Conv(a, const) -> b", "Conv(b, const) -> y"]
    assert changed == ["a"]
    assert why == ["'v' is not decoded when the model is loaded, but at each run"]


@pytest.mark.parametrize("bad", ["u", "v", "w"])
def test_what_does_not_load_is_found_among_the_others(bad: str) -> None:
    after, changed, why = settled(*(unknown(name) if name == bad else good(name) for name in "uvw"))
    assert len(after) == 5
    assert len(changed) == 2
    assert len(why) == 1
    assert why[0].startswith(f"'{bad}' is not loaded so: ")


def test_what_does_not_load_and_what_is_not_folded() -> None:
    after, changed, why = settled(unknown("u"), unfolded("v"), good("w"))
    assert after == ["Cast(const) -> w", "Conv(x, const) -> a", "Conv(a, const) -> b", "Conv(b, w) -> y"]
    assert changed == ["y"]
    assert [reason.split(":")[0] for reason in why] == [
        "'u' is not loaded so",
        "'v' is not decoded when the model is loaded, but at each run",
    ]


def test_a_model_that_does_not_load_is_one_reason() -> None:
    model = parse("""<ir_version: 8, opset_import: ["" : 20, "nowhere" : 1]>
    g (float[2,8] x) => (float[2,8] y) <float[8,8] u> { a = MatMul(x, u)  y = nowhere.Unknown(a) }""")
    before = files.to_bytes(model)
    form = Coded("u", "in 8 bits", {"q": np.ones((8, 8), np.int8)}, good("u").nodes)
    (refusal,) = settle(model, [form], CPU)
    assert isinstance(refusal, Refusal)
    assert "uses operators of nowhere" in refusal.why
    assert files.to_bytes(model) == before
