"""Times of kernels: what is timed, once, in which forms, and what is kept of it."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxopt import cache
from onnxopt.calibrate import observed_shapes
from onnxopt.errors import ModelError
from onnxopt.graph import inferred
from onnxopt.passes.quantize.int8.chains import Chains, find
from onnxopt.passes.quantize.placing import kernel_costs as module
from onnxopt.passes.quantize.placing.kernel_costs import Costs, Form, assumed_costs, kernel_costs
from onnxopt.samples import random_samples
from onnxopt.stopwatch import Cost
from onnxopt.target import Target
from onnxopt.testing import parse

CPU = Target()
OPSET = 17
NET = """g (float[2,8,8,8] x, float[2,5,16] t) => (float[2,4] y, float[2,5,20] z)
<float[8,8,3,3] a, float[8,1,3,3] b, float[8,4,1,1] c, float[16,4] w, float[4] e, float[16,16] m, float[16] n,
 float[20,16] v>
{ conv = Conv<pads=[1,1,1,1]>(x, a)  r = Relu(conv)  depthwise = Conv<pads=[1,1,1,1],group=8>(r, b)
  grouped = Conv<group=2>(depthwise, c)  sum = Add(grouped, r)  joined = Concat<axis=1>(sum, grouped)
  pooled = MaxPool<kernel_shape=[2,2],strides=[2,2]>(joined)  mean = GlobalAveragePool(pooled)  flat = Flatten(mean)
  y = Gemm(flat, w, e)  product = MatMul(t, m)  biased = Add(product, n)  th = Tanh(biased)
  u = Transpose<perm=[1,0]>(v)  z = MatMul(th, u) }"""
PAIR = """g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] a, float[4,4,1,1] b>
{ h = Conv(x, a)  i = Tanh(h)  y = Conv(i, b) }"""

Call = tuple[Sequence[ir.Model], Target, float]


def asked(text: str, *, without: Collection[str] = (), target: Target = CPU, opset: int = OPSET) -> dict[str, Costs]:
    """The costs of the nodes of a model, by the names of their outputs; shapes of some values are not known."""
    model = parse(text, opset=opset)
    chains = find(model.graph, inferred(model))
    names = {value.name or "" for node in model.graph for value in node.inputs if value is not None}
    shapes = observed_shapes(model, random_samples(model, CPU, {}), names - {*without}, CPU)
    return {node.outputs[0].name or "": one for node, one in kernel_costs(chains, shapes, opset, target, 0.0).items()}


def used_by_others(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let other processes use so much of a CPU."""

    class Load:
        def share(self) -> float:
            return share

    monkeypatch.setattr(module, "ForeignLoad", Load)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the stopwatch is asked for; it answers 1 second for float, 2 for int8, 3 for tiles, on a quiet machine."""
    used_by_others(monkeypatch, 0.0)
    asked: list[Call] = []

    def part_costs(models: Sequence[ir.Model], target: Target, seconds: float) -> list[dict[str, Cost]]:
        asked.append((models, target, seconds))
        return [
            {value.name or "": Cost(0.25, 1.0 + place, 0.5) for value in model.graph.outputs}
            for place, model in enumerate(models)
        ]

    monkeypatch.setattr(module, "part_costs", part_costs)
    return asked


def test_every_node_is_timed_in_the_forms_that_it_can_take_and_onnx_runtime_fuses_all() -> None:
    found = asked(NET)
    layers, members = {"conv", "grouped", "depthwise", "y", "product", "z"}, {"sum", "joined", "pooled", "mean", "flat"}
    assert found.keys() == layers | members
    assert {name for name, costs in found.items() if Form.TILES in costs} == {"conv", "grouped"}
    assert all({Form.FLOAT, Form.INT8} <= costs.keys() for costs in found.values())
    assert {(name, form) for name, costs in found.items() for form, cost in costs.items() if not cost.fused} == set()
    assert all(found[name][Form.INT8].kernel > 0 for name in ("conv", "depthwise"))


def test_a_node_stands_alone_with_the_bias_that_follows_it(calls: list[Call]) -> None:
    asked(NET)
    ((models, target, _),) = calls
    assert target == CPU
    in_float, in_int8, in_tiles = ([node.op_type for node in model.graph] for model in models)
    for ops in (in_float, in_int8):
        assert [ops.count(op) for op in ("Gemm", "MatMul", "Concat", "MaxPool", "Flatten", "Tanh")] == [
            1,
            2,
            1,
            1,
            1,
            0,
        ]
        assert ops.count("Add") + ops.count("Sum") == 2
    assert not {"QuantizeLinear", "DequantizeLinear"} & {*in_float}
    assert in_int8.count("QuantizeLinear") == in_tiles.count("QuantizeLinear") > 11
    assert [len(model.graph.outputs) for model in models] == [11, 11, 11]


def test_images_are_given_in_the_layout_of_convolutions_at_no_cost(calls: list[Call]) -> None:
    asked(NET)
    for model in calls[0][0]:
        aside = [node for node in model.graph if (node.name or "").startswith(module.ASIDE)]
        assert len(aside) == 7  # two inputs of Add and of Concat; MaxPool, GlobalAveragePool and Flatten
        assert {node.op_type for node in aside} == {"Conv"}


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (("", ""), 1),
        (("y = Conv(i, b)", "y = Conv<dilations=[2,2]>(i, b)"), 2),
        (("float[4,4,1,1] b", "float[2,4,1,1] b"), 2),
        (("Tanh(h)", "Concat<axis=2>(h, x)"), 3),
    ],
    ids=["other weights", "other attributes", "other outputs", "other inputs"],
)
def test_what_must_cost_the_same_is_timed_once(change: tuple[str, str], count: int, calls: list[Call]) -> None:
    text = PAIR.replace("=> (float[1,4,6,6] y)", "=> (float[a,b,c,d] y)").replace(*change)
    found = asked(text)
    assert {"h", "y"} <= found.keys()
    assert [len(models[0].graph.outputs) for models, *_ in calls] == [count]


def test_what_is_cut_out_belongs_to_the_node(calls: list[Call]) -> None:
    found = asked("""g (float[1,4,6,6] x) => (float[1,4,3,6] y, float[1,4,4,6] z) <float[4,4,1,1] a>
    { axes = Constant<value = int64[1] {2}>()  no = Constant<value = int64[1] {0}>()
      three = Constant<value = int64[1] {3}>()  four = Constant<value = int64[1] {4}>()
      h = Conv(x, a)  i = Slice(h, no, three, axes)  j = Slice(h, no, four, axes)  y = Conv(i, a)  z = Conv(j, a) }""")
    assert found.keys() == {"h", "i", "j", "y", "z"}
    assert len(calls[0][0][0].graph.outputs) == 5


LEFT_OUT = {
    "an unknown shape": (PAIR, ["i"], {"h"}),
    "an empty value": (
        """g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] a>
        { n = Constant<value = int64[1] {0}>()  t = Constant<value = int64[1] {2}>()  h = Conv(x, a)
          i = Slice(h, n, n, t)  y = Concat<axis=2>(h, i) }""",
        [],
        {"h", "i"},
    ),
    "a computed shape": (
        """g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,1,1] a>
        { h = Conv(x, a)  s = Shape(x)  i = Reshape(h, s)  y = Conv(i, a) }""",
        [],
        {"h", "y"},
    ),
}


@pytest.mark.parametrize(("text", "without", "there"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_what_cannot_be_timed_has_no_cost(text: str, without: list[str], there: set[str], calls: list[Call]) -> None:
    assert asked(text, without=without).keys() == there


def test_what_does_not_run_by_itself_has_no_cost(monkeypatch: pytest.MonkeyPatch, calls: list[Call]) -> None:
    measure = module.part_costs

    def fail_once(*arguments: object) -> list[dict[str, Cost]]:
        found = measure(*arguments)  # type: ignore[arg-type]
        if len(calls) == 1:
            raise ModelError("does not run")
        return found

    monkeypatch.setattr(module, "part_costs", fail_once)
    monkeypatch.setattr(module, "LARGEST", 1)
    assert asked(NET).keys() == asked(NET).keys() - {"conv"}


def test_large_weights_are_timed_one_after_the_other_in_the_same_time(
    monkeypatch: pytest.MonkeyPatch, calls: list[Call]
) -> None:
    monkeypatch.setattr(module, "LARGEST", 1)
    model = parse(NET, opset=OPSET)
    chains = find(model.graph, inferred(model))
    shapes = observed_shapes(model, random_samples(model, CPU, {}), ["x", "r", "flat", "t"], CPU)
    kernel_costs(chains, shapes, OPSET, CPU, 8.0)
    assert [seconds for *_, seconds in calls] == [2.0] * 4
    assert [len(models[0].graph.outputs) for models, *_ in calls] == [1] * 4


# --- what is kept ---


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Path]]:
    """A cache folder that is on, and the files in it."""
    monkeypatch.delenv(cache.OFF, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: sorted(tmp_path.rglob("*.json"))


def test_the_second_time_nothing_is_timed(kept: Callable[[], list[Path]], calls: list[Call]) -> None:
    first, second = asked(NET), asked(NET)
    assert first == second
    assert (len(calls), len(kept())) == (1, 1)
    assert asked(PAIR).keys() == {"h", "y"}
    assert (len(calls), len(kept())) == (2, 1)
    assert asked(NET) == first
    assert len(calls) == 2


def test_threads_and_opset_count(kept: Callable[[], list[Path]], calls: list[Call]) -> None:
    for target, opset in [(CPU, 17), (Target(threads=2), 17), (CPU, 18), (CPU, 17)]:
        asked(PAIR, target=target, opset=opset)
    assert (len(calls), len(kept())) == (3, 2)


def test_a_node_of_which_a_form_is_missing_is_measured_again(kept: Callable[[], list[Path]], calls: list[Call]) -> None:
    first = asked(PAIR)
    (path,) = kept()
    whole = path.read_text()
    content = json.loads(whole)
    path.write_text(json.dumps({key: costs for key, costs in content.items() if not key.startswith("int8 opset")}))
    assert asked(PAIR) == first
    assert (len(calls), path.read_text()) == (2, whole)


def test_nothing_is_kept_of_a_busy_machine(
    kept: Callable[[], list[Path]], calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    used_by_others(monkeypatch, 0.5)
    assert asked(PAIR) == asked(PAIR)
    assert (len(calls), kept()) == (2, [])


# --- what is assumed of other machines ---


@pytest.mark.parametrize(
    ("features", "tiles"), [("avx512_vnni", set()), ("avx512_vnni amx_int8", {"deep"})], ids=["VNNI", "AMX"]
)
def test_on_another_machine_tiles_are_for_convolutions_with_many_products(features: str, tiles: set[str]) -> None:
    model = parse("""g (float[1,64,6,6] x) => (float[1,1024,6,6] y, float[1,4] z)
    <float[64,64,3,3] a, float[64,1,3,3] b, float[1024,64,1,1] c, float[1024,4] w>
    { deep = Conv<pads=[1,1,1,1]>(x, a)  each = Conv<pads=[1,1,1,1],group=64>(deep, b)  y = Conv(each, c)
      p = GlobalAveragePool(y)  f = Flatten(p)  z = Gemm(f, w) }""")
    chains: Chains = find(model.graph, inferred(model))
    target = Target(features=frozenset(features.split()))
    found = assumed_costs(chains, dict.fromkeys(chains.layers, 6), target)
    assert {node.outputs[0].name for node, costs in found.items() if Form.TILES in costs} == tiles
    assert all(costs[Form.FLOAT] == Cost(0.0, 6.0, 0.0) and costs[Form.INT8].kernel == 2.0 for costs in found.values())
