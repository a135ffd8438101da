"""Rules of attention as one operator: heads go whole."""

import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.graph import array
from onnxopt.passes.prune import groups
from onnxopt.testing import parse

CONTRIB = {"com.microsoft": 1}


def self_attention(node: str, weights: str, *, width: int = 24) -> ir.Model:
    """ONNX Runtime's Attention, with what it projects."""
    text = f"""g (float[2,t,5] x) => (float[2,t,7] y) <float[5,6] e, float[{width},7] o, {weights}>
    {{ h = MatMul(x, e)  a = {node}  y = MatMul(a, o) }}"""
    return parse(text, opset=17, opsets=CONTRIB)


SELF = {
    "plain": ("com.microsoft.Attention<num_heads=4>(h, w, b)", "float[6,72] w, float[72] b", 24),
    "causal": ("com.microsoft.Attention<num_heads=4, unidirectional=1>(h, w, b)", "float[6,72] w, float[72] b", 24),
    "with a scale": ("com.microsoft.Attention<num_heads=4, scale=0.3>(h, w, b)", "float[6,72] w, float[72] b", 24),
    "of three widths": (
        "com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[8,8,24]>(h, w, b)",
        "float[6,40] w, float[40] b",
        24,
    ),
}


@pytest.mark.parametrize(("node", "weights", "width"), SELF.values(), ids=SELF)
def test_heads_of_the_projecting_attention(node: str, weights: str, width: int) -> None:
    assert sizes(assert_exact(self_attention(node, weights, width=width))) == {"h": 6, "a": 4}


def test_what_counts_heads_is_rewritten() -> None:
    model = self_attention(SELF["of three widths"][0], SELF["of three widths"][1])
    found = groups.find(model)
    found.remove(found.groups[1].classes[[1, 2, 3]])
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert node.attributes.get_int("num_heads", 0) == 1
    assert list(node.attributes.get_ints("qkv_hidden_sizes", [])) == [2, 2, 6]
    assert array(model.graph.initializers["w"]).shape == (6, 10)
    assert array(model.graph.initializers["o"]).shape == (6, 7)


def three(attention: str, *, q: int = 24, k: int = 24, v: int = 24, more: str = "", opset: int = 17) -> ir.Model:
    """Query, key and value from products, then ``a``, which is attention."""
    width = q // 4 * 4 if v == k else v
    text = f"""g (float[2,t,5] x) => (float[2,t,7] y) <float[5,{q}] wq, float[5,{k}] wk, float[5,{v}] wv,
    float[{width},7] o{more}> {{ q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  a = {attention}
    y = MatMul(a, o) }}"""
    return parse(text, opset=opset, opsets=CONTRIB)


MHA = "com.microsoft.MultiHeadAttention<num_heads=4>"
MULTI = {
    "plain": (f"{MHA}(q, k, v)", ""),
    "bias": (f"{MHA}(q, k, v, b)", ", float[72] b"),
    "scores with heads": (f"{MHA}(q, k, v, , , s)", ", float[1,4,3,3] s"),
    "scores without heads": (f"{MHA}(q, k, v, , , s)", ", float[1,1,3,3] s"),
}


@pytest.mark.parametrize(("attention", "more"), MULTI.values(), ids=MULTI)
def test_heads_of_three_projections_go_together(attention: str, more: str) -> None:
    found = assert_exact(three(attention, more=more))
    assert [(group.name, len(group), len(group.writers)) for group in found] == [("q", 4, 3)]


def test_values_of_another_width() -> None:
    found = assert_exact(three(f"{MHA}(q, k, v, b)", v=12, more=", float[60] b"))
    assert sizes(found) == {"q": 4}


PACKED = {
    "query, key and value": (f"{MHA}(h)", 3),
    "query, key and value with bias": (f"{MHA}(h, , , b)", 3),
    "key and value": (f"{MHA}(x, h)", 2),
}


@pytest.mark.parametrize(("attention", "parts"), PACKED.values(), ids=PACKED)
def test_projections_that_are_packed(attention: str, parts: int) -> None:
    """ONNX Runtime runs these on GPUs alone: only what is left is looked at."""
    text = f"""g (float[2,3,5] i) => (float[2,3,7] y) <float[5,4,{parts},6] w, float[5,24] u, float[24,7] o, float[72] b>
    {{ h = Einsum<equation="bsi,inph->bsnph">(i, w)  x = MatMul(i, u)  a = {attention}  y = MatMul(a, o) }}"""
    model = parse(text, opset=17, opsets=CONTRIB)
    found = groups.find(model)
    found.remove(next(group for group in found if group.name == "h").classes[:1])
    shapes = {name: value.shape.numpy() for name, value in model.graph.initializers.items()}
    assert (shapes["w"], shapes["o"]) == ((5, 3, parts, 6), (18, 7))
    assert shapes["u"] == ((5, 18) if parts == 2 else (5, 24))
    assert shapes["b"] == ((54,) if "b)" in attention else (72,))


def test_past_keys_from_outside_keep_the_heads() -> None:
    text = f"""g (float[2,1,5] x, float[2,4,p,6] i, float[2,4,p,6] j) => (float[2,1,24] a, float[2,4,r,6] c,
    float[2,4,r,6] d) <float[5,24] w> {{ q = MatMul(x, w)  a, c, d = {MHA}(q, q, q, , , , i, j) }}"""
    assert "q" in refused(parse(text, opset=17, opsets=CONTRIB))


def test_present_keys_have_the_heads_of_the_key() -> None:
    text = f"""g (float[2,3,5] x) => (float[2,3,7] y, float[2,3,6] z) <float[5,24] w, float[24,7] o, float[4,1,1] m>
    {{ q = MatMul(x, w)  a, c, d = {MHA}(q, q, q)  y = MatMul(a, o)  e = Mul(c, m)  z = ReduceMax<axes=[1], keepdims=0>(e) }}"""
    assert "q" in refused(parse(text, opset=17, opsets=CONTRIB))


GQA = "com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"


def group_query(inputs: str, weights: str, products: str) -> ir.Model:
    """The operator needs the lengths and gives the cache."""
    text = f"""g (float[2,3,5] x) => (float[2,3,7] y) <float[64,7] o, int32[2] l = {{2, 2}}, int32 t = {{3}}, {weights}>
    {{ {products}  a, c, d = {GQA}({inputs}, , , l, t)  y = MatMul(a, o) }}"""
    return parse(text, opset=17, opsets=CONTRIB)


def test_queries_go_with_the_key_that_they_share() -> None:
    weights, products = "float[5,64] wq, float[5,32] wk", "q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wk)"
    found = assert_exact(group_query("q, k, v", weights, products))
    assert sizes(found) == {"q": 2}


def test_queries_and_keys_in_one() -> None:
    found = assert_exact(group_query("q, , ", "float[5,128] w", "q = MatMul(x, w)"))
    assert sizes(found) == {"q": 2}


STANDARD = {
    "rank 3": ("Attention<q_num_heads=4, kv_num_heads=4>(q, k, v)", 24, 24, ""),
    "causal": ("Attention<q_num_heads=4, kv_num_heads=4, is_causal=1>(q, k, v)", 24, 24, ""),
    "mask with heads": ("Attention<q_num_heads=4, kv_num_heads=4>(q, k, v, m)", 24, 24, ", float[4,3,3] m"),
    "mask of two axes": ("Attention<q_num_heads=4, kv_num_heads=4>(q, k, v, m)", 24, 24, ", float[3,3] m"),
    "shared keys": ("Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)", 24, 12, ""),
    "one key": ("Attention<q_num_heads=4, kv_num_heads=1>(q, k, v)", 24, 6, ""),
}


@pytest.mark.parametrize(("attention", "q", "k", "more"), STANDARD.values(), ids=STANDARD)
def test_heads_of_the_standard_attention(attention: str, q: int, k: int, more: str) -> None:
    found = assert_exact(three(attention, q=q, k=k, v=k, more=more, opset=23))
    assert sizes(found) == ({"q": k // 6} if k > 6 else {"q": 1})


def apart(kv: int) -> ir.Model:
    """Heads on an axis of their own, made by 1x1 convolutions over one axis."""
    text = f"""g (float[2,3,5,1] x) => (float[2,3,5,6] y) <float[4,3,1,1] q, float[{kv},3,1,1] k, float[3,4,1,1] o,
    float[1,6] e> {{ h = Conv(x, q)  i = Conv(x, k)  j = MatMul(h, e)  l = MatMul(i, e)  a = Attention(j, l, l)
    y = Conv(a, o) }}"""
    return parse(text, opset=23)


@pytest.mark.parametrize("kv", [4, 2])
def test_heads_on_an_axis_of_their_own(kv: int) -> None:
    assert sizes(assert_exact(apart(kv))) == {"h": kv}


ROTARY = {
    "standard": ("RotaryEmbedding<num_heads=4>(q, c, s, p)", 23, 24),
    "of some numbers": ("RotaryEmbedding<num_heads=4, rotary_embedding_dim=6>(q, c, s, p)", 23, 32),
    "ONNX Runtime's": ("com.microsoft.RotaryEmbedding(q, p, c, s)", 17, 24),
    "ONNX Runtime's, counted": (
        "com.microsoft.RotaryEmbedding<num_heads=4, rotary_embedding_dim=6>(q, p, c, s)",
        17,
        32,
    ),
}


@pytest.mark.parametrize(("node", "opset", "width"), ROTARY.values(), ids=ROTARY)
def test_heads_that_turn(node: str, opset: int, width: int) -> None:
    text = f"""g (float[1,3,5] x) => (float[1,3,7] y) <float[5,{width}] w, float[{width},7] o, float[9,3] c, float[9,3] s,
    int64[1,3] p = {{0, 1, 2}}> {{ q = MatMul(x, w)  r = {node}  y = MatMul(r, o) }}"""
    assert sizes(assert_exact(parse(text, opset=opset, opsets=CONTRIB))) == {"q": 4}


def test_heads_that_are_not_counted_stay() -> None:
    model = three(f"{MHA}(q, k, v)")
    (node,) = [node for node in model.graph if node.op_type == "MultiHeadAttention"]
    node.attributes["num_heads"] = ir.AttrInt64("num_heads", 5)
    assert "its heads are not equal" in refused(model)["q"]
