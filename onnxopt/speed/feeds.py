"""The inputs that are timed, for each setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxopt import progress
from onnxopt.data import open_dataset
from onnxopt.errors import ModelError, UsageError
from onnxopt.runtime import Outputs, Session, check_state, input_specs
from onnxopt.samples import Samples, random_samples, with_state
from onnxopt.speed.options import Options, Setting


@dataclass(frozen=True)
class Fed:
    """Inputs of one run, states included.

    Attributes:
        feeds: input name to array.
        about: where they came from.
        samples: in one run: the size of axis 0, where all inputs of two or more dimensions agree on it; else 1.
    """

    feeds: Outputs
    about: str
    samples: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all inputs, by name."""
        return {name: np.shape(array) for name, array in self.feeds.items()}


def fed(paths: Sequence[Path], models: Sequence[ir.Model], options: Options, settings: Sequence[Setting]) -> list[Fed]:
    """Inputs for each setting, on which each model was run once: what does not fit is found out before the clock runs.

    Raises:
        ModelError: if a model does not run in a setting.
        DataError: if the data do not fit the first model.
        UsageError: if there are fewer samples than a batch, or a state is not one.
    """
    check_state(models[0], options.state)
    found = []
    for setting in settings:
        progress.stage(setting.label)
        progress.detail("trying inputs")
        inputs = _data(models[0], options, setting) if options.data else _random(models, options, setting)
        for path in paths:
            try:
                Session(path, setting.target).run(inputs.feeds)
            except ModelError as error:
                raise ModelError(f"{path} ({setting.label}): {error}") from error
        found.append(inputs)
    return found


def _random(models: Sequence[ir.Model], options: Options, setting: Setting) -> Fed:
    target = dataclasses.replace(setting.target, shapes={**_fixed(models, options), **setting.target.shapes})
    samples = random_samples(models[0], target, options.state, count=1, batch=setting.batch or 1)
    return _fed(samples, samples.first())


def _data(model: ir.Model, options: Options, setting: Setting) -> Fed:
    """The first samples of the data."""
    assert options.data is not None
    data = open_dataset(options.data, input_specs(model), preprocess=options.preprocess, optional=options.state)
    samples = with_state(data, model, options.state, batch=setting.batch or 1)
    batch = next(iter(data.batches(setting.batch or 1)))
    if setting.batch and batch.size != setting.batch:
        raise UsageError(
            f"--batch {setting.batch}: {data.source.origin} gives {batch.size} at a time; "
            "give more samples, or leave out --data"
        )
    return _fed(samples, {**batch.feeds, **samples.start})


def _fed(samples: Samples, feeds: Outputs) -> Fed:
    first = {np.shape(array)[0] for name, array in feeds.items() if name not in samples.state and np.ndim(array) > 1}
    return Fed(feeds, samples.data.about, int(first.pop()) if len(first) == 1 else 1)


def _fixed(models: Sequence[ir.Model], options: Options) -> dict[str, tuple[int, ...]]:
    """Sizes of dimensions that are dynamic in the first model and fixed in another one."""
    found: dict[str, tuple[int, ...]] = {}
    others = [{spec.name: spec.shape for spec in input_specs(model)} for model in models[1:]]
    for spec in input_specs(models[0]):
        if spec.name in options.state or spec.shape is None:
            continue
        shapes = [other.get(spec.name) or () for other in others]
        for axis, dim in enumerate(spec.shape):
            sizes = [shape[axis] for shape in shapes if axis < len(shape) and isinstance(shape[axis], int)]
            if isinstance(dim, str) and sizes and isinstance(sizes[0], int):
                found[dim] = (sizes[0],)
        whole = next((shape for shape in shapes if shape and all(isinstance(dim, int) for dim in shape)), None)
        if whole and None in spec.shape:
            found[spec.name] = tuple(dim for dim in whole if isinstance(dim, int))
    return found
