"""Recipes: which passes for which goal and target, and recipe files."""

import tomllib
from pathlib import Path

import pytest

from onnxopt import passes, recipes
from onnxopt.core import Exactness
from onnxopt.errors import UsageError
from onnxopt.pipeline import Goal
from onnxopt.target import Target
from onnxopt.testing import parse

TEXT = "g (float[1,4] x) => (float[1,4] y) { y = Relu(x) }"


def words(
    *, opset: int = 20, provider: str = "cpu", has_data: bool = True, goal: Goal = Goal.LATENCY, prune: bool = False
) -> list[str]:
    found = recipes.default(parse(TEXT, opset=opset), goal, Target(provider), has_data=has_data, prune=prune)
    return [str(rewrite) for rewrite in found]


def test_without_data_nothing_is_lossy() -> None:
    found = recipes.default(parse(TEXT), Goal.LATENCY, Target(), has_data=False)
    assert found
    assert all(rewrite.exactness is not Exactness.LOSSY for rewrite in found)


def test_with_data_int8_is_tried_and_sharing_comes_last() -> None:
    found = words()
    assert any(word.startswith("quantize-int8:rounding=nearest | space-to-depth-stem + ") for word in found)
    assert found[-2:] == ["share-initializers", "strip-metadata"]


CPU_ALONE = (
    "quantize-int8",
    "quantize-dynamic",
    "quantize-lstm",
    "convert-layer",
    "space-to-depth-stem",
    "flatten-matmul",
)


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("has_data", [True, False])
def test_cuda_gets_no_int8_and_nothing_that_kernels_of_the_cpu_decide(goal: Goal, has_data: bool) -> None:
    found = words(provider="cuda", goal=goal, has_data=has_data, prune=True)
    assert not [word for word in found if any(one in word for one in CPU_ALONE)]


def test_cuda_gets_fusions_float16_and_small_weights_in_this_order() -> None:
    assert words(provider="cuda")[len(recipes.EXACT) :] == [
        "fuse-transformer + cast-float16 | cast-float16",
        "fuse-transformer",
        "quantize-weights:bits=4,share=0.2 | quantize-weights:share=0.2",
        "share-initializers",
        "strip-metadata",
    ]
    assert words(provider="cuda", has_data=False)[len(recipes.EXACT) :] == ["fuse-transformer", *recipes.CLOSE]
    assert words(provider="cuda")[: len(recipes.EXACT)] == list(recipes.EXACT)
    assert "cast-float16" in words(provider="cuda", goal=Goal.SIZE)
    assert not any("float16" in word or "fuse-transformer" in word for word in words())


@pytest.mark.parametrize(("goal", "amount"), [(Goal.LATENCY, "macs"), (Goal.SIZE, "bytes")])
@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_channels_are_searched_for_right_behind_what_they_are_tried_with(
    goal: Goal, amount: str, provider: str
) -> None:
    found = words(goal=goal, provider=provider, prune=True)
    last = 6 if goal is Goal.SIZE else 4
    assert found[-last] == f"prune-channels:{amount}=0.3..0.95"
    assert [*found[:-last], *found[-last + 1 :]] == words(goal=goal, provider=provider)
    assert words(goal=goal, has_data=False, prune=True) == words(goal=goal, has_data=False)


def test_for_size_codes_come_first_and_take_a_part_of_the_drop_that_is_allowed() -> None:
    model = parse(TEXT)
    found = [str(one) for one in recipes.default(model, Goal.SIZE, Target(), has_data=True, allowed=0.02)]
    coded = [word for word in found if word.startswith("cluster")]
    assert coded == ["cluster-weights:drop=0.01", *(f"cluster-weights{w}" for w in ("", ":drop=0.002", ":drop=0.002"))]
    assert found.index(coded[0]) < found.index("quantize-int8:placement=everywhere | quantize-dynamic")
    assert found[-5:] == ["store-half", "store-sparse", "share-initializers", "strip-metadata", "strip-names"]


def test_for_size_low_ranks_come_before_codes() -> None:
    found = words(goal=Goal.SIZE)
    assert found.index("factorize:error=0.0005,limit=0.6") + 1 == found.index("cluster-weights")


@pytest.mark.parametrize("has_data", [True, False])
def test_what_is_left_in_float_is_converted_where_that_is_faster(has_data: bool) -> None:
    assert words(has_data=has_data)[-3] == "convert-layer"
    assert "convert-layer" not in words(has_data=has_data, goal=Goal.SIZE)
    assert "convert-layer" not in words(has_data=has_data, provider="cuda")


def test_for_size_int8_comes_first_where_it_must_be_faster() -> None:
    found = recipes.default(parse(TEXT), Goal.SIZE, Target(), has_data=True, max_slowdown=0.7)
    names = [str(one).partition(":")[0].partition(" ")[0] for one in found]
    assert names.index("quantize-int8") < names.index("cluster-weights")
    assert names.count("cluster-weights") == 4


def test_for_size_on_cuda_there_are_codes_and_no_int8() -> None:
    found = words(goal=Goal.SIZE, provider="cuda")
    assert any(word.startswith("cluster-weights") for word in found)
    assert not any(word.startswith("quantize") for word in found)


def test_an_old_opset_is_raised_for_int8_only() -> None:
    assert "upgrade-opset" in words(opset=11)
    assert "upgrade-opset" not in words(opset=13)
    assert "upgrade-opset" not in words(opset=11, has_data=False)


def test_a_recipe_file_is_read_back(tmp_path: Path) -> None:
    recipe = tuple(map(passes.parse, ["fuse-pad", "quantize-int8:ops=Conv+Gemm,whole-chains=false"]))
    path = tmp_path / "r.toml"
    path.write_text(recipes.dump(recipe))
    assert recipes.load(path) == recipe
    assert "portable" not in path.read_text()


def test_options_of_a_recipe_file_may_have_dashes(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('version = 1\n[[pass]]\nname = "quantize-int8"\nwhole-chains = false\nops = "Conv+Gemm"')
    assert recipes.load(path) == (passes.parse("quantize-int8:whole-chains=false,ops=Conv+Gemm"),)


STAGES = (
    "flatten-matmul + quantize-int8:ops=Conv+Gemm,portable=yes",
    "fold-affine | fuse-pad",
    "flatten-matmul + quantize-int8 | quantize-int8:min-sqnr=20.0",
    "prune-channels:macs=0.3..0.95",
)


def test_stages_are_written_as_words_and_read_back(tmp_path: Path) -> None:
    recipe = tuple(map(passes.parse_stage, ["fuse-pad", *STAGES]))
    path = tmp_path / "r.toml"
    path.write_text(recipes.dump(recipe))
    assert recipes.load(path) == recipe
    content = tomllib.loads(path.read_text())
    assert content["pass"] == [{"name": "fuse-pad"}, *({"words": words} for words in STAGES)]


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("allow_contrib", [True, False])
def test_the_recipe_of_a_goal_is_read_back(goal: Goal, allow_contrib: bool, tmp_path: Path) -> None:
    found = recipes.default(parse(TEXT), goal, Target(), has_data=True, allow_contrib=allow_contrib, prune=True)
    path = tmp_path / "r.toml"
    path.write_text(recipes.dump(found))
    assert recipes.load(path) == found


def test_a_single_pass_may_be_written_as_words(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('version = 1\n[[pass]]\nwords = "quantize-int8:ops=Conv+Gemm"')
    assert recipes.load(path) == (passes.parse("quantize-int8:ops=Conv+Gemm"),)


PASS = "version = 1\n[[pass]]\n"
BROKEN = {
    "not TOML": ("version = ", "is not TOML"),
    "not text": (b"\xff\xfe\x00", "is not TOML"),
    "no version": ('[[pass]]\nname = "fuse-pad"', "has version None"),
    "another version": ("version = 2", "has version 2; this onnxopt reads version 1"),
    "no passes": ("version = 1", "has no [[pass]] entries"),
    "passes that are no list": ('version = 1\npass = "fuse-pad"', "has no [[pass]] entries"),
    "a list of words": ('version = 1\npass = ["fuse-pad"]', "each [[pass]] needs a name"),
    "a pass without a name": (f"{PASS}per_channel = true", "each [[pass]] needs a name"),
    "an unknown pass": (f'{PASS}name = "fuse-pat"', "there is no pass 'fuse-pat'; did you mean 'fuse-pad'?"),
    "an unknown option": (f'{PASS}name = "quantize-int8"\nwhole_chain = true', "did you mean 'whole-chains'?"),
    "an unknown pass in words": (f'{PASS}words = "fuse-pad | fuse-pat"', "did you mean 'fuse-pad'?"),
    "words that are a number": (f"{PASS}words = 5", "there is no pass '5'"),
    "words and a name": (f'{PASS}name = "fuse-pad"\nwords = "fuse-pad"', "pass fuse-pad has no option 'words'"),
    "words alone with an option": (f'{PASS}words = "fuse-pad"\nportable = "yes"', "each [[pass]] needs a name"),
    "a wrong value": (f'{PASS}name = "quantize-int8"\nwhole_chains = 7', "7 is not true or false"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_recipe_file_is_refused(text: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as error:
        recipes.load(path)
    assert said in str(error.value)


def test_a_missing_recipe_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        recipes.load(tmp_path / "no.toml")
