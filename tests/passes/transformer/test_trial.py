"""What is tried on a fused model before it is taken: masks and sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest
from attention_blocks import assert_same, block

from onnxopt.core import Change, Context, Refusal
from onnxopt.errors import ModelError
from onnxopt.passes.fuse.fuse_transformer import FuseTransformer
from onnxopt.passes.fuse.transformer import candidates
from onnxopt.passes.fuse.transformer.trial import Trial, prepare
from onnxopt.target import Target
from onnxopt.testing import parse

ALLOWED = Context(Target(), allow_contrib=True)
TOKENS = """g (int64[batch,sequence] ids, int64[batch,sequence] seen, int64[batch,total] mask, float[batch,past,4] old)
    => (float[batch,total,4] y) <float[7,4] table, int64[1] last = {-1}>
    { e = Gather(table, ids)  t = Concat<axis=1>(old, e)  m = Unsqueeze(mask, last)  f = Cast<to=1>(m)  y = Mul(t, f)
      c = Cast<to=1>(seen) }"""

Harm = Callable[[ir.Model], None]


def node(model: ir.Model, output: str) -> ir.Node:
    return next(one for one in model.graph if one.outputs[0].name == output)


def without_mask(model: ir.Model) -> None:
    """Right where all tokens are read."""
    node(model, "p").replace_input_with(0, node(model, "s1").outputs[0])


def other_scale(model: ir.Model) -> None:
    node(model, "s1").replace_input_with(1, model.graph.initializers["half"])


def fixed_sizes(model: ir.Model) -> None:
    """Right for five tokens."""
    shape = ir.Value(name="fixed", const_value=ir.tensor(np.array([-1, 5, 16])))
    model.graph.register_initializer(shape)
    node(model, "r2").replace_input_with(1, shape)


@pytest.mark.parametrize("harm", [without_mask, other_scale])
def test_a_wrong_fusion_is_refused_and_another_taken(monkeypatch: pytest.MonkeyPatch, harm: Harm) -> None:
    @contextlib.contextmanager
    def wrong(model: ir.Model, *_: object) -> Iterator[dict[str, ir.Model]]:
        copy = model.clone()
        harm(copy)
        yield {"bert": copy}

    monkeypatch.setattr(candidates, "fused", wrong)
    before = parse(block())
    model = before.clone()
    said = FuseTransformer().run(model, ALLOWED)
    assert_same(before, model)
    assert any("by the rule for attention" in one.what for one in said if isinstance(one, Change))
    assert any("as bert" in one.why for one in said if isinstance(one, Refusal)), said


def test_what_holds_for_one_size_is_seen_at_the_other() -> None:
    model, fixed = parse(block()), parse(block())
    fixed_sizes(fixed)
    with pytest.raises(ModelError):
        prepare(model, ALLOWED).compare(fixed)


def test_all_ones_would_not_show_a_lost_mask() -> None:
    model, blind = parse(block()), parse(block())
    without_mask(blind)
    trial = prepare(model, ALLOWED)
    assert not trial.compare(blind).ok
    full = [feeds for feeds in trial.feeds if feeds["mask"].all()]
    few = Trial(
        full,
        [out for feeds, out in zip(trial.feeds, trial.outputs, strict=True) if feeds["mask"].all()],
        2,
        True,
        Target(),
    )
    assert few.compare(blind).ok


def test_two_sizes_and_three_masks_of_each() -> None:
    trial = prepare(parse(block()), ALLOWED)
    assert trial.sizes == 2
    assert len({feeds["x"].shape for feeds in trial.feeds}) == 2
    for feeds in trial.feeds:
        assert feeds["mask"][:, 0].all(), "each row reads something"
    padded, gaps = (trial.feeds[place]["mask"] for place in (1, 2))
    assert (np.diff(padded, axis=1) <= 0).all()
    assert len({tuple(row) for row in padded}) > 1
    assert (np.diff(gaps, axis=1) > 0).any()


def test_a_size_that_could_not_be_varied_is_said() -> None:
    text = block(mask="s2 = Add(s1, upper)").replace("float one", "float[5,5] upper, float one")
    trial = prepare(parse(text), ALLOWED)
    assert trial.sizes == 1
    assert "one size only" in trial.doubt
    assert prepare(parse(block()), ALLOWED).doubt == ""


def test_lengths_that_are_sums_and_rows_of_short_tables_are_found() -> None:
    trial = prepare(parse(TOKENS), ALLOWED)
    for feeds in trial.feeds:
        assert feeds["mask"].shape[1] == feeds["ids"].shape[1] + feeds["old"].shape[1]
        assert feeds["ids"].max() < 7


def test_a_model_that_runs_on_nothing_is_left_alone() -> None:
    text = block().replace("parts = {0,0,4,4}", "parts = {7,11,4,4}")
    with pytest.raises(ModelError, match="give --data, or --shape"):
        prepare(parse(text), ALLOWED)
    said = FuseTransformer().run(parse(text), ALLOWED)
    assert not any(isinstance(one, Change) for one in said)
