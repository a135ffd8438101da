"""``onnxopt passes``."""

import json

import pytest
from click.testing import CliRunner, Result

from onnxopt.cli.main import cli
from onnxopt.cli.passes import example, first_line
from onnxopt.errors import UsageError
from onnxopt.passes import PASSES, parse


def test_lists_every_pass_in_one_line() -> None:
    lines = run().stdout.splitlines()
    for found in PASSES:
        assert any(line.split()[:2] == [found.name, found.exactness.value] for line in lines)
        assert any(line.rstrip().endswith(first_line(found)) for line in lines)


def test_list_as_json() -> None:
    assert [found["name"] for found in json.loads(run("--json").stdout)] == [found.name for found in PASSES]


@pytest.mark.parametrize("found", PASSES, ids=lambda found: found.name)
def test_shows_a_pass_with_its_options(found: type) -> None:
    text = run("show", found.name).stdout
    assert text.startswith(f"{found.name} ({found.exactness.value})")
    assert all(option.name.replace("_", "-") in text and option.doc in text for option in found.options())
    assert f"--pass {example(found)}" in text


@pytest.mark.parametrize("found", PASSES, ids=lambda found: found.name)
def test_the_example_can_be_typed(found: type) -> None:
    assert isinstance(parse(example(found)), found)


def test_show_as_json() -> None:
    found = json.loads(run("show", "quantize-int8", "--json").stdout)
    options = {option["name"]: option for option in found["options"]}
    assert options["whole-chains"]["default"] is True
    assert options["whole-chains"]["type"] == "bool"
    assert "Conv" in options["ops"]["choices"]


def test_an_unknown_pass_has_a_suggestion() -> None:
    result = run("show", "fold-batchnorm")
    assert isinstance(result.exception, UsageError)
    assert "did you mean 'fold-batch-norm'?" in str(result.exception)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["passes", *words])
