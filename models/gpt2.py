"""GPT-2: a transformer that reads from the left and gives the next token's scores.

Source: Radford, Wu, Child, Luan, Amodei, Sutskever, "Language Models are Unsupervised Multitask
Learners", OpenAI 2019, with the tanh form of GELU (Hendrycks, Gimpel, arXiv 1606.08415, section 2).

Parameters are named as in Hugging Face `GPT2LMHeadModel`; inputs and outputs of the network with
a past are named as Hugging Face Optimum exports them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onnxopt.models.bert import attend, split, unread


@dataclass(frozen=True)
class Config:
    """Sizes of the network; the defaults are those of the smallest GPT-2."""

    hidden: int = 768
    heads: int = 12
    layers: int = 12
    vocab: int = 50257
    positions: int = 1024

    @property
    def size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


def gpt2(**sizes: int) -> GPT2:
    """The smallest GPT-2, 12 layers of width 768 (124,439,808 parameters), but for `sizes` as in `Config`."""
    return GPT2(Config(**sizes))


def gpt2_past(**sizes: int) -> GPT2Past:
    """The same network, for decoding token by token."""
    return GPT2Past(Config(**sizes))


class GPT2(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Transformer, and a linear layer that shares the weight of the word embedding.

    Shapes, both inputs int64::

        input_ids       [batch, sequence]
        attention_mask  [batch, sequence]           0 where there is no token
        logits          [batch, sequence, vocab]    of the token that comes next
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute logits."""
        hidden, _ = self.transformer(input_ids, attention_mask)
        return self.lm_head(hidden)


class GPT2Past(GPT2):
    """GPT-2 that is given keys and values of the tokens before, and gives them on.

    Shapes; `past` is 0 before the first call, `total = past + sequence`::

        input_ids                             [batch, sequence]
        attention_mask                        [batch, total]
        past_key_values.N.key, .value         [batch, heads, past, hidden / heads]
        logits                                [batch, sequence, vocab]
        present.N.key, .value                 [batch, heads, total, hidden / heads]

    The first of `sequence` tokens has position `past`, whatever the mask says.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.past_names = _names("past_key_values", config.layers)
        self.present_names = _names("present", config.layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *past: Tensor) -> dict[str, Tensor]:
        """Compute logits and present; `past` is in the order of `past_names`: key and value of layer 0, 1, ..."""
        hidden, present = self.transformer(input_ids, attention_mask, past)
        return {"logits": self.lm_head(hidden), **dict(zip(self.present_names, present, strict=True))}


class Transformer(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Embeddings, blocks and the last norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab, config.hidden)
        self.wpe = nn.Embedding(config.positions, config.hidden)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.hidden)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the hidden states ``[batch, sequence, hidden]``; and each block's key and value, in a row."""
        before = past[0].shape[2] if past else 0
        place = torch.arange(before + input_ids.shape[1], device=input_ids.device)  # of what is read
        own = place[before:]  # of who reads
        readable = (place <= own.unsqueeze(1)) & attention_mask.unsqueeze(1).unsqueeze(1).bool()
        bias = unread(readable)  # [batch, 1, sequence, total]

        x = self.wte(input_ids) + self.wpe(own)
        present = []
        for number, block in enumerate(self.h):
            x, *pair = block(x, bias, past[2 * number : 2 * number + 2])
            present.extend(pair)
        return self.ln_f(x), present


class Block(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Attention to the tokens before, then two linear layers on each token; both after a norm, beside a shortcut."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.hidden)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.hidden)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, bias: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the block, ``[batch, sequence, hidden]``; and its key and value."""
        read, key, value = self.attn(self.ln_1(x), bias, past)
        x = x + read
        return x + self.mlp(self.ln_2(x)), key, value


class Attention(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Each token's weighted mean of values, ``[batch, sequence, hidden]``; and all keys and values."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.size
        self.c_attn = Affine(config.hidden, 3 * config.hidden)
        self.c_proj = Affine(config.hidden, config.hidden)

    def forward(self, x: Tensor, bias: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the attention; key and value are ``[batch, heads, total, size]``."""
        query, key, value = (split(part, self.heads, self.size) for part in self.c_attn(x).chunk(3, dim=-1))
        if past:
            key, value = (torch.cat(pair, dim=2) for pair in zip(past, (key, value), strict=True))
        return self.c_proj(attend(query, key, value, bias, self.size)), key, value


class MLP(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Four times as wide, GELU, and back: ``[batch, sequence, hidden]``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.c_fc = Affine(config.hidden, 4 * config.hidden)
        self.c_proj = Affine(4 * config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layers."""
        return self.c_proj(nn.functional.gelu(self.c_fc(x), approximate="tanh"))


class Affine(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """``x @ weight + bias`` with a weight ``[before, after]``: nn.Linear's, transposed, as the public weights are."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(before, after) * 0.02)
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        return x @ self.weight + self.bias


def _names(prefix: str, layers: int) -> list[str]:
    """Names of key and value of each layer."""
    return [f"{prefix}.{number}.{part}" for number in range(layers) for part in ("key", "value")]
