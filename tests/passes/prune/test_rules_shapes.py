"""Rules of operators that move numbers, and of shapes that are values."""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.graph import array
from onnxopt.passes.prune import groups
from onnxopt.testing import parse

IMAGE = "float[8,3,3,3] w, float[5,8,1,1] v"
TOKENS = "float[6,12] w, float[12,5] v"


def image(lines: str, weights: str = IMAGE, *, opset: int = 20, batch: str = "n", out: str = "n,5,h,w") -> ir.Model:
    """``h`` is the output of a convolution with 8 channels; ``v`` reads what the lines make of it."""
    return parse(
        f"g (float[{batch},3,6,6] x) => (float[{out}] y) <{weights}> {{ h = Conv(x, w) {lines} }}", opset=opset
    )


def tokens(lines: str, weights: str = TOKENS, *, opset: int = 20, given: str = "n,7", out: str = "n,7,5") -> ir.Model:
    """``h`` is the output of a product with 12 channels; ``v`` reads what the lines make of it."""
    return parse(f"g (float[{given},6] x) => (float[{out}] y) <{weights}> {{ h = MatMul(x, w) {lines} }}", opset=opset)


MOVED = {
    "Transpose": partial(
        image, "t = Transpose<perm=[0,2,3,1]>(h) y = MatMul(t, r)", "float[8,3,3,3] w, float[8,5] r", out="n,4,4,5"
    ),
    "Transpose without perm": partial(
        image,
        "t = Transpose(h) i = Transpose<perm=[3,2,1,0]>(t) y = Conv(i, v)",
    ),
    "Unsqueeze and Squeeze by inputs": partial(
        image,
        "u = Unsqueeze(h, a) s = Squeeze(u, b) y = Conv(s, v)",
        f"{IMAGE}, int64[2] a = {{1, -1}}, int64[2] b = {{5, -5}}",
    ),
    "Unsqueeze and Squeeze by attributes": partial(
        image, "u = Unsqueeze<axes=[1,5]>(h) s = Squeeze<axes=[1,-1]>(u) y = Conv(s, v)", opset=11
    ),
    "Squeeze of all": partial(
        image, "s = Squeeze(h) y = Conv(s, v)", "float[8,3,6,1] w, float[5,8,1] v", batch="4", out="4,5,6"
    ),
    "Flatten": partial(image, "f = Flatten(h) y = Gemm(f, v)", "float[8,3,3,3] w, float[128,5] v", out="n,5"),
    "Flatten, axis from the end": partial(
        image, "f = Flatten<axis=-3>(h) y = Gemm(f, v)", "float[8,3,3,3] w, float[128,5] v", out="n,5"
    ),
    "Flatten before the channels": partial(
        image,
        "t = Transpose<perm=[0,2,3,1]>(h) f = Flatten<axis=3>(t) y = MatMul(f, v)",
        "float[8,3,3,3] w, float[8,5] v",
        out="m,5",
    ),
    "Reshape to channel x space": partial(
        image, "f = Reshape(h, s) y = Gemm(f, v)", "float[8,3,3,3] w, float[128,5] v, int64[2] s = {0, -1}", out="n,5"
    ),
    "Reshape of the last axis to space x channel": partial(
        image,
        "t = Transpose<perm=[0,2,3,1]>(h) f = Reshape(t, s) y = Gemm(f, v)",
        "float[8,3,3,3] w, float[128,5] v, int64[2] s = {-1, 128}",
        out="n,5",
    ),
    "Reshape that only adds axes of one": partial(
        image,
        "f = Reshape(h, s) b = Reshape(f, t) y = Conv(b, v)",
        f"{IMAGE}, int64[6] s = {{0, 1, 8, 4, 1, -1}}, int64[4] t = {{-1, 8, 4, 4}}",
    ),
    "Reshape of batch and space, of unknown size": partial(
        image,
        "t = Transpose<perm=[0,2,3,1]>(h) f = Reshape(t, s) y = MatMul(f, v)",
        "float[8,3,3,3] w, float[8,5] v, int64[2] s = {-1, 8}",
        out="m,5",
    ),
    "Reshape, opset 1, shape as attribute": partial(
        image,
        "f = Reshape<shape=[0,8,16]>(h) y = Conv(f, v)",
        "float[8,3,3,3] w, float[5,8,1] v",
        opset=1,
        out="n,5,16",
    ),
    "Expand to more channels of the same": partial(
        image, "e = Expand(k, s) a = Add(h, e) y = Conv(a, v)", f"{IMAGE}, float[1,1,1] k, int64[3] s = {{8, 4, 1}}"
    ),
    "Expand that leaves the channels": partial(
        image, "e = Expand(h, s) y = Conv(e, v)", f"{IMAGE}, int64[4] s = {{2, 8, 4, 1}}", batch="1"
    ),
    "Expand by one": partial(image, "e = Expand(h, s) y = Conv(e, v)", f"{IMAGE}, int64[3] s = {{1, 1, 1}}"),
    "Expand to the shape of another": partial(
        image, "s = Shape(h) e = Expand(k, s) a = Mul(h, e) y = Conv(a, v)", f"{IMAGE}, float[1,1] k"
    ),
    "ConstantOfShape": partial(
        image,
        "e = ConstantOfShape<value=float[1] {2.0}>(s) a = Add(h, e) y = Conv(a, v)",
        f"{IMAGE}, int64[3] s = {{8, 4, 4}}",
    ),
    "ConstantOfShape of the shape of another": partial(
        image, "s = Shape(h) e = ConstantOfShape<value=float[1] {2.0}>(s) a = Add(h, e) y = Conv(a, v)"
    ),
    "Tile of channels": partial(
        image, "e = Tile(h, s) y = Conv(e, v)", "float[8,3,3,3] w, float[5,16,1,1] v, int64[4] s = {1, 2, 1, 1}"
    ),
    "Tile of an axis of one": partial(
        image, "e = Tile(k, s) a = Add(h, e) y = Conv(a, v)", f"{IMAGE}, float[1,1,4] k, int64[3] s = {{8, 4, 1}}"
    ),
    "SpaceToDepth": partial(
        image, "e = SpaceToDepth<blocksize=2>(h) y = Conv(e, v)", "float[8,3,3,3] w, float[5,32,1,1] v"
    ),
}


@pytest.mark.parametrize("model", MOVED.values(), ids=MOVED)
def test_channels_that_are_moved(model: Callable[[], ir.Model]) -> None:
    assert sizes(assert_exact(model()))["h"] == 8


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_that_become_pixels_go_together(mode: str) -> None:
    model = image(
        f'e = DepthToSpace<blocksize=2, mode="{mode}">(h) y = Conv(e, v)', "float[8,3,3,3] w, float[5,2,1,1] v"
    )
    assert sizes(assert_exact(model)) == {"h": 2}


@pytest.mark.parametrize("target", ["0, 0, 3, 4", "0, 7, -1, 4", "-1, 7, 3, 4", "0, -1, 3, 4", "0, 7, 3, -1"])
@pytest.mark.parametrize("back", ["0, 0, 12", "-1, 7, 12", "0, 7, -1", "0, 0, -1"])
def test_heads_go_whole(target: str, back: str) -> None:
    model = tokens(
        "a = Reshape(h, s) b = Transpose<perm=[0,2,1,3]>(a) c = Transpose<perm=[0,2,1,3]>(b) d = Reshape(c, t) y = MatMul(d, v)",
        f"{TOKENS}, int64[4] s = {{{target}}}, int64[3] t = {{{back}}}",
    )
    assert sizes(assert_exact(model)) == {"h": 3}


def test_queries_keys_and_values_that_were_made_as_one() -> None:
    """``[3, heads, size]``: the heads, not the three; and they are one with those that are read again."""
    model = tokens(
        """a = Reshape(h, s) b = Transpose<perm=[2,0,3,1,4]>(a)
        q = Gather(b, zero) k = Gather(b, one) l = Gather(b, two)
        m = Transpose<perm=[0,1,3,2]>(k) n = MatMul(q, m) o = Softmax(n) p = MatMul(o, l)
        r = Transpose<perm=[0,2,1,3]>(p) c = Reshape(r, t) y = MatMul(c, v)""",
        """float[6,36] w, float[12,5] v, int64[5] s = {0, 7, 3, 4, 3}, int64[3] t = {0, 7, 12},
        int64 zero = {0}, int64 one = {1}, int64 two = {-1}""",
    )
    assert sizes(assert_exact(model)) == {"h": 4}


SHUFFLES = {
    "as one": """a = Reshape(h, s) b = Transpose<perm=[0,2,1,3,4]>(a) c = Reshape(b, t) y = Conv(c, v)""",
    "taken apart after a second Reshape": """a = Reshape(h, r) b = Transpose<perm=[1,0,2]>(a) c = Reshape(b, u)
        d = Gather(c, zero) e = Gather(c, one) f = Concat<axis=1>(e, d) y = Conv(f, v)""",
}


@pytest.mark.parametrize("lines", SHUFFLES.values(), ids=SHUFFLES)
def test_a_channel_shuffle_loses_the_same_of_each_group(lines: str) -> None:
    weights = f"""{IMAGE}, int64[5] s = {{0, 2, 4, 4, 4}}, int64[4] t = {{0, 8, 4, 4}}, int64[3] r = {{4, 2, 16}},
        int64[5] u = {{2, -1, 4, 4, 4}}, int64 zero = {{0}}, int64 one = {{1}}"""
    assert sizes(assert_exact(image(lines, weights, batch="1"))) == {"h": 4}


@pytest.mark.parametrize("size", ["4", "p"])
def test_a_group_norm_written_out_loses_whole_groups(size: str) -> None:
    model = parse(f"""g (float[n,3,{size},{size}] x) => (float[n,5,h,w] y)
        <float[8,3,1,1] w, float[5,8,1,1] v, int64[3] s = {{0, 4, -1}}, float[4] a, float[4] b>
        {{ h = Conv(x, w) g = Reshape(h, s) i = InstanceNormalization(g, a, b) t = Shape(h) j = Reshape(i, t) y = Conv(j, v) }}""")
    assert sizes(assert_exact(model)) == {"h": 4}


DYNAMIC = "float[6,12] w, float[12,5] v, int64[1] heads = {3}, int64[1] each = {4}, int64[1] all = {12}"
COMPUTED = {
    "from parts of a Shape": """n = Shape<end=1>(x) l = Shape<start=1,end=2>(x) s = Concat<axis=0>(n, l, heads, each)
        a = Reshape(h, s) t = Concat<axis=0>(n, l, all) c = Reshape(a, t) y = MatMul(c, v)""",
    "by Gather, Unsqueeze and Cast": """q = Shape(h) r = Cast<to=6>(q) n0 = Gather(r, zero) l0 = Gather(r, one) n1 = Cast<to=7>(n0)
        l1 = Cast<to=7>(l0) n = Unsqueeze(n1, first) l = Unsqueeze(l1, first) s = Concat<axis=0>(n, l, heads, each)
        a = Reshape(h, s) t = Concat<axis=0>(n, l, all) c = Reshape(a, t) y = MatMul(c, v)""",
    "a product of sizes": """q = Shape(h) l = Slice(q, first, two) s = Concat<axis=0>(l, heads, each) a = Reshape(h, s) r = Shape(a)
        i = Gather(r, two0) j = Gather(r, three) k0 = Mul(i, j) k = Reshape(k0, last) t = Concat<axis=0>(l, k)
        c = Reshape(a, t) y = MatMul(c, v)""",
    "of the Shape before": "q = Shape(h) s = Concat<axis=0>(first, first, heads, last) a = Reshape(h, s) c = Reshape(a, q) y = MatMul(c, v)",
}


@pytest.mark.parametrize("lines", COMPUTED.values(), ids=COMPUTED)
def test_targets_that_are_computed(lines: str) -> None:
    more = ", int64 zero = {0}, int64 one = {1}, int64[1] two = {2}, int64 two0 = {2}, int64 three = {3}, int64[1] first = {0}, int64[1] last = {-1}"
    assert sizes(assert_exact(tokens(lines, DYNAMIC + more, given="n,l", out="n,l,5"))) == {"h": 3}


def test_a_computed_target_of_two_layers_does_not_tie_them() -> None:
    model = tokens(
        """n = Shape<end=1>(x) l = Shape<start=1,end=2>(x) s = Concat<axis=0>(n, l, heads, each) t = Concat<axis=0>(n, l, all)
        a = Reshape(h, s) b = Reshape(a, t) i = MatMul(b, u) c = Reshape(i, s) d = Reshape(c, t) y = MatMul(d, v)""",
        f"{DYNAMIC}, float[12,12] u",
        given="n,l",
        out="n,l,5",
    )
    found = assert_exact(model)
    assert sizes(found) == {"h": 3, "i": 3}
    found = groups.find(pruned := model.clone())
    found.remove(found.groups[0].classes[:1])
    targets = [array(node.inputs[1]) for node in pruned.graph if node.op_type == "Reshape"]
    assert [None if target is None else target.tolist() for target in targets] == [[0, 0, 2, 4], [0, 0, 8], None, None]


def test_a_size_that_is_told_twice() -> None:
    """Both tensors are as large as one number says: their positions go together."""
    model = image(
        """n = Shape<end=1>(x) s = Concat<axis=0>(n, eight, four, four) e = Expand(k, s) f = Expand(k, s)
        a = Add(h, e) i = Conv(x, u) b = Mul(i, f) c = Conv(a, v) d = Conv(b, v) y = Sub(c, d)""",
        f"{IMAGE}, float[8,3,3,3] u, float[1,1,1] k, int64[1] eight = {{8}}, int64[1] four = {{4}}",
    )
    assert sizes(assert_exact(model)) == {"h": 8}


KEPT = {
    "channels and unknown space are merged": (
        "f = Flatten(h) m = ReduceMax(f) y = Add(x, m)",
        "float[n,3,p,q] x) => (float[n,3,p,q] y",
        "it is merged with sizes that are not known",
    ),
    "the size is a factor": (
        "s = Shape(h) i = Gather(s, one) j = Cast<to=1>(i) k = Sqrt(j) l = Div(h, k) y = Conv(l, v)",
        "float[n,3,6,6] x) => (float[n,5,h,w] y",
        "its size is read as a number",
    ),
    "the size is an output": (
        "s = Shape(h) y = Identity(s)",
        "float[n,3,6,6] x) => (int64[4] y",
        "its size is read as a number",
    ),
    "how many numbers there are": (
        "s = Size(h) y = Identity(s)",
        "float[1,3,6,6] x) => (int64 y",
        "its size is read as a number",
    ),
    "a target is computed": (
        "s = Shape(h) t = Max(s, ones) a = Reshape(h, t) y = Conv(a, v)",
        "float[n,3,p,q] x) => (float[a,b,c,d] y",
        "its size is read as a number",
    ),
    "space is merged into a channel": (
        "t = Transpose<perm=[0,2,3,1]>(h) a = Reshape(t, r) y = MatMul(a, z)",
        "float[1,3,5,5] x) => (float[1,6,5] y",
        "it is divided into parts whose sizes are not known",
    ),
    "a Tile is computed": (
        "s = Shape(u) a = Tile(h, s) y = Neg(a)",
        "float[n,3,6,6] x, float[a,b,c,d] u) => (float[e,f,g,i] y",
        "how often it is repeated is not known",
    ),
    "an Expand to the shape of an input": (
        "s = Shape(u) a = Expand(h, s) y = Neg(a)",
        "float[1,3,5,5] x, float[a,8,c,d] u) => (float[e,f,g,i] y",
        "'u' comes from outside",
    ),
}


@pytest.mark.parametrize(("lines", "signature", "why"), KEPT.values(), ids=KEPT)
def test_channels_that_must_stay(lines: str, signature: str, why: str) -> None:
    weights = f"{IMAGE}, float[12,5] z, int64 one = {{1}}, int64[4] ones = {{1, 1, 1, 1}}, int64[3] r = {{1, -1, 12}}"
    model = parse(f"g ({signature}) <{weights}> {{ h = Conv(x, w) {lines} }}")
    assert refused(model)["h"].endswith(why)
    assert_exact(model)


def test_numbers_of_a_subgraph_stay() -> None:
    """A branch that reads the size of an outer value."""
    model = parse("""g (float[n,3,6,6] x, bool c) => (float[n,5,h,w] y, int64[4] z) <float[8,3,3,3] w, float[5,8,1,1] v>
        { h = Conv(x, w) s = Shape(h) y = Conv(h, v)
          z = If(c) <then_branch = a () => (int64[4] p) { p = Identity(s) }, else_branch = b () => (int64[4] q) { q = Neg(s) }> }""")
    assert refused(model)["h"] == "its size is read as a number"


def test_what_goes_is_said_in_own_constants() -> None:
    """A target that two nodes share stays what it is for the other."""
    model = image(
        "a = Reshape(h, s) b = Reshape(x, t) c = Reshape(k, s) d = Conv(a, r) y = Add(d, c)",
        "float[8,3,3,3] w, float[8,8,1] r, float[1,8,16] k, int64[3] s = {0, 8, -1}, int64[2] t = {0, -1}",
        out="n,8,16",
    )
    found = assert_exact(model)
    assert sizes(found) == {"h": 8}
    found = groups.find(model)
    found.remove(found.groups[0].classes[:3])
    assert [np.ravel(array(node.inputs[1])).tolist() for node in model.graph if node.op_type == "Reshape"] == [
        [0, 5, -1],
        [0, -1],
        [0, 8, -1],
    ]


def test_in_a_branch() -> None:
    """What a branch says in numbers is rewritten there."""
    model = parse("""g (float[n,7,6] x, bool c) => (float[n,7,5] y) <float[6,12] w, float[12,5] v>
        { h = MatMul(x, w)
          y = If(c) <then_branch = a () => (float[n,7,5] p) <int64[4] s = {0, 0, 3, 4}, int64[3] t = {0, 0, 12}>
                { i = Reshape(h, s) j = Reshape(i, t) p = MatMul(j, v) },
              else_branch = b () => (float[n,7,5] q) { k = Neg(h) q = MatMul(k, v) }> }""")
    for taken in (True, False):
        feeds = {"x": np.random.default_rng(0).normal(size=(2, 7, 6)).astype(np.float32), "c": np.array(taken)}
        assert sizes(assert_exact(model, feeds)) == {"h": 3}


ARITHMETIC = {
    "half of the image": "j = Div(i, two) k = Unsqueeze(j, first) t = Concat<axis=0>(b, eight, k, k, last) a = Reshape(h, t)",
    "a part of the image": "j = Sub(i, two) k = Unsqueeze(j, first) t = Concat<axis=0>(b, eight, k, last) a = Reshape(h, t)",
    "the whole image": "j = Slice(s, two1, four, first) k = ReduceProd(j) t = Concat<axis=0>(b, eight, k) a = Reshape(h, t)",
    "times a number": "j = Mul(i, four) k = Cast<to=7>(j) t = Concat<axis=0>(b, eight, k) a = Reshape(h, t)",
}


@pytest.mark.parametrize("lines", ARITHMETIC.values(), ids=ARITHMETIC)
def test_computing_with_sizes(lines: str) -> None:
    weights = """float[8,3,3,3] w, float[5,8] v, int64 two = {2}, int64[1] two1 = {2}, int64[1] four = {4}, int64[1] first = {0},
        int64[1] last = {-1}, int64[1] eight = {8}"""
    start = "s = Shape(h) i = Gather(s, two) b = Slice(s, first, one, first)"
    model = image(
        f"{start} {lines} f = Flatten<axis=2>(a) r = Reshape(f, t3) y = MatMul(v, r)",
        weights + ", int64[1] one = {1}, int64[3] t3 = {2, 8, 16}",
        batch="2",
        out="2,5,16",
    )
    assert sizes(assert_exact(model)) == {"h": 8}
