"""How inputs reach forward, and what outputs are called."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from onnxopt.errors import ModelError, UsageError  # noqa: E402
from onnxopt.export.calling import Call, flatten  # noqa: E402

ONE, TWO, THREE = (torch.full((2,), float(number)) for number in (1, 2, 3))
Pair = namedtuple("Pair", "left right")


def module(function: Callable[..., Any]) -> nn.Module:
    """A module with this forward."""
    return type("Module", (nn.Module,), {"forward": lambda self, *a, **k: function(*a, **k)})()


class Keyword(nn.Module):
    def forward(self, a: Any, *, b: Any, c: Any = None) -> Any:
        return a - 10 * b - (0 if c is None else 100 * c)


class Others(nn.Module):
    def forward(self, a: Any, b: Any, *rest: Any) -> Any:
        return a - 10 * b - 100 * rest[0]


class Extra(nn.Module):
    def forward(self, a: Any, **rest: Any) -> Any:
        return a - 10 * rest["b"]


class Plain(nn.Module):
    def forward(self, a: Any, b: Any) -> Any:
        return a - 10 * b


CALLS = {
    "parameters by name, in any order": (Keyword(), {"b": TWO, "a": ONE}, ("a", "b"), -19),
    "an optional one": (Keyword(), {"a": ONE, "b": TWO, "c": THREE}, ("a", "b", "c"), -319),
    "none is a parameter: in their order": (Plain(), {"image": TWO, "mask": ONE}, ("image", "mask"), -8),
    "the rest goes to *rest": (Others(), {"a": ONE, "b": TWO, "past.0": THREE}, ("a", "b", "past.0"), -319),
    "the rest goes to **rest": (Extra(), {"b": TWO, "a": ONE}, ("a", "b"), -19),
}


@pytest.mark.parametrize(("net", "tensors", "order", "result"), CALLS.values(), ids=CALLS.keys())
def test_each_input_finds_its_parameter(net: nn.Module, tensors: dict, order: tuple[str, ...], result: float) -> None:
    call = Call(net, [*tensors])
    assert call.names == order
    assert call(tensors)["output"][0] == result


@pytest.mark.parametrize(
    ("net", "names", "said"),
    [
        (Plain(), ["a", "bb"], "forward has no parameter 'bb'; did you mean 'b'"),
        (Plain(), ["a"], "missing a required argument: 'b'"),
        (Plain(), ["x", "y", "z"], "too many positional arguments"),
    ],
)
def test_names_that_fit_nothing_are_refused(net: nn.Module, names: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Call(net, names)


def test_a_module_that_does_not_run_says_on_which_shapes() -> None:
    with pytest.raises(ModelError, match=r"does not run with a \[2\], b \[3\]"):
        Call(Plain(), ["a", "b"])({"a": ONE, "b": torch.ones(3)})


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (ONE, ["output"]),
        ((ONE, TWO), ["output_0", "output_1"]),
        ({"score": ONE, "hidden": {"pooled": TWO}}, ["score", "hidden.pooled"]),
        (Pair(ONE, TWO), ["left", "right"]),
        ((ONE, [TWO, THREE], None), ["output_0", "output_1.0", "output_1.1"]),
        ({"a": None, "b": ONE}, ["b"]),
    ],
    ids=str,
)
def test_outputs_have_names(outputs: Any, names: list[str]) -> None:
    assert [*flatten(outputs)] == names


def test_outputs_are_called_as_asked() -> None:
    assert [*flatten((ONE, TWO), ("x", "y"))] == ["x", "y"]
    with pytest.raises(UsageError, match=r"2 outputs \(output_0, output_1\), but 1 names"):
        flatten((ONE, TWO), ("x",))


def test_what_is_no_tensor_cannot_be_an_output() -> None:
    with pytest.raises(ModelError, match="output loss is a float"):
        flatten({"loss": 1.0})
