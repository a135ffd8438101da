"""``onnxopt inspect``, and the numbers behind it."""

import json
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from onnxopt import files
from onnxopt.cli.main import cli
from onnxopt.cli.printing import readable
from onnxopt.errors import UsageError
from onnxopt.inspection import Inspection, inspect
from onnxopt.testing import parse

CONV = """g (float[N,4,8,8] x) => (float[N,6,8,8] y) <float[6,2,3,3] w, float[6] b>
    { h = Conv<group=2, pads=[1,1,1,1]>(x, w, b)  y = Relu(h) }"""

MACS = {
    # output 6 * 8 * 8, each a sum over 2 channels of a group and 3 * 3 positions
    "grouped conv": (CONV, 6 * 8 * 8 * 2 * 9),
    "conv in one dimension": (
        "g (float[1,3,10] x) => (float[1,5,4] y) <float[5,3,4] w> { y = Conv<strides=[2]>(x, w) }",
        5 * 4 * 3 * 4,
    ),
    "transposed conv, from its input": (
        """g (float[1,3,4,4] x) => (float[1,2,8,8] y) <float[3,2,2,2] w>
        { y = ConvTranspose<strides=[2,2]>(x, w) }""",
        3 * 4 * 4 * 2 * 4,
    ),
    "gemm with transposed input": (
        "g (float[5,2] x) => (float[2,3] y) <float[5,3] w> { y = Gemm<transA=1>(x, w) }",
        2 * 3 * 5,
    ),
    "gemm with transposed weight": (
        "g (float[2,5] x) => (float[2,3] y) <float[3,5] w, float[3] b> { y = Gemm<transB=1>(x, w, b) }",
        2 * 3 * 5,
    ),
    "batched matmul": (
        "g (float[2,3,4] x) => (float[2,3,5] y) <float[4,5] w> { y = MatMul(x, w) }",
        2 * 3 * 5 * 4,
    ),
    "matmul of two inputs": (
        "g (float[2,3,4] x, float[2,4,6] z) => (float[2,3,6] y) { y = MatMul(x, z) }",
        2 * 3 * 6 * 4,
    ),
    "dot product of vectors": ("g (float[7] x, float[7] z) => (float y) { y = MatMul(x, z) }", 7),
    "lstm, 7 steps of batch 2": (
        """g (float[7,2,3] x) => (float[7,1,2,4] y) <float[1,16,3] w, float[1,16,4] r>
        { y = LSTM<hidden_size=4>(x, w, r) }""",
        7 * 2 * (16 * 3 + 16 * 4),
    ),
    "gru": (
        """g (float[7,2,3] x) => (float[7,1,2,4] y) <float[1,12,3] w, float[1,12,4] r>
        { y = GRU<hidden_size=4>(x, w, r) }""",
        7 * 2 * (12 * 3 + 12 * 4),
    ),
    "rnn": (
        """g (float[7,2,3] x) => (float[7,1,2,4] y) <float[1,4,3] w, float[1,4,4] r>
        { y = RNN<hidden_size=4>(x, w, r) }""",
        7 * 2 * (4 * 3 + 4 * 4),
    ),
    "integer matmul": (
        "g (uint8[2,4] x) => (int32[2,3] y) <int8[4,3] w> { y = MatMulInteger(x, w) }",
        2 * 3 * 4,
    ),
    "both branches once": (
        """g (bool c, float[2,4] x) => (float[2,3] y) <float[4,3] w> {
           y = If(c) <then_branch = t () => (float[2,3] a) { a = MatMul(x, w) },
                      else_branch = e () => (float[2,3] b) { n = Neg(x)  b = MatMul(n, w) }> }""",
        2 * (2 * 3 * 4),
    ),
    "body of a function": (
        """<ir_version: 8, opset_import: ["" : 20, "local" : 1]>
        g (float[2,4] x) => (float[2,3] y) <float[4,3] w> { y = local.dense(x, w) }
        <domain: "local", opset_import: ["" : 20]> dense (a, b) => (c) { c = MatMul(a, b) }""",
        2 * 3 * 4,
    ),
    "shape computed by Range": (
        """g (float[N,4] x, float[1,1] z) => (float[R,3] y) <float[1,3] w> {
           from = Constant<value = int64 {0}>()  step = Constant<value = int64 {1}>()
           axis = Constant<value = int64[1] {1}>()  count = Size(x)
           r = Range(from, count, step)  f = Cast<to=1>(r)  u = Unsqueeze(f, axis)
           h = Add(u, z)  y = MatMul(h, w) }""",
        4 * 3 * 1,
    ),
    "nothing that multiplies": ("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }", 0),
}


@pytest.mark.parametrize(("text", "macs"), MACS.values(), ids=MACS.keys())
def test_counts_macs(text: str, macs: int, tmp_path: Path) -> None:
    found = inspected(text, tmp_path)
    assert found.macs == macs
    assert found.uncounted == {}


SEQUENCE = "g (float[B,T,4] x) => (float[B,T,3] y) <float[4,3] w> { y = MatMul(x, w) }"


def test_a_dynamic_length_is_unknown_until_it_is_given(tmp_path: Path) -> None:
    assert inspected(SEQUENCE, tmp_path).uncounted == {"shape": {"MatMul": 1}}
    found = inspected(SEQUENCE, tmp_path, x=(2, 7, 4))
    assert found.macs == 2 * 7 * 3 * 4
    assert [str(value) for value in found.assumed] == ["float32[2,7,4]"]


@pytest.mark.parametrize("shapes", [{"x": (1, 2)}, {"x": (1, 7, 5)}, {"z": (1, 7, 4)}])
def test_a_shape_must_fit(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="input"):
        inspected(SEQUENCE, tmp_path, **shapes)


def test_operators_without_a_formula_are_said(tmp_path: Path) -> None:
    text = """g (float[2,4] x) => (float[2,2] y) {
        h = my.domain.Magic(x)  e = Einsum<equation="ij,ij->ij">(x, x)  y = MatMul(h, e) }"""
    path = tmp_path / "m.onnx"
    files.save(parse(text, opsets={"my.domain": 1}), path)
    found = inspect(path)
    assert found.uncounted == {"shape": {"MatMul": 1}, "operator": {"my.domain.Magic": 1, "Einsum": 1}}
    assert found.custom_domains == {"my.domain": 1}


def test_parameters_of_a_shared_weight_count_once(tmp_path: Path) -> None:
    text = "g (float[2,4] x) => (float[2,4] y) <float[4,4] w> { h = MatMul(x, w)  y = MatMul(h, w) }"
    found = inspected(text, tmp_path)
    assert found.parameters == 16
    assert [layer.parameters for layer in found.layers] == [16, 0]


def test_constants_by_dtype(tmp_path: Path) -> None:
    text = """g (float[2,4] x) => (float[2,3] y) <int8[4,3] w, float[3] s> {
        k = Constant<value = int64[2] {2, 3}>()  d = DequantizeLinear<axis=1>(w, s)
        h = MatMul(x, d)  y = Reshape(h, k) }"""
    found = inspected(text, tmp_path)
    assert found.parameters == 3
    assert {c.dtype: (c.elements, c.size) for c in found.constants} == {
        "int64": (2, 16),
        "float32": (3, 12),
        "int8": (12, 12),
    }


def test_inputs_that_are_weights_are_not_inputs(tmp_path: Path) -> None:
    text = "g (float[2,4] x, float[4,3] w) => (float[2,3] y) <float[4,3] w> { y = MatMul(x, w) }"
    model = parse(text.replace("<float[4,3] w>", ""))
    weight = parse(text.replace(", float[4,3] w)", ")")).graph.initializers["w"]
    model.graph.inputs[1].const_value = weight.const_value
    model.graph.initializers["w"] = model.graph.inputs[1]
    path = tmp_path / "m.onnx"
    files.save(model, path)
    found = inspect(path)
    assert [value.name for value in found.inputs] == ["x"]
    assert found.parameters == 12


def test_external_data_count_as_size(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = files.to_proto(parse(CONV))
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = inspect(path)
    assert found.external == {"w.bin": 4 * (6 * 2 * 9 + 6)}
    assert found.size == path.stat().st_size + 4 * (6 * 2 * 9 + 6)


def test_text_shows_what_one_wants_to_know(tmp_path: Path) -> None:
    text = output(CONV, tmp_path)
    for words in (
        "x float32[N,4,8,8]   dynamic: N",
        "parameters  114",
        "6.91 k for x float32[1,4,8,8]",
        "2: Conv 1, Relu 1",
        "1x6x8x8",
        "100.0%",
    ):
        assert words in text
    assert "\x1b" not in text


def test_layers_shows_all_rows_whole(tmp_path: Path) -> None:
    name = "a_very_long_name_of_a_value_as_exporters_write_them/" * 4
    text = f"""g (float[2,4] x) => (float[2,4] y) {{ "{name}" = Neg(x)  y = Relu("{name}") }}"""
    path = tmp_path / "m.onnx"
    model = parse(text.replace(f'"{name}"', "h"))
    model.graph[0].outputs[0].name = name
    files.save(model, path)
    lines = invoke(str(path), "--layers").splitlines()
    assert any(line.startswith(name) and "Neg" in line for line in lines)
    assert "all 2 layers" in lines


def test_json(tmp_path: Path) -> None:
    found = json.loads(output(CONV, tmp_path, "--json", "--shape", "x=3x4x8x8"))
    assert found["version"] == 1
    assert found["macs"] == 3 * 6 * 8 * 8 * 2 * 9
    assert found["macs_for"] == {"x": [3, 4, 8, 8]}
    assert found["inputs"][0]["dynamic"] == ["N"]
    assert [layer["op"] for layer in found["layers"]] == ["Conv", "Relu"]


def test_needs_no_onnx_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "Conv 1" in output(CONV, tmp_path)


CHAIN = """g (float[N,4,8,8] x) => (float[N,2,8,8] y) <float[6,4,3,3] w, float[6] b, float[2,6,1,1] v>
    { h = Conv<pads=[1,1,1,1]>(x, w, b)  r = Relu(h)  y = Conv(r, v) }"""


def test_groups_stand_in_place_of_the_layers(tmp_path: Path) -> None:
    text = output(CHAIN, tmp_path, "--groups")
    heading, row = (line.split() for line in text.partition("1 groups of channels")[2].splitlines()[1:3])
    assert heading == ["group", "channels", "layers", "MACs", "share", "bytes", "time"]
    assert row[:7] == ["h", "6", "1", "14.6", "k", "100.0%", "936"]
    assert 0 < float(row[-1].removesuffix("%")) <= 100
    assert "keep their channels: y: 'y' is an output of the model" in text
    assert "made by" not in text
    assert "with MACs" not in text
    assert "all 3 layers" in output(CHAIN, tmp_path, "--groups", "--layers")


def test_verbose_shows_what_a_group_is_made_of(tmp_path: Path) -> None:
    text = output(CHAIN, tmp_path, "--groups", "--verbose")
    assert "h: 6 channels\n  made by   Conv h: w axis 0\n  read by   Conv y: v axis 1\n  also in   b axis 0" in text


def test_groups_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = json.loads(output(CHAIN, tmp_path, "--groups", "--json"))["groups"]
    assert [group["name"] for group in found["groups"]] == ["h"]
    assert found["staying"] == {"'y' is an output of the model": ["y"]}
    assert "ONNX Runtime is not installed" in found["unmeasured"]
    assert "groups" not in json.loads(output(CHAIN, tmp_path, "--json"))


def test_groups_without_onnx_runtime_have_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    text = output(CHAIN, tmp_path, "--groups")
    assert text.splitlines()[-1].startswith("time not measured: ONNX Runtime is not installed")


def test_a_model_without_groups(tmp_path: Path) -> None:
    text = output("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }", tmp_path, "--groups")
    assert text.rstrip().endswith("0 groups of channels that go together")


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0, "", "0"),
        (512, "B", "512 B"),
        (999.6e3, "", "1 M"),
        (1_234_567, "", "1.23 M"),
        (3_400_000, "B", "3.4 MB"),
        (45.6e9, "", "45.6 G"),
    ],
)
def test_readable(number: float, unit: str, text: str) -> None:
    assert readable(number, unit) == text


def inspected(text: str, folder: Path, **shapes: tuple[int, ...]) -> Inspection:
    files.save(parse(text), folder / "m.onnx")
    return inspect(folder / "m.onnx", shapes)


def output(text: str, folder: Path, *words: str) -> str:
    files.save(parse(text), folder / "m.onnx")
    return invoke(str(folder / "m.onnx"), *words)


def invoke(*words: str) -> str:
    result = CliRunner().invoke(cli, ["inspect", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout
