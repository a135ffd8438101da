"""Simplify."""

import subprocess
from typing import Any

import pytest

from onnxopt import files
from onnxopt.core import Context, Refusal
from onnxopt.passes.simplify import simplify
from onnxopt.passes.simplify.simplify import Simplify
from onnxopt.target import Target
from onnxopt.testing import assert_refuses, assert_rewrites, parse

SHAPES = """g (float[2,3,4] x) => (float[2,12] y) <int64 i = {0}, int64[1] a = {0}, int64[1] m = {-1}> {
  h = Relu(x)  s = Shape(h)  d = Gather(s, i)  e = Unsqueeze(d, a)  t = Concat<axis=0>(e, m)  y = Reshape(h, t) }"""
GROWS = """g (float[400,1000] x) => (float[400,1000] y) <float w = {1}, int64[2] s = {400, 1000}>
  { v = Expand(w, s)  a = Neg(x)  y = Sub(a, v) }"""


def test_simplifies_and_a_second_run_changes_nothing() -> None:
    model = assert_rewrites(Simplify(), SHAPES, after=["Relu(x) -> h", "Reshape(h, const) -> y"])
    assert str(model.graph.outputs[0].shape) == "[2,12]"
    assert not model.metadata_props


def test_does_not_decode_weights_that_are_stored_small() -> None:
    weights = "<int8[2,3,4] q, float16[3,4] p, int64[1,3,4] n, int64[2,1,1] o = {1, 9}, int64 i"
    decoded = "u = Cast<to=1>(q)  v = Cast<to=1>(p)  w = Mul(u, v)  j = Div(n, o)  c = Cast<to=1>(j)  k = Add(w, c)"
    text = SHAPES.replace("<int64 i", weights).replace("h = Relu(x)", f"{decoded}  z = Add(x, k)  h = Relu(z)")
    after = ["Cast(const) -> u", "Cast(const) -> v", "Mul(u, v) -> w", "Div(const, const) -> j", "Cast(j) -> c"]
    after += ["Add(w, c) -> k", "Add(x, k) -> z", "Relu(z) -> h", "Reshape(h, const) -> y"]
    assert_rewrites(Simplify(), text, after=after)


@pytest.mark.slow
def test_does_not_unroll_weights_into_the_file() -> None:
    model = parse(GROWS)
    size = len(files.to_bytes(model))
    Simplify().run(model, Context(Target()))
    assert len(files.to_bytes(model)) < size + simplify.SLACK


def stopped(code: int, stderr: bytes = b"") -> Any:
    """In place of subprocess.run: an onnxsim that ends like this."""
    return lambda command, **_: subprocess.CompletedProcess(command, code, b"", stderr)


FAILURES = {
    "it crashes": (-11, b"", "crashed (signal 11)"),
    "it raises": (1, b"Traceback\n  File x\nRuntimeError: cannot\n\n==> Context: node y\n", "RuntimeError: cannot"),
    "it fails without a word": (1, b"", "no message"),
    "it leaves no model": (0, b"", "there is no file"),
}


@pytest.mark.parametrize(("code", "stderr", "why"), FAILURES.values(), ids=FAILURES.keys())
def test_refuses_when_onnxsim_fails(monkeypatch: pytest.MonkeyPatch, code: int, stderr: bytes, why: str) -> None:
    monkeypatch.setattr(simplify.subprocess, "run", stopped(code, stderr))
    assert_refuses(Simplify(), SHAPES, why)


def test_refuses_when_onnxsim_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "SCRIPT", "import time; time.sleep(60)")
    model = parse(SHAPES)
    (refusal,) = Simplify(seconds=1.0).run(model, Context(Target()))
    assert isinstance(refusal, Refusal)
    assert "longer than 1 seconds" in refusal.why


def test_refuses_random_operators() -> None:
    text = "g (float[4] x) => (float[4] y) { r = RandomNormal<shape=[4]>()  y = Add(x, r) }"
    assert_refuses(Simplify(), text, "random")


@pytest.mark.slow
def test_refuses_to_lose_an_input_that_nobody_reads() -> None:
    model = parse(SHAPES.replace("x) =>", "x, float[4] u) =>").replace("<int64 i", "<float[4] u, int64 i"))
    names = [value.name for value in model.graph.inputs]
    Simplify().run(model, Context(Target()))
    assert [value.name for value in model.graph.inputs] == names
