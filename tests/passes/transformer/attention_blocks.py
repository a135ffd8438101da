"""One block of attention in ONNX text."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import compare_outputs

PROJECTIONS = {
    "three products": """
        q0 = MatMul(x, wq)  q1 = Add(q0, bq)  q2 = Reshape(q1, parts)
        k0 = MatMul(x, wk)  k1 = Add(bk, k0)  k2 = Reshape(k1, parts)
        v0 = MatMul(x, wv)  v1 = Add(v0, bv)  v2 = Reshape(v1, parts)""",
    "one product, split": """
        a0 = MatMul(x, w3)  a1 = Add(a0, b3)  q1, k1, v1 = Split<axis=-1>(a1, thirds)
        q2 = Reshape(q1, parts)  k2 = Reshape(k1, parts)  v2 = Reshape(v1, parts)""",
    "one product, sliced": """
        a0 = MatMul(x, w3)  a1 = Add(a0, b3)
        q1 = Slice(a1, n0, n16, last)  k1 = Slice(a1, n16, n32, last)  v1 = Slice(a1, n32, n48, last)
        q2 = Reshape(q1, parts)  k2 = Reshape(k1, parts)  v2 = Reshape(v1, parts)""",
    "Gemms of rows": """
        rows = Reshape(x, flat)  from = Shape(x)  lead = Slice(from, n0, n2, n0)  there = Concat<axis=0>(lead, inner)
        q0 = Gemm(rows, wq, bq)  q2 = Reshape(q0, there)
        k0 = Gemm<transB=1>(rows, wk, bk)  k2 = Reshape(k0, there)
        v0 = Gemm(rows, wv)  v2 = Reshape(v0, there)""",
}
SCORES = {
    "divided": "s0 = MatMul(q, kt)  s1 = Div(s0, two)",
    "query scaled before": "q9 = Mul(q, half)  s1 = MatMul(q9, kt)",
    "both scaled before": "q9 = Mul(q, root)  k9 = Mul(root, kt)  s1 = MatMul(q9, k9)",
    "not scaled": "s1 = MatMul(q, kt)",
}
MASKS = {
    "none": "s2 = Mul(s1, one)",
    "padding": "s2 = Add(s1, bias)",
    "bias first": "s2 = Add(bias, s1)",
    "forbidden by Where": "s2 = Where(open, s1, lowest)",
    "forbidden where true": "s2 = Where(shut, lowest, s1)",
}
BIAS = """
        m0 = Unsqueeze(mask, places)  m1 = Cast<to=1>(m0)  m2 = Sub(one, m1)  bias = Mul(m2, low)
        open = Cast<to=9>(m0)  shut = Not(open)"""
WEIGHTS = """float[16,16] wq, float[16,16] wk, float[16,16] wv, float[16,16] wo, float[16,48] w3, float[16] bq, float[16] bk,
        float[16] bv, float[48] b3, int64[4] parts = {0,0,4,4}, int64[3] whole = {0,0,16}, int64[2] places = {1,2},
        int64[3] thirds = {16,16,16}, int64[1] n0 = {0}, int64[1] n2 = {2}, int64[1] n4 = {4}, int64[4] single = {0,0,1,4}, int64[1] n16 = {16}, int64[1] n32 = {32},
        int64[1] n48 = {48}, int64[1] last = {-1}, int64[2] flat = {-1,16}, int64[2] inner = {4,4},
        float one = {1.0}, float low = {-10000.0}, float two = {2.0}, float half = {0.5}, float root = {0.7071},
        float lowest = {-3e38}"""
TURNED = "q = Transpose<perm=[0,2,1,3]>(q2)  kt = Transpose<perm=[0,2,3,1]>(k2)  v = Transpose<perm=[0,2,1,3]>(v2)"
TWICE = """q = Transpose<perm=[0,2,1,3]>(q2)  k = Transpose<perm=[0,2,1,3]>(k2)  kt = Transpose<perm=[0,1,3,2]>(k)
        v = Transpose<perm=[0,2,1,3]>(v2)"""


def block(
    projections: str = "three products",
    scores: str = "divided",
    mask: str = "padding",
    turned: str = TURNED,
    softmax: str = "Softmax<axis=-1>(s2)",
    inputs: str = "float[batch,sequence,16] x, int64[batch,sequence] mask",
) -> str:
    """Attention of 4 heads of size 4, and the linear map behind it."""
    return f"""g ({inputs}) => (float[batch,sequence,16] y) <{WEIGHTS}>
        {{ {PROJECTIONS.get(projections, projections)} {turned} {BIAS} {SCORES.get(scores, scores)}
        {MASKS.get(mask, mask)}  p = {softmax}
        r0 = MatMul(p, v)  r1 = Transpose<perm=[0,2,1,3]>(r0)  r2 = Reshape(r1, whole)  y = MatMul(r2, wo) }}"""


def feeds(batch: int, sequence: int) -> dict[str, np.ndarray]:
    """Inputs, the last tokens of each row but the first masked out, and some between."""
    rng = np.random.default_rng(sequence)
    mask = np.ones((batch, sequence), np.int64)
    for row in range(batch):
        mask[row, sequence - row :], mask[row, 1 + row : 2 + row] = 0, row % 2 == 0
    return {"x": rng.normal(size=(batch, sequence, 16)).astype(np.float32), "mask": mask}


def assert_same(before: ir.Model, after: ir.Model) -> None:
    """Both give the same at two sizes, with tokens masked out."""
    for size in ((3, 7), (2, 5)):
        given = {name: array for name, array in feeds(*size).items() if name in {v.name for v in before.graph.inputs}}
        old, new = (Session(model, Target(), optimize=False).run(given) for model in (before, after))
        compare_outputs(old, new, 1e-5)
