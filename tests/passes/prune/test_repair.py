"""Repair of pruned networks: what was lost comes back where it can, on inputs that were not seen."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.calibrate.tap import Values
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import open_dataset
from onnxopt.graph import array, inferred, label, nodes
from onnxopt.layers import layers
from onnxopt.passes.prune.groups import find
from onnxopt.passes.repair import KeptChannels, fit, repair
from onnxopt.passes.repair.flow import follow
from onnxopt.passes.repair.least_squares import Moments, Sums, chosen, fitted, nothing
from onnxopt.passes.repair.lockstep import Lockstep
from onnxopt.passes.repair.shelf import Shelf
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import with_state
from onnxopt.target import Target
from onnxopt.testing import lines, parse

CPU = Target()
Run = Callable[..., Context]


@pytest.fixture
def sampled(save_npz: Callable[..., Path]) -> Run:
    """A context with these calibration samples, input name to array; ``state`` as of ``with_state``."""

    def make(model: ir.Model, state: Mapping[str, str] | None = None, **arrays: np.ndarray) -> Context:
        data = open_dataset(str(save_npz(**arrays)), input_specs(model), optional=state or {})
        return Context(CPU, with_state(data, model, state or {}))

    return make


def normal(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def changed(model: ir.Model, **constants: np.ndarray) -> ir.Model:
    """A clone with other numbers."""
    clone = model.clone()
    for name, numbers in constants.items():
        value = clone.graph.initializers[name]
        value.const_value = ir.tensor(numbers.astype(np.float32), name=name)
    return clone


def cut(model: ir.Model, gone: Mapping[str, list[int]]) -> tuple[ir.Model, dict[str, KeptChannels]]:
    """A clone without channels of some groups, by their names, and what is left of its layers."""
    clone = model.clone()
    groups = find(clone)
    going = np.concatenate([group.classes[gone[group.name]] for group in groups if group.name in gone])
    kept = {}
    for norm in nodes(clone, "BatchNormalization"):
        stays = np.flatnonzero(~np.isin(groups.channels(norm.outputs[0], 1), going))
        kept[label(norm)] = KeptChannels(stays, stays)
    for layer in layers(clone)[0]:
        axis, (made, read) = 1 if layer.node.op_type == "Conv" else -1, (layer.node.outputs[0], layer.node.inputs[0])
        sizes = len(layer.rows()), layer.group * layer.numbers().shape[1 - layer.axis]
        stays = [
            np.arange(size) if classes is None else np.flatnonzero(~np.isin(classes, going))
            for classes, size in zip((groups.channels(v, axis) for v in (made, read)), sizes, strict=True)
        ]
        kept[label(layer.node)] = KeptChannels(*stays)
    groups.remove(going)
    return clone, kept


def off(original: ir.Model, other: ir.Model, **feeds: np.ndarray) -> float:
    """How far the outputs of another model are off: the root of their mean square, as a share of their spread."""
    ends = [Session(model, CPU, optimize=False).run(feeds) for model in (original, other)]
    return max(
        float(np.sqrt(np.square(ends[1][name] - ends[0][name]).mean()) / ends[0][name].std()) for name in ends[0]
    )


IMAGE, TOKENS, ROWS = (48, 8, 6, 5), (48, 5, 8), (400, 8)
DRIFT = "<float[8,1,1] s, float[8,1,1] t, {weights}> {{ m = Mul(x, s) h = Add(m, t) {layer} y = Tanh(c) }}"
LAST = "<float[8] s, float[8] t, {weights}> {{ m = Mul(x, s) h = Add(m, t) {layer} y = Tanh(c) }}"
# the layer that gives c reads h; where s and t are others, other weights and another bias make up for that
READERS = {
    "Conv": (IMAGE, DRIFT, "float[4,8,3,2] w, float[4] b", "c = Conv(h, w, b)"),
    "Conv without bias": (IMAGE, DRIFT, "float[4,8,1,1] w", "c = Conv(h, w)"),
    "grouped Conv": (IMAGE, DRIFT, "float[6,4,3,3] w, float[6] b", "c = Conv<group=2>(h, w, b)"),
    "depthwise Conv": (IMAGE, DRIFT, "float[8,1,3,3] w, float[8] b", "c = Conv<group=8>(h, w, b)"),
    "Gemm": (ROWS, LAST, "float[4,8] w, float[4] b", "c = Gemm<transB=1>(h, w, b)"),
    "Gemm without bias": (ROWS, LAST, "float[8,4] w", "c = Gemm(h, w)"),
    "MatMul and Add": (TOKENS, LAST, "float[8,4] w, float[4] b", "p = MatMul(h, w) c = Add(b, p)"),
    "tied MatMul": (TOKENS, LAST, "float[4,8] w, float[4] b", "v = Transpose(w) p = MatMul(h, v) c = Add(p, b)"),
}


def drifting(shape: tuple[int, ...], text: str, weights: str, layer: str) -> tuple[ir.Model, ir.Model]:
    """A model, and one with other s and t."""
    sizes = ",".join(map(str, shape[1:]))
    graph = text.format(weights=weights, layer=layer)
    out = ",".join(["n", *"abc"[: len(shape) - 1]])
    model = parse(f"g (float[n,{sizes}] x) => (float[{out}] y) {graph}")
    tensors = model.graph.initializers
    model = changed(model, **{name: 0.3 * array(tensors[name]) for name in tensors if name == "w"})
    return model, changed(model, s=1.5 - 0.7 * array(tensors["s"]), t=1 - 2 * array(tensors["t"]))


@pytest.mark.parametrize("case", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize("method", ["least-squares", "bias"])
def test_layer_makes_up_for_other_inputs(
    sampled: Run, case: tuple[tuple[int, ...], str, str, str], method: str
) -> None:
    original, other = drifting(*case)
    fresh = {"x": normal(*case[0], seed=2)}
    lost = off(original, other, **fresh)
    found = repair(original, other, {}, sampled(original, x=normal(*case[0])), method=method)
    assert [type(one) for one in found] == [Change]
    assert {label(node) for node in other.graph} <= {label(node) for node in original.graph}
    assert off(original, other, **fresh) < (2e-3 if method == "least-squares" else 0.9 * lost)
    assert lost > 0.2


def test_product_without_bias_gets_none(sampled: Run) -> None:
    text = "g (float[n,5,8] x) => (float[n,5,4] y) <float[8] s, float[8,4] w> { h = Mul(x, s) p = MatMul(h, w) y = Tanh(p) }"
    original = parse(text)
    other = changed(original, s=1.5 - 0.7 * array(original.graph.initializers["s"]))
    (found,) = repair(original, other, {}, sampled(original, x=1 + normal(*TOKENS)))
    assert isinstance(found, Change)
    assert lines(other) == lines(original)
    assert off(original, other, x=normal(*TOKENS, seed=2)) < 2e-3


REMOVED = {
    "Conv": ([4, 5, 10, 11], "float[3,12,3,3] v, float[3] d> { h = Conv(x, w, b) y = Conv(h, v, d) }"),
    "grouped Conv": ([4, 5], "float[6,6,2,2] v, float[6] d> { h = Conv(x, w, b) y = Conv<group=2>(h, v, d) }"),
    "two readers": ([4, 5, 10, 11], "float[3,12,1,1] v, float[3] d, float[3,12,1,1] u, float[3] e> { h = Conv(x, w, b) i = Conv(h, v, d) j = Conv(h, u, e) y = Sub(i, j) }"),
}  # fmt: skip


@pytest.mark.parametrize(("gone", "text"), REMOVED.values(), ids=REMOVED.keys())
def test_channels_that_others_make_up_for_are_not_missed(sampled: Run, gone: list[int], text: str) -> None:
    """Channels 4, 5, 10 and 11 are sums of others, plus a constant."""
    model = parse(f"g (float[n,4,6,6] x) => (float[n,k,a,b] y) <float[12,4,1,1] w, float[12] b, {text}")
    mix = np.kron(np.eye(2), np.vstack([np.eye(4), normal(2, 4)]))
    weights = (mix @ normal(8, 4, seed=3)).reshape(12, 4, 1, 1)
    original = changed(model, w=weights)
    pruned, kept = cut(original, {"h": gone})
    fresh = {"x": normal(20, 4, 6, 6, seed=2)}
    lost = off(original, pruned, **fresh)
    found = repair(original, pruned, kept, sampled(original, x=normal(48, 4, 6, 6)))
    assert all(isinstance(one, Change) for one in found)
    assert off(original, pruned, **fresh) < 5e-3 < 0.1 < lost


CHAIN = """g (float[n,6] x) => (float[n,3] y)
<float[16,6] w1, float[16] b1, float[24,16] w2, float[24] b2, float[3,24] w3, float[3] b3>
{ h = Gemm<transB=1>(x, w1, b1) i = Softplus(h) j = Gemm<transB=1>(i, w2, b2) k = Softplus(j) y = Gemm<transB=1>(k, w3, b3) }"""


def test_repair_on_repaired_inputs_beats_repair_of_each_layer_alone(sampled: Run) -> None:
    original = parse(CHAIN)
    weights = {name: 0.4 * array(original.graph.initializers[name]) for name in ("w1", "w2", "w3")}
    original = changed(original, **weights)
    context = sampled(original, x=normal(600, 6))
    first, second = {"h": list(range(8))}, {"j": [0, 1]}
    pruned, kept = cut(original, first | second)
    assert len(repair(original, pruned, kept, context)) == 2
    alone = []
    for gone in (first, second):
        one, left = cut(original, gone)
        repair(original, one, left, context)
        alone.append(one.graph.initializers)
    stays = kept["j"].outputs
    last = {name: array(alone[1][name]) for name in ("w3", "b3")}
    apart = changed(pruned, w2=array(alone[0]["w2"])[stays], b2=array(alone[0]["b2"])[stays], **last)
    fresh = {"x": normal(2000, 6, seed=2)}
    assert off(original, pruned, **fresh) < 0.85 * off(original, apart, **fresh)


def test_layer_makes_up_for_what_is_added_to_it(sampled: Run) -> None:
    """The convolution itself reads what it read; what is beside it has changed."""
    original = parse("""g (float[n,4,5,5] x) => (float[n,4,5,5] y)
        <float[4,1,1] s, float[4,4,1,1] w, float[4] b> { o = Mul(x, s) c = Conv(x, w, b) d = Add(c, o) y = Tanh(d) }""")
    other = changed(original, s=-array(original.graph.initializers["s"]))
    (found,) = repair(original, other, {}, sampled(original, x=normal(48, 4, 5, 5)))
    assert found.node == "c"
    assert off(original, other, x=normal(20, 4, 5, 5, seed=2)) < 2e-3


def test_skip_path_that_lost_the_same_channels(sampled: Run) -> None:
    text = """g (float[n,4,5,5] x) => (float[n,2,5,5] y)
        <float[6,4,1,1] w1, float[6] b1, float[5,6,1,1] w2, float[5] b2, float[6,5,1,1] w3, float[6] b3, float[2,6,1,1] w4, float[2] b4>
        { s = Conv(x, w1, b1) r = Relu(s) h = Conv(r, w2, b2) i = Softplus(h) c = Conv(i, w3, b3) a = Add(c, s) y = Conv(a, w4, b4) }"""
    original = parse(text)
    pruned, kept = cut(original, {"s": [0, 3]})
    fresh, context = {"x": normal(20, 4, 5, 5, seed=2)}, sampled(original, x=normal(48, 4, 5, 5))
    errors = [off(original, pruned, **fresh)]
    for method in ("bias", "least-squares"):
        other = pruned.clone()
        assert len(repair(original, other, kept, context, method=method)) == 3
        errors.append(off(original, other, **fresh))
    assert sorted(errors, reverse=True) == errors


POOLED = {
    "GlobalAveragePool": "q = GlobalAveragePool(h) f = Flatten(q)",
    "ReduceMean": "q = ReduceMean<keepdims=0>(h, a) f = Identity(q)",
}


@pytest.mark.parametrize("pooling", POOLED.values(), ids=POOLED.keys())
def test_positions_before_a_pooling_count(sampled: Run, pooling: str) -> None:
    """18 images for 24 channels: their means alone do not determine the weights."""
    text = "g (float[n,24,7,7] x) => (float[n,3] y) <float[24,24,1,1] s, float[3,24] w, float[3] b, int64[2] a = {2,3}>"
    original = parse(f"{text} {{ h = Conv(x, s) {pooling} y = Gemm<transB=1>(f, w, b) }}")
    rotation = np.linalg.qr(normal(24, 24))[0].reshape(24, 24, 1, 1)
    original, other = changed(original, s=rotation), changed(original, s=rotation[::-1])
    fresh = {"x": normal(40, 24, 7, 7, seed=2)}
    (found,) = repair(original, other, {}, sampled(original, x=normal(18, 24, 7, 7)))
    assert isinstance(found, Change)
    assert off(original, other, **fresh) < 2e-3


def test_mean_of_part_of_the_channels_is_read_as_it_is(sampled: Run) -> None:
    """A Gather between pooling and layer: the positions do not tell what the layer reads."""
    original = parse("""g (float[n,8,5,5] x) => (float[n,3] y)
        <float[8,1,1] s, float[3,8] w, float[3] b, int64[8] at = {7,6,5,4,3,2,1,0}>
        { h = Mul(x, s) q = GlobalAveragePool(h) f = Flatten(q) g = Gather<axis=1>(f, at) y = Gemm<transB=1>(g, w, b) }""")
    other = changed(original, s=2 - array(original.graph.initializers["s"]))
    repair(original, other, {}, sampled(original, x=normal(160, 8, 5, 5)))
    assert off(original, other, x=normal(40, 8, 5, 5, seed=2)) < 1e-2


def test_states_are_those_of_the_original(sampled: Run) -> None:
    text = """g (float[1,6] x, float[1,5] s) => (float[1,3] y, float[1,5] t)
        <float[6,5] w, float[5,5] u, float[5,8] v, float[8] b, float[8] k, float[8,3] z, float[3] c>
        { i = MatMul(x, w) j = MatMul(s, u) a = Add(i, j) t = Tanh(a)
          p = MatMul(t, v) q = Add(p, b) h = Mul(q, k) m = MatMul(h, z) y = Add(m, c) }"""
    original = parse(text)
    other = changed(original, k=2 - array(original.graph.initializers["k"]))
    context = sampled(original, {"s": "t"}, x=normal(300, 1, 6))
    (found,) = repair(original, other, {}, context)
    assert isinstance(found, Change)
    assert off(original, other, x=normal(1, 6, seed=2), s=normal(1, 5, seed=3)) < 2e-3


def test_batch_normalization_gives_what_it_gave(sampled: Run) -> None:
    original = parse("""g (float[n,3,6,6] x) => (float[n,5,4,4] y)
        <float[8,3,3,3] w, float[8] s, float[8] b, float[8] m, float[8] v, float[5,8,1,1] u, float[5] c>
        { h = Conv(x, w) i = BatchNormalization(h, s, b, m, v) j = Relu(i) y = Conv(j, u, c) }""")
    pruned, kept = cut(original, {"h": [1, 2]})
    pruned = changed(pruned, w=array(pruned.graph.initializers["w"]) * 3 + 0.1)
    images = normal(64, 3, 6, 6)
    found = repair(original, pruned, kept, sampled(original, x=images))
    assert [one.node for one in found] == ["i", "y"]
    ends = []
    for model in (original, pruned):
        tap = Values.of(model, ["i"])
        numbers = Session(tap.model, CPU).run({"x": images})["i"]
        ends.append((numbers.mean((0, 2, 3)), numbers.std((0, 2, 3))))
    for before, after in zip(*ends, strict=True):
        np.testing.assert_allclose(after, before[kept["i"].outputs], rtol=1e-3, atol=1e-4)


REFUSED = {
    "a weight with other readers": (
        "<float[8] s, float[8,8] w, float[8] b> { h = Mul(x, s) y = Gemm(h, w, b) z = MatMul(x, w) }",
        "other nodes read its weight",
    ),
    "a weight that is read through one Transpose for two": (
        "<float[8] s, float[8,8] w> { h = Mul(x, s) v = Transpose(w) y = MatMul(h, v) z = MatMul(x, v) }",
        "other nodes read its weight",
    ),
    "a scaled Gemm": ("<float[8] s, float[8,8] w> { h = Mul(x, s) y = Gemm<alpha=0.5>(h, w) z = Neg(x) }", "it scales"),
    "a sequence across the layer": (
        "<float[8] s, float[8,8] w> { q = SequenceConstruct(x) h = Mul(x, s) y = MatMul(h, w) z = ConcatFromSequence<axis=1>(q) }",
        "no array of numbers",
    ),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_says_what_it_leaves(sampled: Run, text: str, why: str) -> None:
    original = parse(f"g (float[n,8] x) => (float[n,8] y, float[n,8] z) {text}")
    other = changed(original, s=2 - array(original.graph.initializers["s"]))
    weight = array(other.graph.initializers["w"])
    found = repair(original, other, {}, sampled(original, x=normal(64, 8)))
    assert [one.why for one in found if isinstance(one, Refusal) and why in one.why]
    np.testing.assert_array_equal(array(other.graph.initializers["w"]), weight)


def test_too_many_products(sampled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "LARGEST", 100)
    original, other = drifting(*READERS["Gemm"])
    found = repair(original, other, {}, sampled(original, x=normal(*ROWS)))
    assert [one.why for one in found if isinstance(one, Refusal)] == [
        "8 products are too many to fit: only its bias is corrected"
    ]
    assert next(one.what for one in found if isinstance(one, Change)).startswith("bias corrected")


def test_needs_samples_to_hold_out(sampled: Run) -> None:
    original, other = drifting(*READERS["Gemm"])
    before = files.to_bytes(other)
    assert repair(original, other, {}, sampled(original, x=normal(1, 8))) == [
        Refusal("c", "no samples are left to hold out")
    ]
    assert files.to_bytes(other) == before


def test_layer_stays_where_that_is_best(sampled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    original, other = drifting(*READERS["Gemm"])
    before = files.to_bytes(other)
    monkeypatch.setattr(fit, "chosen", lambda first, held, whole, biased: nothing(first))
    assert repair(original, other, {}, sampled(original, x=normal(*ROWS))) == []
    assert files.to_bytes(other) == before


def test_nothing_is_done_where_nothing_changed(sampled: Run, conv_net: ir.Model, images: np.ndarray) -> None:
    other = conv_net.clone()
    assert repair(conv_net, other, {}, sampled(conv_net, x=images)) == []
    assert files.to_bytes(other) == files.to_bytes(conv_net)


def test_norm_of_which_nothing_was_said(sampled: Run, conv_net: ir.Model, images: np.ndarray) -> None:
    pruned, kept = cut(conv_net, {"h": [0, 5]})
    del kept["i"]
    found = repair(conv_net, pruned, kept, sampled(conv_net, x=images))
    assert [one for one in found if isinstance(one, Refusal)] == [
        Refusal("i", "which channels it has kept was not said")
    ]


def test_what_was_kept_must_fit(sampled: Run, conv_net: ir.Model, images: np.ndarray) -> None:
    pruned, kept = cut(conv_net, {"h": [0, 5], "k": [3]})
    with pytest.raises(ValueError, match="'k' has"):
        repair(conv_net, pruned, {**kept, "k": kept["h"]}, sampled(conv_net, x=images))


def repaired(sampled: Run, net: ir.Model, images: np.ndarray, **options: int) -> bytes:
    pruned, kept = cut(net, {"h": [0, 5, 6, 9], "k": [3, 4, 10]})
    assert repair(net, pruned, kept, sampled(net, x=images), **options)
    return files.to_bytes(pruned)


def test_same_bytes_again_and_from_files(sampled: Run, conv_net: ir.Model, images: np.ndarray) -> None:
    first = repaired(sampled, conv_net, images)
    assert repaired(sampled, conv_net, images) == first
    assert repaired(sampled, conv_net, images, memory=0) == first
    assert repaired(sampled, conv_net, images, vectors=500) != first


def test_shelf_beyond_its_budget_is_a_folder_that_goes() -> None:
    big, small, words = normal(100), normal(2), np.array(["a", "b"], object)
    with Shelf(40) as shelf:
        for name, array_ in (("big", big), ("small", small), ("words", words)):
            shelf.put(name, 0, array_)
            np.testing.assert_array_equal(shelf.get(name, 0), array_)
        folder = Path(shelf.get("big", 0).filename).parent
        assert [file.name for file in folder.iterdir()] == ["1.npy"]
        shelf.drop("big")
        assert "big" not in shelf
        assert not list(folder.iterdir())
    assert not folder.exists()


BODIES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,4] x) => (float[n,4] y) <float[4] s, float[4,4] w, float[4,4] v, float zero = {0}>
{ i = Neg(x) h = Mul(x, s) p = MatMul(h, w) r = ReduceSum(x) c = Greater(r, zero)
  o = If (c) <then_branch = a () => (float[n,4] ya) { ya = Add(i, p) }, else_branch = b () => (float[n,4] yb) { yb = Sub(p, i) }>
  q = MatMul(o, v) y = Tanh(q) }"""


def test_pieces_give_what_the_whole_gives(sampled: Run, conv_net: ir.Model, images: np.ndarray) -> None:
    for original, constant, x in ((conv_net, "w1", images), (parse(BODIES), "s", normal(64, 4))):
        other = changed(original, **{constant: array(original.graph.initializers[constant]) * 0.5})
        flow = follow(original, other, inferred(original))
        context = sampled(original, x=x)
        places = {label(node): place for place, node in enumerate(original.graph)}
        read = {layer.node.inputs[0].name: places[label(layer.node)] for layer in layers(original)[0]}
        with Shelf() as shelf:
            walk = Lockstep(original, other, flow, shelf, context)
            assert walk.batches >= 16
            fed = [walk.original("x", batch).copy() for batch in range(walk.batches)]
            for name, place in read.items():
                walk.advance(place)
                for model, value in ((original, walk.original), (other, walk.pruned)):
                    tap = Values.of(model, [name])
                    whole = Session(tap.model, CPU)
                    for batch, feeds in enumerate(fed):
                        expected = whole.run({"x": feeds})[tap.outputs[name]]
                        np.testing.assert_allclose(value(name, batch), expected, rtol=1e-4, atol=1e-4)


def sums(x: np.ndarray, r: np.ndarray) -> Moments:
    found = Sums.none(np.zeros((1, x.shape[1]), np.float32), r.shape[1])
    found.add(x[None], r[None])
    return Moments.of(found)


def test_fewer_samples_take_a_larger_ridge() -> None:
    true, held = normal(40, 3, seed=5), normal(4000, 40, seed=6)
    ridges = []
    for count in (60, 20000):
        x = normal(count, 40)
        first = sums(x, x @ true + 5 * normal(count, 3, seed=7))
        judge = sums(held, held @ true + 5 * normal(4000, 3, seed=8))
        ridges.append(chosen(first, judge, whole=True, biased=True).ridge)
    assert ridges[0] > 10 * ridges[1]


@pytest.mark.parametrize("biased", [True, False])
def test_fit_is_the_ridge_solution(biased: bool) -> None:
    x, r = (3 + normal(500, 6)).astype(np.float32), (1 + normal(500, 2, seed=2)).astype(np.float32)
    found = fitted(sums(x, r), 0.1, biased=biased)
    inner, wanted = (x - x.mean(0), r - r.mean(0)) if biased else (x, r)
    gram = inner.T @ inner / 500
    weights = np.linalg.solve(gram + 0.1 * np.trace(gram) / 6 * np.eye(6), inner.T @ wanted / 500)
    bias = r.mean(0) - x.mean(0) @ weights if biased else np.zeros(2)
    np.testing.assert_allclose(found.weights[0], weights, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.bias[0], bias, rtol=1e-3, atol=1e-4)
    error = float(np.square(r - x @ weights - bias).sum(1).mean())
    np.testing.assert_allclose(sums(x, r).error(found), error, rtol=1e-4)
