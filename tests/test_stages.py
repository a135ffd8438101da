"""Stages: passes together, the best of several, and their words."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
import pytest

from onnxopt import passes
from onnxopt.core import Change, Context, Exactness, Pass, Prediction, Refusal
from onnxopt.errors import UsageError
from onnxopt.stages import Candidate, OneOf, Search, Together
from onnxopt.target import Target
from onnxopt.testing import parse

TEXT = "g (float[4] x) => (float[4] y) { a = Relu(x)  y = Neg(a) }"


@dataclass(frozen=True)
class Rename(Pass):
    """Turns one operator into another, and says so with a refusal and a prediction."""

    name: ClassVar[str] = "rename"
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    old: str = "Relu"
    new: str = "Abs"

    def run(self, model: ir.Model, context: Context) -> list[Change | Refusal | Prediction]:
        found = [node for node in model.graph if node.op_type == self.old]
        for node in found:
            node.op_type = self.new
        changes = [Change(node.outputs[0].name or "", self.new) for node in found]
        return [*changes, Refusal("x", f"no more {self.old}"), Prediction(1.5)]


@dataclass(frozen=True)
class Lossy(Rename):
    name: ClassVar[str] = "lossy"
    exactness: ClassVar[Exactness] = Exactness.LOSSY


@dataclass(frozen=True)
class Exact(Rename):
    name: ClassVar[str] = "exact"
    exactness: ClassVar[Exactness] = Exactness.EXACT


def run(stage: Together) -> tuple[list[str], list[Change | Refusal | Prediction]]:
    model = parse(TEXT)
    said = stage.run(model, Context(Target()))
    return [node.op_type for node in model.graph], said


def test_passes_together_run_one_after_the_other() -> None:
    built, said = run(Together((Rename(), Rename("Abs", "Sin"), Rename("Neg", "Cos"))))
    assert built == ["Sin", "Cos"]
    assert [item.what for item in said if isinstance(item, Change)] == ["Abs", "Sin", "Cos"]
    assert [item.why for item in said if isinstance(item, Refusal)] == ["no more Relu", "no more Abs", "no more Neg"]
    assert said.count(Prediction(1.5)) == 3


def test_what_a_pass_predicts_behind_a_lossy_one_does_not_count() -> None:
    _, said = run(Together((Lossy(), Rename("Abs", "Sin"))))
    assert said.count(Prediction(1.5)) == 1


@pytest.mark.parametrize("first", [True, False])
def test_where_one_has_nothing_to_do_there_is_nothing_to_do_together(first: bool) -> None:
    idle = Exact("Sqrt", "Sin")
    _, said = run(Together((idle, Rename()) if first else (Rename(), idle)))
    assert said == [Refusal("", "exact has nothing to do: no more Sqrt")]


@pytest.mark.parametrize(
    ("together", "exactness"),
    [
        ((Exact(), Exact()), Exactness.EXACT),
        ((Exact(), Rename()), Exactness.ROUNDING),
        ((Rename(), Exact()), Exactness.ROUNDING),
        ((Lossy(), Exact(), Rename()), Exactness.LOSSY),
    ],
)
def test_together_they_are_as_exact_as_the_least(together: tuple[Pass, ...], exactness: Exactness) -> None:
    assert Together(together).exactness is exactness


@dataclass(frozen=True)
class Elsewhere(Lossy):
    pays_elsewhere: ClassVar[str] = "good on the moon"


@pytest.mark.parametrize(
    ("together", "said"),
    [
        ((Elsewhere(), Exact()), "good on the moon"),
        ((Elsewhere(), Elsewhere("Abs", "Sin")), "good on the moon"),
        ((Elsewhere(), Lossy()), ""),
        ((Exact(), Rename()), ""),
    ],
)
def test_together_they_pay_elsewhere_if_all_that_are_lossy_do(together: tuple[Pass, ...], said: str) -> None:
    assert Together(together).pays_elsewhere == said


ONE, OTHER = "flatten-matmul", "quantize-int8:ops=Conv+Gemm,portable=yes"
A, B = passes.parse(ONE), passes.parse(OTHER)
WORDS = {
    ONE: A,
    OTHER: B,
    f"{ONE} + {OTHER}": Together((A, B)),
    f"{ONE} | {OTHER}": OneOf((A, B)),
    f"{ONE} + {OTHER} | {OTHER} | {ONE}": OneOf((Together((A, B)), B, A)),
    "prune-channels:macs=0.3..0.95": Search(passes.parse("prune-channels"), "macs", 0.3, 0.95),
    "prune-channels:importance=l1,ratio=0.7..0.05": Search(
        passes.parse("prune-channels:importance=l1"), "ratio", 0.7, 0.05
    ),
    "quantize-int8:min-sqnr=5.0..40.0": Search(passes.parse("quantize-int8"), "min_sqnr", 5.0, 40.0),
}


@pytest.mark.parametrize(("words", "stage"), WORDS.items(), ids=WORDS.keys())
def test_words_become_a_stage_and_a_stage_words(words: str, stage: object) -> None:
    assert passes.parse_stage(words) == stage
    assert str(stage) == words


@pytest.mark.parametrize("words", [f"{ONE}|{OTHER}", f"  {ONE}  |{OTHER} ", f"{ONE}\n| {OTHER}"])
def test_spaces_around_a_bar_do_not_matter(words: str) -> None:
    assert passes.parse_stage(words) == OneOf((A, B))


@pytest.mark.parametrize(
    ("behind", "words"),
    [
        (None, "prune-channels:macs=0.5"),
        (B, f"prune-channels:macs=0.5 + {OTHER}"),
        (Together((A, B)), f"prune-channels:macs=0.5 + {ONE} + {OTHER}"),
    ],
)
def test_a_search_puts_an_amount_in_front_of_what_comes_behind(behind: Candidate | None, words: str) -> None:
    found = Search(passes.parse("prune-channels"), "macs", 0.3, 0.95).at(0.5, behind)
    assert str(found) == words
    assert found == passes.parse_stage(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "there is no pass ''"),
        (f"{ONE} |", "there is no pass ''"),
        (f"{ONE} | flatten-matmull", "did you mean 'flatten-matmul'?"),
        (f"{ONE} + quantize-int", "there is no pass 'quantize-int'"),
        (f"{ONE} +{OTHER}", "there is no pass 'flatten-matmul +quantize-int8'"),
        (f"{ONE} | quantize-int8:portable=perhaps", "'perhaps' is not one of auto, yes, no"),
        (f"{ONE} | quantize-int8:portable", "write portable=value"),
        ("prune-channels:macs=0.3..1.5", "option macs: 1.5 is outside 0 to 1"),
        ("prune-channels:macs=.5.3..0.9", "'.5.3' is not a number"),
        ("prune-channels:mac=0.3..0.9", "did you mean 'macs'?"),
        ("prune-channels:multiple=4..8", "'4..8' is not a whole number"),
        ("prune-channels:macs=0.3..0.9,ratio=0.1", "give one of"),
        ("prune-channels:macs=0.3..0.9,floor=0.1..0.2", "'0.3..0.9' is not a number"),
        (f"prune-channels:macs=0.3..0.9 + {OTHER}", "'0.3..0.9' is not a number"),
        (f"prune-channels:macs=0.3..0.9 | {OTHER}", "'0.3..0.9' is not a number"),
    ],
)
def test_wrong_words_are_refused(words: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        passes.parse_stage(words)
    assert said in str(error.value)
