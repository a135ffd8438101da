"""The zoo's table says what the modules are."""

import pytest

from onnxopt.errors import UsageError
from onnxopt.export.inputs import draw, example_sizes
from onnxopt.models.zoo import ZOO, find


@pytest.mark.parametrize("name", ZOO)
def test_parameters_are_those_stated(name: str) -> None:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        module = ZOO[name].build()
    assert sum(parameter.numel() for parameter in module.parameters()) == ZOO[name].parameters


@pytest.mark.parametrize("name", ZOO)
def test_inputs_fit_each_other(name: str) -> None:
    inputs = ZOO[name].inputs
    sizes = example_sizes(inputs)
    assert sizes["batch"] == 1
    feeds = draw(inputs, sizes, 0)
    assert {one: array.shape for one, array in feeds.items()} == {one.name: one.shape for one in inputs}


def test_an_unknown_name_is_explained() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'resnet18'.*package\.module:name"):
        find("resnet-18")


def test_arguments_reach_the_network() -> None:
    pytest.importorskip("torch")
    assert ZOO["resnet18"].build({"classes": 7}).fc.out_features == 7
    with pytest.raises(UsageError, match="resnet18 cannot be built"):
        ZOO["resnet18"].build({"depth": 7})
