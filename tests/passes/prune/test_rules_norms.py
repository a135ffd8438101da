"""Rules of normalisations."""

import onnx_ir as ir
import pytest
from exactness import assert_exact, refused, sizes

from onnxopt.graph import array
from onnxopt.passes.prune import groups
from onnxopt.testing import assert_same_outputs, parse

CONVS = "float[8,3,3,3] w, float[4,8,3,3] v"
PER_CHANNEL = ", float[8] a, float[8] b, float[8] c, float[8] d"


def image(norm: str, weights: str = "", *, opset: int = 20) -> ir.Model:
    """A norm between two convolutions."""
    text = f"<{CONVS}{weights}> {{ h = Conv(x, w)  {norm}  y = Conv(i, v) }}"
    return parse(f"g (float[n,3,6,6] x) => (float[n,4,p,q] y) {text}", opset=opset)


CHANNELWISE = {
    "BatchNormalization": "i = BatchNormalization(h, a, b, c, d)",
    "InstanceNormalization": "i = InstanceNormalization(h, a, b)",
}


@pytest.mark.parametrize("norm", CHANNELWISE.values(), ids=CHANNELWISE)
@pytest.mark.parametrize("opset", [9, 13, 20])
def test_norms_that_treat_each_channel_for_itself(norm: str, opset: int) -> None:
    assert sizes(assert_exact(image(norm, PER_CHANNEL, opset=opset))) == {"h": 8}


@pytest.mark.parametrize("axes", ["", "<axes=[-1,-2]>"])
def test_a_mean_over_the_image(axes: str) -> None:
    """Zeros have no deviation: what is compared is the model whose second layer does not read the channels."""
    model = image(f"i = MeanVarianceNormalization{axes}(h)")
    deaf, pruned = model.clone(), model.clone()
    weight = array(deaf.graph.initializers["v"]).copy()
    weight[:, [1, 6]] = 0
    deaf.graph.initializers["v"].const_value = ir.tensor(weight)
    found = groups.find(pruned)
    found.remove(found.groups[0].classes[[1, 6]])
    assert_same_outputs(deaf, pruned)


def test_all_numbers_of_a_batch_norm_go_with_the_channel() -> None:
    (group,) = groups.find(image(CHANNELWISE["BatchNormalization"], PER_CHANNEL))
    assert [(value.name, axis) for value, axis in group.others] == [("a", 0), ("b", 0), ("c", 0), ("d", 0)]


def test_a_batch_norm_that_trains_keeps_its_channels() -> None:
    model = image("i, m, s = BatchNormalization<training_mode=1>(h, a, b, c, d)", PER_CHANNEL, opset=15)
    assert refused(model)["h"] == "BatchNormalization 'i': it is in training mode"


def test_a_norm_over_channels_keeps_them() -> None:
    model = image("i = MeanVarianceNormalization<axes=[1,2,3]>(h)")
    assert refused(model)["h"] == "the mean or norm is taken over it"


def grouped(opset: int, count: int) -> ir.Model:
    """Opset 18 has a scale for each of the ``count`` groups, and ONNX's checker takes 21 alone."""
    numbers = count if opset == 18 else 8
    norm = f"i = GroupNormalization<num_groups={count}>(h, a, b)"
    model = image(norm, f", float[{numbers}] a, float[{numbers}] b", opset=21)
    model.opset_imports[""] = opset
    return model


@pytest.mark.parametrize("opset", [18, 21])
def test_whole_groups_of_a_group_norm_go(opset: int) -> None:
    model = grouped(opset, 4)
    found = groups.find(model)
    assert sizes(found) == {"h": 4}
    found.remove(found.groups[0].classes[[1, 2]])
    (norm,) = [node for node in model.graph if node.op_type == "GroupNormalization"]
    assert norm.attributes.get_int("num_groups", 0) == 2
    assert array(model.graph.initializers["w"]).shape == (4, 3, 3, 3)


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("opset", [18, 21])
def test_a_group_norm_stays_exact(opset: int, count: int) -> None:
    assert sizes(assert_exact(grouped(opset, count), check=opset == 21)) == {"h": count}


NORMED = {
    "LayerNormalization": ("i = LayerNormalization(h, a, b)", 17),
    "with an axis and without bias": ("i = LayerNormalization<axis=2>(h, a)", 17),
    "RMSNormalization": ("i = RMSNormalization(h, a)", 23),
    "SkipLayerNormalization": ("i = com.microsoft.SkipLayerNormalization(h, k, a, b, d)", 17),
    "SkipSimplifiedLayerNormalization": ("i = com.microsoft.SkipSimplifiedLayerNormalization(h, k, a)", 17),
    "with the sum as an output": (
        "j, m, s, i = com.microsoft.SkipLayerNormalization(h, k, a)  t = MatMul(j, u)",
        17,
    ),
}


def tokens(norm: str, opset: int) -> ir.Model:
    """A norm between two products."""
    weights = "float[4,8] w, float[8,4] v, float[8,2] u, float[8] a, float[8] b, float[8] d, float[4,8] z"
    text = f"g (float[n,t,4] x) => (float[n,t,4] y) <{weights}> {{ h = MatMul(x, w)  k = MatMul(x, z)  {norm}  y = MatMul(i, v) }}"
    return parse(text, opset=opset, opsets={"com.microsoft": 1})


@pytest.mark.parametrize(("norm", "opset"), NORMED.values(), ids=NORMED)
def test_a_normalised_axis_goes_only_where_that_is_asked_for(norm: str, opset: int) -> None:
    model = tokens(norm, opset)
    assert refused(model)["h"] == "the mean or norm is taken over it"
    found = groups.find(model, normalised=True)
    (group,) = [group for group in found if group.name == "h"]
    assert len(group) == 8
    assert group.inexact == "the mean or norm is taken over it"
    assert ("a", 0) in [(value.name, axis) for value, axis in group.others]


def test_mean_and_deviation_keep_the_other_axes() -> None:
    text = """g (float[n,3,6,6] x) => (float[n,2,6,6] y) <float[8,3,1,1] w, float[2,8,1,1] v, float[6] a>
    { h = Conv(x, w)  i, m, s = LayerNormalization(h, a)  j = Sub(i, m)  k = Mul(j, s)  y = Conv(k, v) }"""
    assert sizes(assert_exact(parse(text))) == {"h": 8}


def test_the_norm_of_onnx_runtime_is_the_same_as_that_of_the_standard() -> None:
    model = tokens("i = RMSNormalization(h, a)", 23)
    (norm,) = [node for node in model.graph if node.op_type == "RMSNormalization"]
    norm.op_type = "SimplifiedLayerNormalization"
    (group,) = [group for group in groups.find(model, normalised=True) if group.name == "h"]
    assert (len(group), group.inexact) == (8, "the mean or norm is taken over it")
