"""Which settings there are."""

import pytest

from onnxopt.errors import UsageError
from onnxopt.runtime import input_specs
from onnxopt.speed import Options
from onnxopt.speed.options import settings
from onnxopt.target import Target
from onnxopt.testing import parse

TOKENS = input_specs(
    parse(
        "g (float[batch,seq_len,3] x, float[batch,past_seq,3] p) => (float[batch,a,3] y) { y = Concat<axis=1>(x, p) }"
    )
)
FIXED = input_specs(parse("g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }"))
TWO = input_specs(parse("g (float[N,a,b] x) => (float[N,a,b] y) { y = Neg(x) }"))
ONE = input_specs(parse("g (float[N,a] x) => (float[N,a] y) { y = Neg(x) }"))


def test_all_combinations_in_order() -> None:
    options = Options(threads=(1, 2), batches=(1, 8), sequences=(32,))
    labels = [setting.label for setting in settings(options, TOKENS)]
    assert labels == [
        "cpu, 1 thread, batch 1, sequence 32",
        "cpu, 1 thread, batch 8, sequence 32",
        "cpu, 2 threads, batch 1, sequence 32",
        "cpu, 2 threads, batch 8, sequence 32",
    ]


def test_nothing_given_is_the_target() -> None:
    target = Target(threads=3, shapes={"x": (1, 2)})
    (only,) = settings(Options(target=target), TOKENS)
    assert (only.target.threads, only.target.shapes, only.label) == (3, {"x": (1, 2)}, "cpu, 3 threads")


def test_the_sequence_is_the_dimension_that_says_so_or_the_only_one() -> None:
    assert settings(Options(sequences=(7,)), TOKENS)[0].target.shapes == {"seq_len": (7,)}
    assert settings(Options(sequences=(7,)), ONE)[0].target.shapes == {"a": (7,)}
    with pytest.raises(UsageError, match=r"which dimension is the sequence\? .*a, b.*--shape NAME=32"):
        settings(Options(sequences=(7,)), TWO)


def test_a_batch_needs_a_dynamic_axis() -> None:
    with pytest.raises(UsageError, match="no input of the model has a dynamic axis 0"):
        settings(Options(batches=(7,)), FIXED)


def test_only_shapes_that_differ_are_in_the_label() -> None:
    shapes = ({"x": (1, 2, 3), "p": (1, 1, 3)}, {"x": (1, 4, 3), "p": (1, 1, 3)})
    found = settings(Options(shapes=shapes), TOKENS)
    assert [setting.label for setting in found] == ["cpu, 1 thread, x 1x2x3", "cpu, 1 thread, x 1x4x3"]
    assert found[1].target.shapes == shapes[1]


def test_several_providers() -> None:
    found = settings(Options(providers=("cpu", "cuda"), target=Target(ranges={"x": (0, 1)})), TOKENS)
    assert [setting.target.provider for setting in found] == ["cpu", "cuda"]
    assert all(setting.target.ranges for setting in found)


@pytest.mark.parametrize("words", [{"sequences": (1,)}, {"shapes": ({}, {})}, {"target": Target(ranges={"x": (0, 1)})}])
def test_data_have_their_own_shapes_and_numbers(words: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="leave out --data"):
        settings(Options(data="d.npz", **words), TOKENS)  # type: ignore[arg-type]
