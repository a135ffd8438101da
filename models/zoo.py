"""The zoo: networks that ``onnxopt export`` knows by name. Listing them needs no PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxopt.core import suggestion
from onnxopt.errors import UsageError
from onnxopt.export.inputs import Input

if TYPE_CHECKING:
    from torch import nn

    from onnxopt.export.weights import Loaded

SEEN = {"batch": 64, "sequence": 16, "past": 8}
"""Sizes of the random inputs on which untrained batch norms take their statistics,"""
IMAGES_SEEN = 4
"""fewer for images, where every pixel counts."""


@dataclass(frozen=True)
class Network:
    """An architecture of the zoo.

    Attributes:
        place: ``file:function`` in this folder; the function builds the module.
        about: what it is, in a line.
        checkpoint: whose parameter names it has; weights of these load without renaming.
        inputs: at their usual sizes, with their dynamic dimensions.
        outputs: their names.
        parameters: of the module, shared ones once.
        macs: multiply-accumulates at the sizes of ``inputs``, as ``onnxopt inspect`` counts them.
        unused: patterns of names that checkpoints have and this network does not need.
    """

    place: str
    about: str
    checkpoint: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    parameters: int
    macs: int
    unused: tuple[str, ...] = field(default=())

    def build(self, arguments: Mapping[str, Any] | None = None) -> nn.Module:
        """The module with PyTorch's own initial weights, in evaluation mode.

        Raises:
            UsageError: if it does not take these arguments.
        """
        from onnxopt.export.locate import build

        file, function = self.place.split(":")
        factory = getattr(importlib.import_module(f"onnxopt.models.{file}"), function)
        module: nn.Module = build(function, factory, arguments or {})
        return module.eval()


def image(*shape: int) -> tuple[Input, ...]:
    """One image, of any batch size."""
    return (Input("image", (1, *shape), dynamic={0: "batch"}),)


def tokens(name: str, length: int, high: int, dimension: str = "sequence", low: int = 0) -> Input:
    """Token numbers, or a mask, of any batch size and length."""
    return Input(name, (1, length), "int64", low, high, {0: "batch", 1: dimension})


def past(length: int, layers: int = 12, heads: int = 12, size: int = 64) -> tuple[Input, ...]:
    """Keys and values of the tokens before, as Hugging Face's exports call them."""
    names = [f"past_key_values.{layer}.{which}" for layer in range(layers) for which in ("key", "value")]
    return tuple(Input(name, (1, heads, length, size), dynamic={0: "batch", 2: "past"}) for name in names)


def present(layers: int = 12) -> tuple[str, ...]:
    """The outputs that are the next ``past``."""
    return tuple(f"present.{layer}.{which}" for layer in range(layers) for which in ("key", "value"))


BERT_INPUTS = (
    tokens("input_ids", 128, 30521),
    tokens("attention_mask", 128, 1, low=1),
    tokens("token_type_ids", 128, 1),
)
BERT_HEADS = ("pooler.*", "cls.*", "*position_ids")
GPT2_BUFFERS = ("*.attn.bias", "*.attn.masked_bias")
SCORES = ("scores",)
TORCHVISION = "torchvision"

ZOO: Mapping[str, Network] = {
    "resnet18": Network(
        "resnet:resnet18", "ResNet-18, ImageNet", TORCHVISION, image(3, 224, 224), SCORES, 11_689_512, 1_814_073_344
    ),
    "resnet34": Network(
        "resnet:resnet34", "ResNet-34, ImageNet", TORCHVISION, image(3, 224, 224), SCORES, 21_797_672, 3_663_761_408
    ),
    "resnet50": Network(
        "resnet:resnet50", "ResNet-50, ImageNet", TORCHVISION, image(3, 224, 224), SCORES, 25_557_032, 4_089_184_256
    ),
    "resnet20_cifar": Network(
        "resnet_cifar:resnet20_cifar",
        "ResNet-20, CIFAR-10",
        "akamaster/pytorch_resnet_cifar10",
        image(3, 32, 32),
        SCORES,
        269_722,
        40_551_040,
    ),
    "resnet56_cifar": Network(
        "resnet_cifar:resnet56_cifar",
        "ResNet-56, CIFAR-10",
        "akamaster/pytorch_resnet_cifar10",
        image(3, 32, 32),
        SCORES,
        853_018,
        125_485_696,
    ),
    "resnet_tiny": Network(
        "resnet_tiny:resnet_tiny",
        "the network of `onnxopt demo`",
        "ours",
        image(1, 32, 32),
        SCORES,
        297_754,
        111_920_064,
    ),
    "mobilenet_v2": Network(
        "mobilenet_v2:mobilenet_v2",
        "MobileNetV2 1.0, ImageNet",
        TORCHVISION,
        image(3, 224, 224),
        SCORES,
        3_504_872,
        300_774_272,
    ),
    "mobilenet_v3_small": Network(
        "mobilenet_v3:mobilenet_v3_small",
        "MobileNetV3 small, ImageNet",
        TORCHVISION,
        image(3, 224, 224),
        SCORES,
        2_542_856,
        56_510_400,
    ),
    "squeezenet1_1": Network(
        "squeezenet:squeezenet1_1",
        "SqueezeNet 1.1, ImageNet",
        TORCHVISION,
        image(3, 224, 224),
        SCORES,
        1_235_496,
        349_151_936,
    ),
    "efficientnet_b0": Network(
        "efficientnet:efficientnet_b0",
        "EfficientNet-B0, ImageNet",
        TORCHVISION,
        image(3, 224, 224),
        SCORES,
        5_288_548,
        385_814_752,
    ),
    "vgg11_bn": Network(
        "vgg:vgg11_bn",
        "VGG-11 with batch norm, ImageNet",
        TORCHVISION,
        image(3, 224, 224),
        SCORES,
        132_868_840,
        7_609_090_048,
    ),
    "unet": Network(
        "unet:unet",
        "U-Net of width 32, segmentation",
        "milesial/Pytorch-UNet",
        image(3, 256, 256),
        SCORES,
        7_763_074,
        12_073_304_064,
    ),
    "vit_small_patch16": Network(
        "vit:vit_small_patch16",
        "ViT-S/16, ImageNet",
        "DeiT, timm",
        image(3, 224, 224),
        SCORES,
        22_050_664,
        4_598_882_304,
    ),
    "minilm_l6": Network(
        "bert:minilm_l6",
        "MiniLM, 6 layers of width 384",
        "Hugging Face BertModel",
        BERT_INPUTS,
        ("last_hidden_state",),
        22_565_376,
        1_434_451_968,
        BERT_HEADS,
    ),
    "bert_base": Network(
        "bert:bert_base",
        "BERT base, 12 layers of width 768",
        "Hugging Face BertModel",
        BERT_INPUTS,
        ("last_hidden_state",),
        108_891_648,
        11_173_625_856,
        BERT_HEADS,
    ),
    "gpt2": Network(
        "gpt2:gpt2",
        "GPT-2 small on a whole sequence",
        "Hugging Face GPT2LMHeadModel",
        (tokens("input_ids", 64, 50256), tokens("attention_mask", 64, 1, low=1)),
        ("logits",),
        124_439_808,
        7_981_547_520,
        GPT2_BUFFERS,
    ),
    "gpt2_past": Network(
        "gpt2:gpt2_past",
        "GPT-2 small, one token after others",
        "Hugging Face GPT2LMHeadModel",
        (tokens("input_ids", 1, 50256), tokens("attention_mask", 65, 1, "past+sequence", low=1), *past(64)),
        ("logits", *present()),
        124_439_808,
        124_730_112,
        GPT2_BUFFERS,
    ),
    "lstm_tagger": Network(
        "lstm_tagger:lstm_tagger",
        "LSTM of 2 layers, width 256",
        "ours",
        (tokens("input_ids", 100, 9999),),
        SCORES,
        3_617_041,
        105_292_800,
    ),
    "dscnn": Network(
        "dscnn:dscnn", "DS-CNN, keyword spotting (MLPerf Tiny)", "ours", image(1, 49, 10), SCORES, 23_756, 2_656_768
    ),
    "autoencoder": Network(
        "autoencoder:autoencoder",
        "autoencoder, anomaly detection (MLPerf Tiny)",
        "ours",
        (Input("features", (1, 640), dynamic={0: "batch"}),),
        ("reconstruction",),
        267_928,
        264_192,
    ),
}


def find(name: str) -> Network:
    """The network of a name.

    Raises:
        UsageError: for an unknown one, with the nearest.
    """
    if name not in ZOO:
        raise UsageError(
            f"the zoo has no {name!r}{suggestion(name, ZOO)}; your own module is package.module:name or file.py:name"
        )
    return ZOO[name]


def load(
    network: Network, arguments: Mapping[str, Any], weights: Path | None, *, strict: bool = True, seed: int = 0
) -> tuple[nn.Module, Loaded | None]:
    """A network with the weights of a file, or with random ones that make sense; and what was loaded.

    Raises:
        UsageError: if it does not take these arguments.
        DataError: if the weights do not fit.
    """
    from onnxopt.export.export import tensors
    from onnxopt.export.weights import load_weights
    from onnxopt.models.initialise import initialise

    module = network.build(arguments)
    if weights is None or not strict:
        sizes = SEEN | {"batch": IMAGES_SEEN} if len(network.inputs[0].shape) == 4 else SEEN
        initialise(module, tensors(network.inputs, sizes, seed), seed)
    loaded = None if weights is None else load_weights(module, weights, strict=strict, unused=network.unused)
    return module, loaded
