"""Tiny networks of the zoo, as PyTorch exports them, through the libraries."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.export.convert import Exporter
from onnxopt.export.export import Settings, export
from onnxopt.graph import walk
from onnxopt.models import bert, gpt2, vit
from onnxopt.models.zoo import Input, past, tokens
from onnxopt.optimize import tidy
from onnxopt.passes.fuse.fuse_transformer import FuseTransformer
from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import compare_outputs

WIDTH, HEADS, LAYERS, SIZE = 32, 4, 2, 8
IDS, MASK = tokens("input_ids", 16, 49), tokens("attention_mask", 16, 1)
SIZES = {"hidden": WIDTH, "heads": HEADS, "layers": LAYERS, "vocab": 50, "positions": 40}
LONGER = tokens("attention_mask", 13, 1, "past+sequence")
INPUTS: dict[str, tuple[Input, ...]] = {
    "bert": (IDS, MASK, tokens("token_type_ids", 16, 1)),
    "gpt2": (IDS, MASK),
    "gpt2_past": (tokens("input_ids", 5, 49), LONGER, *past(8, LAYERS, HEADS, SIZE)),
    "vit": (Input("image", (1, 3, 32, 32), dynamic={0: "batch"}),),
}
FUSED = {
    "bert": {"Attention": 2, "SkipLayerNormalization": 4, "LayerNormalization": 1, "BiasGelu": 2},
    "gpt2": {"Attention": 2, "SkipLayerNormalization": 4, "LayerNormalization": 1, "FastGelu": 2},
    "gpt2_past": {"MultiHeadAttention": 2, "SkipLayerNormalization": 4, "LayerNormalization": 1, "FastGelu": 2},
    "vit": {"Attention": 2, "SkipLayerNormalization": 4, "LayerNormalization": 1, "BiasGelu": 2},
}


def network(name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """With the same random weights each time, in norms and biases too, so that nothing is neutral."""
    for constant, number in {"WIDTH": WIDTH, "DEPTH": LAYERS, "HEADS": HEADS, "PATCH": 8, "IMAGE": 32}.items():
        monkeypatch.setattr(vit, constant, number)
    made = {
        "bert": lambda: bert.bert_base(**SIZES, ffn=64),
        "gpt2": lambda: gpt2.gpt2(**SIZES),
        "gpt2_past": lambda: gpt2.gpt2_past(**SIZES),
        "vit": lambda: vit.ViT(10),
    }[name]()
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return made.eval()


def feeds(name: str, batch: int, length: int) -> dict[str, np.ndarray]:
    """Inputs, with other tokens masked out in each row."""
    rng = np.random.default_rng(length)
    if name == "vit":
        return {"image": rng.normal(size=(batch, 3, 32, 32)).astype(np.float32)}
    before = 6 if name == "gpt2_past" else 0
    mask = rng.integers(0, 2, (batch, before + length))
    mask[:, 0] = 1
    found = {"input_ids": rng.integers(0, 50, (batch, length)), "attention_mask": mask}
    if name == "bert":
        found["token_type_ids"] = rng.integers(0, 2, (batch, length))
    if before:
        for one in INPUTS[name][2:]:
            found[one.name] = rng.normal(size=(batch, HEADS, before, SIZE)).astype(np.float32)
    return found


CASES = [
    pytest.param(name, exporter, opset, marks=marks, id=f"{name} of {exporter.value}, opset {opset}")
    for name in INPUTS
    for exporter, opset, marks in (
        (Exporter.TORCHSCRIPT, 14, [pytest.mark.slow] if name in ("gpt2_past", "vit") else []),
        (Exporter.TORCHSCRIPT, 17, [pytest.mark.slow]),
        (Exporter.DYNAMO, 18, [pytest.mark.slow]),
        (Exporter.DYNAMO, 20, [pytest.mark.slow]),
    )
]


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_attention_norms_and_gelus_are_fused(
    name: str, exporter: Exporter, opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(exporter=exporter, opset=opset)
    exported = export(network(name, monkeypatch), tmp_path / "m.onnx", INPUTS[name], settings).model
    before, _ = tidy(exported, Target())
    model = before.clone()
    context, rewrite = Context(Target(), allow_contrib=True), FuseTransformer(additions="yes")
    said = rewrite.run(model, context)
    counts = Counter(node.op_type for node in walk(model))
    assert {op: counts[op] for op in FUSED[name]} == FUSED[name], said
    assert not {"Softmax", "Erf", "ReduceMean", "Tanh"} & counts.keys()
    for size in ((3, 7), (2, 12)):
        given = feeds(name, *size)
        compare_outputs(*(Session(one, Target(), optimize=False).run(given) for one in (exported, model)), 1e-5)
    contents = files.to_bytes(model)
    assert not any(isinstance(one, Change) for one in rewrite.run(model, context))
    assert files.to_bytes(model) == contents


def test_the_standard_alone_without_contrib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(exporter=Exporter.TORCHSCRIPT, opset=14)
    before = export(network("bert", monkeypatch), tmp_path / "m.onnx", INPUTS["bert"], settings).model
    model = before.clone()
    said = FuseTransformer().run(model, Context(Target()))
    assert model.opset_imports == {"": 17}
    assert not any(node.domain for node in walk(model))
    assert Counter(node.op_type for node in walk(model))["LayerNormalization"] == 5
    why = " ".join(one.why for one in said if isinstance(one, Refusal))
    assert "Gelu needs opset 20, and the model has 17" in why
    assert "Attention needs opset 23" in why
    given = feeds("bert", 3, 7)
    compare_outputs(*(Session(one, Target(), optimize=False).run(given) for one in (before, model)), 1e-5)


def test_tanh_stays_tanh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library would write the Gelu of opset 20 as BiasGelu, whatever its approximation."""
    settings = Settings(exporter=Exporter.TORCHSCRIPT, opset=20)
    model = export(network("gpt2", monkeypatch), tmp_path / "m.onnx", INPUTS["gpt2"], settings).model
    assert any(node.op_type == "Gelu" for node in walk(model))
    FuseTransformer(additions="yes").run(model, Context(Target(), allow_contrib=True))
    counts = Counter(node.op_type for node in walk(model))
    assert counts["BiasGelu"] == 0
    assert counts["FastGelu"] + counts["Gelu"] == LAYERS


def test_the_kind_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(exporter=Exporter.TORCHSCRIPT, opset=17)
    model = export(network("bert", monkeypatch), tmp_path / "m.onnx", INPUTS["bert"], settings).model
    said = FuseTransformer(model_type="tnlr").run(model, Context(Target(), allow_contrib=True))
    assert any("as tnlr" in str(one) for one in said), said
