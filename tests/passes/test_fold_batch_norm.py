"""FoldBatchNorm."""

import numpy as np
import pytest

from onnxopt.passes.fuse.fold_batch_norm import FoldBatchNorm
from onnxopt.testing import assert_refuses, assert_rewrites, parse, run_pass

PARAMS = "float[4] s, float[4] b, float[4] m, float[4] v"
NORM = "y = BatchNormalization(h, s, b, m, v)"
WEIGHTS = "float[4,2,3,3] w, float[4,1,3,3] g, float[4] c"
HALF_ONES = "{15360, 15360, 15360, 15360}"  # ONNX text has half precision as bits: 1.0; 31571 is 60000, 17 is 1e-6
IMAGE = "(float[1,2,5,5] x) => (float[1,4,H,W] y)"


@pytest.mark.parametrize(
    "conv",
    ["Conv(x, w)", "Conv(x, w, c)", "Conv<group=2>(x, g)", "Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w)"],
)
def test_folds_into_conv(conv: str) -> None:
    text = f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = {conv} {NORM} }}"
    assert_rewrites(FoldBatchNorm(), text, after=["Conv(x, const, const) -> y"])


@pytest.mark.parametrize("shape", ["1,2,7", "1,2,4,4,4"], ids=["1-D", "3-D"])
def test_folds_into_conv_of_other_dimensions(shape: str) -> None:
    kernel = ",".join(["4,2", *["3"] * (shape.count(",") - 1)])
    text = f"g (float[{shape}] x) => (y) <float[{kernel}] w, {PARAMS}> {{ h = Conv(x, w) {NORM} }}"
    text = text.replace("=> (y)", f"=> (float[{','.join('abcde'[: shape.count(',') + 1])}] y)")
    assert_rewrites(FoldBatchNorm(), text, after=["Conv(x, const, const) -> y"])


@pytest.mark.parametrize("group", [1, 2, 4])
def test_folds_into_conv_transpose(group: int) -> None:
    text = f"""g (float[1,8,5,5] x) => (float[1,4,H,W] y) <float[8,{4 // group},3,3] w, float[4] c, {PARAMS}>
        {{ h = ConvTranspose<group={group}, strides=[2,2]>(x, w, c) {NORM} }}"""
    assert_rewrites(FoldBatchNorm(), text, after=["ConvTranspose(x, const, const) -> y"])


GEMMS = {
    "no bias": "Gemm(x, w)",
    "alpha and beta": "Gemm<alpha=0.5, beta=3.0>(x, w, c)",
    "scalar bias": "Gemm<beta=2.0>(x, w, one)",
    "bias of shape 1": "Gemm<beta=2.0>(x, w, one1)",
    "bias of shape 1, C": "Gemm(x, w, row)",
    "transposed weight": "Gemm<transB=1>(x, t, c)",
    "transposed data": "Gemm<transA=1>(z, w, c)",
    "beta of zero": "Gemm<beta=0.0>(x, w, c)",
}


@pytest.mark.parametrize("gemm", GEMMS.values(), ids=GEMMS.keys())
def test_folds_into_gemm(gemm: str) -> None:
    text = f"""g (float[3,5] x, float[5,3] z) => (float[3,4] y)
        <float[5,4] w, float[4,5] t, float[4] c, float one, float[1] one1, float[1,4] row, {PARAMS}>
        {{ h = {gemm} {NORM} }}"""
    data = "z" if "transA" in gemm else "x"
    assert_rewrites(FoldBatchNorm(), text, after=[f"Gemm({data}, const, const) -> y"])


@pytest.mark.parametrize("dtype", ["float", "double"])
def test_folds_into_matmul_of_rank_2(dtype: str) -> None:
    text = f"""g ({dtype}[3,5] x) => ({dtype}[3,4] y) <{dtype}[5,4] w, {PARAMS.replace("float", dtype)}>
        {{ h = MatMul(x, w) {NORM} }}"""
    assert_rewrites(FoldBatchNorm(), text, after=["Gemm(x, const, const) -> y"])


def test_folds_half_precision() -> None:
    text = f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w, c) {NORM} }}".replace("float[", "float16[")
    model = assert_rewrites(FoldBatchNorm(), text, after=["Conv(x, const, const) -> y"], rtol=4e-3)
    assert {value.const_value.numpy().dtype for value in model.graph.initializers.values()} == {np.dtype("float16")}


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 14, 15, 20])
def test_folds_in_every_opset(opset: int) -> None:
    norm = NORM.replace("(", "<momentum=0.8, epsilon=0.01>(")
    text = f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) {norm} }}"
    assert_rewrites(FoldBatchNorm(), text, opset=opset, after=["Conv(x, const, const) -> y"])


def test_folds_with_spatial_said_aloud() -> None:
    text = f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) {NORM.replace('(', '<spatial=1>(')} }}"
    assert_rewrites(FoldBatchNorm(), text, opset=8, after=["Conv(x, const, const) -> y"])


def test_folds_a_chain_in_one_run() -> None:
    text = f"""g {IMAGE} <{WEIGHTS}, {PARAMS}>
        {{ h1 = Conv(x, w)  h = BatchNormalization(h1, s, b, m, v) {NORM} }}"""
    assert_rewrites(FoldBatchNorm(), text, after=["Conv(x, const, const) -> y"])


def test_leaves_a_shared_weight_to_its_other_reader() -> None:
    text = f"""g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] z) <{WEIGHTS}, {PARAMS}>
        {{ h = Conv(x, w) {NORM}  z = Conv(x, w) }}"""
    model = assert_rewrites(FoldBatchNorm(), text, after=["Conv(x, const, const) -> y", "Conv(x, const) -> z"])
    assert "w" in model.graph.initializers


def test_folds_inside_a_branch_with_outer_weights() -> None:
    text = f"""g (float[1,2,5,5] x, bool q) => (float[1,4,3,3] y) <{WEIGHTS}, {PARAMS}> {{
        y = If<then_branch = t () => (float[1,4,3,3] yt) {{
                   h = Conv(x, w) {NORM.replace("y =", "yt =")} }},
               else_branch = e () => (float[1,4,3,3] ye) {{ ye = Conv(x, w, c) }}>(q) }}"""
    after = ["If(q) -> y", "  Conv(x, const, const) -> yt", "  Conv(x, const, const) -> ye"]
    assert_rewrites(FoldBatchNorm(), text, after=after, q=np.array(True))


def test_drops_what_nobody_reads_any_more() -> None:
    model = parse(f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) {NORM} }}")
    assert len(run_pass(FoldBatchNorm(), model)) == 1
    assert not {"w", "s", "b", "m", "v"} & set(model.graph.initializers)


REFUSED = {
    "conv output is also an output of the graph": (
        "output of the graph",
        f"g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] h) <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) {NORM} }}",
    ),
    "conv output has another reader": (
        "also read",
        f"""g (float[1,2,5,5] x) => (float[1,4,3,3] y, float[1,4,3,3] z) <{WEIGHTS}, {PARAMS}>
        {{ h = Conv(x, w) {NORM} z = Relu(h) }}""",
    ),
    "conv output is read by a branch": (
        "also read",
        f"""g (float[1,2,5,5] x, bool q) => (float[1,4,3,3] y, float[1,4,3,3] z) <{WEIGHTS}, {PARAMS}> {{
        h = Conv(x, w) {NORM}
        z = If<then_branch = t () => (float[1,4,3,3] zt) {{ zt = Relu(h) }},
               else_branch = e () => (float[1,4,3,3] ze) {{ ze = Conv(x, w) }}>(q) }}""",
    ),
    "norm is inside a branch and conv outside": (
        "outer graph",
        f"""g (float[1,2,5,5] x, bool q) => (float[1,4,3,3] z) <{WEIGHTS}, {PARAMS}> {{
        h = Conv(x, w)
        z = If<then_branch = t () => (float[1,4,3,3] y) {{ {NORM} }},
               else_branch = e () => (float[1,4,3,3] ze) {{ ze = Conv(x, w) }}>(q) }}""",
    ),
    "weight can be overridden at run time": (
        "weight is not constant",
        f"""g (float[1,2,5,5] x, float[4,2,3,3] w) => (float[1,4,3,3] y) <float[4,2,3,3] w, {PARAMS}>
        {{ h = Conv(x, w) {NORM} }}""",
    ),
    "weight is computed": (
        "weight is not constant",
        f"g (float[1,2,5,5] x, float[4,2,3,3] w) => (float[1,4,3,3] y) <{PARAMS}> {{ r = Relu(w) h = Conv(x, r) {NORM} }}",
    ),
    "bias is an input": (
        "bias is not constant",
        f"g (float[1,2,5,5] x, float[4] c) => (float[1,4,3,3] y) <float[4,2,3,3] w, {PARAMS}> {{ h = Conv(x, w, c) {NORM} }}",
    ),
    "parameters of the norm are an input": (
        "parameters are not constant",
        f"""g (float[1,2,5,5] x, float[4] s) => (float[1,4,3,3] y) <float[4,2,3,3] w, {PARAMS.partition(", ")[2]}>
        {{ h = Conv(x, w) {NORM} }}""",
    ),
    "training mode": (
        "training mode",
        f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) y, m2, v2 = BatchNormalization<training_mode=1>(h, s, b, m, v) }}",
    ),
    "gemm bias differs by row": (
        "row to row",
        f"g (float[3,5] x) => (float[3,4] y) <float[5,4] w, float[3,4] c, {PARAMS}> {{ h = Gemm(x, w, c) {NORM} }}",
    ),
    "gemm bias is a column": (
        "row to row",
        f"g (float[4,5] x) => (float[4,4] y) <float[5,4] w, float[4,1] c, {PARAMS}> {{ h = Gemm(x, w, c) {NORM} }}",
    ),
    "matmul of rank 3": (
        "rank 2",
        f"g (float[2,4,5] x) => (float[2,4,4] y) <float[5,4] w, {PARAMS}> {{ h = MatMul(x, w) {NORM} }}",
    ),
    "weight would overflow half precision": (
        "do not fit",
        f"""g (float16[1,2,5,5] x) => (float16[1,4,3,3] y) <float16[4,2,3,3] w, float16[4] b, float16[4] m,
        float16[4] v = {HALF_ONES}, float16[4] s = {{31571, 31571, 31571, 31571}}> {{ h = Conv(x, w) {NORM} }}""",
    ),
    "weight would vanish in half precision": (
        "do not fit",
        f"""g (float16[1,2,5,5] x) => (float16[1,4,3,3] y) <float16[4,2,3,3] w, float16[4] b, float16[4] m,
        float16[4] v = {HALF_ONES}, float16[4] s = {{17, 15360, 15360, 15360}}> {{ h = Conv(x, w) {NORM} }}""",
    ),
    "variance is negative": (
        "variance is negative",
        f"""g {IMAGE} <{WEIGHTS}, float[4] s, float[4] b, float[4] m, float[4] v = {{1, 1, -1, 1}}>
        {{ h = Conv(x, w) {NORM} }}""",
    ),
}


@pytest.mark.parametrize(("why", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(why: str, text: str) -> None:
    assert_refuses(FoldBatchNorm(), text, why)


OLD = {
    "statistics per position": (8, "spatial=0", "y = BatchNormalization<spatial=0>(h, s, b, m, v)"),
    "training outputs before opset 14": (
        9,
        "training mode",
        "y, m1, v1, m2, v2 = BatchNormalization(h, s, b, m, v)",
    ),
}


@pytest.mark.parametrize(("opset", "why", "norm"), OLD.values(), ids=OLD.keys())
def test_refuses_old_forms(opset: int, why: str, norm: str) -> None:
    assert_refuses(FoldBatchNorm(), f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) {norm} }}", why, opset=opset)


NOT_THERE = {
    "not after a linear node": f"g (float[1,4,5,5] x) => (float[1,4,5,5] y) <{PARAMS}> {{ h = Relu(x) {NORM} }}",
    "after the input": f"g (float[1,4,5,5] h) => (float[1,4,5,5] y) <{PARAMS}> {{ {NORM} }}",
    "after a product of two activations": f"""g (float[4,5] x, float[5,4] z) => (float[4,4] y) <{PARAMS}>
        {{ h = MatMul(x, z) {NORM} }}""",
}


@pytest.mark.parametrize("text", NOT_THERE.values(), ids=NOT_THERE.keys())
def test_says_nothing_where_there_is_no_pair(text: str) -> None:
    assert_refuses(FoldBatchNorm(), text, None)


def test_leaves_opset_6() -> None:
    norm = NORM.replace("(", "<is_test=1>(")
    assert_refuses(FoldBatchNorm(), f"g {IMAGE} <{WEIGHTS}, {PARAMS}> {{ h = Conv(x, w) {norm} }}", None, opset=6)
