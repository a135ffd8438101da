"""Inputs: shapes, dynamic dimensions, random numbers."""

from typing import Any

import numpy as np
import pytest

from onnxopt.errors import UsageError
from onnxopt.export.inputs import Input, changed, draw, example_sizes, other_sizes, short_sizes, tracing_sizes

IDS = Input("ids", (1, 16), "int64", 0, 999, {0: "batch", 1: "sequence"})
MASK = Input("mask", (1, 24), "int64", 1, 1, {0: "batch", 1: "past+sequence"})
PAST = Input("past", (1, 2, 8, 4), dynamic={0: "batch", 2: "past"})


def test_sizes_come_from_the_examples_and_sums_from_their_parts() -> None:
    assert example_sizes([IDS, MASK, PAST]) == {"batch": 1, "sequence": 16, "past": 8}
    assert MASK.sized({"batch": 3, "past": 5, "sequence": 7}) == (3, 12)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([IDS, Input("x", (2, 4), dynamic={0: "batch"})], "dimension batch has size 1 and, in input x, 2"),
        ([IDS, Input("m", (1, 9), dynamic={1: "past+sequence"})], "not all its parts"),
        ([IDS, PAST, Input("m", (1, 9), dynamic={1: "past+sequence"})], "has size 24 and, in input m, 9"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(inputs: list[Input], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("+", r"\+")):
        example_sizes(inputs)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"dtype": "float31"}, "no dtype 'float31'"),
        ({"shape": (0, 3)}, "1 or more"),
        ({"dynamic": {2: "batch"}}, "no axis 2"),
        ({"low": 3.0, "high": 2.0}, "range 3.0:2.0 is empty"),
    ],
)
def test_an_input_that_cannot_be_is_refused(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Input(**{"name": "x", "shape": (2, 3), **words})


def test_tracing_sizes_are_at_least_two_and_distinct() -> None:
    sizes = tracing_sizes({"batch": 1, "sequence": 2, "width": 2, "past": 128})
    assert len(set(sizes.values())) == 4
    assert min(sizes.values()) >= 2
    assert sizes["past"] == 128


def test_long_sizes_are_halved_for_tracing() -> None:
    assert short_sizes({"batch": 1, "even": 128, "odd": 101, "hundred": 100}) == {
        "batch": 1,
        "even": 16,
        "odd": 101,
        "hundred": 25,
    }


def test_other_sizes_differ_from_the_first_and_keep_even_ones_even() -> None:
    first = {"one": 1, "two": 2, "odd": 7, "long": 128}
    other = other_sizes(first)
    assert all(other[name] != size for name, size in first.items())
    assert other["long"] == 64


def test_numbers_stay_in_their_range_and_follow_the_seed() -> None:
    inputs = [IDS, Input("gate", (4, 4), "bool"), Input("u", (500,), low=-2, high=-1), Input("n", (500,))]
    sizes = {"batch": 5, "sequence": 400}
    feeds, again, other = draw(inputs, sizes, 0), draw(inputs, sizes, 0), draw(inputs, sizes, 1)
    assert feeds["ids"].shape == (5, 400)
    assert feeds["ids"].dtype == np.int64
    assert 900 < feeds["ids"].max() <= 999
    assert set(feeds["gate"].ravel()) == {False, True}
    assert -2 <= feeds["u"].min() < feeds["u"].max() <= -1
    assert feeds["n"].min() < 0 < feeds["n"].max()
    for name in feeds:
        np.testing.assert_array_equal(feeds[name], again[name])
    assert np.any(feeds["ids"] != other["ids"])


def test_a_new_size_holds_wherever_its_dimension_is() -> None:
    for shapes in ({"ids": (1, 32)}, {"sequence": (32,)}):
        ids, mask, past = changed([IDS, MASK, PAST], shapes, {}, {}, {})
        assert (ids.shape, mask.shape, past.shape) == ((1, 32), (1, 40), (1, 2, 8, 4))


def test_what_users_say_replaces_the_rest_stays() -> None:
    ids, _, past = changed([IDS, MASK, PAST], {}, {"ids": "int32"}, {"ids": (5, 6)}, {"ids": {0: "n"}})
    assert (ids.dtype, ids.low, ids.high, ids.dynamic) == ("int32", 5, 6, {0: "n"})
    assert past.dynamic == {}


@pytest.mark.parametrize(
    ("shapes", "said"), [({"idz": (1, 2)}, "did you mean 'ids'"), ({"ids": (1, 2, 3)}, "has 2 axes")]
)
def test_changes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        changed([IDS, MASK], shapes, {}, {}, {}) if "idz" in shapes else changed([IDS], shapes, {}, {}, {})
