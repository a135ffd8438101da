"""The process that the libraries run in."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from attention_blocks import block

from onnxopt import files, transformer_fusions
from onnxopt.core import Change, Context, Refusal
from onnxopt.errors import ModelError
from onnxopt.passes.fuse.fuse_transformer import FuseTransformer
from onnxopt.target import Target
from onnxopt.testing import parse
from onnxopt.transformer_fusions import Wish, fused

WISH = Wish(("bert",), 4, 16, contrib=True, gelu=True, additions=True)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_is_left_behind_and_nothing_said(scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, path = parse(block()), [*sys.path]
    contents = files.to_bytes(model)
    with fused(model, Wish(("bert", "no_such"), 4, 16, contrib=True, gelu=True, additions=True), 60) as found:
        assert not isinstance(found["bert"], str)
        assert "does not know it; it knows" in str(found["no_such"])
    assert files.to_bytes(model) == contents
    assert capfd.readouterr() == ("", "")
    assert [*scratch.iterdir()] == []
    assert sys.path == path


def test_weights_of_any_size_pass_through_files(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT", 0)
    monkeypatch.setattr(files, "SMALL_TENSOR", 64)
    with fused(parse(block()), WISH, 60) as found:
        model = found["bert"]
        assert not isinstance(model, str)
        assert files.external_files(model)
        transformer_fusions.kept(model)
    assert not files.external_files(model)
    assert [*scratch.iterdir()] == []


def test_too_long_is_said(scratch: Path) -> None:
    with pytest.raises(ModelError, match=r"longer than 0\.01 seconds"), fused(parse(block()), WISH, 0.01):
        pass
    assert [*scratch.iterdir()] == []


@pytest.mark.parametrize(("code", "said"), [(-11, r"crashed \(signal 11\)"), (1, "failed: no memory")])
def test_a_crash_is_said_and_the_rule_does_it(code: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, code, b"", b"Traceback\nno memory\n")

    monkeypatch.setattr(transformer_fusions.subprocess, "run", dies)
    with pytest.raises(ModelError, match=said), fused(parse(block()), WISH, 60):
        pass
    found = FuseTransformer().run(parse(block()), Context(Target(), allow_contrib=True))
    assert any(isinstance(one, Change) and "by the rule for attention" in one.what for one in found)
    assert any(isinstance(one, Refusal) and "the transformer fusions" in one.why for one in found)


def test_a_missing_module_is_named() -> None:
    why = transformer_fusions._refused("ModuleNotFoundError: No module named 'sympy'")
    assert why.endswith("pip install sympy")
