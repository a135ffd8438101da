"""What the graph says of its inputs: indices, masks, segments, lengths."""

import numpy as np
import pytest

from onnxopt import samples as samples_module
from onnxopt.cli.common import range_of
from onnxopt.data import random_dataset
from onnxopt.errors import ModelError, UsageError
from onnxopt.roles import Bounds, input_bounds
from onnxopt.runtime import input_specs
from onnxopt.samples import random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
SCORES = "float[B,S] x"


def found(text: str, opset: int = 20) -> dict[str, str]:
    return {name: str(bounds) for name, bounds in input_bounds(parse(text, opset=opset)).items()}


INDICES = {
    "rows of a table": ("(int64[N] i)", "y = Gather(w, i)", "0..6"),
    "of another axis": ("(int64[N] i)", "y = Gather<axis=1>(w, i)", "0..3"),
    "through a cast and another shape": (
        "(int32[N] i)",
        "a = Cast<to=7>(i)  s = Constant<value_ints=[-1,1]>()  b = Reshape(a, s)  y = Gather(w, b)",
        "0..6",
    ),
    "of the smaller of two tables": ("(int64[N] i)", "a = Gather(w, i)  b = Gather(v, i)  y = Add(a, b)", "0..4"),
    "of a table that is computed": ("(int64[N] i)", "t = Relu(w)  y = Gather(t, i)", "0..6"),
    "elements": ("(int64[7,1] i)", "y = GatherElements<axis=1>(w, i)", "0..3"),
    "tuples": ("(int64[N,2] i)", "y = GatherND(w, i)", "0..3"),
    "classes of one hot": (
        "(int64[N] i)",
        "d = Constant<value_int=9>()  o = Constant<value_floats=[0.0,1.0]>()  y = OneHot(i, d, o)",
        "0..8",
    ),
    "compared with 0, 1, 2": (
        "(int64[N,1] i)",
        "c = Constant<value_ints=[0,1,2]>()  e = Equal(i, c)  y = Cast<to=1>(e)",
        "0..2",
    ),
    "a dimension that is not known": (f"(int64[1] i, {SCORES})", "y = Gather(x, i)", "0"),
}


@pytest.mark.parametrize(("inputs", "body", "bounds"), INDICES.values(), ids=INDICES.keys())
def test_an_index_lies_within_its_table(inputs: str, body: str, bounds: str) -> None:
    text = f"g {inputs} => (float[a,b] y) <float[7,4] w, float[5,4] v> {{ {body} }}"
    assert found(text) == {"i": bounds}


NEGATIVE = "n = Constant<value_float=-10000.0>()"
MASKS = {
    "one minus the mask, times a large number": (
        "int64",
        f"o = Constant<value_float=1.0>()  {NEGATIVE}  f = Cast<to=1>(m)  a = Sub(o, f)  b = Mul(a, n)  y = Add(x, b)",
        "1",
    ),
    "a mask that is told from zero": (
        "int64",
        f"o = Constant<value_int=0>()  {NEGATIVE}  c = Equal(m, o)  y = Where(c, n, x)",
        "1",
    ),
    "a mask of what is left out": ("bool", f"{NEGATIVE}  y = Where(m, n, x)", "0"),
    "a mask of what stays": ("bool", f"{NEGATIVE}  y = Where(m, x, n)", "1"),
    "turned round twice": ("bool", f"{NEGATIVE}  a = Not(m)  b = Not(a)  y = Where(b, x, n)", "1"),
    "chosen first, added later": (
        "bool",
        f"z = Constant<value_float=0.0>()  {NEGATIVE}  a = Where(m, z, n)  f = Identity(a)  y = Add(f, x)",
        "1",
    ),
    "together with another one": (
        "bool",
        f"{NEGATIVE}  q = Greater(x, n)  b = And(q, m)  y = Where(b, x, n)",
        "1",
    ),
    "floats": (
        "float",
        f"o = Constant<value_float=1.0>()  {NEGATIVE}  a = Sub(o, m)  b = Mul(a, n)  y = Add(x, b)",
        "1",
    ),
    "multiplied": ("int64", "a = Cast<to=1>(m)  r = Relu(x)  y = Mul(r, a)", "1"),
    "zeros instead": ("bool", "z = Constant<value_float=0.0>()  y = Where(m, z, x)", "0"),
}


@pytest.mark.parametrize(("dtype", "body", "bounds"), MASKS.values(), ids=MASKS.keys())
def test_a_mask_hides_nothing(dtype: str, body: str, bounds: str) -> None:
    assert found(f"g ({SCORES}, {dtype}[B,S] m) => (float[B,S] y) {{ {body} }}") == {"m": bounds}


PLAIN = {
    "an image of bytes": (
        "uint8",
        "a = Cast<to=1>(m)  s = Constant<value_float=0.004>()  b = Mul(a, s)  y = Add(x, b)",
    ),
    "floats that are scaled": ("float", "s = Constant<value_float=-3.0>()  b = Mul(m, s)  y = Add(x, b)"),
    "floats that are multiplied": ("float", "r = Relu(x)  y = Mul(r, m)"),
}


@pytest.mark.parametrize(("dtype", "body"), PLAIN.values(), ids=PLAIN.keys())
def test_other_inputs_are_left_alone(dtype: str, body: str) -> None:
    assert found(f"g ({SCORES}, {dtype}[B,S] m) => (float[B,S] y) {{ {body} }}") == {}


def test_names_say_what_the_graph_does_not() -> None:
    text = """g (int64[N] token_type_ids, int64[N] attention_mask, int64[N] other) => (int64[N] y)
        { a = Neg(token_type_ids)  b = Neg(attention_mask)  c = Add(a, b)  y = Add(c, other) }"""
    assert found(text) == {"token_type_ids": "0", "attention_mask": "1"}


def test_segments_are_zeros_where_their_rows_are_added_to_those_of_a_larger_table() -> None:
    text = """g (int64[N] i, int64[N] s) => (float[N,4] y) <float[7,4] w, float[2,4] v>
        { a = Gather(w, i)  b = Gather(v, s)  y = Add(a, b) }"""
    assert found(text) == {"i": "0..6", "s": "0"}
    alone = "g (int64[N] s) => (float[N,4] y) <float[2,4] v> { y = Gather(v, s) }"
    assert found(alone) == {"s": "0..1"}


def test_sequence_lengths_are_whole() -> None:
    text = """g (float[5,N,3] x, int32[N] n) => (float[5,1,N,2] y) <float[1,8,3] w, float[1,8,2] r, float[1,16] b>
        { y, h, c = LSTM<hidden_size=2>(x, w, r, b, n) }"""
    assert found(text) == {"n": "5"}
    assert random_samples(parse(text), CPU, {}).first()["n"].tolist() == [5]


def test_an_index_that_is_also_a_mask_stays_an_index() -> None:
    text = f"""g (int64[N,4] i) => (float[N,4,4] y) <float[7,4] w>
        {{ a = Gather(w, i)  p = Constant<value_int=1>()  c = Equal(i, p)  k = Constant<value_ints=[-1]>()
           {NEGATIVE}  d = Unsqueeze(c, k)  y = Where(d, n, a) }}"""
    assert found(text) == {"i": "0..6"}


BERT = """g (int64[B,S] i, int64[B,S] m, int64[B,S] s) => (float[B,S,4] y) <float[7,4] w, float[2,4] v>
    { a = Gather(w, i)  b = Gather(v, s)  e = Add(a, b)
      o = Constant<value_float=1.0>()  n = Constant<value_float=-10000.0>()
      f = Cast<to=1>(m)  g1 = Sub(o, f)  h = Mul(g1, n)  k = Constant<value_ints=[-1]>()  j = Unsqueeze(h, k)
      y = Add(e, j) }"""


def test_random_samples_respect_the_model() -> None:
    samples = random_samples(parse(BERT), Target(shapes={"B": (3,), "S": (50,)}), {}, count=1)
    first = samples.first()
    assert (first["i"].min(), first["i"].max()) == (0, 6)
    assert (first["m"] == 1).all()
    assert not first["s"].any()
    assert samples.data.about == "random inputs (seed 0): 1 sample; i 0..6; m 1; s 0"


def test_a_given_range_is_stronger() -> None:
    target = Target(shapes={"B": (3,), "S": (50,)}, ranges={"i": (2, 3), "s": (1, 1), "m": (0, 0)})
    first = random_samples(parse(BERT), target, {}, count=1).first()
    assert {name: (array.min(), array.max()) for name, array in first.items()} == {
        "i": (2, 3),
        "s": (1, 1),
        "m": (0, 0),
    }


def test_what_the_graph_seems_to_say_gives_way_where_the_model_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "input_bounds", lambda model: {"i": Bounds(50, 50)})
    model = parse("g (int64[9] i) => (float[9,4] y) <float[7,4] w> { y = Gather(w, i) }")
    assert random_samples(model, CPU, {}, count=1).first()["i"].max() < 7
    with pytest.raises(ModelError, match="no random input fits"):
        random_samples(model, Target(ranges={"i": (50, 50)}), {}, count=1)


BAD_RANGES = {
    "an input that is not there": ({"j": (0, 1)}, "no input 'j'"),
    "the larger number first": ({"i": (2, 1)}, "smaller number first"),
    "halves": ({"i": (0, 1.5)}, "whole numbers"),
    "more than the type holds": ({"i": (0, 300)}, "that it can hold"),
    "nothing finite": ({"i": (0, float("inf"))}, "neither NaN nor inf"),
    "words": ({"s": (0, 1)}, "only numbers have a range"),
}


@pytest.mark.parametrize(("ranges", "words"), BAD_RANGES.values(), ids=BAD_RANGES.keys())
def test_bad_ranges(ranges: dict[str, tuple[float, float]], words: str) -> None:
    model = parse("g (int8[2] i, string[2] s) => (int8[2] y, string[2] t) { y = Abs(i)  t = Identity(s) }")
    with pytest.raises(UsageError, match=words):
        random_samples(model, Target(ranges=ranges), {}, count=1)


def test_a_batch_fills_the_first_axis() -> None:
    first = random_samples(parse(BERT), CPU, {}, count=2, batch=6).first()
    assert first["i"].shape[0] == 6
    unnamed = random_dataset(input_specs(parse("g (float[?,4] x) => (float[?,4] y) { y = Neg(x) }")), {},
                             count=1, seed=0, batch=6)  # fmt: skip
    assert next(unnamed.batches(1)).feeds["x"].shape == (6, 4)


def test_uniform_floats_in_a_range() -> None:
    specs = input_specs(parse("g (float[4000] x, bool[9] b) => (float[4000] y) { y = Neg(x)  z = Not(b) }"))
    data = random_dataset(specs, {}, count=1, seed=0, bounds={"x": Bounds(-1, 3), "b": Bounds(1, 1)})
    feeds = next(data.batches(1)).feeds
    assert np.percentile(feeds["x"], [0, 25, 50, 75, 100]) == pytest.approx([-1, 0, 1, 2, 3], abs=0.1)
    assert feeds["b"].all()


@pytest.mark.parametrize(
    ("words", "expected"),
    [("i=0:5", ("i", (0, 5))), ("a=b=-1.5:2e3", ("a=b", (-1.5, 2000))), ("i:0=1:1", ("i:0", (1, 1)))],
)
def test_words_of_a_range(words: str, expected: tuple[str, tuple[float, float]]) -> None:
    assert range_of(words) == expected


@pytest.mark.parametrize("words", ["i", "i=", "i=1", "i=1:2:3", "=1:2", "i=a:b"])
def test_words_that_are_no_range(words: str) -> None:
    with pytest.raises(UsageError, match="write --input-range name=0:30521"):
        range_of(words)
