"""BERT's encoder: a transformer that reads a sentence from both sides.

Source: Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding", NAACL 2019, with the layers of Vaswani et al., "Attention Is All You Need",
NeurIPS 2017. MiniLM's width is that of Wang et al., "MiniLM", NeurIPS 2020.

Parameters are named as in Hugging Face `BertModel` without its pooler, so that public weights
load; weights of the whole language model have `bert.` before each name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

MASKED = -1e4
"""Added to the score of a token not to be read: softmax makes it 0, and float16 can hold it."""


@dataclass(frozen=True)
class Config:
    """Sizes of the network; `ffn` is the width between the two linear layers after the attention."""

    hidden: int
    heads: int
    ffn: int
    layers: int
    vocab: int = 30522
    positions: int = 512
    types: int = 2

    @property
    def size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


MINILM_L6 = Config(hidden=384, heads=12, ffn=1536, layers=6)
BERT_BASE = Config(hidden=768, heads=12, ffn=3072, layers=12)


def minilm_l6(**sizes: int) -> Bert:
    """all-MiniLM-L6, 6 layers of width 384 (22,565,376 parameters), but for `sizes` as in `Config`."""
    return Bert(replace(MINILM_L6, **sizes))


def bert_base(**sizes: int) -> Bert:
    """BERT base, 12 layers of width 768 (108,891,648 parameters), but for `sizes` as in `Config`."""
    return Bert(replace(BERT_BASE, **sizes))


class Bert(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Embeddings and layers, without the pooler.

    Shapes, all three inputs int64::

        input_ids          [batch, sequence]
        attention_mask     [batch, sequence]           0 where there is no token
        token_type_ids     [batch, sequence]
        last_hidden_state  [batch, sequence, hidden]
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Compute last_hidden_state."""
        bias = unread(attention_mask.unsqueeze(1).unsqueeze(1))  # [batch, 1, 1, sequence]
        return self.encoder(self.embeddings(input_ids, token_type_ids), bias)


class Embeddings(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Word, position and sentence, added: two times ``[batch, sequence]`` to ``[batch, sequence, hidden]``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(config.types, config.hidden)
        self.LayerNorm = _norm(config.hidden)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Compute the embeddings."""
        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.LayerNorm(x + self.position_embeddings(position))


class Encoder(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The layers one after the other, all of shape ``[batch, sequence, hidden]``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Compute the layers."""
        for layer in self.layer:
            x = layer(x, bias)
        return x


class Layer(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Attention between the tokens, then two linear layers on each token; both with a shortcut."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config.ffn, config.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Compute the layer."""
        x = self.attention(x, bias)
        return self.output(self.intermediate(x), x)


class Attention(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """What each token reads from the others, then a linear layer, the shortcut and the norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config.hidden, config.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Compute attention and shortcut."""
        return self.output(self.self(x, bias), x)


class SelfAttention(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Each token's weighted mean of the others' values, ``[batch, sequence, hidden]``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads, self.size = config.heads, config.size
        self.query = nn.Linear(config.hidden, config.hidden)
        self.key = nn.Linear(config.hidden, config.hidden)
        self.value = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Compute the attention."""
        query, key, value = (split(project(x), self.heads, self.size) for project in (self.query, self.key, self.value))
        return attend(query, key, value, bias, self.size)


class Intermediate(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Linear layer and GELU: ``[batch, sequence, hidden]`` to ``[batch, sequence, ffn]``."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden, config.ffn)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        return nn.functional.gelu(self.dense(x))


class Output(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """End of a shortcut: ``norm(dense(x) + skip)``, ``[batch, sequence, hidden]``."""

    def __init__(self, before: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(before, hidden)
        self.LayerNorm = _norm(hidden)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Compute linear layer, sum and norm."""
        return self.LayerNorm(self.dense(x) + skip)


def unread(mask: Tensor) -> Tensor:
    """What is added to scores: 0 where `mask` is 1 or true, `MASKED` where it is 0 or false."""
    return (1.0 - mask.float()) * MASKED


def split(x: Tensor, heads: int, size: int) -> Tensor:
    """Each head on its own: ``[batch, sequence, heads * size]`` to ``[batch, heads, sequence, size]``."""
    return x.view(*x.shape[:2], heads, size).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, size: int) -> Tensor:
    """``softmax(query @ key.T / sqrt(size) + bias) @ value``, the heads side by side again.

    Args:
        query: ``[batch, heads, sequence, size]``.
        key: ``[batch, heads, total, size]``.
        value: ``[batch, heads, total, size]``.
        bias: broadcasts to ``[batch, heads, sequence, total]``; see `unread`.
        size: a number and not read off a shape, as a shape of a traced network is no number.

    Returns:
        ``[batch, sequence, heads * size]``.
    """
    scores = query @ key.transpose(-1, -2) / math.sqrt(size) + bias
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)


def _norm(hidden: int) -> nn.LayerNorm:
    """Norm over the features, with the epsilon of the public weights."""
    return nn.LayerNorm(hidden, eps=1e-12)
