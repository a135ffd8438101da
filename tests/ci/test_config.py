"""``onnxopt.toml`` is read strictly, and each error is a sentence with its place."""

from dataclasses import fields
from pathlib import Path

import pytest

from onnxopt.ci import Entry, read
from onnxopt.ci.config import FILES, KEYS, ONE, SOURCES
from onnxopt.errors import UsageError

MODEL = '[[model]]\nname = "a"\npath = "a.onnx"\nbaseline = "base/a.onnx"\n'


def written(folder: Path, text: str, version: str = "version = 1\n") -> Path:
    path = folder / "onnxopt.toml"
    path.write_text(version + text)
    return path


def test_a_model_with_everything(tmp_path: Path) -> None:
    text = """
    [ci]
    out = "built"
    markdown = "built/ci.md"
    junit = "built/ci.xml"
    json = "built/ci.json"
    smaller = "built/smaller.json"
    stop_at_first_failure = true

    [defaults]
    fail_if_slower = "3%"
    eval_data = "eval.npz"
    threads = [1, 2]

    [[model]]
    name = "a"
    path = "models/a.onnx"
    baseline = "base/a.onnx"
    optimize = true
    data = "load.py:samples"
    metric = "top1"
    state = { h = "h_out" }
    max_size = "2.5 MB"
    min_ratio = 1.2
    shapes = { image = [1, 3, 8, 8], n = 4 }
    batch = 8

    [[model]]
    name = "b"
    path = "b.onnx"
    reference = "c.onnx"
    fail_if_slower = "off"
    max_size = 1000
    """
    found = read(written(tmp_path, text))
    a, b = found.models
    assert found.written == {
        "json": tmp_path / "built/ci.json",
        "markdown": tmp_path / "built/ci.md",
        "junit": tmp_path / "built/ci.xml",
        "smaller": tmp_path / "built/smaller.json",
    }
    assert found.stop_at_first_failure
    assert (a.path, a.baseline, a.output) == tuple(
        tmp_path / path for path in ("models/a.onnx", "base/a.onnx", "built/a.onnx")
    )
    assert a.data == f"{tmp_path}/load.py:samples"
    assert a.judged_on == str(tmp_path / "eval.npz")
    assert (a.fail_if_slower, a.max_size, a.min_ratio) == (0.03, 2_500_000, 1.2)
    assert a.shapes == {"image": (1, 3, 8, 8), "n": (4,)}
    assert list(a.places()) == [("cpu", 1, 8), ("cpu", 2, 8)]
    assert (b.fail_if_slower, b.max_size, b.optimize) == (None, 1000, False)
    lines = (tmp_path / "onnxopt.toml").read_text().splitlines()
    assert [lines[model.line - 1].strip() for model in (a, b)] == ["[[model]]", "[[model]]"]


def test_passes_of_a_model_replace_the_recipe_of_the_defaults(tmp_path: Path) -> None:
    other = MODEL.replace('name = "a"', 'name = "b"')
    text = f'[defaults]\nrecipe = "r.toml"\n{MODEL}passes = ["simplify"]\n{other}'
    a, b = read(written(tmp_path, text)).models
    assert (a.passes, a.recipe, a.optimize) == (("simplify",), None, True)
    assert (b.passes, b.recipe, b.optimize) == ((), tmp_path / "r.toml", True)


def test_a_model_that_is_not_optimized_leaves_the_recipe_of_the_defaults(tmp_path: Path) -> None:
    (entry,) = read(written(tmp_path, f'[defaults]\nrecipe = "r.toml"\n{MODEL}optimize = false\n')).models
    assert (entry.optimize, entry.recipe) == (False, None)


def test_every_field_of_an_entry_is_a_key() -> None:
    assert {*KEYS, *SOURCES, *FILES, *ONE, "name", "line"} == {each.name for each in fields(Entry)}


ERRORS = {
    "a misspelt key": (MODEL + "max_dorp = 0.1", r"\[\[model\]\] 'a': there is no key 'max_dorp'; did you mean 'max_drop'\?"),
    "a misspelt table": ("[default]\n" + MODEL, "there is no key 'default'; did you mean 'defaults'"),
    "a misspelt key of the defaults": ("[defaults]\nthreds = 1\n" + MODEL, r"\[defaults\]: .* did you mean 'threads'"),
    "a misspelt key of ci": ("[ci]\nmarkdwn = 'x'\n" + MODEL, r"\[ci\]: .* did you mean 'markdown'"),
    "a path in the defaults": ("[defaults]\npath = 'a'\n" + MODEL, "there is no key 'path'"),
    "no models": ("", r"there is no \[\[model\]\]; add one"),
    "a model that is no table": ("model = 3", r"there is no \[\[model\]\]"),
    "ci that is no table": ("ci = 3\n" + MODEL, r"\[ci\]: this must be a table"),
    "no name": ("[[model]]\npath = 'a.onnx'", "number 1: name is missing"),
    "no path": ("[[model]]\nname = 'a'", "'a': path is missing"),
    "a name that is a path": (MODEL.replace('"a"', '"../a"'), "give a name of letters"),
    "a name with a line end": (MODEL.replace('"a"', '"a\\nb"'), "give a name of letters"),
    "two of one name": (MODEL + MODEL, "two models are called 'a'"),
    "words for a number": (MODEL + "max_drop = '1%'", "max_drop = '1%': give a number from 0"),
    "a negative number": (MODEL + "max_drop = -1", "give a number from 0"),
    "nan": (MODEL + "max_drop = nan", "give a number from 0"),
    "true for a number": (MODEL + "max_drop = true", "max_drop = true: give a number"),
    "words for a flag": (MODEL + "optimize = 'yes'", "give true or false, without quotes"),
    "a share without a unit": (MODEL + "fail_if_slower = 3", 'give a share, "3%" or 0.03, or "off"'),
    "a share of words": (MODEL + "fail_if_slower = 'a lot'", "give a share"),
    "a size of an unknown unit": (MODEL + "max_size = '2 MBit'", 'give a size, "2.5 MB"'),
    "an unknown provider": (MODEL + "provider = 'tpu'", 'give "cpu" or "cuda"'),
    "no providers": (MODEL + "provider = []", "give a list of at least one"),
    "threads twice": (MODEL + "threads = [1, 1]", "each of them once"),
    "no threads": (MODEL + "threads = 0", "a whole number from 1"),
    "a shape of words": (MODEL + "shapes = { x = 'big' }", "give a table of shapes"),
    "a state that is a list": (MODEL + "state = ['a']", "give a table of names"),
    "an absolute path": (MODEL + "reference = '/etc/passwd'", "a path inside the folder of this file, or say allow_outside"),
    "a path that leaves": (MODEL + "eval_data = '../d.npz'", "a path inside the folder"),
    "a module that is outside": (MODEL + "eval_data = '../d.py:samples'", "a path inside the folder"),
    "a summary outside": ("[ci]\njunit = '../x.xml'\n" + MODEL, "a path inside the folder"),
    "an output without optimizing": (MODEL + "output = 'x.onnx'", "output is where an optimized model goes"),
    "two recipes": (MODEL + "recipe = 'r'\npasses = ['simplify']", "two ways to say the same"),
    "a recipe that is not wanted": (MODEL + "optimize = false\nrecipe = 'r'", "contradicts"),
    "pruning with passes": (MODEL + "prune = true\npasses = ['simplify']", "prune is for the default recipe"),
    "a metric without data": (MODEL + "metric = 'top1'", "metric needs data to measure on"),
    "a tolerance with data": (MODEL + "rtol = 0.1\ndata = 'd.npz'", "use max_drop"),
    "nothing to compare with": ("[[model]]\nname = 'a'\npath = 'a.onnx'", "there is nothing to compare with"),
    "a ratio of nothing": ("[[model]]\nname = 'a'\npath = 'a'\nreference = 'b'\nmin_ratio = 2", "give a baseline"),
    "one output for two": ("[ci]\njunit = 'x'\nmarkdown = 'x'\n" + MODEL, "written twice, for markdown and for junit"),
    "an output that is an input": ("[ci]\njunit = 'a.onnx'\n" + MODEL, "is read as input"),
    "an output that is the data": ("[ci]\njunit = 'd.npz'\n" + MODEL + "data = 'd.npz'", "is read as input"),
    "an output that is this file": ("[ci]\njunit = 'onnxopt.toml'\n" + MODEL, "is read as input"),
    "not TOML": ("[[model]\n", "is not TOML"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        read(written(tmp_path, text))
    assert "onnxopt.toml" in str(caught.value)


@pytest.mark.parametrize("version", ["", "version = 2\n", "version = '1'\n"])
def test_another_version(version: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this onnxopt reads version = 1"):
        read(written(tmp_path, MODEL, version))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file .*onnxopt\.toml; write one"):
        read(tmp_path / "onnxopt.toml")


def test_a_link_does_not_lead_outside(tmp_path: Path) -> None:
    inside = tmp_path / "repository"
    inside.mkdir()
    (inside / "out").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="a path inside the folder"):
        read(written(inside, "[ci]\njunit = 'out/ci.xml'\n" + MODEL))


def test_outside_where_it_is_said(tmp_path: Path) -> None:
    text = "[ci]\nallow_outside = true\njunit = '../ci.xml'\n" + MODEL + "reference = '/models/b.onnx'"
    found = read(written(tmp_path, text))
    assert found.junit == tmp_path / "../ci.xml"
    assert found.models[0].reference == Path("/models/b.onnx")
