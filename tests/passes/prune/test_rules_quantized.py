"""Rules of operators between floats and integers."""

import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.testing import parse


def between(nodes: str, weights: str, *, opset: int = 21) -> ir.Model:
    """Something between two convolutions."""
    text = f"g (float[n,3,6,6] x) => (float[n,4,4,4] y) <float[8,3,3,3] w, float[4,8,1,1] v, {weights}>"
    return parse(f"{text} {{ h = Conv(x, w)  {nodes}  y = Conv(i, v) }}", opset=opset)


SCALES = {
    "one number": "float s = {0.05}, int8 z = {3}",
    "one number in a row": "float[1] s = {0.05}, int8[1] z = {3}",
    "numbers for channels": "float[8] s, int8[8] z = {0, 1, 2, 3, 4, 5, 6, 7}",
}


@pytest.mark.parametrize("weights", SCALES.values(), ids=SCALES)
def test_scales_and_zero_points_go_with_their_channels(weights: str) -> None:
    model = between("q = QuantizeLinear(h, s, z)  i = DequantizeLinear(q, s, z)", weights)
    (group,) = assert_exact(model)
    assert len(group) == 8
    assert {value.name for value, _ in group.others} == ({"s", "z"} if "[8]" in weights else set())


def test_the_axis_may_be_negative() -> None:
    nodes = "q = QuantizeLinear<axis=-3>(h, s)  i = DequantizeLinear<axis=-3>(q, s)"
    assert sizes(assert_exact(between(nodes, "float[8] s"))) == {"h": 8}


def test_numbers_for_another_axis_are_free() -> None:
    nodes = "q = QuantizeLinear<axis=2>(h, s)  i = DequantizeLinear<axis=2>(q, s)"
    assert sizes(assert_exact(between(nodes, "float[4] s"))) == {"h": 8}


def test_blocks_of_channels_stay() -> None:
    attributes = "<axis=1, block_size=2>"
    nodes = f"q = QuantizeLinear{attributes}(h, s)  i = DequantizeLinear{attributes}(q, s)"
    model = between(nodes, "float[1,4,4,4] s").clone()
    model.graph.inputs[0].shape = ir.Shape([1, 3, 6, 6])
    assert refused(model)["h"] == "it has numbers for blocks of channels"


def test_blocks_of_another_axis_do_not_matter() -> None:
    text = """g (float[4,5] x) => (float[4,2] y) <float[5,8] w, float[8,2] v, float[2,8] s>
    { h = MatMul(x, w)  q = QuantizeLinear<axis=0, block_size=2>(h, s)
    i = DequantizeLinear<axis=0, block_size=2>(q, s)  y = MatMul(i, v) }"""
    assert sizes(assert_exact(parse(text, opset=21))) == {"h": 8}


def test_a_range_over_all_channels_has_zero_in_it() -> None:
    model = between("q, s, z = DynamicQuantizeLinear(h)  i = DequantizeLinear(q, s, z)", "float[1] unread")
    assert sizes(assert_exact(model)) == {"h": 8}
