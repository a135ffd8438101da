"""Sizes of dynamic dimensions by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def dimension(name: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension: of its name, or where that is a sum (``past + sequence``, ``past+1``), of its parts.

    None where a part is not known.
    """
    if name in sizes:
        return sizes[name]
    parts = [part.strip() for part in name.split("+")]
    found = [int(part) if part.isdecimal() else sizes.get(part) for part in parts]
    known = [size for size in found if size is not None]
    return sum(known) if len(known) == len(parts) else None


def split_sizes(
    shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Sequence[int | str | None] | None]
) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Given shapes, parted: those of inputs, and sizes of dynamic dimensions (``sequence=64``), by name.

    Args:
        shapes: name to shape, as given.
        inputs: name to the shape that the model states.
    """
    named = {dim for shape in inputs.values() for dim in shape or () if isinstance(dim, str)}
    sizes = {name: shape[0] for name, shape in shapes.items() if name in named - inputs.keys() and len(shape) == 1}
    return {name: shape for name, shape in shapes.items() if name not in sizes}, sizes
