"""Rules of operators that join, cut, pick and pad."""

import numpy as np
import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.graph import array, nodes
from onnxopt.passes.prune import groups
from onnxopt.testing import parse

CONVS = "float[8,3,3,3] w, float[5,8,1,1] v"
PICKED = "positions of it are picked by numbers that are computed"


def image(lines: str, weights: str = CONVS, *, opset: int = 20, more: str = "", out: str = "n,5,h,w") -> ir.Model:
    """``h`` is the output of a convolution with 8 channels, ``v`` reads what the lines make of it."""
    text = f"g (float[n,3,6,6] x{more}) => (float[{out}] y) <{weights}> {{ h = Conv(x, w) {lines} }}"
    return parse(text, opset=opset)


def after(model: ir.Model, *gone: int) -> ir.Model:
    """The model without these channels of its first group."""
    pruned = model.clone()
    found = groups.find(pruned)
    found.remove(found.groups[0].classes[list(gone)])
    return pruned


def told(model: ir.Model, op_type: str, index: int = 1) -> list[list[int]]:
    """The numbers that nodes of a type read."""
    return [array(node.inputs[index]).ravel().tolist() for node in nodes(model, op_type)]


JOINED = {
    "channels of two": ("i = Conv(x, u) j = Concat<axis=1>(h, i)", "h", 8),
    "from the end": ("i = Conv(x, u) j = Concat<axis=-3>(i, h)", "i", 6),
    "with what is given": ("j0 = Concat<axis=1>(h, x2)  j = Slice(j0, zero, fourteen, one)", "h", 8),
    "with constants": ("e = Expand(k, s) j = Concat<axis=1>(e, h)", "h", 8),
}


@pytest.mark.parametrize(("lines", "name", "size"), JOINED.values(), ids=JOINED)
def test_concat_along_channels(lines: str, name: str, size: int) -> None:
    weights = """float[8,3,3,3] w, float[6,3,3,3] u, float[5,14,1,1] v, float[1,6,1,1] k, int64[4] s = {1, 6, 4, 4},
        int64[1] zero = {0}, int64[1] fourteen = {14}, int64[1] one = {1}"""
    more = ", float[n,6,4,4] x2" if "x2" in lines else ""
    model = image(f"{lines} y = Conv(j, v)", weights, more=more)
    if "Expand" in lines:
        model = parse(
            f"g (float[1,3,6,6] x) => (float[1,5,h,w] y) <{weights}> {{ h = Conv(x, w) {lines} y = Conv(j, v) }}"
        )
    assert sizes(assert_exact(model))[name] == size


def test_concat_along_another_axis_ties_channels() -> None:
    model = image("i = Conv(x, u) j = Concat<axis=2>(h, i) y = Conv(j, v)", f"{CONVS}, float[8,3,3,3] u")
    (group,) = assert_exact(model)
    assert [role.value.name for role in group.writers] == ["w", "u"]


def test_concat_with_channels_of_unknown_number() -> None:
    model = image("j = Concat<axis=1>(h, x2) y = ReduceMax(j)", more=", float[n,c,4,4] x2", out="a,b,c,d")
    assert refused(model)["h"] == "it is joined with channels whose number is not known"


SPLITS = {
    "sizes, opset 13": ("a, b = Split<axis=1>(h, s)", 13),
    "sizes, opset 11": ("a, b = Split<axis=-3, split=[4,4]>(h)", 11),
    "equal parts, opset 11": ("a, b = Split<axis=1>(h)", 11),
    "equal parts, opset 13": ("a, b = Split<axis=1>(h)", 13),
    "equal parts, opset 18": ("a, b = Split<axis=1, num_outputs=2>(h)", 18),
}


@pytest.mark.parametrize(("line", "opset"), SPLITS.values(), ids=SPLITS)
def test_split_of_channels(line: str, opset: int) -> None:
    weights = "float[8,3,3,3] w, float[5,4,1,1] v, float[5,4,1,1] u, int64[2] s = {4, 4}"
    model = image(f"{line} c = Conv(a, v) d = Conv(b, u) y = Add(c, d)", weights, opset=opset)
    assert sizes(assert_exact(model)) == {"h": 8}
    assert_exact(after(model, 0, 1, 6))


def test_what_is_left_of_a_gate_is_one() -> None:
    model = image(
        "a, b = Split<axis=1, num_outputs=2>(h) s = Sigmoid(a) m = Mul(s, b) y = Conv(m, v)",
        "float[8,3,3,3] w, float[5,4,1,1] v",
    )
    assert sizes(assert_exact(model)) == {"h": 4}
    assert told(after(model, 1), "Split") == [[3, 3]]


def test_unequal_parts_of_split() -> None:
    model = image(
        "a, b, c = Split<axis=1, num_outputs=3>(h) y = Conv(c, v)", "float[8,3,3,3] w, float[5,2,1,1] v", opset=18
    )
    assert sizes(assert_exact(model)) == {"h": 8}
    assert told(after(model, 0, 7), "Split") == [[2, 3, 1]]


def test_split_of_space() -> None:
    weights = f"{CONVS}, int64[2] s = {{1, 3}}"
    assert sizes(assert_exact(image("a, b = Split<axis=2>(h, s) y = Conv(b, v)", weights))) == {"h": 8}


def test_split_into_computed_parts() -> None:
    model = image("a, b = Split<axis=1>(h, s) y = ReduceMax(a)", more=", int64[2] s", out="a,b,c,d")
    assert refused(model)["h"] == "Split 'a': the sizes of its parts are computed"


SLICES = {
    "to a place": ("0", "5", 5, [0, 3]),
    "from a place": ("3", "8", 5, [2, 8]),
    "from a place, to behind the end": ("3", "2147483647", 5, [2, 2147483647]),
    "in the middle": ("2", "6", 4, [1, 4]),
    "negative": ("-5", "-1", 4, [-4, -1]),
    "from before the beginning": ("-9", "-2", 6, [-9, -2]),
    "all": ("0", "8", 8, [0, 8]),
}
"""Start, end, how many, and what they become without channels 1 and 4: of 8."""


def cut(start: str, end: str, count: int, opset: int) -> ir.Model:
    weights = f"float[8,3,3,3] w, float[5,{count},1,1] v"
    if opset < 10:
        return image(f"s = Slice<starts=[{start}], ends=[{end}], axes=[1]>(h) y = Conv(s, v)", weights, opset=opset)
    weights += (
        f", int64[2] s = {{0, {start}}}, int64[2] e = {{4, {end}}}, int64[2] a = {{-1, 1}}, int64[2] o = {{1, 1}}"
    )
    return image("s1 = Slice(h, s, e, a, o) y = Conv(s1, v)", weights, opset=opset)


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(("start", "end", "count", "_"), SLICES.values(), ids=SLICES)
def test_slice_of_channels(start: str, end: str, count: int, _: list[int], opset: int) -> None:
    assert sizes(assert_exact(cut(start, end, count, opset))) == {"h": 8}


@pytest.mark.parametrize(("start", "end", "count", "numbers"), SLICES.values(), ids=SLICES)
def test_ends_of_slices_follow(start: str, end: str, count: int, numbers: list[int]) -> None:
    pruned = after(cut(start, end, count, 13), 1, 4)
    (starts,), (ends,) = told(pruned, "Slice", 1), told(pruned, "Slice", 2)
    assert [starts[1], ends[1]] == numbers


def test_the_last_channels_that_a_slice_leaves_out_can_all_go() -> None:
    pruned = after(cut("0", "-2", 6, 13), 6, 7)
    assert told(pruned, "Slice", 2) == [[4, 2147483647]]
    assert_exact(pruned)


def test_slice_backwards() -> None:
    weights = f"{CONVS}, int64[1] s = {{-1}}, int64[1] e = {{-2147483648}}, int64[1] a = {{1}}, int64[1] o = {{-1}}"
    assert sizes(assert_exact(image("f = Slice(h, s, e, a, o) y = Conv(f, v)", weights))) == {"h": 8}


def test_slice_up_to_a_size() -> None:
    """The number of channels of the same value follows by itself."""
    weights = f"{CONVS}, int64[1] s = {{0}}, int64[1] a = {{1}}"
    lines = "n = Shape<start=1,end=2>(h) f = Slice(h, s, n, a) y = Conv(f, v)"
    assert sizes(assert_exact(image(lines, weights))) == {"h": 8}


CUT = {
    "in steps": ("s1 = Slice(h, zero, eight, one, two) y = Conv(s1, v)", "single positions of it are taken"),
    "at places that are given": (
        "s1 = Slice(h, zero, c, one) y = ReduceMax(s1)",
        "it is cut at places that are computed",
    ),
    "along axes that are given": (
        "s1 = Slice(h, zero, zero, c) y = ReduceMax(s1)",
        "Slice 's1': its axes are computed",
    ),
}


@pytest.mark.parametrize(("lines", "why"), CUT.values(), ids=CUT)
def test_slices_that_keep_all_channels(lines: str, why: str) -> None:
    weights = "float[8,3,3,3] w, float[5,4,1,1] v, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] eight = {8}"
    assert refused(image(lines, weights, more=", int64[1] c", out="a,b,c,d"))["h"] == why


def test_gather_of_channels() -> None:
    """A channel that is picked twice goes in both places, one that is not picked goes alone."""
    model = image(
        "i = Gather<axis=-3>(h, p) y = Conv(i, v)",
        "float[8,3,3,3] w, float[5,6,1,1] v, int64[6] p = {6, -1, 2, 2, 0, 3}",
    )
    assert sizes(assert_exact(model)) == {"h": 8}
    assert told(after(model, 2, 4, 7), "Gather") == [[4, 0, 2]]


@pytest.mark.parametrize("places", ["int64 p = {-3}", "int32[1,2] p = {5, 2}"])
def test_a_channel_that_is_picked_by_itself_stays(places: str) -> None:
    model = image(
        "i = Gather<axis=1>(h, p) m = ReduceMax<keepdims=0>(i) c = Conv(h, v) y = Add(c, m)", f"{CONVS}, {places}"
    )
    (group,) = assert_exact(model)
    assert (len(group), group.fixed) == ((7, 1) if "-3" in places else (6, 2))
    assert told(after(model, 0, 1), "Gather")[0][0] == 3


def test_embeddings_lose_what_they_give() -> None:
    text = "g (int64[n,4] x) => (float[n,4,5] y) <float[9,8] table, float[8,5] v> { h = Gather(table, x) y = MatMul(h, v) }"
    (group,) = assert_exact(parse(text))
    assert (len(group), [(role.value.name, role.axis) for role in group.writers]) == (8, [("table", 1)])


def test_an_embedding_that_is_also_the_last_layer() -> None:
    text = """g (int64[n,4] x) => (float[n,4,9] y) <float[9,8] table>
        { h = Gather(table, x) t = Transpose(table) r = Relu(h) y = MatMul(r, t) }"""
    (group,) = assert_exact(parse(text))
    assert (group.name, len(group)) == ("h", 8)


@pytest.mark.parametrize(("indices", "batch", "size"), [("2,1,2", 1, 8), ("3,1", 0, 8)])
def test_gather_nd_keeps_axes_behind(indices: str, batch: int, size: int) -> None:
    model = parse(
        f"""g (float[2,6,6,3] x, int64[{indices}] p) => (float[a,b,c] y) <float[3,8] w, float[8,5] v>
        {{ h = MatMul(x, w) i = GatherND<batch_dims={batch}>(h, p) j = ReduceMax<keepdims=0>(i, first) y0 = MatMul(j, v)
           y = Unsqueeze(y0, first) }}""".replace("float[8,5] v", "float[8,5] v, int64[1] first = {0}")
    )
    assert sizes(groups.find(model)) == {"h": size}


def test_gather_nd_of_channels() -> None:
    model = parse(
        "g (float[2,3] x, int64[3,2] p) => (float[3] y) <float[3,8] w> { h = MatMul(x, w) y = GatherND(h, p) }"
    )
    assert refused(model)["h"] == PICKED


def test_scatter_nd_ties_what_it_writes() -> None:
    model = parse("""g (float[2,3] x, float[1,3] u) => (float[2,5] y) <float[3,8] w, float[3,8] w2, float[8,5] v, int64[1,1] p = {1}>
        { h = MatMul(x, w) i = MatMul(u, w2) s = ScatterND(h, p, i) y = MatMul(s, v) }""")
    (group,) = assert_exact(model)
    assert [role.value.name for role in group.writers] == ["w", "w2"]


def test_single_elements_are_not_followed() -> None:
    model = image("i = GatherElements<axis=1>(h, p) y = Conv(i, v)", more=", int64[n,8,4,4] p")
    assert refused(model)["h"] == "GatherElements 'i': it picks single numbers"


PADS = {
    "input": ("p = Pad(h, b, k)", 13),
    "attribute": ("p = Pad<pads=[0,3,0,1,0,2,0,1]>(h)", 10),
    "axes": ("p = Pad(h, c, k, a)", 18),
}


@pytest.mark.parametrize(("line", "opset"), PADS.values(), ids=PADS)
def test_channels_that_are_added_by_pad_can_go_again(line: str, opset: int) -> None:
    """As in residual networks whose shortcut is padded."""
    weights = """float[8,3,3,3] w, float[13,3,3,3] w2, float[5,13,1,1] v, int64[8] b = {0, 3, 0, 1, 0, 2, 0, 1},
        float k = {0.0}, int64[4] c = {1, 3, 1, 2}, int64[2] a = {-1, -3}"""
    model = image(
        f'{line} i = Conv(x, w2) q = Pad<mode="constant", pads=[0,0,0,1,0,0,0,1]>(i) s = Add(p, q) y = Conv(s, v)'
        if opset == 10
        else f"{line} i = Conv(x, w2) q = Pad(i, b2) s = Add(p, q) y = Conv(s, v)",
        weights + ", int64[8] b2 = {0, 0, 0, 1, 0, 0, 0, 1}",
        opset=opset,
    )
    assert sizes(assert_exact(model)) == {"h": 8, "i": 5}
    pruned = model.clone()
    found = groups.find(pruned)
    found.remove(found.groups[1].classes[[0, 4]])
    pad = nodes(pruned, "Pad")[0]
    numbers = list(pad.attributes.get_ints("pads", [])) or array(pad.inputs[1]).tolist()
    assert (
        numbers
        == {"input": [0, 2, 0, 1, 0, 1, 0, 1], "attribute": [0, 2, 0, 1, 0, 1, 0, 1], "axes": [1, 2, 1, 1]}[
            next(key for key, value in PADS.items() if value[1] == opset)
        ]
    )


def test_a_pad_that_cuts() -> None:
    model = image(
        "p = Pad(h, b) y = Conv(p, v)", "float[8,3,3,3] w, float[5,6,1,1] v, int64[8] b = {0, -3, 0, 0, 0, 1, 0, 0}"
    )
    assert sizes(assert_exact(model)) == {"h": 8}
    assert told(after(model, 0, 1, 2), "Pad") == [[0, 0, 0, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_other_modes_of_pad(mode: str) -> None:
    space = image(f'p = Pad<mode="{mode}">(h, b) y = Conv(p, v)', f"{CONVS}, int64[8] b = {{0, 0, 1, 1, 0, 0, 1, 1}}")
    assert sizes(assert_exact(space)) == {"h": 8}
    channels = image(
        f'p = Pad<mode="{mode}">(h, b) y = ReduceMax(p)',
        f"{CONVS}, int64[8] b = {{0, 1, 0, 0, 0, 0, 0, 0}}",
        out="a,b,c,d",
    )
    assert refused(channels)["h"] == "what is added to it is its own"


def test_a_pad_that_is_computed() -> None:
    model = image("p = Pad(h, b) y = ReduceMax(p)", more=", int64[8] b", out="a,b,c,d")
    assert refused(model)["h"] == "Pad 'p': what it adds is computed"


RESIZES = {
    "scales": ("r = Resize(h, , s)", 13),
    "sizes": ('r = Resize<mode="linear">(h, , , z)', 13),
    "sizes from a Shape": ("n = Shape<end=2>(h) z1 = Concat<axis=0>(n, t) r = Resize(h, , , z1)", 15),
    "axes": ("r = Resize<axes=[2,-1]>(h, , s2)", 18),
    "opset 10": ("r = Resize(h, s)", 10),
    "Upsample": ("r = Upsample(h, s)", 9),
    "Upsample by attribute": ("r = Upsample<scales=[1.0,1.0,2.0,2.0]>(h)", 7),
}


@pytest.mark.parametrize(("line", "opset"), RESIZES.values(), ids=RESIZES)
def test_resize_of_an_image(line: str, opset: int) -> None:
    weights = f"""{CONVS}, float[4] s = {{1.0, 1.0, 2.0, 2.0}}, int64[4] z = {{2, 8, 7, 9}}, int64[2] t = {{5, 6}},
        float[2] s2 = {{2.0, 1.5}}"""
    batch = "2" if "z)" in line else "n"
    text = (
        f"g (float[{batch},3,6,6] x) => (float[{batch},5,h,w] y) <{weights}> {{ h = Conv(x, w) {line} y = Conv(r, v) }}"
    )
    assert sizes(assert_exact(parse(text, opset=opset))) == {"h": 8}


RESIZED = {
    "channels": ("r = Resize(h, , s)", "it is resized"),
    "scales that are given": ("r = Resize(h, , c)", "Resize 'r': its sizes are computed"),
    "a part": ('r = Resize<coordinate_transformation_mode="tf_crop_and_resize">(h, roi, s)', "Resize 'r': it crops"),
    "a policy": (
        'r = Resize<keep_aspect_ratio_policy="not_larger">(h, , , z)',
        "Resize 'r': its sizes depend on each other",
    ),
}


@pytest.mark.parametrize(("line", "why"), RESIZED.values(), ids=RESIZED)
def test_resizes_that_keep_all_channels(line: str, why: str) -> None:
    weights = f"{CONVS}, float[4] s = {{1.0, 2.0, 2.0, 2.0}}, int64[4] z = {{1, 8, 7, 7}}, float[8] roi"
    model = image(f"{line} y = ReduceMax(r)", weights, more=", float[4] c", out="a,b,c,d")
    assert refused(model)["h"] == why


def test_trilu_of_an_image() -> None:
    assert sizes(assert_exact(image("t = Trilu(h) y = Conv(t, v)"))) == {"h": 8}


def test_reverse_sequence() -> None:
    model = parse("""g (float[n,3,3] x, int64[n] l) => (float[n,3,5] y) <float[3,8] w, float[8,5] v>
        { h = MatMul(x, w) r = ReverseSequence<batch_axis=0, time_axis=1>(h, l) y = MatMul(r, v) }""")
    assert sizes(groups.find(model)) == {"h": 8}
    assert_exact(model, {"x": np.ones((2, 3, 3), np.float32), "l": np.array([2, 3])})


def test_one_hot() -> None:
    """A position of what is picked can go, but none of the new axis."""
    model = parse("""g (float[n,3] x) => (float[n,a,b] y) <float[3,8] w, float[6,8,5] v, int64 d = {6}, float[2] z = {0.0, 1.0}>
        { h = MatMul(x, w) a = Abs(h) i = Cast<to=7>(a) o = OneHot<axis=1>(i, d, z) y = MatMul(o, v) }""")
    assert sizes(assert_exact(model)) == {"h": 8}
