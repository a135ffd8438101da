"""BERT, GPT-2 and the tagger: public names, and what masks and the past do.

That BERT and GPT-2 compute what the public ones do, public_names.py compares.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from onnxopt.models.autoencoder import autoencoder  # noqa: E402
from onnxopt.models.bert import bert_base, minilm_l6  # noqa: E402
from onnxopt.models.dscnn import dscnn  # noqa: E402
from onnxopt.models.gpt2 import GPT2Past, gpt2, gpt2_past  # noqa: E402
from onnxopt.models.lstm_tagger import lstm_tagger  # noqa: E402

SCRIPT = Path(__file__).with_name("public_names.py")
TABLE: dict[str, dict[str, Any]] = json.loads(SCRIPT.with_suffix(".json").read_text())
public_names = run_path(str(SCRIPT))

BERT = {"hidden": 32, "heads": 4, "ffn": 64, "layers": 2, "vocab": 50, "positions": 32}
GPT2 = {"hidden": 32, "heads": 4, "layers": 2, "vocab": 50, "positions": 32}
TAGGER = {"vocab": 50, "embedding": 16, "hidden": 16, "tags": 5}


def seeded(module: nn.Module) -> nn.Module:
    """The same random weights each time, in norms and biases too, so that nothing is neutral."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def decode(network: GPT2Past, ids: Tensor, mask: Tensor, steps: list[int]) -> tuple[Tensor, list[Tensor]]:
    """All logits, so many tokens at a time; and the last keys and values."""
    size = network.transformer.wte.embedding_dim // GPT2["heads"]
    past = [torch.zeros(len(ids), GPT2["heads"], 0, size) for _ in network.past_names]
    logits, end = [], 0
    for step in steps:
        end += step
        outputs = network(ids[:, end - step : end], mask[:, :end], *past)
        assert list(outputs) == ["logits", *network.present_names]
        past = [outputs[name] for name in network.present_names]
        logits.append(outputs["logits"])
    return torch.cat(logits, dim=1), past


@pytest.mark.parametrize("name", public_names["TEXT"])
def test_public_weights_fit(name: str) -> None:
    public = dict(TABLE[name])
    source = public.pop("source")
    with torch.device("meta"):
        module = public_names["TEXT"][name]()
    found = public_names["summary"](public_names["shapes"](module))
    assert found == public, (
        f"a state dict of {source} does not fit {name}: other names, or other shapes. "
        f"`python tests/models/public_names.py {name}` prints those that only one of them has"
    )


@pytest.mark.parametrize("build", [minilm_l6, bert_base, gpt2, lstm_tagger, dscnn, autoencoder])
def test_the_docstring_counts_the_parameters(build: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build().parameters())
    assert f"{count:,} parameters" in (build.__doc__ or "")


@pytest.mark.parametrize("steps", [[1] * 9, [4, 1, 1, 3], [9]], ids=str)
def test_gpt2_by_tokens_is_gpt2_at_once(steps: list[int]) -> None:
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 3:5] = 0  # two tokens in the middle that nobody may read
    whole, past = seeded(gpt2(**GPT2)), seeded(gpt2_past(**GPT2))
    logits, keys_and_values = decode(past, ids, mask, steps)
    torch.testing.assert_close(logits, whole(ids, mask), rtol=1e-5, atol=1e-5)
    assert {tuple(one.shape) for one in keys_and_values} == {(2, 4, 9, 8)}
    assert past.past_names[:3] == ["past_key_values.0.key", "past_key_values.0.value", "past_key_values.1.key"]
    assert past.present_names[-1] == "present.1.value"


def test_gpt2_shares_the_embedding_with_the_last_layer() -> None:
    network = gpt2(**GPT2)
    assert network.lm_head.weight is network.transformer.wte.weight
    assert [*network.state_dict()] == [*gpt2_past(**GPT2).state_dict()]


def test_gpt2_does_not_read_ahead() -> None:
    network, ids = seeded(gpt2(**GPT2)), tokens(1, 9)
    other = ids.clone()
    other[0, 5] += 1
    mask = torch.ones_like(ids)
    same = (network(ids, mask) == network(other, mask)).all(dim=-1)
    assert same[0].tolist() == [True] * 5 + [False] * 4


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_masked_tokens_are_not_read(family: str) -> None:
    network = seeded(minilm_l6(**BERT) if family == "bert" else gpt2(**GPT2))
    ids, types = tokens(2, 9), [torch.zeros(2, 9, dtype=torch.int64)] if family == "bert" else []
    other, mask = ids.clone(), torch.ones_like(ids)
    other[:, 3] = (ids[:, 3] + 1) % 50
    apart = (network(ids, mask, *types) - network(other, mask, *types)).abs()
    assert apart[:, 4:].amax(dim=-1).min() > 1e-3
    mask[:, 3] = 0
    apart = (network(ids, mask, *types) - network(other, mask, *types)).abs()
    apart[:, 3] = 0
    assert apart.max() == 0


def test_bert_knows_sentences_and_places() -> None:
    network, ids = seeded(minilm_l6(**BERT)), torch.full((1, 6), 7)
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    hidden = network(ids, mask, types)
    assert hidden.shape == (1, 6, 32)
    assert not torch.allclose(hidden[0, 0], hidden[0, 1], atol=1e-3)
    assert not torch.allclose(hidden, network(ids, mask, types + 1), atol=1e-3)


def test_tagger_reads_from_the_left() -> None:
    network, ids = seeded(lstm_tagger(**TAGGER)), tokens(2, 7)
    scores = network(ids)
    assert scores.shape == (2, 7, 5)
    torch.testing.assert_close(network(ids[:, :4]), scores[:, :4])
