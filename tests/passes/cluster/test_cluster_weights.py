"""ClusterWeights: what is written, what is left, what it computes."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxopt import files
from onnxopt.calibrate.divergence import Reference
from onnxopt.core import Change, Context, Refusal
from onnxopt.data import open_dataset
from onnxopt.errors import UsageError
from onnxopt.folding import unfolded
from onnxopt.graph import nodes
from onnxopt.passes import parse as parse_pass
from onnxopt.passes.cluster.cluster_weights import ClusterWeights
from onnxopt.runtime import Session, input_specs
from onnxopt.samples import Samples
from onnxopt.target import Target
from onnxopt.testing import compare_outputs, lines, parse

CPU = Target()
SMALL = {"size": 8}
NET = """g (float[n,3,10,10] x) => (float[n,30] y)
<float[64,3,3,3] a, float[64] b, float[64,1,5,5] c, float[64] d, float[48,64,1,1] e, float[48] f, float[48,30] g, float[30] h>
{ i = Conv<pads=[1,1,1,1]>(x, a, b)  j = Relu(i)  k = Conv<group=64>(j, c, d)  l = Relu(k)  m = Conv(l, e, f)  o = Relu(m)
  p = GlobalAveragePool(o)  q = Flatten(p)  y = Gemm(q, g, h) }"""


@pytest.fixture
def learn(save_npz: Callable[..., Path]) -> Callable[..., Context]:
    """A context with random samples for a model."""

    def make(model: ir.Model, count: int = 40, target: Target = CPU, **arrays: np.ndarray) -> Context:
        random = np.random.default_rng(0)
        for spec in input_specs(model):
            shape = [count, *(dim if isinstance(dim, int) else 5 for dim in (spec.shape or ())[1:])]
            drawn = random.normal(size=shape) if spec.dtype.kind == "f" else random.integers(0, 20, shape)
            arrays.setdefault(spec.name, drawn.astype(spec.dtype))
        return Context(target, Samples(open_dataset(str(save_npz(**arrays)), input_specs(model))))

    return make


def cluster(model: ir.Model, context: Context, **options: object) -> list[Change | Refusal]:
    words = {key.replace("_", "-"): value for key, value in {**SMALL, **options}.items()}
    return list(ClusterWeights.configured(words).run(model, context))


def changes(said: list[Change | Refusal]) -> dict[str, str]:
    return {item.node: item.what for item in said if isinstance(item, Change)}


def why(said: list[Change | Refusal]) -> dict[str, str]:
    return {item.node: item.why for item in said if isinstance(item, Refusal)}


def feeds(context: Context) -> dict[str, np.ndarray]:
    assert context.calibration is not None
    return next(iter(context.calibration.data.batches(8))).feeds


def assert_sound(before: ir.Model, model: ir.Model, context: Context) -> None:
    """Valid, of the same signature, the same with and without ONNX Runtime's optimizations, and nothing decoded twice."""
    onnx.checker.check_model(files.to_proto(model), full_check=True)
    given = feeds(context)
    plain, optimized = (Session(model, CPU, optimize=optimize).run(given) for optimize in (False, True))
    compare_outputs(plain, optimized, 1e-4)
    expected = Session(before, CPU).run(given)
    assert [np.shape(one) for one in expected.values()] == [np.shape(one) for one in plain.values()]
    assert expected.keys() == plain.keys()


# --- what is written ---


@pytest.mark.parametrize(("bits", "ops"), [
    (2, ["Cast", "Div", "Mod", "Gather", "Reshape", "Mul"]),
    (3, ["Div", "Mod", "Gather", "Reshape", "Slice", "Reshape", "Mul"]),
    (4, ["Cast", "Div", "Mod", "Gather", "Reshape", "Mul"]),
    (5, ["Cast", "Div", "Mod", "Gather", "Reshape", "Slice", "Reshape", "Mul"]),
    (8, ["Cast", "Mul"]),
])  # fmt: skip
def test_a_weight_is_decoded_by_nodes_that_are_folded(learn: Callable[..., Context], bits: int, ops: list[str]) -> None:
    model = parse("g (float[n,40] x) => (float[n,20] y) <float[40,20] w> { y = MatMul(x, w) }", opset=17)
    before, context = model.clone(), learn(model)
    said = cluster(model, context, bits=bits, widths="uniform")
    assert [line.partition("(")[0] for line in lines(model)] == [*ops, "MatMul"]
    assert lines(model)[-1] == "MatMul(x, w) -> y"
    assert list(changes(said)) == ["model", "y"]
    assert unfolded(model, CPU, {"w"}) == set()
    assert_sound(before, model, context)


def test_from_opset_21_on_four_bits_are_a_type(learn: Callable[..., Context]) -> None:
    model = parse("g (float[n,40] x) => (float[n,20] y) <float[40,20] w> { y = MatMul(x, w) }", opset=21)
    before, context = model.clone(), learn(model)
    cluster(model, context, bits=4, widths="uniform")
    assert [node.op_type for node in model.graph] == ["Cast", "Gather", "Mul", "MatMul"]
    kinds = {value.dtype for value in model.graph.initializers.values()}
    assert ir.DataType.UINT4 in kinds
    assert_sound(before, model, context)


@pytest.mark.parametrize("opset", [11, 13, 17, 20, 21, 23])
@pytest.mark.parametrize("bits", [1.7, 2, 3, 3.5, 4, 5, 6, 7, 8])
def test_every_width_in_every_opset(learn: Callable[..., Context], opset: int, bits: float) -> None:
    model = parse(NET, opset=opset)
    before, context = model.clone(), learn(model)
    assert len(changes(cluster(model, context, bits=bits, widths="uniform", in_step=False))) == 5
    assert_sound(before, model, context)
    assert cluster(model, context, bits=bits, widths="uniform") == [Refusal("", "there is no constant to code")]


def test_finer_tables_come_nearer(learn: Callable[..., Context]) -> None:
    model = parse(NET)
    context = learn(model)
    assert context.calibration is not None
    reference, found = Reference(model, context.calibration, CPU), []
    for bits in (2, 3, 4, 6, 8):
        coded = model.clone()
        cluster(coded, context, bits=bits, widths="uniform")
        found.append(reference.divergence(coded))
    assert all(b < a / 2 for a, b in itertools.pairwise(found))
    assert found[-1] < 1e-3


LAYERS = {
    "MatMul": ("float[n,7,40] x", "float[n,7,50] y", "float[40,50] w", "y = MatMul(x, w)"),
    "MatMul with a bias": ("float[n,40] x", "float[n,50] y", "float[40,50] w, float[50] b", "h = MatMul(x, w)  y = Add(h, b)"),
    "Gemm": ("float[n,40] x", "float[n,50] y", "float[40,50] w, float[50] b", "y = Gemm(x, w, b)"),
    "Gemm transposed": ("float[n,40] x", "float[n,50] y", "float[50,40] w", "y = Gemm<transB=1>(x, w)"),
    "behind a Transpose": ("float[n,40] x", "float[n,50] y", "float[50,40] w", "t = Transpose(w)  y = MatMul(x, t)"),
    "Conv of one dimension": ("float[n,20,9] x", "float[n,30,7] y", "float[30,20,3] w", "y = Conv(x, w)"),
    "Conv of three": ("float[n,8,5,5,5] x", "float[n,12,3,3,3] y", "float[12,8,3,3,3] w, float[12] b", "y = Conv(x, w, b)"),
    "groups": ("float[n,16,5,5] x", "float[n,24,3,3] y", "float[24,8,3,3] w", "y = Conv<group=2>(x, w)"),
    "two readers": ("float[n,40] x", "float[n,40] y", "float[40,40] w", "h = MatMul(x, w)  i = Tanh(h)  y = MatMul(i, w)"),
    "ConvTranspose": ("float[n,12,5,5] x", "float[n,16,7,7] y", "float[12,16,3,3] w", "y = ConvTranspose(x, w)"),
    "a constant that is added": ("float[n,40,50] x", "float[n,40,50] y", "float[40,50] w", "y = Add(x, w)"),
    "stacked matrices": ("float[n,3,7,40] x", "float[n,3,7,50] y", "float[3,40,50] w", "y = MatMul(x, w)"),
    "a branch": ("float[n,40,50] x, bool q", "float[n,40,50] y", "float[40,50] w", """y = If(q) <
        then_branch = t () => (float[n,40,50] r) { r = Add(x, w) },
        else_branch = e () => (float[n,40,50] s) { s = Sub(x, w) }>"""),
}  # fmt: skip


@pytest.mark.parametrize(("given", "gives", "weights", "body"), LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(
    "options", [{"bits": 4}, {"bits": 4, "widths": "uniform"}, {"bits": 3, "in_step": False}], ids=str
)
def test_layers_of_all_kinds(
    learn: Callable[..., Context], given: str, gives: str, weights: str, body: str, options: dict[str, object]
) -> None:
    model = parse(f"g ({given}) => ({gives}) <{weights}> {{ {body} }}")
    if "bool q" in given:
        pytest.skip("a truth value is no array of samples") if False else None
    before, context = (
        model.clone(),
        learn(model) if "bool q" not in given else learn(model, count=1, q=np.array([True])),
    )
    said = cluster(model, context, **options)
    assert len(changes(said)) == 2, said
    assert_sound(before, model, context)
    assert context.calibration is not None
    assert Reference(before, context.calibration, CPU).divergence(model) < 0.4


TIED = """g (float[n,40] x, int64[n,3] ids) => (float[n,50] y, float[n,3,40] z) <float[50,40] w>
{ t = Transpose(w)  y = MatMul(x, t)  z = Gather(w, ids) }"""


def test_a_table_that_a_layer_reads_too_is_decoded_for_both(learn: Callable[..., Context]) -> None:
    model = parse(TIED)
    before, context = model.clone(), learn(model, ids=np.random.default_rng(0).integers(0, 50, (40, 3)))
    assert list(changes(cluster(model, context, bits=4))) == ["model", "w"]
    assert_sound(before, model, context)
    given = feeds(context)
    found = Session(model, CPU).run(given)
    decoded = array_of(model, "w")
    np.testing.assert_allclose(found["z"], decoded[given["ids"]], rtol=1e-6)
    np.testing.assert_allclose(found["y"], given["x"] @ decoded.T, rtol=1e-4, atol=1e-5)


def array_of(model: ir.Model, name: str) -> np.ndarray:
    """What the decode nodes give."""
    copy = model.clone()
    value = next(value for node in copy.graph for value in node.outputs if value.name == name)
    copy.graph.outputs.append(value)
    session = Session(copy, CPU, optimize=False)
    zeros = {
        spec.name: np.zeros([d if isinstance(d, int) else 1 for d in spec.shape or ()], spec.dtype)
        for spec in input_specs(copy)
    }
    return np.asarray(session.run(zeros)[name])


# --- tables ---

TABLE = """g (int64[n,t] ids) => (float[n,t,{columns}] y) <float[{rows},{columns}] e> {{ y = Gather(e, ids) }}"""


@pytest.fixture
def all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small, they are decoded after the lookup."""
    from onnxopt.passes.cluster import found

    monkeypatch.setattr(found, "TABLE", 1)


@pytest.mark.usefixtures("all_tables")
@pytest.mark.parametrize(("bits", "columns", "ops"), [
    (2, 24, ["Gather", "Cast", "Gather", "Reshape", "Gather", "Cast", "Mul"]),
    (2.5, 24, ["Gather", "Cast", "Gather", "Reshape", "Gather", "Cast", "Mul"]),
    (4, 24, ["Gather", "Cast", "Gather", "Reshape", "Gather", "Cast", "Mul"]),
    (8, 24, ["Gather", "Cast", "Gather", "Mul"]),
])  # fmt: skip
def test_rows_are_looked_up_packed(learn: Callable[..., Context], bits: float, columns: int, ops: list[str]) -> None:
    model = parse(TABLE.format(rows=400, columns=columns))
    before, context = model.clone(), learn(model, ids=np.random.default_rng(0).integers(-400, 400, (30, 5)))
    said = cluster(model, context, bits=bits, widths="uniform")
    assert [node.op_type for node in model.graph] == ops
    (_, change) = (item for item in said if isinstance(item, Change))
    assert change.saved is not None
    assert change.saved.session > 0
    assert_sound(before, model, context)
    given = feeds(context)
    own, found = (Session(one, CPU).run(given)["y"] for one in (before, model))
    assert np.square(own - found).sum() < {2: 0.2, 2.5: 0.12, 4: 0.02, 8: 1e-4}[bits] * np.square(own).sum()
    assert cluster(model, context, bits=bits, widths="uniform") == [Refusal("", "there is no constant to code")]


@pytest.mark.usefixtures("all_tables")
def test_a_table_of_few_distinct_numbers_is_exact(learn: Callable[..., Context]) -> None:
    model = parse(TABLE.format(rows=400, columns=24))
    numbers = np.random.default_rng(0).choice(np.array([-1.5, 0.25, 3.0], np.float32), (400, 24))
    model.graph.initializers["e"].const_value = ir.tensor(numbers)
    context = learn(model)
    cluster(model, context, bits=4)
    given = feeds(context)
    np.testing.assert_array_equal(Session(model, CPU).run(given)["y"], numbers[given["ids"]])
    assert [node.op_type for node in model.graph] == ["Gather", "Cast", "Gather", "Reshape"]


@pytest.mark.usefixtures("all_tables")
def test_columns_that_no_bytes_divide_take_eight_bits(learn: Callable[..., Context]) -> None:
    model = parse(TABLE.format(rows=400, columns=23))
    context = learn(model)
    said = cluster(model, context, bits=8.8)
    assert changes(said)["y"] == "stored as int8"


@pytest.mark.usefixtures("all_tables")
def test_two_lookups_in_one_table(learn: Callable[..., Context]) -> None:
    model = parse("""g (int64[n,3] a, int64[n] b) => (float[n,3,24] y, float[n,24] z) <float[400,24] e>
    { y = Gather(e, a)  z = Gather(e, b) }""")
    before, context = model.clone(), learn(model)
    cluster(model, context, bits=4, widths="uniform")
    assert len(nodes(model, "Mul")) == 2
    assert sum(value.dtype is ir.DataType.UINT8 for value in model.graph.initializers.values()) == 1
    assert_sound(before, model, context)


# --- exact ---


@pytest.mark.parametrize("count", [2, 5, 16, 90])
@pytest.mark.parametrize("opset", [17, 21])
def test_as_many_codes_as_distinct_values_are_exact_to_the_bit(
    learn: Callable[..., Context], count: int, opset: int
) -> None:
    model = parse(NET, opset=opset)
    random = np.random.default_rng(0)
    for name in "aceg":
        shape = model.graph.initializers[name].shape
        assert shape is not None
        table = random.normal(size=count).astype(np.float32)
        model.graph.initializers[name].const_value = ir.tensor(random.choice(table, shape.numpy()))
    before, context = model.clone(), learn(model)
    assert len(changes(cluster(model, context, bits=16, in_step=False))) > 1
    given = feeds(context)
    for name in "aceg":
        if name not in model.graph.initializers:
            np.testing.assert_array_equal(array_of(model, name), before.graph.initializers[name].const_value.numpy())
    compare_outputs(Session(before, CPU).run(given), Session(model, CPU).run(given), 0.0)


# --- what is left ---

LEFT = {
    "fewer numbers than size": ("float[n,12] x", "<float[12,10] w> { y = MatMul(x, w) }", {"size": 121}, {"y": "120 numbers are fewer than 121"}),
    "named in leave": ("float[n,12] x", "<float[12,10] w> { y = MatMul(x, w) }", {"leave": "y*"}, {"y": "is to be left"}),
    "not named in only": ("float[n,12] x", "<float[12,10] w> { y = MatMul(x, w) }", {"only": "z"}, {"y": "is to be left"}),
    "a vector": ("float[n,10] x", "<float[10] w> { y = Mul(x, w) }", {}, {}),
    "a weight that a caller may override": ("float[n,12] x, float[12,10] w", "<float[12,10] w> { y = MatMul(x, w) }", {}, {}),
    "doubles": ("double[n,12] x", "<double[12,10] w> { y = MatMul(x, w) }", {}, {}),
}  # fmt: skip


@pytest.mark.parametrize(("given", "rest", "options", "reasons"), LEFT.values(), ids=LEFT.keys())
def test_leaves(
    learn: Callable[..., Context], given: str, rest: str, options: dict[str, object], reasons: dict[str, str]
) -> None:
    kind = "double" if "double" in given else "float"
    model = parse(f"g ({given}) => ({kind}[n,10] y) {rest}")
    contents = files.to_bytes(model)
    said = cluster(model, learn(model), bits=4, **options)
    assert said == [*(Refusal(*pair) for pair in reasons.items()), Refusal("", "there is no constant to code")]
    assert files.to_bytes(model) == contents


def test_numbers_that_are_not_finite_stay(learn: Callable[..., Context]) -> None:
    model = parse(
        "g (float[n,12,10] x) => (float[n,12,10] y) <float[12,10] w, float[12,10] v> { h = Min(x, w)  y = Add(h, v) }"
    )
    numbers = np.full((12, 10), np.inf, np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(numbers)
    assert why(cluster(model, learn(model), bits=4)) == {"w": "it has numbers that are not finite"}


def test_data_are_needed() -> None:
    model = parse(NET)
    assert cluster(model, Context(CPU)) == [Refusal("", "needs calibration data (--data)")]


def test_an_old_opset_is_refused(learn: Callable[..., Context]) -> None:
    model = parse(NET, opset=10)
    assert cluster(model, learn(model)) == [Refusal("", "opset 10 is below 11; upgrade-opset first")]


@pytest.mark.parametrize(
    "words", ["widths=uniform", "widths=uniform,bits=9", "widths=uniform,bits=1", "bits=-1", "widths=some"]
)
def test_options_that_mean_nothing(words: str) -> None:
    with pytest.raises(UsageError, match="option"):
        parse_pass(f"cluster-weights:{words}")


def test_what_onnx_runtime_does_not_fold_is_taken_back(
    learn: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxopt.passes import settling

    monkeypatch.setattr(settling, "unfolded", lambda model, target, names: {"a", "e"} & set(names))
    model = parse(NET)
    context = learn(model)
    said = cluster(model, context, bits=4)
    assert {"a", "e"} <= model.graph.initializers.keys()
    assert not {"c", "g"} & model.graph.initializers.keys()
    assert sum("is not decoded when the model is loaded" in reason for reason in why(said).values()) == 2


# --- how it is chosen ---


def test_sensitive_layers_get_more_levels(learn: Callable[..., Context]) -> None:
    """Of two branches, one hardly counts."""
    model = parse("""g (float[n,60] x) => (float[n,60] y) <float[60,60] a, float[60,60] b, float[1] s>
    { h = MatMul(x, a)  k = MatMul(x, b)  l = Mul(k, s)  y = Add(h, l) }""")
    model.graph.initializers["s"].const_value = ir.tensor(np.array([0.01], np.float32))
    said = changes(cluster(model, learn(model), bits=5))
    values = {name: int(said[name].removeprefix("stored as ").split()[0]) for name in "hk" if "values" in said[name]}
    assert values.get("h", 255) > 4 * values["k"]


def test_the_bits_are_those_that_were_asked_for(learn: Callable[..., Context]) -> None:
    model = parse(
        "g (float[n,200] x) => (float[n,200] y) <float[200,200] a, float[200,200] b> { h = MatMul(x, a)  y = MatMul(h, b) }"
    )
    context, whole = learn(model), len(files.to_bytes(model))
    for bits in (2.5, 4, 6):
        coded = model.clone()
        cluster(coded, context, bits=bits)
        assert len(files.to_bytes(coded)) * 32 / whole == pytest.approx(bits, abs=0.4)


def test_with_drop_as_few_bits_as_can_be_are_taken(learn: Callable[..., Context]) -> None:
    model = parse(NET)
    labels = None
    context = learn(model, count=120)
    assert context.calibration is not None
    outputs = Session(model, CPU).run({"x": next(iter(context.calibration.data.batches(120))).feeds["x"]})["y"]
    labels = outputs.argmax(axis=1)
    context = learn(model, count=120, labels=labels)
    sizes = []
    for drop in (0.01, 0.05, 0.2):
        coded = model.clone()
        said = changes(cluster(coded, context, drop=drop))
        assert "expected drop" in said["model"]
        sizes.append(len(files.to_bytes(coded)))
    assert sizes[0] > sizes[1] > sizes[2]


def test_without_labels_the_expected_drop_is_that_of_agreement(learn: Callable[..., Context]) -> None:
    model = parse(NET)
    assert "expected drop" in changes(cluster(model, learn(model), drop=0.05))["model"]


def test_what_cannot_be_judged_is_refused_in_a_sentence(learn: Callable[..., Context]) -> None:
    model = parse(
        "g (float[n,30] x) => (float[n,1] y) <float[30,30] a, float[30,1] b> { h = MatMul(x, a)  y = MatMul(h, b) }"
    )
    said = cluster(model, learn(model))
    assert why(said)[""].startswith("what it would lose cannot be foreseen: metric agreement")


def test_the_same_input_gives_the_same_bytes(learn: Callable[..., Context]) -> None:
    found = []
    for _ in range(2):
        model = parse(NET)
        cluster(model, learn(model), drop=0.05)
        found.append(files.to_bytes(model))
    assert found[0] == found[1]


def test_what_was_learned_serves_again(learn: Callable[..., Context], monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxopt.passes.cluster import study

    made = []
    real = study.Study
    monkeypatch.setattr(
        study,
        "Study",
        type("Counted", (real,), {"__init__": lambda self, *a: (made.append(1), real.__init__(self, *a))[1]}),
    )
    model = parse(NET)
    context = learn(model)
    for drop in (0.5, 0.1):
        cluster(model.clone(), context, drop=drop)
    assert len(made) == 1
    cluster(parse(NET.replace("Relu", "Tanh")), context, drop=0.5)
    assert len(made) == 2
