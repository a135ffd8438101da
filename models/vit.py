"""ViT-S/16: a transformer over the patches of an image.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, section 3.1, in the small size of
Touvron et al., "Training data-efficient image transformers & distillation through attention" (DeiT), ICML 2021.

Parameters are named as in DeiT's and timm's `deit_small_patch16_224`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 384
DEPTH = 12
HEADS = 6
PATCH = 16
IMAGE = 224
EPSILON = 1e-6
"""Of the norms."""


def vit_small_patch16(classes: int = 1000) -> ViT:
    """ViT-S/16 for images of 224 pixels (22,050,664 parameters)."""
    return ViT(classes)


class ViT(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Patches and their places, blocks, norm; the class token alone goes to the linear layer.

    Shapes::

        image        [batch, 3, 224, 224]
        patch_embed  [batch, 196, 384]
        blocks       [batch, 197, 384]       12 of them; the class token is the first
        scores       [batch, classes]        before softmax
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (IMAGE // PATCH) ** 2, WIDTH) * 0.02)
        self.patch_embed = PatchEmbed()
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute scores."""
        x = self.patch_embed(image)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class PatchEmbed(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A vector for each patch, row by row: ``[batch, 3, h, w]`` to ``[batch, h / 16 * w / 16, 384]``."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, kernel_size=PATCH, stride=PATCH)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the vectors."""
        return self.proj(image).flatten(2).transpose(1, 2)


class Block(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Attention, then two linear layers, each after a norm and beside a shortcut; ``[batch, tokens, 384]``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.mlp = MLP()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """What each token reads from all: ``softmax(query @ key.T / sqrt(size)) @ value``, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the attention, ``[batch, tokens, 384]``."""
        size = WIDTH // HEADS
        parts = (part.unflatten(2, (HEADS, size)) for part in self.qkv(x).chunk(3, dim=2))
        query, key, value = (part.transpose(1, 2) for part in parts)  # each [batch, heads, tokens, size]
        weights = (query * size**-0.5 @ key.transpose(2, 3)).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))


class MLP(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Four times as wide, GELU, and back: ``[batch, tokens, 384]``."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layers."""
        return self.fc2(self.act(self.fc1(x)))
