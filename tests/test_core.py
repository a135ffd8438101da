"""Options of a pass, its words, and suggestions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import onnx_ir as ir
import pytest

from onnxopt import passes
from onnxopt.core import Change, Context, Pass, option, suggestion
from onnxopt.errors import UsageError
from onnxopt.stages import OneOf, Together


@dataclass(frozen=True)
class Example(Pass):
    """One option of every type."""

    name: ClassVar[str] = "example"

    on: bool = option(True, "a flag")
    count: int = option(3, "a count", low=1, high=9)
    ratio: float = option(0.5, "a ratio", low=0, high=1)
    axis: str = option("rows", "a choice", choices=("rows", "columns"))
    ops: tuple[str, ...] = option(("Conv",), "a list", choices=("Conv", "Gemm", "MatMul"))

    def run(self, model: ir.Model, context: Context) -> list[Change]:
        return []


def test_the_fields_are_the_options() -> None:
    assert [(o.name, o.type, o.default, o.doc) for o in Example.options()] == [
        ("on", bool, True, "a flag"),
        ("count", int, 3, "a count"),
        ("ratio", float, 0.5, "a ratio"),
        ("axis", str, "rows", "a choice"),
        ("ops", tuple, ("Conv",), "a list"),
    ]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("on", "false", False),
        ("on", "NO", False),
        ("on", 1, True),
        ("on", True, True),
        ("count", "9", 9),
        ("count", 2.0, 2),
        ("ratio", "1e-2", 0.01),
        ("ratio", 1, 1.0),
        ("axis", "columns", "columns"),
        ("ops", "Gemm+Conv", ("Gemm", "Conv")),
        ("ops", ["Gemm"], ("Gemm",)),
        ("ops", "", ()),
    ],
)
def test_words_and_values_of_a_recipe_are_read(name: str, given: Any, value: Any) -> None:
    assert getattr(Example.configured({name: given}), name) == value


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("on", "perhaps", "option on: 'perhaps' is not true or false"),
        ("count", "many", "option count: 'many' is not a whole number"),
        ("count", 2.5, "option count: 2.5 is not a whole number"),
        ("count", True, "option count: True is not a whole number"),
        ("count", "10", "option count: 10 is outside 1 to 9"),
        ("ratio", "half", "option ratio: 'half' is not a number"),
        ("ratio", "nan", "option ratio: 'nan' is not a number"),
        ("ratio", float("inf"), "option ratio: inf is not a number"),
        ("ratio", "-0.1", "option ratio: -0.1 is outside 0 to 1"),
        ("axis", "row", "option axis: 'row' is not one of rows, columns"),
        ("ops", "Conv+Relu", "option ops: 'Relu' is not one of Conv, Gemm, MatMul"),
        ("ops", 5, "option ops: 5 is not a list of words (a+b+c)"),
        ("rato", "1", "pass example has no option 'rato'; did you mean 'ratio'?"),
        ("zzz", "1", "pass example has no option 'zzz'; there are axis, count, on, ops, ratio"),
    ],
)
def test_wrong_options_are_refused_in_words(name: str, given: Any, said: str) -> None:
    with pytest.raises(UsageError) as error:
        Example.configured({name: given})
    assert str(error.value) == said


def test_a_pass_prints_as_it_is_typed() -> None:
    assert str(Example()) == "example"
    changed = Example(on=False, ratio=0.25, ops=("Gemm", "Conv"))
    assert str(changed) == "example:on=false,ratio=0.25,ops=Gemm+Conv"


@pytest.mark.parametrize("words", ["fuse-pad", "quantize-int8:ops=Conv+Gemm,whole-chains=false,portable=yes"])
def test_what_a_pass_prints_is_read_back(words: str) -> None:
    rewrite = passes.parse(words)
    assert str(rewrite) == words
    assert passes.parse(str(rewrite)) == rewrite
    assert len({rewrite, passes.parse(words)}) == 1


@pytest.mark.parametrize("found", passes.PASSES, ids=lambda found: found.name)
def test_every_pass_prints_as_words_that_give_it_back(found: type[Pass]) -> None:
    changed = {one.name: not one.default for one in found.options() if one.type is bool}
    for rewrite in (found(), found.configured(changed)):
        assert passes.parse(str(rewrite)) == rewrite
        assert passes.parse_stage(f"{rewrite} | {rewrite} + {rewrite}") == OneOf((rewrite, Together((rewrite,) * 2)))


def test_underscores_are_dashes() -> None:
    assert passes.parse("quantize-int8:whole_chains=no") == passes.parse("quantize-int8:whole-chains=no")


def test_suggestions() -> None:
    assert suggestion("incpect", ["inspect", "bench"]) == "; did you mean 'inspect'?"
    assert suggestion("x", ["inspect", "bench"]) == "; there are bench, inspect"
    assert suggestion("x", []) == "; it has none"
