"""The rule for attention, without the libraries; and what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import pytest
from attention_blocks import MASKS, PROJECTIONS, SCORES, TWICE, assert_same, block

from onnxopt import files
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import walk
from onnxopt.passes.fuse.fuse_transformer import FuseTransformer
from onnxopt.passes.fuse.transformer import candidates
from onnxopt.target import Target
from onnxopt.testing import lines, parse

ALLOWED = Context(Target(), allow_contrib=True)
ATTENTION = "com.microsoft.Attention(x, const, const, , , {}) -> p/Attention"


@pytest.fixture(autouse=True)
def _no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def nothing(*_: object) -> Iterator[dict[str, ir.Model]]:
        yield {}

    monkeypatch.setattr(candidates, "fused", nothing)


def fuse(text: str, context: Context = ALLOWED, opset: int = 20) -> ir.Model:
    """The model as fused: valid, the same numbers, and nothing more to do."""
    before = parse(text, opset=opset)
    model, contents = before.clone(), files.to_bytes(before)
    assert any(isinstance(item, Change) for item in FuseTransformer().run(model, context))
    assert files.to_bytes(before) == contents
    onnx.checker.check_model(files.to_proto(model))
    assert_same(before, model)
    after = files.to_bytes(model)
    assert not any(isinstance(item, Change) for item in FuseTransformer().run(model, context))
    assert files.to_bytes(model) == after
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in walk(model)]


@pytest.mark.parametrize("projections", PROJECTIONS)
def test_linear_maps_of_one_input_are_merged(projections: str) -> None:
    model = fuse(block(projections))
    assert lines(model)[-2:] == [
        "com.microsoft.Attention(x, const, const, , , r0/Expand) -> r0/Attention",
        "MatMul(r0/Attention, const) -> y",
    ]
    weight = model.graph[-2].inputs[1]
    assert weight is not None
    assert weight.shape == [16, 48]


@pytest.mark.parametrize("scores", SCORES)
def test_the_scale_is_that_of_the_scores(scores: str) -> None:
    scale = {"not scaled": 1.0, "both scaled before": 0.7071**2}.get(scores, 0.5)
    (attention,) = (node for node in walk(fuse(block(scores=scores))) if node.op_type == "Attention")
    assert attention.attributes.get_float("scale", 0) == pytest.approx(scale)


@pytest.mark.parametrize("mask", MASKS)
def test_masks_become_what_is_added(mask: str) -> None:
    model = fuse(block(mask=mask))
    (attention,) = (node for node in walk(model) if node.op_type == "Attention")
    assert (len(attention.inputs) > 5 and attention.inputs[5] is not None) == (mask != "none")


def test_a_key_that_is_turned_twice() -> None:
    assert "Attention" in operators(fuse(block(turned=TWICE)))


def test_maps_of_different_inputs_are_not_merged() -> None:
    text = block(
        PROJECTIONS["three products"]
        .replace("MatMul(x, wk)", "MatMul(z, wk)")
        .replace("MatMul(x, wv)", "MatMul(z, wv)")
    )
    text = text.replace("bias = Mul(m2, low)", "bias = Mul(m2, low)").replace("{ \n", "{ z = Tanh(x) \n", 1)
    model = fuse(text)
    assert "com.microsoft.MultiHeadAttention(q1, k1, v1, , , r0/Expand) -> r0/MultiHeadAttention" in lines(model)


def test_biases_of_full_size_are_not_expanded() -> None:
    inputs = "float[batch,sequence,16] x, int64[batch,sequence] mask, float[batch,1,sequence,sequence] triangle"
    before = parse(block(mask="s2 = Add(s1, triangle)", inputs=inputs))
    FuseTransformer().run(before, ALLOWED)
    assert "com.microsoft.Attention(x, const, const, , , triangle) -> r0/Attention" in lines(before)


def test_the_standard_has_attention_from_opset_23_on() -> None:
    model = fuse(block(), Context(Target()), opset=23)
    assert "Attention(q, r0/Transpose, v, r0/Expand) -> r0/Attention" in lines(model)
    assert not any(node.domain for node in walk(model))


def test_without_contrib_an_old_opset_keeps_its_attention() -> None:
    model = parse(block(), opset=20)
    contents = files.to_bytes(model)
    said = FuseTransformer().run(model, Context(Target()))
    assert files.to_bytes(model) == contents
    assert any(isinstance(one, Refusal) and "--allow-contrib, Attention needs opset 23" in one.why for one in said)


REFUSED = {
    "it has no Softmax": (block(softmax="Tanh(s2)"), "no transformer"),
    "its Softmax gives the output": ("g (float[2,4] x) => (float[2,4] y) { y = Softmax(x) }", "no transformer"),
    "Softmax is over the queries": (block(softmax="Softmax<axis=2>(s2)"), "not over the last axis"),
    "the bias is scaled, too": (block(mask="s9 = Add(s1, bias)  s2 = Mul(s9, half)"), "no transformer"),
    "a Where takes a number that is not negligible": (block(mask="s2 = Where(open, s1, low)"), "no transformer"),
    "the number of heads is an input": (
        block(inputs="float[batch,sequence,16] x, int64[batch,sequence] mask, int64[4] parts").replace(
            "int64[4] parts = {0,0,4,4}, ", ""
        ),
        "number of heads",
    ),
    "all heads have the same key": (
        block(
            PROJECTIONS["three products"].replace(
                "k2 = Reshape(k1, parts)", "k9 = Slice(k1, n0, n4, last)  k2 = Reshape(k9, single)"
            )
        ),
        "other keys (1 of 4)",
    ),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(text: str, why: str) -> None:
    model = parse(text)
    contents = files.to_bytes(model)
    said = FuseTransformer().run(model, ALLOWED)
    assert files.to_bytes(model) == contents
    assert not any(isinstance(one, Change) for one in said)
    assert why in " ".join(one.why for one in said if isinstance(one, Refusal))


def test_local_functions_are_to_be_inlined_before() -> None:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 20, "own" : 1]> {block().replace("MatMul(r2, wo)", "own.last(r2, wo)")}
        <domain: "own", opset_import: ["" : 20]> last (a, b) => (c) {{ c = MatMul(a, b) }}"""
    )
    (said,) = FuseTransformer().run(model, ALLOWED)
    assert isinstance(said, Refusal)
    assert "inline-functions" in said.why
