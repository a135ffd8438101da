"""Images: from a file to an array as the model was trained on, described by one line of words."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxopt.core import suggestion
from onnxopt.data.spec import Array, InputSpec, kind
from onnxopt.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_MOST_PIXELS = 1 << 27
_FILTERS = ("nearest", "bilinear", "bicubic")
_LAYOUTS = ("nchw", "nhwc")
_MODES = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}


@dataclass(frozen=True)
class Preprocess:
    """``(pixel / scale - mean) / std`` after resize and centre crop, in this order.

    Attributes:
        resize: int: the short side, keeping proportions; (height, width): exactly that; None: as is.
        crop: (height, width) cut from the centre; None: no crop.
        filter: nearest, bilinear or bicubic, of the resize.
        scale: divisor of the pixels 0 to 255.
        mean: one per channel, or one for all, after scaling.
        std: one per channel, or one for all, after scaling.
        layout: nchw or nhwc; empty: as the model's input says.
        color: rgb, bgr or gray; empty: as the model's number of channels says.
    """

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    filter: str = "bilinear"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = ""
    color: str = ""

    @classmethod
    def parse(cls, text: str) -> Preprocess:
        """Read ``imagenet``, ``resize=256,crop=224,mean=0.5/0.5/0.5``, or a preset followed by changes to it.

        Raises:
            UsageError: for an unknown preset or key (with the nearest), or a value that does not fit.
        """
        first, *rest = (word.strip() for word in text.split(","))
        if "=" in first:
            return cls()._changed([first, *rest])
        if first not in PRESETS:
            raise UsageError(f"no preprocessing is called {first!r}{suggestion(first, PRESETS)}")
        return PRESETS[first]._changed(rest)

    def __call__(self, path: Path) -> Array:
        """Decode one file: float32, (channels, height, width), or (height, width, channels) for nhwc.

        Raises:
            DataError: if it cannot be decoded, is too large to be an honest image, or smaller than the crop.
        """
        return self._scaled(self.pixels(path)).astype(np.float32)

    def pixels(self, path: Path) -> Array:
        """As calling it, but the pixels themselves, 0 to 255 as uint8, neither scaled nor shifted."""
        image = _decode(path, _MODES[self.color or "rgb"])
        array = np.asarray(self._cropped(self._resized(image, path), path))
        array = array[:, :, None] if array.ndim == 2 else array
        array = array[:, :, ::-1] if self.color == "bgr" else array
        return np.ascontiguousarray(array if self.layout == "nhwc" else array.transpose(2, 0, 1))

    def fitted(self, spec: InputSpec) -> Preprocess:
        """This, with what the model's input decides: layout, colour, and its size if none was asked for.

        Raises:
            DataError: if the input is not an image of float or uint8.
        """
        dims = spec.shape[-3:] if spec.shape and len(spec.shape) in (3, 4) else None
        if dims is None or not (kind(spec.dtype) == "floats" or spec.dtype == np.uint8):
            raise DataError(f"input {spec.name!r} is {spec}, which is no image; give the data as .npz")
        layout = self.layout or ("nhwc" if dims[2] in (1, 3) and dims[0] not in (1, 3) else "nchw")
        channels, height, width = dims if layout == "nchw" else (dims[2], *dims[:2])
        result = replace(self, layout=layout, color=self.color or ("gray" if channels == 1 else "rgb"))
        if self.resize is None and self.crop is None and isinstance(height, int) and isinstance(width, int):
            result = replace(result, resize=(height, width))
        return result._checked_for(spec, channels)

    def __str__(self) -> str:
        """As typed after ``--preprocess``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return ",".join(f"{key}={_WRITERS.get(key, str)(v)}" for key, v in values.items() if v not in (None, ""))

    def _changed(self, words: list[str]) -> Preprocess:
        changes = {}
        for word in words:
            key, _, value = word.partition("=")
            if key not in _READERS:
                raise UsageError(f"preprocessing has no {key!r}{suggestion(key, _READERS)}")
            try:
                changes[key] = _READERS[key](value)
            except ValueError:
                raise UsageError(f"preprocessing: {word!r} should be like {key}={_EXAMPLES[key]}") from None
        return replace(self, **changes)

    def _checked_for(self, spec: InputSpec, channels: int | str | None) -> Preprocess:
        made = 1 if self.color == "gray" else 3
        if isinstance(channels, int) and channels != made:
            raise DataError(f"input {spec.name!r} is {spec}, but {self.color} images have {made} channels")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, made):
                raise UsageError(f"preprocessing: {len(values)} numbers for {name}, but {made} channels")
        if spec.dtype == np.uint8 and any([self.scale not in (1, 255), any(self.mean), set(self.std) != {1.0}]):
            raise DataError(f"input {spec.name!r} is {spec}: it takes pixels as they are, without mean and std")
        return self

    def _resized(self, image: Image.Image, path: Path) -> Image.Image:
        from PIL import Image

        if self.resize is None:
            return image
        if isinstance(self.resize, int):
            short = min(image.size)
            width, height = (int(self.resize * side / short) for side in image.size)
        else:
            height, width = self.resize
        if (width, height) == image.size:
            return image
        if width * height > _MOST_PIXELS:
            raise DataError(f"{path} would become {height}x{width}, too large; give resize=HxW or remove it")
        return image.resize((width, height), Image.Resampling[self.filter.upper()])

    def _cropped(self, image: Image.Image, path: Path) -> Image.Image:
        if self.crop is None:
            return image
        height, width = self.crop
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        if height > image.height or width > image.width:
            raise DataError(
                f"{path} is {image.height}x{image.width}, smaller than the crop {height}x{width}; add resize="
            )
        return image.crop((left, top, left + width, top + height))

    def _scaled(self, pixels: Array) -> Array:
        spread = (-1,) if self.layout == "nhwc" else (-1, 1, 1)
        mean, std = np.reshape(self.mean, spread), np.reshape(self.std, spread)
        return np.asarray((pixels / self.scale - mean) / std)


@dataclass(frozen=True, eq=False)
class Images:
    """Image files as one array, (files, ...), decoded when read."""

    files: tuple[Path, ...]
    preprocess: Preprocess
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, files: tuple[Path, ...], preprocess: Preprocess, dtype: np.dtype[Any]) -> Images:
        """The images, of the shape of the first one."""
        dtype = np.dtype(np.uint8) if dtype == np.uint8 else np.dtype(np.float32)
        shape = preprocess.pixels(files[0]).shape
        return cls(files, preprocess, dtype, (len(files), *shape))

    def rows(self, index: Array) -> Array:
        result = np.empty((len(index), *self.shape[1:]), self.dtype)
        for place, row in enumerate(index):
            result[place] = self._read(self.files[row])
        return result

    def _read(self, file: Path) -> Array:
        array = self.preprocess.pixels(file) if self.dtype == np.uint8 else self.preprocess(file)
        if array.shape != self.shape[1:]:
            raise DataError(
                f"{file} becomes {array.shape}, and {self.files[0]} {self.shape[1:]}; "
                "bring them to one size with --preprocess resize=HxW"
            )
        return array


def _decode(path: Path, mode: str) -> Image.Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=_FORMATS) as image:
                if image.mode.startswith(("I", "F")):
                    raise DataError(f"{path} has more than 8 bits per channel; convert it")
                return image.convert("RGBA").convert(mode) if image.mode == "P" else image.convert(mode)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise DataError(f"{path} is too large to be decoded safely; make it smaller") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise DataError(f"{path} is not a readable image ({error}); replace or remove it") from None


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if not found:
        raise ValueError(text)
    return int(found[1]), int(found[2] or found[1])


def _resize(text: str) -> int | tuple[int, int]:
    return _size(text) if "x" in text else _size(text)[0]


def _numbers(text: str) -> tuple[float, ...]:
    numbers = tuple(float(number) for number in text.split("/"))
    if not np.isfinite(numbers).all():
        raise ValueError(text)
    return numbers


def _divisors(text: str) -> tuple[float, ...]:
    if 0 in (numbers := _numbers(text)):
        raise ValueError(text)
    return numbers


def _divisor(text: str) -> float:
    (number,) = _divisors(text)
    return number


def _one_of(known: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(text)
        return text

    return read


def _written_size(value: int | tuple[int, int]) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _written_numbers(value: tuple[float, ...]) -> str:
    return "/".join(f"{number:g}" for number in value)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "resize": _resize,
    "crop": _size,
    "filter": _one_of(_FILTERS),
    "scale": _divisor,
    "mean": _numbers,
    "std": _divisors,
    "layout": _one_of(_LAYOUTS),
    "color": _one_of(tuple(_MODES)),
}
_WRITERS: Mapping[str, Callable[[Any], str]] = {
    "resize": _written_size,
    "crop": _written_size,
    "scale": "{:g}".format,
    "mean": _written_numbers,
    "std": _written_numbers,
}
_EXAMPLES = {
    "resize": "256 or resize=240x320",
    "crop": "224 or crop=224x192",
    "filter": " or ".join(_FILTERS),
    "scale": "255",
    "mean": "0.485/0.456/0.406",
    "std": "0.229/0.224/0.225",
    "layout": " or ".join(_LAYOUTS),
    "color": " or ".join(_MODES),
}

PRESETS: Mapping[str, Preprocess] = {
    "imagenet": Preprocess(256, (224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "tf": Preprocess(256, (224, 224), scale=127.5, mean=(1.0,)),
    "caffe": Preprocess(256, (224, 224), scale=1.0, mean=(104.0, 117.0, 123.0), color="bgr"),
    "cifar10": Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "mnist": Preprocess((28, 28), mean=(0.1307,), std=(0.3081,), color="gray"),
    "none": Preprocess(scale=1.0),
}
