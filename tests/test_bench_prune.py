"""benchmarks/prune.py: what it finds in models, the arithmetic of its tables, and torch-pruning on small networks."""

import csv
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.runtime import Session
from onnxopt.target import Target
from onnxopt.testing import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
contenders, prune, prune_blocks, prune_cases, prune_plot, prune_speed = map(
    importlib.import_module, ("contenders", "prune", "prune_blocks", "prune_cases", "prune_plot", "prune_speed")
)

GELU = "d0 = Div(a0, r)  e0 = Erf(d0)  p0 = Add(e0, one)  h0 = Mul(a0, p0)"
TRANSFORMER = f"""g (float[N,S,4] x) => (float[N,S,4] y) <float[4,6] w0, float[6] b0, float[6,4] v0, float[4,4] q, float r, float one>
{{ k = MatMul(x, q)  m0 = MatMul(k, w0)  a0 = Add(m0, b0)  {GELU}  n0 = MatMul(h0, v0)  y = Add(n0, k) }}"""


# --- blocks of transformers ---


def test_a_block_is_two_products_with_nothing_between_but_elementwise_operators() -> None:
    (block,) = prune_blocks.blocks(parse(TRANSFORMER))
    assert (block.width, block.neurons) == (4, 6)
    assert (block.widen.outputs[0].name, block.narrow.outputs[0].name) == ("m0", "n0")
    assert [value.name for value in block.between] == ["m0", "a0", "d0", "e0", "p0", "h0"]


NO_BLOCKS = {
    "the neurons are also an output": ("float[N,6] h, float[N,4] y", "h = MatMul(x, w)  y = MatMul(h, v)"),
    "two products read the neurons": (
        "float[N,4] y, float[N,4] z",
        "h = MatMul(x, w)  y = MatMul(h, v)  z = MatMul(h, v)",
    ),
    "another value is added": ("float[N,4] y", "h = MatMul(x, w)  z = Add(h, s)  y = MatMul(z, v)"),
    "a softmax sums over neurons": ("float[N,4] y", "h = MatMul(x, w)  z = Softmax(h)  y = MatMul(z, v)"),
    "the weight is an input": ("float[N,4] y", "h = MatMul(x, w)  y = MatMul(h, u)"),
}


@pytest.mark.parametrize(("outputs", "body"), NO_BLOCKS.values(), ids=NO_BLOCKS.keys())
def test_no_block_where(outputs: str, body: str) -> None:
    inputs, weights = "float[N,4] x, float[N,6] s, float[6,4] u", "float[4,6] w, float[6,4] v"
    assert prune_blocks.blocks(parse(f"g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}")) == []


def test_patterns_have_stars_for_numbers_and_fit_nothing_else() -> None:
    assert prune_blocks.patterns(parse(TRANSFORMER)) == ["a*", "d*", "e*", "h*", "m*", "p*"]
    assert prune_blocks.patterns(parse(TRANSFORMER.replace("k", "m1"))) == ["a*", "d*", "e*", "h*", "p*"]


# --- words and counts ---


def test_words() -> None:
    assert prune_cases.words_of("ours", 0.3, "") == "prune-channels:macs=0.7,multiple=8"
    assert prune_cases.words_of("l1", 0.1, "") == "prune-channels:macs=0.9,multiple=8,importance=l1,repair=none"
    uniform = "prune-channels:ratio=0.1,multiple=8,importance=l1,repair=none"
    assert prune_cases.words_of("l1-uniform", 0.1, "") == uniform
    assert prune_cases.words_of("neurons", 0.45, "a*+b*") == "prune-channels:ratio=0.45,multiple=8,only=a*+b*"


def test_a_rival_prunes_the_most_that_is_not_over_the_cut() -> None:
    ground = object.__new__(prune_cases.Ground)
    ground.model = 0.0
    ground.cut = lambda model: model
    ground.changed = lambda tool, amount: (round(2 * amount, 1), f"{amount:g}")
    found, _ = ground.pruned("global", 0.35)
    assert found == 0.3
    ground.changed = lambda tool, amount: (0.2, "")
    assert ground.pruned("l1", 0.1) == (0.0, "nothing")
    ground.changed = lambda tool, amount: (2 * amount, f"{amount:g}")
    assert ground.pruned("ours", 0.35) == (0.7, "0.35")


def test_macs_of_one_sample_of_mean_length(tmp_path: Path) -> None:
    mask = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
    np.savez(tmp_path / "calib.npz", attention_mask=mask)
    model = parse(TRANSFORMER)
    sizes = prune_cases.sizes(model, tmp_path / "calib.npz")
    assert sizes == {"N": 1, "S": 4}
    assert prune_cases.macs(model, sizes) == 4 * (16 + 24 + 24)
    with pytest.raises(RuntimeError, match="not known"):
        prune_cases.macs(model, {"N": 1})


def test_cosine_of_mean_embeddings() -> None:
    reference = np.array([[[1.0, 0.0], [3.0, 0.0]], [[0.0, 2.0], [5.0, 5.0]]])
    turned = np.array([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [9.0, 9.0]]])
    mask = {"attention_mask": np.array([[1, 1], [1, 0]])}
    found = prune_cases.PooledCosine().evidence({"y": turned}, None, {"y": reference}, mask)
    assert found.tolist() == [[0.0], [1.0]]


# --- what is reached ---


def row(tool: str = "ours", drop: float = 0.008, cut: float = 0.31, **parts) -> dict:
    low, high = drop - 0.01, drop + 0.01
    scored = {"metric": "top1", "before": 0.84, "after": 0.84 - drop, "drop": drop, "low": low, "high": high}
    made = {"name": "small", "tool": tool, "asked": 0.3, "error": None, "cut": cut, "drop": scored}
    return {**made, "seconds": 7.4, "bytes": 1000, "missed": [], **parts}


SUBJECT = prune_cases.Subject("small", {0.3: 0.01})
OTHERS = [row("l1", 0.2), row("uniform", 0.3), row("global", 0.25)]
MISSED = {
    "all reached": (row(), OTHERS, []),
    "the drop is too large": (row(drop=0.011), OTHERS, ["drop over 0.01"]),
    "any drop is allowed at another cut": (row(asked=0.5, cut=0.5, drop=0.4), OTHERS, []),
    "too little is cut": (row(cut=0.29), OTHERS, ["the cut"]),
    "a peer is as good": (row(), [row("l1", 0.2), row("global", 0.008)], ["not better than torch-pruning, global"]),
    "a peer is better, at another cut": (row(), [row("uniform", 0.0, asked=0.1)], []),
    "a rival cannot cut so little": (row(), [row("l1", 0.0, cut=0.26)], []),
    "a peer failed": (row(), [{"tool": "uniform", "asked": 0.3, "error": "broke"}], []),
    "neurons": (row("neurons", 0.005, cosine=0.91), [], []),
    "neurons that are missed": (row("neurons", 0.0051, cosine=0.9), [], ["drop over 0.005", "cosine under 0.91"]),
    "nothing is wanted of others": (row("l1", 0.9), OTHERS, []),
    "a failure says so itself": ({"tool": "ours", "asked": 0.3, "error": "broke"}, OTHERS, []),
}


@pytest.mark.parametrize(("ours", "others", "expected"), MISSED.values(), ids=MISSED.keys())
def test_missed(ours: dict, others: list[dict], expected: list[str]) -> None:
    assert list(prune.missed(SUBJECT, ours, [*others, ours])) == expected


def test_line() -> None:
    assert prune.line(row()) == (
        "| small | onnxopt | 30% | 31.0% | top1 0.8400 -> 0.8320 | +0.0080 [-0.0020, +0.0180] | 7 | yes |"
    )
    assert "| 45% of the neurons |" in prune.line(row("neurons", asked=0.45, cosine=0.91))
    assert "-> 0.8320, cosine 0.910 |" in prune.line(row("neurons", cosine=0.91))
    assert prune.line(row(missed=["the cut"])).endswith("| no: the cut |")
    assert prune.line(row("global")).endswith("| 7 |  |")
    assert prune.line(row("global", cut=0.26)).endswith("| 7 | not compared |")
    assert prune.line(row(error="no | such")) == "| small | onnxopt | 30% | failed: no / such |"


RESNET50 = {
    "all reached": ({"gain": [3.2, 3.1, 3.3], "size": 0.3}, 19.0, [], []),
    "slow": ({"gain": [3.1, 3.0, 3.3], "size": 0.3}, 20.0, [], ["under 3.2x", "over 20 s"]),
    "large and odd": (
        {"gain": [4, 4, 4], "size": 0.31},
        1.0,
        ["c (3, 4)"],
        ["over 30% of the bytes", "off the grid: c (3, 4)"],
    ),
}


@pytest.mark.parametrize(("found", "seconds", "off", "expected"), RESNET50.values(), ids=RESNET50.keys())
def test_missed_of_resnet50(found: dict, seconds: float, off: list[str], expected: list[str]) -> None:
    assert list(prune_speed.missed(found, seconds, off)) == expected


def test_line_of_speed() -> None:
    found = {"name": "resnet50", "file": "pruned", "error": None, "gain": [3.3, 3.2, 3.4], "size": 0.281, "missed": []}
    cells = "| resnet50 | pruned | 3.30 [3.20, 3.40] | 0.281 | 4.2 | 15% ! | yes |"
    assert prune_speed.line({**found, "seconds": 4.2, "foreign_load": 0.15}) == cells
    assert prune_speed.line({"name": "a", "file": "", "error": "a | b", "missed": []}) == "| a | failed: a / b |"


def test_channel_counts_that_changed_must_be_on_the_grid() -> None:
    text = "g (float[1,3,8,8] x) => (float[1,10,8,8] y) <float[H,3,1,1] w, float[10,H,1,1] v> { h = Conv(x, w)  y = Conv(h, v) }"
    before, on, off = (parse(text.replace("H", width)) for width in ("64", "32", "20"))
    assert prune_speed.off_grid(before, before) == prune_speed.off_grid(before, on) == []
    assert sorted(prune_speed.off_grid(before, off)) == ["h (20, 3, 1, 1)", "y (10, 20, 1, 1)"]


# --- from the tools to the table ---


class Flat:
    """In place of a Ground: every tool returns the same model, and L1 fails."""

    only = ""
    gate = SimpleNamespace(measure=lambda model: SimpleNamespace(to_dict=lambda: row()["drop"]))

    def __init__(self, subject, settings) -> None:
        self.made = parse(TRANSFORMER)

    def pruned(self, tool: str, asked: float):
        if tool == "l1":
            raise ValueError("no such pass")
        return self.made, "ratio=0.1"

    def cut(self, model) -> float:
        return 0.3


def test_rows_are_printed_kept_and_drawn(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prune, "Ground", Flat)
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    rows: list[dict] = []
    tools = ("uniform", "l1", "ours")
    lines = list(prune.curves([SUBJECT], tools, (0.3,), contenders.Settings(tmp_path), rows))
    assert len(lines) == 4
    assert [one["error"] for one in rows] == [None, "ValueError: no such pass", None]
    assert rows[2]["missed"] == ["not better than torch-pruning, uniform"]
    with (tmp_path / "small.csv").open() as file:
        assert [(one["tool"], one["score"]) for one in csv.DictReader(file)] == [
            ("uniform", "0.832"),
            ("ours", "0.832"),
        ]
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "small" / "ours-30.onnx").exists()


def test_rows_are_reused(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "global-30.json").write_text(json.dumps(row("global")))

    def ground() -> None:
        raise AssertionError("nothing is to be made")

    settings = contenders.Settings(tmp_path, reuse=prune.PEERS)
    assert prune.made("global", 0.3, SUBJECT, ground, settings) == row("global")
    assert prune.made("ours", 0.3, SUBJECT, ground, settings)["error"] == "AssertionError: nothing is to be made"
    assert json.loads((tmp_path / "small" / "ours-30.json").read_text())["error"] is not None


def test_a_part_of_the_speed_that_fails_says_why(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(prune_speed, "resnet50", lambda settings: 1 / 0)
    monkeypatch.setattr(prune_speed, "bert_base", lambda settings: [])
    monkeypatch.setattr(
        prune_speed, "prepare", lambda case, settings: contenders.Given(Path("m"), Path("c"), Path("h"))
    )
    rows: list[dict] = []
    lines = list(prune_speed.speeds([SUBJECT], (0.3,), contenders.Settings(tmp_path), rows))
    assert lines[1] == "| resnet50 | failed: ZeroDivisionError: division by zero |"
    assert "there are no pruned files yet" in lines[2]
    assert len(rows) == 2


def test_every_subject_can_be_made() -> None:
    if not contenders.SHARED.is_dir():
        pytest.skip(f"there is no {contenders.SHARED} to look the models up in")
    known = [model["name"] for model in json.loads((contenders.SHARED / "manifest.json").read_text())["models"]]
    assert [subject.name for subject in prune_cases.SUBJECTS if subject.name not in known] == []


# --- torch-pruning ---

CONVOLUTIONS = """g (float[N,3,16,16] x) => (float[N,5] y)
<float[16,3,3,3] a, float[16] ab, float[32,16,1,1] b, float[32,1,3,3] d, float[32] db, float[16,32,1,1] c,
 float[16,32,3,3] e, float[5,16] f, float[5] fb, float low = {0.0}, float high = {6.0}>
{ a0 = Conv<pads=[1,1,1,1]>(x, a, ab)  a1 = Relu(a0)  b0 = Conv(a1, b)  b1 = Clip(b0, low, high)
  d0 = Conv<group=32, pads=[0,0,1,1], strides=[2,2]>(b1, d, db)  c0 = Conv(d0, c)
  m0 = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a1)  s0 = Add(c0, m0)  t0 = Concat<axis=1>(s0, m0)
  e0 = Conv<pads=[1,1,1,1]>(t0, e)  o = GlobalAveragePool(e0)  w = Flatten(o)  y = Gemm<transB=1>(w, f, fb) }"""
PADDED = """g (float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,3,3] a, float[16,8,3,3] b, float[16,16,3,3] c, float[16,5] f, float[5] fb, int64[8] pads = {0,4,0,0,0,4,0,0},
 int64[2] zero = {0,0}, int64[2] big = {99,99}, int64[2] axes = {2,3}, int64[2] two = {2,2}>
{ a0 = Conv<pads=[1,1,1,1]>(x, a)  a1 = Relu(a0)  b0 = Conv<pads=[1,1,1,1], strides=[2,2]>(a1, b)  b1 = Relu(b0)
  c0 = Conv<pads=[1,1,1,1]>(b1, c)  z = Slice(a1, zero, big, axes, two)  p = Pad(z, pads)  s = Add(c0, p)
  o = GlobalAveragePool(s)  w = Flatten(o)  y = Gemm(w, f, fb) }"""


def feeds_of(model: ir.Model) -> dict[str, np.ndarray]:
    shape = [2 if isinstance(dim, ir.SymbolicDim) else dim for dim in model.graph.inputs[0].shape]
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def modules() -> tuple:
    """torch, prune_net and prune_peers, or the test is skipped."""
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")
    pytest.importorskip("torch_pruning", reason="the extra bench is not installed")
    return torch, importlib.import_module("prune_net"), importlib.import_module("prune_peers")


def width(model: ir.Model, name: str) -> tuple[int, ...]:
    return tuple(model.graph.initializers[name].const_value.shape)


@pytest.mark.parametrize("everywhere", [False, True])
def test_torch_pruning_prunes_whole_groups(everywhere: bool) -> None:
    torch, prune_net, prune_peers = modules()
    model = parse(CONVOLUTIONS)
    full = prune_cases.macs(model, {"N": 1})
    peer = prune_peers.Peer(prune_net.Net, model, torch.tensor(feeds_of(model)["x"]), everywhere=everywhere)
    cuts = [1 - prune_cases.macs(peer.pruned(ratio), {"N": 1}) / full for ratio in (0.0, 0.1, 0.3)]
    assert cuts[0] == 0 < cuts[1] < cuts[2] < 0.6
    pruned = peer.pruned(0.3)
    assert width(pruned, "f")[0] == 5
    assert width(pruned, "d")[0] == width(pruned, "b")[0] == width(pruned, "c")[1] < 32
    assert width(pruned, "a")[0] == width(pruned, "c")[0] == width(pruned, "e")[1] / 2
    assert width(model, "b") == (32, 16, 1, 1)


def test_groups_that_torch_pruning_cannot_rank_stay() -> None:
    torch, prune_net, prune_peers = modules()
    model = parse(PADDED)
    peer = prune_peers.Peer(prune_net.Net, model, torch.tensor(feeds_of(model)["x"]), everywhere=False)
    assert peer.broken
    pruned = peer.pruned(0.25)
    assert (width(pruned, "a"), width(pruned, "b"), width(pruned, "c")) == ((8, 3, 3, 3), (12, 8, 3, 3), (16, 12, 3, 3))


def test_torch_pruning_of_neurons() -> None:
    torch, prune_net, prune_peers = modules()
    model = parse(TRANSFORMER)
    peer = prune_peers.Peer(prune_net.Blocks, model, torch.zeros(2, 4), everywhere=False)
    pruned = peer.pruned(0.5)
    assert (width(pruned, "w0"), width(pruned, "b0"), width(pruned, "v0")) == ((4, 3), (3,), (3, 4))
    weights = {name: model.graph.initializers[name].const_value.numpy() for name in ("w0", "b0", "v0")}
    norms = (weights["w0"] ** 2).sum(0) + (weights["v0"] ** 2).sum(1)
    stay = np.sort(np.argsort(norms)[3:])
    assert (pruned.graph.initializers["b0"].const_value.numpy() == weights["b0"][stay]).all()
    Session(pruned, Target()).run({"x": np.zeros((2, 3, 4), np.float32)})


def test_a_module_that_computes_something_else_is_an_error() -> None:
    torch, prune_net, _ = modules()
    model = parse(CONVOLUTIONS)
    net, x = prune_net.Net(model), torch.tensor(feeds_of(model)["x"])
    net.check(x)
    net.layers[0].weight.data *= 1.5
    with pytest.raises(AssertionError):
        net.check(x)


def test_moves_that_do_nothing_are_taken_away() -> None:
    _, prune_net, _ = modules()
    text = """g (float[N,4] x) => (float[N,4] y, float[4,N] z)
    <int64[1] flat = {-1}, int64[1] axis = {1}, int64 zero = {0}, int64 one = {1}, int64 four = {4}, int64[4] steps = {0,1,2,3}>
    { h = Relu(x)  f = Reshape(h, flat)  s = Shape<start=0, end=1>(x)  n = Squeeze(s)  r = Range(zero, n, one)
      k = Mul(r, four)  u = Unsqueeze(k, axis)  i = Add(u, steps)  g = Gather(f, i)  y = Neg(g)  z = Transpose(h) }"""
    model = parse(text)
    feeds = feeds_of(model)
    found = prune_net.without_detours(model, feeds)
    assert [node.op_type for node in found.graph] == ["Relu", "Neg", "Transpose"]
    before, after = Session(model, Target()).run(feeds), Session(found, Target()).run(feeds)
    assert all((before[name] == after[name]).all() for name in ("y", "z"))
