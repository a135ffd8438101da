"""How named inputs reach ``forward``, and what its outputs are called."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from onnxopt.core import suggestion
from onnxopt.errors import ModelError, UsageError

Parameter = inspect.Parameter
NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class Call:
    """A module with its inputs in the order of ``forward``.

    An input is given by keyword where ``forward`` has a parameter of its name or takes ``**others``. Where it
    has none of the names, all are given in their order; where it takes ``*others``, the rest goes there.

    Attributes:
        names: the inputs in the order in which ``forward`` takes them, which is that of the file.

    Raises:
        UsageError: if some names are parameters and others fit nothing.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Find the place of each name."""
        self.module = module
        self._signature = inspect.signature(module.forward)
        parameters = self._signature.parameters.values()
        self._keywords = {p.name for p in parameters if p.kind in NAMED} & set(names)
        kinds = {p.kind for p in parameters}
        others = [name for name in names if name not in self._keywords]
        if Parameter.VAR_KEYWORD in kinds:
            self._keywords |= set(others)
        elif others and self._keywords and Parameter.VAR_POSITIONAL not in kinds:
            known = [p.name for p in parameters if p.kind in NAMED]
            raise UsageError(f"forward has no parameter {others[0]!r}{suggestion(others[0], known)}")
        placeholders = {name: name for name in names}
        try:
            bound = self._bind(placeholders)
        except TypeError as error:
            raise UsageError(f"the inputs {', '.join(names)} do not fit forward{self._signature}: {error}") from error
        self.names = tuple(str(name) for name in (*bound.args, *bound.kwargs.values()))

    def __call__(self, tensors: Mapping[str, Tensor], names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Run the module; returns output name to tensor (see ``flatten``).

        Raises:
            ModelError: if ``forward`` fails on these shapes.
        """
        bound = self._bind(tensors)
        try:
            return flatten(self.module(*bound.args, **bound.kwargs), names)
        except (ModelError, UsageError):
            raise
        except Exception as error:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
            raise ModelError(f"the module itself does not run with {shapes}: {first_line(error)}") from error

    def _bind(self, values: Mapping[str, Any]) -> inspect.BoundArguments:
        keywords = {name: value for name, value in values.items() if name in self._keywords}
        rest = [value for name, value in values.items() if name not in self._keywords]
        if rest and keywords:  # the parameters before *others are given in its own order
            ordered = [name for name in self._signature.parameters if name in keywords]
            return self._signature.bind(*[keywords[name] for name in ordered], *rest)
        return self._signature.bind(*rest, **keywords)


def flatten(outputs: Any, names: Sequence[str] = ()) -> dict[str, Tensor]:
    """Outputs by name: dict keys, fields of a named tuple, else ``output`` or ``output_0``, ``output_1``...

    A nested one is called ``outer.inner``. None is left out, as exporters do.

    Args:
        outputs: what ``forward`` returned.
        names: to call them otherwise, one for each.

    Raises:
        ModelError: if something in it is no tensor.
        UsageError: if ``names`` are too few or too many.
    """
    found = list(_walk(outputs, ""))
    given = [f"output_{path}" if path[:1].isdigit() else path or "output" for path, _ in found]
    if names and len(names) != len(found):
        raise UsageError(f"there are {len(found)} outputs ({', '.join(given)}), but {len(names)} names for them")
    return dict(zip(names or given, (tensor for _, tensor in found), strict=True))


def _walk(outputs: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if outputs is None:
        return
    if isinstance(outputs, Tensor):
        yield path, outputs
        return
    if isinstance(outputs, Mapping):
        inner = [(str(key), value) for key, value in outputs.items()]
    elif hasattr(outputs, "_fields"):
        inner = list(zip(outputs._fields, outputs, strict=True))
    elif isinstance(outputs, (tuple, list)):
        inner = [(str(place), value) for place, value in enumerate(outputs)]
    else:
        kind = type(outputs).__name__
        raise ModelError(f"output {path or 'of the module'} is a {kind}; only tensors can be exported")
    for key, value in inner:
        yield from _walk(value, f"{path}.{key}" if path else key)


def first_line(error: BaseException) -> str:
    """The first line of a message, or the kind of the error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
