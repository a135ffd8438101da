"""Taking away channels whose numbers are zero changes nothing: over the zoo, and over real and odd files."""

import os
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path

import exactness
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from random_nets import networks

from onnxopt import files
from onnxopt.core import Context
from onnxopt.errors import ModelError
from onnxopt.models.zoo import ZOO
from onnxopt.passes.prune.groups.tracer import RULES, Axes, Rule, Tracer
from onnxopt.passes.simplify.freeze_weights import FreezeWeights
from onnxopt.runtime import Session
from onnxopt.testing import parse

BERT = {"hidden": 24, "heads": 3, "ffn": 40, "layers": 2}
GPT2 = {"hidden": 24, "heads": 3, "layers": 2}
SMALL = {
    "minilm_l6": BERT,
    "bert_base": BERT,
    "gpt2": GPT2,
    "lstm_tagger": {"embedding": 12, "hidden": 8},
    "unet": {"width": 4},
}
"""Arguments that make a network of the zoo small."""
QUICK = {*SMALL, "resnet20_cifar", "resnet_tiny", "dscnn", "autoencoder"}
SHARED = Path(os.environ.get("ONNXOPT_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"
FILES = {path.stem: path for path in sorted([*SHARED.glob("models/*.onnx"), *SHARED.glob("zoo/*.onnx")])}
SILERO = {
    "input": np.random.default_rng(0).normal(size=(1, 576)).astype(np.float32),
    "state": np.zeros((2, 1, 128), np.float32),
    "sr": np.array(16000),
}
QUICK_FILES = {"ad01", "kws_dscnn", "loop_outer_scope", "resnet8_external", "strww"}


UNFOLDED = {("vit_small_patch16", "torchscript")}
"""Networks whose target shapes are computed from sizes that only folding makes known: nothing can go before that."""


def some_slow(names: Iterable[str], quick: Container[str]) -> list[object]:
    """The names, of which all but the quick ones are marked."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


def assert_network_is_exact(name: str, folder: Path, exporter: str) -> None:
    """Export a network of the zoo, and take away half of each group."""
    pytest.importorskip("torch")
    from onnxopt.export.convert import Exporter
    from onnxopt.export.export import Settings, export
    from onnxopt.models.zoo import load

    module, _ = load(ZOO[name], SMALL.get(name, {}), None)
    settings = Settings(Exporter(exporter), outputs=ZOO[name].outputs, optimize=exporter == "dynamo")
    model = export(module, folder / "net.onnx", ZOO[name].inputs, settings).model
    found = exactness.assert_exact(model, each=name in SMALL)
    assert len(found) > 0 or (name, exporter) in UNFOLDED
    exactness.assert_runs(model)


@pytest.mark.parametrize("name", some_slow(ZOO, QUICK))
def test_networks_of_the_zoo(name: str, tmp_path: Path) -> None:
    assert_network_is_exact(name, tmp_path, "torchscript")


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_networks_of_the_zoo_after_exact_passes(name: str, tmp_path: Path) -> None:
    assert_network_is_exact(name, tmp_path, "dynamo")


def feeds(model: ir.Model, name: str) -> exactness.Feeds:
    """Random inputs; those of silero have a length that the file does not say."""
    found = exactness.random_feeds(model)
    return {**found, **{key: SILERO[key] for key in found if name.startswith("silero") and key in SILERO}}


@pytest.mark.skipif(not FILES, reason=f"no models in {SHARED}; set ONNXOPT_SHARED")
@pytest.mark.parametrize("name", some_slow(FILES, QUICK_FILES))
def test_real_and_odd_files(name: str) -> None:
    """A quarter of each group goes."""
    model = files.load(FILES[name])
    FreezeWeights().run(model, Context(exactness.CPU))
    inputs = feeds(model, name)
    try:
        Session(model, exactness.CPU, optimize=False).run(inputs)
    except ModelError as error:
        pytest.skip(str(error))
    exactness.assert_exact(model, inputs, share=0.25, each=False)
    exactness.assert_runs(model, inputs)


RANDOM = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@given(model=networks())
@settings(RANDOM, max_examples=20)
def test_random_networks(model: ir.Model) -> None:
    exactness.assert_exact(model)


@pytest.mark.slow
@given(model=networks())
@settings(RANDOM, max_examples=1000)
def test_many_random_networks(model: ir.Model) -> None:
    exactness.assert_exact(model)


BLOCKS = """g (float[2,3,6,6] x) => (float[2,4,6,6] y) <float[8,3,1,1] w, float[8,1,3,3] d, float[6,8,1,1] v,
float[6] s, float[6] b, float[6] m, float[6] t, float[8,6,1,1] u, int64[2] two = {3, 3}, int64[5] five = {0, 2, 4, 6, 6},
int64[4] four = {0, 8, 6, 6}, float[4,8,1,1] o> {
    h = Conv(x, w)  i = Conv<group=8, pads=[1,1,1,1]>(h, d)  j = Relu(i)  k = Conv(j, v)
    l = BatchNormalization(k, s, b, m, t)  p, q = Split<axis=1>(l, two)  r = Concat<axis=1>(q, p)
    a = Conv(r, u)  c = Reshape(a, five)  e = Transpose<perm=[0,2,1,3,4]>(c)  f = Reshape(e, four)  z = Add(f, h)
    y = Conv(z, o) }"""


def one_off(rule: Rule) -> Rule:
    """Channels of what a node gives are taken for their neighbours."""
    return lambda tracer, node: [
        [axis if axis is None else np.roll(axis, 1) for axis in axes] for axes in rule(tracer, node)
    ]


def says_the_same(rule: Rule) -> Rule:
    """What a node says in numbers is not rewritten."""

    def changed(tracer: Tracer, node: ir.Node) -> Sequence[Axes]:
        before = len(tracer.adjustments)
        outputs = rule(tracer, node)
        del tracer.adjustments[before:]
        return outputs

    return changed


MUTATIONS = [
    *[(op, one_off) for op in ("Conv", "Relu", "BatchNormalization", "Split", "Concat", "Transpose", "Add")],
    *[(op, says_the_same) for op in ("Conv", "Split", "Reshape")],
]


def test_all_blocks_are_exact() -> None:
    assert exactness.sizes(exactness.assert_exact(parse(BLOCKS))) == {"h": 4, "k": 6}


@pytest.mark.parametrize(("op", "wrong"), MUTATIONS)
def test_a_wrong_rule_is_found_out(op: str, wrong: Callable[[Rule], Rule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, ("", op), wrong(RULES["", op]))
    with pytest.raises(Exception, match=r"Mismatched elements|shape|Shape|dimension|not equal to"):
        exactness.assert_exact(parse(BLOCKS))
