"""Codes for models that are quantized already."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.calibrate.divergence import Reference
from onnxopt.core import Change, Context
from onnxopt.data import open_dataset
from onnxopt.folding import unfolded
from onnxopt.graph import array, nodes
from onnxopt.passes.cluster.cluster_weights import ClusterWeights
from onnxopt.passes.cluster.integer_units import bounded
from onnxopt.passes.cluster.integers import Seen, unrounded
from onnxopt.passes.quantize.quantize_int8 import QuantizeInt8
from onnxopt.runtime import Session, input_specs, kernels
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import compare_outputs, parse

CPU = Target()
NET = """g (float[n,4,12,12] x) => (float[n,30] y)
<float[64,4,3,3] a, float[64] b, float[64,1,5,5] c, float[64] d, float[48,64,1,1] e, float[48] f, float[48,30] g, float[30] h>
{ i = Conv<pads=[1,1,1,1]>(x, a, b)  j = Relu(i)  k = Conv<group=64,pads=[2,2,2,2]>(j, c, d)  l = Relu(k)
  m = Conv(l, e, f)  o = Relu(m)  p = GlobalAveragePool(o)  q = Flatten(p)  y = Gemm(q, g, h) }"""


@pytest.fixture
def quantized(save_npz: Callable[..., Path]) -> Callable[..., tuple[ir.Model, Context]]:
    """A model in int8, everywhere, and the context that it was made with."""

    def make(text: str = NET, target: Target = CPU, **options: object) -> tuple[ir.Model, Context]:
        model = parse(text)
        (spec,) = input_specs(model)
        shape = [60, *(dim for dim in (spec.shape or ())[1:] if isinstance(dim, int))]
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        context = Context(target, Samples(open_dataset(str(save_npz(x=x)), input_specs(model))))
        options = {"placement": "everywhere", "rounding": "nearest", **options}
        assert any(isinstance(item, Change) for item in QuantizeInt8.configured(options).run(model, context))
        return model, context

    return make


def feeds(context: Context) -> dict[str, np.ndarray]:
    assert context.calibration is not None
    return next(iter(context.calibration.data.batches(8))).feeds


def cluster(model: ir.Model, context: Context, **options: object) -> list[str]:
    words = {key.replace("_", "-"): value for key, value in {"size": 8, **options}.items()}
    said = ClusterWeights.configured(words).run(model, context)
    return [item.node for item in said if isinstance(item, Change)]


def integers(model: ir.Model) -> list[np.ndarray]:
    """What DequantizeLinear reads as weights, whether it is a constant or decoded."""
    copy = model.clone()
    readers = nodes(copy, "Conv", "Gemm", "MatMul")
    makers = [value.producer() for node in readers if (value := node.inputs[1]) is not None]
    found = []
    for maker in makers:
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        value = maker.inputs[0]
        assert value is not None
        if (numbers := array(value)) is None:
            copy.graph.outputs.clear()
            copy.graph.outputs.append(value)
            session = Session(copy, CPU, optimize=False)
            (numbers,) = session.run({name: np.zeros((1, 4, 12, 12), np.float32) for name in session.inputs}).values()
        found.append(numbers)
    return found


def scales(model: ir.Model) -> list[np.ndarray]:
    """Of the weights."""
    makers = [
        node.inputs[1].producer() for node in nodes(model, "Conv", "Gemm", "MatMul") if node.inputs[1] is not None
    ]
    return [numbers for maker in makers if maker is not None and (numbers := array(maker.inputs[1])) is not None]


@pytest.mark.parametrize("in_step", [True, False])
@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 3, "widths": "uniform"}], ids=str)
def test_kernels_stay_in_int8(
    quantized: Callable[..., tuple[ir.Model, Context]], in_step: bool, options: dict[str, object]
) -> None:
    model, context = quantized()
    before = model.clone()
    assert len(cluster(model, context, in_step=in_step, **options)) >= 4
    assert len(files.to_bytes(model)) < 0.85 * len(files.to_bytes(before))
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    kinds = [sorted(op for op in kernels(one, CPU).values() if "Q" in op or "Conv" in op) for one in (before, model)]
    assert kinds[0] == kinds[1]
    assert any(op == "QLinearConv" for op in kinds[1])
    words = {
        value.name
        for node in model.graph
        for value in node.outputs
        if value.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    }
    assert not unfolded(
        model,
        CPU,
        {name for name in words if name} - {v.name for n in nodes(model, "QuantizeLinear") for v in n.outputs},
    )
    given = feeds(context)
    compare_outputs(Session(model, CPU, optimize=False).run(given), Session(model, CPU).run(given), 0.05)


@pytest.mark.skipif(CPU.int8_saturates, reason="on this processor the sums of neighbours are bounded, and scales stay")
def test_weights_are_few_whole_numbers_with_other_scales(
    quantized: Callable[..., tuple[ir.Model, Context]],
) -> None:
    model, context = quantized()
    before = scales(model)
    cluster(model, context, bits=4, widths="uniform")
    assert [one.shape for one in before] == [other.shape for other in scales(model)]
    assert not any(np.array_equal(one, other) for one, other in zip(before, scales(model), strict=True))
    for numbers in integers(model):
        assert numbers.dtype == np.int8
        assert len(np.unique(numbers)) <= 16


def test_fine_tables_take_the_scales_that_are_there(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized()
    before = scales(model)
    cluster(model, context, bits=7, widths="uniform")
    for one, other in zip(before, scales(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("in_step", [True, False])
def test_biases_are_in_steps_of_the_products_of_scales(
    quantized: Callable[..., tuple[ir.Model, Context]], in_step: bool
) -> None:
    """As the kernels take them to be, whatever their own DequantizeLinear says."""
    model, context = quantized()
    cluster(model, context, bits=3, widths="uniform", in_step=in_step)
    seen = 0
    for node in nodes(model, "Conv", "Gemm"):
        makers = [value.producer() for value in node.inputs if value is not None]
        read, weight, bias = [array(maker.inputs[1]) for maker in makers if maker is not None]
        assert read is not None
        assert weight is not None
        np.testing.assert_allclose(bias, np.broadcast_to(read * weight, np.shape(bias)), rtol=1e-6)
        seen += 1
    assert seen == 4


def test_without_rounding_activations_are_clipped_alone(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized()
    plain = unrounded(model)
    given = feeds(context)
    assert not any(
        maker.op_type == "QuantizeLinear"
        for node in nodes(plain, "DequantizeLinear")
        if (maker := node.inputs[0].producer()) is not None  # type: ignore[union-attr]
    )
    one, other = (Session(each, CPU, optimize=False).run(given)["y"] for each in (model, plain))
    assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()
    far = {"x": 100 * given["x"]}
    one, other = (Session(each, CPU, optimize=False).run(far)["y"] for each in (model, plain))
    assert np.abs(one - other).max() < 0.1 * np.abs(one).max()


def test_outputs_come_near_those_of_int8(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized()
    assert context.calibration is not None
    reference, losses = Reference(model, context.calibration, CPU), []
    for bits in (2, 3, 4, 6):
        coded = model.clone()
        cluster(coded, context, bits=bits, widths="uniform")
        losses.append(reference.divergence(coded))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01 < losses[0]


def test_eight_bits_are_as_they_were(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized()
    before = integers(model)
    assert cluster(model, context, bits=8, widths="uniform", in_step=False) in ([], ["model"])
    for one, other in zip(before, integers(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_biases_take_up_the_mean_error_in_int32(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized()
    before = model.clone()
    cluster(model, context, bits=2, widths="uniform", in_step=False)
    given = context.calibration.data.batches(60) if context.calibration else iter(())
    x = next(iter(given)).feeds
    kinds = [
        array(node.inputs[0]).dtype for node in nodes(model, "DequantizeLinear") if array(node.inputs[0]) is not None
    ]
    assert np.dtype(np.int32) in kinds
    mean = [Session(one, CPU, optimize=False).run(x)["y"].mean(axis=0) for one in (before, model)]
    spread = Session(before, CPU, optimize=False).run(x)["y"].std()
    assert np.abs(mean[0] - mean[1]).max() < spread


PLAIN = """g (float[n,8,6,6] x) => (float[n,48,6,6] y) <float[48,8,1,1] a> { y = Conv(x, a) }"""


def test_a_layer_without_bias_may_get_one(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized(PLAIN)
    cluster(model, context, bits=2, widths="uniform")
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    Session(model, CPU).run(feeds(context))


def test_seen_as_floats_it_computes_the_same(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    model, context = quantized()
    seen = Seen.of(model)
    assert len(seen.weights) == 4
    assert len(seen.biases) == 4
    given = feeds(context)
    plain, floats = (Session(one, CPU, optimize=False).run(given) for one in (model, seen.model))
    compare_outputs(plain, floats, 1e-5)
    back = model.clone()
    seen.back(back, seen.model.clone(), {})
    assert files.to_bytes(back) == files.to_bytes(model)


def test_a_model_of_floats_is_seen_as_it_is() -> None:
    model = parse(NET)
    seen = Seen.of(model)
    assert not seen.weights
    assert files.to_bytes(seen.model) == files.to_bytes(model)


QDQ = """g (float[2,40] x) => (float[2,50] y) <{kind}[40,50] q, float[50] s, {kind}[50] z>
{{ w = DequantizeLinear<axis=1>(q, s, z)  y = MatMul(x, w) }}"""


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_zero_points_stay(kind: str, save_npz: Callable[..., Path]) -> None:
    model = parse(QDQ.format(kind=kind))
    random = np.random.default_rng(0)
    low, high = (-100, 101) if kind == "int8" else (20, 230)
    zero = 1 if kind == "int8" else 128
    for name, numbers in (
        ("q", random.integers(low, high, (40, 50)).astype(kind)),
        ("s", random.uniform(0.01, 0.1, 50).astype(np.float32)),
        ("z", np.full(50, zero, kind)),
    ):
        model.graph.initializers[name].const_value = ir.tensor(numbers)
    before = model.clone()
    x = random.normal(size=(60, 40)).astype(np.float32)
    data = open_dataset(str(save_npz(x=x.reshape(30, 2, 40).reshape(60, 40))), input_specs(model))
    context = Context(CPU, Samples(data))
    assert cluster(model, context, bits=5, widths="uniform") == ["model", "y"]
    given = feeds(context)
    one, other = (Session(each, CPU, optimize=False).run({"x": given["x"][:2]})["y"] for each in (before, model))
    assert np.square(one - other).sum() < 0.01 * np.square(one).sum()


# --- processors that add products in pairs ---


def test_neighbours_are_bounded_where_their_sum_would_overflow() -> None:
    table = np.array([-127.0, -70, -20, 0, 20, 70, 127])
    codes = np.random.default_rng(0).integers(0, 7, (50, 31)).astype(np.uint8)
    found = bounded(codes, table)
    pairs = table[found][:, :30].reshape(50, 15, 2)
    assert np.maximum(pairs, 0).sum(axis=2).max() <= 128
    assert np.maximum(-pairs, 0).sum(axis=2).max() <= 128
    fine = np.maximum(np.abs(table[codes][:, :30].reshape(50, 15, 2)), 0).sum(axis=2) <= 128
    np.testing.assert_array_equal(found[:, :30].reshape(50, 15, 2)[fine], codes[:, :30].reshape(50, 15, 2)[fine])
    np.testing.assert_array_equal(found[:, 30], codes[:, 30])


def test_coded_int8_is_safe_on_processors_that_saturate(quantized: Callable[..., tuple[ir.Model, Context]]) -> None:
    saturating = Target(features=frozenset({"avx2"}))
    model, context = quantized(target=saturating)
    cluster(model, context, bits=3, widths="uniform")
    for numbers, depthwise in zip(integers(model), (False, True, False, False), strict=True):
        axis = 1 if numbers.ndim == 2 else 0
        rows = np.moveaxis(np.moveaxis(numbers, axis, 0), 1, -1).reshape(numbers.shape[axis], -1).astype(int)
        even = rows[:, : rows.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
        largest = max(np.maximum(sign * even, 0).sum(axis=2).max() for sign in (1, -1))
        assert depthwise or largest <= 128
