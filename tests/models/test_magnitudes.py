"""Random weights in the networks for text and sound: nothing dies out or explodes on the way."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from onnxopt.models.autoencoder import autoencoder  # noqa: E402
from onnxopt.models.bert import bert_base, minilm_l6  # noqa: E402
from onnxopt.models.dscnn import dscnn  # noqa: E402
from onnxopt.models.gpt2 import gpt2, gpt2_past  # noqa: E402
from onnxopt.models.initialise import initialise  # noqa: E402
from onnxopt.models.lstm_tagger import lstm_tagger  # noqa: E402

LENGTH = 32
BATCH = 8


def sentences(random: torch.Generator) -> dict[str, Tensor]:
    ids = torch.randint(0, 10000, (BATCH, LENGTH), generator=random)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def beginnings(random: torch.Generator) -> dict[str, Tensor]:
    found = sentences(random)
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def continuations(random: torch.Generator) -> dict[str, Tensor]:
    found = beginnings(random) | {"attention_mask": torch.ones(BATCH, LENGTH + 8, dtype=torch.int64)}
    return found | {f"past_{number}": torch.randn(BATCH, 12, 8, 64, generator=random) for number in range(24)}


def words(random: torch.Generator) -> dict[str, Tensor]:
    return {"input_ids": sentences(random)["input_ids"]}


def sounds(random: torch.Generator) -> dict[str, Tensor]:
    return {"image": torch.randn(BATCH, 1, 49, 10, generator=random)}


def spectra(random: torch.Generator) -> dict[str, Tensor]:
    return {"features": torch.randn(64, 640, generator=random)}


NETWORKS = [
    pytest.param(minilm_l6, sentences, id="minilm_l6"),
    pytest.param(bert_base, sentences, id="bert_base", marks=pytest.mark.slow),
    pytest.param(gpt2, beginnings, id="gpt2", marks=pytest.mark.slow),
    pytest.param(gpt2_past, continuations, id="gpt2_past", marks=pytest.mark.slow),
    pytest.param(lstm_tagger, words, id="lstm_tagger"),
    pytest.param(dscnn, sounds, id="dscnn"),
    pytest.param(autoencoder, spectra, id="autoencoder"),
]


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


@pytest.mark.parametrize(("build", "inputs"), NETWORKS)
def test_every_block_gives_numbers_of_a_sane_size(
    build: Callable[[], nn.Module], inputs: Callable[[torch.Generator], dict[str, Tensor]]
) -> None:
    module = build()
    initialise(module, inputs(torch.Generator().manual_seed(1)))
    found = magnitudes(module, inputs(torch.Generator().manual_seed(2)))
    assert not {part: value for part, value in found.items() if not 1e-2 <= value <= 1e2}
    assert ":0" in found
