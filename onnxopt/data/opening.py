"""open_dataset: from a path, or the name of a function, to a Dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.core import load_function
from onnxopt.data.arrays import MemoryArray, Part, Spill, read_npy, read_npz
from onnxopt.data.dataset import LABELS, Dataset, assemble, check_shard
from onnxopt.data.images import SUFFIXES, Images, Preprocess
from onnxopt.data.spec import Array, InputSpec
from onnxopt.errors import DataError, OnnxoptError, UsageError

_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_KNOWN = "an .npz file, a folder of .npy, .npz or image files, an ONNX test_data_set folder, or package.module:function"


def open_dataset(
    path_or_name: str,
    inputs: Sequence[InputSpec],
    *,
    preprocess: str | None = None,
    optional: Collection[str] = (),
) -> Dataset:
    """Open the samples at a path, or those a function yields.

    - ``.npz``: arrays named as the inputs, samples on axis 0, and ``labels`` if there are any. Stored members
      (``numpy.savez``) are memory-mapped, compressed ones unpacked to a temporary folder when first read.
    - a folder of ``.npy``: ``name.npy`` per input, and ``labels.npy``; memory-mapped.
    - a folder of ``.npz`` shards, each with all arrays; one after the other, sorted by name.
    - ``test_data_set_*`` folders of ONNX, or one of them: each is one sample, a complete feed.
    - a folder of images, for a model with one image input; sorted sub-folders are the classes 0, 1, ...
    - ``package.module:function``, which yields dicts of arrays with samples on axis 0, each dict one batch.
      It is called once, here, and what it yields is kept in a temporary folder; modules of the current
      folder can be imported.

    Args:
        path_or_name: see above.
        inputs: of the model, in its order.
        preprocess: for images, see :class:`Preprocess`; without it they are resized to the model's size and
            divided by 255.
        optional: inputs that the data need not have (states that the runner feeds back); never in the feeds.

    Raises:
        DataError: if the data cannot be read or do not fit the inputs.
        UsageError: if ``preprocess`` cannot be read, or is given for data that are not images.
    """
    path = Path(path_or_name)
    opener = _opener(path, path_or_name)
    if opener is _open_images:
        return _open_images(path, inputs, optional, preprocess)
    if preprocess is not None:
        raise UsageError(f"{path_or_name} has no images, so preprocessing cannot be applied; leave it out")
    return assemble(path_or_name, inputs, opener(path, inputs, optional), optional=optional)


Shards = list[tuple[str, Mapping[str, Part]]]


def _opener(path: Path, name: str) -> Callable[..., Any]:
    """The reader of what lies there."""
    if path.is_dir():
        return _folder_opener(path)
    if path.is_file() and path.suffix.lower() == ".npz":
        return _open_npz
    if path.exists():
        raise DataError(f"{name} is no data that can be read; give {_KNOWN}")
    if _FUNCTION.fullmatch(name):
        return _open_function
    raise DataError(f"{name} does not exist; give {_KNOWN}")


def _folder_opener(folder: Path) -> Callable[..., Any]:
    found: dict[str, tuple[Callable[..., Any], bool]] = {
        "test_data_set folders": (_open_test_sets, bool(_test_sets(folder))),
        ".npz files": (_open_shards, any(_files(folder, {".npz"}, deep=False))),
        ".npy files": (_open_npy, any(_files(folder, {".npy"}))),
        "images": (_open_images, any(_files(folder, SUFFIXES))),
    }
    kinds = [kind for kind, (_, there) in found.items() if there]
    if len(kinds) != 1:
        what = f"both {' and '.join(kinds)}" if kinds else "no data that can be read"
        raise DataError(f"{folder} holds {what}; give a folder with one kind: .npy, .npz, images or test_data_set_*")
    return found[kinds[0]][0]


def _files(folder: Path, suffixes: Collection[str], *, deep: bool = True) -> Iterator[Path]:
    """Files with these endings, not hidden ones."""
    for path in folder.glob("**/*" if deep else "*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            yield path


def _open_npz(path: Path, inputs: Sequence[InputSpec], optional: Collection[str]) -> Shards:
    return [(str(path), read_npz(path))]


def _open_shards(folder: Path, inputs: Sequence[InputSpec], optional: Collection[str]) -> Shards:
    return [(str(path), read_npz(path)) for path in sorted(_files(folder, {".npz"}, deep=False))]


def _open_npy(folder: Path, inputs: Sequence[InputSpec], optional: Collection[str]) -> Shards:
    """An input named ``a/b`` lies in ``a/b.npy``."""
    names = {path.relative_to(folder).with_suffix("").as_posix(): path for path in _files(folder, {".npy"})}
    return [(str(folder), {name: read_npy(path) for name, path in sorted(names.items())})]


# --- ONNX test data ---


def _test_sets(folder: Path) -> list[Path]:
    """The folder itself if it holds ``input_0.pb``, else its ``test_data_set_*`` folders by number."""
    if (folder / "input_0.pb").is_file():
        return [folder]
    return sorted((p for p in folder.glob("test_data_set_*") if p.is_dir()), key=_number)


def _number(path: Path) -> tuple[int, str]:
    digits = path.stem.rpartition("_")[2]
    return (int(digits) if digits.isdecimal() else -1), path.name


def _open_test_sets(folder: Path, inputs: Sequence[InputSpec], optional: Collection[str]) -> Shards:
    spill = Spill()
    for sample in _test_sets(folder):
        spill.append(_read_test_set(sample, [spec.name for spec in inputs]), str(folder))
    return [(str(folder), shard) for shard in spill.shards]


def _read_test_set(folder: Path, names: Sequence[str]) -> dict[str, Array]:
    """Name to array with an axis of length 1 in front; tensors that say no known name are in order."""
    files = sorted(folder.glob("input_*.pb"), key=_number)
    if len(files) > len(names):
        raise DataError(f"{folder} has {len(files)} input files, but the model has {len(names)} inputs")
    feeds = {}
    for file, name in zip(files, names, strict=False):
        said, array = _read_tensor(file)
        feeds[said if said in names else name] = array[None]
    return feeds


def _read_tensor(file: Path) -> tuple[str, Array]:
    import onnx
    from onnx import numpy_helper

    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(file.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL or min(tensor.dims, default=0) < 0:
            raise ValueError("external data or a negative dimension")
        array = _plain(numpy_helper.to_array(tensor), str(file))
    except DataError:
        raise
    except Exception as error:  # protobuf and numpy raise many kinds for a broken file
        raise DataError(f"{file} is not a readable ONNX tensor ({error}); write it again") from None
    return tensor.name, array


# --- a folder of images ---


def _open_images(
    folder: Path, inputs: Sequence[InputSpec], optional: Collection[str], preprocess: str | None
) -> Dataset:
    fed = [spec for spec in inputs if spec.name not in optional]
    if len(fed) != 1:
        raise DataError(f"{folder} holds images, but the model has {len(fed)} inputs; give the data as .npz")
    asked = Preprocess() if preprocess is None else Preprocess.parse(preprocess)
    fitted = asked.fitted(fed[0])
    files, labels = _labelled(folder)
    arrays: dict[str, Part] = {fed[0].name: Images.of(tuple(files), fitted, fed[0].dtype)}
    if labels is not None:
        arrays[LABELS] = MemoryArray(labels)
    words = str(fitted) if fed[0].dtype != np.uint8 else f"{fitted} (pixels as they are)"
    notes = [f"images by {'default' if preprocess is None else 'preprocessing'}: {words}"]
    return assemble(str(folder), inputs, [(str(folder), arrays)], optional=optional, notes=notes)


def _labelled(folder: Path) -> tuple[list[Path], Array | None]:
    """The images in sorted order, and the numbers of their class folders where there are such."""
    if flat := sorted(_files(folder, SUFFIXES, deep=False)):
        if len(flat) < sum(1 for _ in _files(folder, SUFFIXES)):
            raise DataError(f"{folder} holds images both directly and in sub-folders; give one of the two")
        return flat, None
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(file, label) for label, place in enumerate(classes) for file in sorted(_files(place, SUFFIXES))]
    return [file for file, _ in files], np.array([label for _, label in files], np.int64)


# --- a function ---


def _open_function(path: Path, inputs: Sequence[InputSpec], optional: Collection[str]) -> Shards:
    name, spill = str(path), Spill()
    function = load_function(name)
    try:
        for batch in function():
            arrays = _arrays(batch, name)
            check_shard({key: MemoryArray(array) for key, array in arrays.items()}, inputs, optional, name)
            spill.append(arrays, name)
    except OnnxoptError:
        raise
    except Exception as error:
        raise DataError(f"{name} failed with {type(error).__name__}: {error}") from error
    return [(name, shard) for shard in spill.shards]


def _arrays(batch: Any, name: str) -> dict[str, Array]:
    if not isinstance(batch, Mapping):
        raise DataError(f"{name} yields {type(batch).__name__}; let it yield dicts of arrays")
    return {key: _plain(np.asarray(value), f"{name}: array {key!r}") for key, value in batch.items()}


def _plain(array: Array, where: str) -> Array:
    """The array with strings of fixed width instead of Python objects."""
    if not array.dtype.hasobject:
        return array
    if not all(isinstance(item, str) for item in array.flat):
        raise DataError(f"{where} holds Python objects; give numbers or strings")
    return array.astype(str)
