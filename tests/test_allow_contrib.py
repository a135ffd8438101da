"""--allow-contrib: operators that only ONNX Runtime has are used where the user allows it, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from onnxopt import files
from onnxopt.cli.optimize import command
from onnxopt.testing import parse

TEXT = """g (float[n,5,16] x) => (float[n,64] y) <float[1,256,16] w, float[1,256,64] r>
{ t = Transpose<perm=[1,0,2]>(x)  , h = LSTM<hidden_size=64>(t, w, r)  y = Squeeze(h, axis) }"""


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """An optimization of an LSTM for size."""
    text = TEXT.replace("w, float[1,256,64] r", "w, float[1,256,64] r, int64[1] axis = {0}")
    model = files.save(parse(text, opset=17), tmp_path / "m.onnx")[0]
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 5, 16)).astype(np.float32))
    line = f"{model} -o {tmp_path}/out.onnx --data {tmp_path}/d.npz --pass quantize-lstm --goal size --max-drop 1 -v"
    return line.split()


@pytest.mark.parametrize(
    ("flags", "operator", "said"),
    [([], "LSTM", "--allow-contrib"), (["--allow-contrib"], "DynamicQuantizeLSTM", "LSTM in int8")],
    ids=["not allowed", "allowed"],
)
def test_the_flag_reaches_the_pass(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], operator: str, said: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    result = CliRunner().invoke(command, [*words, *flags], catch_exceptions=False)
    assert result.exit_code == 0
    assert said in result.output
    assert operator in {node.op_type for node in files.load(tmp_path / "out.onnx").graph}
