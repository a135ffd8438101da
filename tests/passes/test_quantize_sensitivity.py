"""Sensitivity: what each layer's quantization does to the outputs, and who is left in float for it."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.calibrate import calibrate
from onnxopt.core import Change, Context, Refusal
from onnxopt.graph import inferred, label
from onnxopt.passes.quantize.grids.grid import activation_grid
from onnxopt.passes.quantize.int8.chains import find, united
from onnxopt.passes.quantize.placing.sensitivity import decibel, noises
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.runtime import Session
from onnxopt.samples import Samples, random_samples
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
NET = """g (float[n,8,8,8] x) => (float[n,5] y)
<float[16,8,3,3] a, float[16,16,3,3] b, float[16,16,1,1] c, float[16,5] d>
{ h = Conv(x, a)  i = Relu(h)  j = Conv(i, b)  k = Relu(j)  l = Conv(k, c)  p = GlobalAveragePool(l)  f = Flatten(p)
  y = Gemm(f, d) }"""


@pytest.fixture
def net() -> ir.Model:
    return parse(NET)


@pytest.fixture
def samples(net: ir.Model) -> Samples:
    return random_samples(net, CPU, {}, count=12)


def measured(model: ir.Model, samples: Samples) -> dict[str, float]:
    """The noise of each layer, by label."""
    chains = find(model.graph, inferred(model))
    bounds = calibrate(model, samples, [value.name or "" for value in chains.values], CPU).bounds
    grids = {value: activation_grid(*bound) for value, bound in united(chains, bounds).items()}
    found = noises(model, chains, grids, Context(CPU, samples), pairs=False)
    return {label(node): noise for node, noise in found.items()}


def real_noise(model: ir.Model, quantized: ir.Model, samples: Samples) -> float:
    """Of the quantized model itself, on the samples on which it was foreseen."""
    wanted, got = (
        [o["y"] for _, o in samples.take(8).run(Session(m, CPU, optimize=False))] for m in (model, quantized)
    )
    one, other = np.concatenate(wanted), np.concatenate(got)
    return float(np.mean((one - other) ** 2) / np.mean(one**2))


def test_the_noise_of_all_is_near_the_sum_of_each(net: ir.Model, samples: Samples) -> None:
    foreseen = sum(measured(net, samples).values())
    quantized = net.clone()
    QuantizeInt8(placement="everywhere", rounding="nearest", portable="no").run(quantized, Context(CPU, samples))
    assert foreseen / 3 < real_noise(net, quantized, samples) < 3 * foreseen


def test_the_layer_with_an_outlier_is_the_loudest(net: ir.Model, samples: Samples) -> None:
    weight = net.graph.initializers["b"].const_value.numpy().copy()
    weight[:, :, 0, 0] *= 60  # the scale of each channel is that of one of its nine positions
    net.graph.initializers["b"].const_value = ir.tensor(weight)
    source = net.graph.initializers["a"].const_value.numpy().copy()
    source[0] *= 200  # and one channel is so loud that the others have few levels
    net.graph.initializers["a"].const_value = ir.tensor(source)
    found = measured(net, samples)
    assert max(found, key=lambda name: found[name]) == "j"


def test_nothing_is_changed(net: ir.Model, samples: Samples) -> None:
    before = str(net.graph)
    measured(net, samples)
    assert str(net.graph) == before


def test_layers_are_left_until_the_noise_is_small_enough(net: ir.Model, samples: Samples) -> None:
    kept = {}
    for limit in (0.0, 35.0, 45.0, 120.0):
        copy = net.clone()
        said = QuantizeInt8(placement="everywhere", rounding="nearest", portable="no", min_sqnr=limit).run(
            copy, Context(CPU, samples)
        )
        kept[limit] = sum(isinstance(item, Change) for item in said)
        reasons = [item.why for item in said if isinstance(item, Refusal)]
        assert all("stays in float" in why or "no layer gains" in why for why in reasons)
        if 0 < kept[limit] < 4:
            assert decibel(real_noise(net, copy, samples)) > limit - 5
    assert kept[0.0] == 4
    assert kept[0.0] >= kept[35.0] >= kept[45.0] >= kept[120.0] == 0
