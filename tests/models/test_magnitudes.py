"""Random weights in the networks of the zoo: nothing dies out or explodes on the way."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from onnxopt.export.export import tensors  # noqa: E402
from onnxopt.models.zoo import ZOO, load  # noqa: E402

SIZES = {"batch": 2, "sequence": 24, "past": 8}
SMALL = 10_000_000
"""Parameters up to which a network is tried at every run of the tests."""


def leaves(output: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output.values() if isinstance(output, dict) else output:
            yield from leaves(part)


def magnitudes(module: nn.Module, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Mean |output| of each output of each part that has parts."""
    found = {}

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda part, given, output: found.update(
            {f"{name}:{number}": float(one.abs().mean()) for number, one in enumerate(leaves(output))}
        )

    for name, part in module.named_modules():
        if next(part.children(), None) is not None:
            part.register_forward_hook(note(name))
    with torch.no_grad():
        module(*inputs.values())
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if network.parameters < SMALL else [pytest.mark.slow])
        for name, network in ZOO.items()
    ],
)
def test_every_block_gives_numbers_of_a_sane_size(name: str) -> None:
    module, _ = load(ZOO[name], {}, None)
    found = magnitudes(module, tensors(ZOO[name].inputs, SIZES, seed=2))
    assert not {part: value for part, value in found.items() if not 1e-2 <= value <= 1e2}
    assert ":0" in found
