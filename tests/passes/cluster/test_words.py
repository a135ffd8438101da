"""Codes as digits of words, and back again by what ONNX Runtime computes."""

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.passes.cluster.words import PACKINGS, Packing, packing
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import parse

each_packing = pytest.mark.parametrize("one", PACKINGS, ids=lambda one: f"{one.levels} levels")


def unpacked(one: Packing, words: np.ndarray, count: int) -> np.ndarray:
    """By Div and Mod of ONNX Runtime, its optimizations off."""
    kind = "int32" if one.size == 1 else "int64"
    model = parse(f"""g ({kind}[n] words) => ({kind}[d,n] digits) <{kind}[{one.digits},1] powers, {kind} levels>
    {{ q = Div(words, powers)  digits = Mod(q, levels) }}""")
    for name, numbers in (("powers", one.powers), ("levels", np.array(one.levels, kind))):
        model.graph.initializers[name].const_value = ir.tensor(numbers)
    found = Session(model, Target(), optimize=False).run({"words": words.astype(kind)})["digits"]
    return found.reshape(-1)[:count]


@each_packing
@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_codes_come_back(one: Packing, count: int) -> None:
    codes = np.random.default_rng(count).integers(0, one.levels, count).astype(np.uint8)
    words = one.packed(codes)
    assert len(words) == one.words(count) == -(-count // one.digits)
    assert words.dtype == (np.uint8 if one.size == 1 else np.int64)
    np.testing.assert_array_equal(unpacked(one, words, count), codes)


@each_packing
def test_the_greatest_word_does_not_overflow(one: Packing) -> None:
    codes = np.full(one.digits, one.levels - 1, np.uint8)
    words = one.packed(codes)
    assert int(words[0]) == one.levels**one.digits - 1
    np.testing.assert_array_equal(unpacked(one, words, one.digits), codes)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(PACKINGS), st.data())
def test_any_codes_come_back(one: Packing, data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, one.levels - 1), min_size=1, max_size=60)), np.uint8)
    words = one.packed(codes).astype(object)
    digits = np.array([[int(word) // one.levels**d % one.levels for word in words] for d in range(one.digits)])
    np.testing.assert_array_equal(digits.reshape(-1)[: codes.size], codes)


def test_bits_are_nearly_those_that_are_needed() -> None:
    assert all(0.93 * one.bits <= np.log2(one.levels) <= one.bits for one in PACKINGS)
    assert all(a.bits < b.bits and a.levels < b.levels for a, b in itertools.pairwise(PACKINGS))


@pytest.mark.parametrize(
    ("levels", "bits"), [(2, 1.6), (4, 2.0), (7, 64 / 21), (16, 4.0), (17, 64 / 15), (128, 64 / 9)]
)
def test_the_tightest_packing_is_taken(levels: int, bits: float) -> None:
    found = packing(levels)
    assert found is not None
    assert found.bits == pytest.approx(bits)


def test_more_levels_than_any_holds() -> None:
    assert packing(129) is None


@pytest.mark.parametrize(
    ("levels", "columns", "expected"), [(6, 384, 3), (6, 10, 2), (8, 384, 2), (8, 7, None), (17, 8, None)]
)
def test_rows_that_are_looked_up_are_whole_bytes(levels: int, columns: int, expected: int | None) -> None:
    found = packing(levels, digits=columns)
    assert (found and found.digits) == expected
    assert found is None or found.size == 1
