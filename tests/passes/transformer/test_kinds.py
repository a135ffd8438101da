"""Which transformer a model is taken for."""

import pytest
from attention_blocks import block

from onnxopt.graph import inferred
from onnxopt.passes.fuse.transformer.attention import Attention, attentions
from onnxopt.passes.fuse.transformer.kinds import KINDS, Structure, likely, structure
from onnxopt.passes.fuse.transformer.sizes import Sizes
from onnxopt.testing import parse
from onnxopt.transformer_script import ONNXSCRIPT

LIKELY = {
    "bert": Structure(),
    "gpt2": Structure(causal=True),
    "vit": Structure(patches=True),
    "swin": Structure(patches=True, windows=True),
    "bart": Structure(crossed=True, causal=True),
    "unet": Structure(convolutions=20, crossed=True),
    "conformer": Structure(depthwise=12),
    "t5": Structure(rms=True, biased_unscaled=True),
    "qwen3": Structure(rms=True, rotary=True, causal=True),
}
TRIANGLE = """int64[2] places = {1,2}, float[1,1,3,3] upper = {0,-9,-9, 0,0,-9, 0,0,0}"""


def seen(text: str) -> Structure:
    model = parse(text)
    return structure(model, [one for _, one in attentions(model, Sizes(inferred(model))) if isinstance(one, Attention)])


@pytest.mark.parametrize(("kind", "of"), LIKELY.items(), ids=LIKELY.keys())
def test_the_likeliest_kind(kind: str, of: Structure) -> None:
    assert likely(of)[0] == kind
    assert set(likely(of)) <= {ONNXSCRIPT, *KINDS}


def test_heads_and_width_are_read_from_the_attention() -> None:
    assert seen(block()) == Structure(heads=4, hidden=16)


def test_a_constant_triangle_is_causal() -> None:
    text = block(mask="s2 = Add(s1, upper)").replace("int64[2] places = {1,2}", TRIANGLE)
    assert seen(text).causal
    assert not seen(text.replace("{0,-9,-9, 0,0,-9, 0,0,0}", "{0,0,-9, 0,0,-9, 0,0,-9}")).causal


def test_a_comparison_of_places_is_causal() -> None:
    places = "n = Shape<start=1,end=2>(x)  i = Squeeze(n)  r = Range(zero, i, step)  c = Unsqueeze(r, last)  ok = LessOrEqual(r, c)"
    text = block(mask=f"{places}  s2 = Where(ok, s1, lowest)").replace(
        "float one", "int64 zero = {0}, int64 step = {1}, float one"
    )
    assert seen(text).causal
