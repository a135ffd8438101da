"""The words of a pass: Pass, its options, Change, Refusal, Prediction, Exactness, Context."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import importlib
import importlib.util
import math
import os
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from onnxopt.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxopt.metrics import Metric
    from onnxopt.samples import Samples
    from onnxopt.target import Target


class Exactness(enum.Enum):
    """How far the outputs of a model may move under a pass; decides which check the pipeline makes."""

    EXACT = "exact"
    """The same bits."""
    ROUNDING = "rounding"
    """The same up to the order of floating-point operations."""
    LOSSY = "lossy"
    """Other numbers: the accuracy gate and the clock decide."""


@dataclass(frozen=True)
class Saved:
    """Bytes that a change saves; negative where it costs some.

    Attributes:
        file: in the model's file.
        session: in the memory of ONNX Runtime, once it has loaded the model.
    """

    file: int
    session: int

    def __add__(self, other: Saved) -> Saved:
        """Both together."""
        return Saved(self.file + other.file, self.session + other.session)

    def __str__(self) -> str:
        """In words."""
        return f"{self.file:,} bytes of the file, {self.session:,} of memory"


@dataclass(frozen=True)
class Change:
    """One rewrite that was done: at which node (the name of its first output), and what.

    A pass that makes the file smaller on purpose says by how many bytes.

    Attributes:
        kernel: what ONNX Runtime should run for the node, where the pass wants a certain kernel.
        noise: error power over signal power of the outputs with this change alone, where the pass has measured it.
    """

    node: str
    what: str
    saved: Saved | None = None
    kernel: str | None = None
    noise: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what is not known is left out."""
        return _known(dataclasses.asdict(self))


@dataclass(frozen=True)
class Refusal:
    """One rewrite that was left alone: at which node, and why; and of the rewrite what ``Change`` says of one."""

    node: str
    why: str
    kernel: str | None = None
    noise: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what is not known is left out."""
        return _known(dataclasses.asdict(self))


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


@dataclass(frozen=True)
class Prediction:
    """What a pass expects of the clock: time before over time after, from the times of kernels."""

    ratio: float


@dataclass(frozen=True)
class Context:
    """All that a pass may know besides the model.

    Attributes:
        target: where the model will run.
        calibration: samples a pass may look at; None where no data was given.
        seed: of every random choice.
        allow_contrib: whether operators may be used that only ONNX Runtime has (domain com.microsoft).
        metric: that accuracy is measured with; None where nobody said: see ``metrics.find_metric``.
        memory: what passes have learned in this run, by keys that say all it depends on; they may look it up.
    """

    target: Target
    calibration: Samples | None = None
    seed: int = 0
    allow_contrib: bool = False
    metric: Metric | None = None
    memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


def option(
    default: Any, doc: str, *, choices: Sequence[str] = (), low: float | None = None, high: float | None = None
) -> Any:
    """Declare an option of a pass: a dataclass field with its documentation and allowed values."""
    metadata = {"doc": doc, "choices": tuple(choices), "low": low, "high": high}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """An option as users meet it: read from the dataclass field, never written twice."""

    name: str
    type: type
    default: Any
    doc: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None

    def parse(self, value: Any) -> Any:
        """Turn a word of the command line, or a value of a recipe file, into this option's type.

        Raises:
            UsageError: if the value is of another type or outside the allowed values.
        """
        try:
            result: Any = _READERS[self.type](value)
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"option {self.name}: {value!r} is not {_KINDS[self.type]}") from None
        for item in result if isinstance(result, tuple) else (result,):
            if self.choices and item not in self.choices:
                raise UsageError(f"option {self.name}: {item!r} is not one of {', '.join(self.choices)}")
        if (self.low is not None and result < self.low) or (self.high is not None and result > self.high):
            raise UsageError(f"option {self.name}: {result} is outside {self.low} to {self.high}")
        return result


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(value)
    return int(value)


def _number(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(value)
    return number


def _words(value: Any) -> tuple[str, ...]:
    parts = value.split("+") if isinstance(value, str) else value
    return tuple(str(part) for part in parts if part)


_READERS: Mapping[type, Callable[[Any], Any]] = {
    bool: _boolean,
    int: _integer,
    float: _number,
    str: str,
    tuple: _words,
}
_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a word",
    tuple: "a list of words (a+b+c)",
}


class Pass(ABC):
    """A rewrite of a model. Subclasses are frozen dataclasses: their fields are their options.

    ``run`` works in place; it takes a valid model and leaves a valid model, and a second run changes nothing.
    """

    name: ClassVar[str]
    exactness: ClassVar[Exactness] = Exactness.ROUNDING
    pays_elsewhere: ClassVar[str] = ""
    """Of a lossy pass that makes nothing faster or smaller here: what it is good for, in words for the report."""
    for_speed: ClassVar[bool] = False
    """Whether an exact pass is only worth keeping where the clock says that it is faster."""

    @abstractmethod
    def run(self, model: ir.Model, context: Context) -> Sequence[Change | Refusal | Prediction]:
        """Rewrite the model in place; return what was done and what was left alone, with the reason."""

    def finer(self) -> Pass | None:
        """The same rewrite made with more care, which takes longer: more exact, and as fast; None if this is it."""
        return None

    @classmethod
    def options(cls) -> tuple[Option, ...]:
        """The options of this pass, in the order of their declaration."""
        hints = typing.get_type_hints(cls, include_extras=False)
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        return tuple(Option(f.name, _plain(hints[f.name]), f.default, **f.metadata) for f in fields)

    @classmethod
    def configured(cls, values: Mapping[str, Any]) -> Pass:
        """This pass with options given by name.

        Raises:
            UsageError: for an option that the pass does not have (with the nearest name), or a wrong value.
        """
        options = {option.name.replace("_", "-"): option for option in cls.options()}
        chosen = {}
        for name, value in values.items():
            key = name.replace("_", "-")
            if key not in options:
                raise UsageError(f"pass {cls.name} has no option {name!r}{suggestion(key, options)}")
            chosen[options[key].name] = options[key].parse(value)
        return cls(**chosen)

    def __str__(self) -> str:
        """The pass as typed after ``--pass``, with the options that differ from their defaults."""
        given = ((o.name, getattr(self, o.name)) for o in self.options() if getattr(self, o.name) != o.default)
        words = ",".join(f"{name.replace('_', '-')}={_word(value)}" for name, value in given)
        return f"{self.name}:{words}" if words else self.name


def _plain(hint: Any) -> type:
    """``tuple[str, ...]`` to ``tuple``, ``int`` to ``int``."""
    origin = typing.get_origin(hint) or hint
    assert isinstance(origin, type), hint
    return origin


def _word(value: Any) -> str:
    return (
        "+".join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known word, else the list of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(sorted(known))}" if known else "; it has none"


def load_function(words: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` or ``file.py:function`` names.

    Raises:
        UsageError: if it cannot be imported, or is not callable.
    """
    function = load_object(words)
    if not callable(function):
        raise UsageError(f"{words} is not a function; give package.module:function")
    return function  # type: ignore[no-any-return]


def load_object(words: str) -> Any:
    """What ``package.module:name`` or ``path/file.py:name`` names; modules of the current folder are found, too.

    Raises:
        UsageError: if it cannot be imported.
    """
    place, _, name = words.rpartition(":")
    path = Path(place) if place.endswith(".py") else None
    sys.path.insert(0, folder := os.getcwd() if path is None else str(path.absolute().parent))
    try:
        found: Any = importlib.import_module(place) if path is None else _load_file(path)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # the module is the user's: importing it can raise anything
        advice = "give package.module:name or file.py:name"
        raise UsageError(f"{words} cannot be imported: {error}; {advice}") from error
    finally:
        sys.path.remove(folder)
    return found


def _load_file(path: Path) -> Any:
    """Import a file under a name that no installed module has."""
    spec = importlib.util.spec_from_file_location(f"onnxopt_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look there
    spec.loader.exec_module(module)
    return module
