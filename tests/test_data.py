"""Data sets: every kind of source, views, batches, and what is refused in words."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image

from onnxopt.data import Dataset, InputSpec, Preprocess, open_dataset, random_dataset
from onnxopt.errors import DataError, UsageError

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10)


def spec(name="x", dtype=np.float32, shape=("batch", 4)) -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)


def saved(folder: Path, save=np.savez, **arrays) -> str:
    save(folder / "data.npz", **arrays)
    return str(folder / "data.npz")


def everything(data: Dataset, name="x", size=3):
    return np.concatenate([batch.feeds[name] for batch in data.batches(size)])


# --- sources ---


def npz(folder: Path) -> str:
    return saved(folder, x=X, labels=Y)


def npz_compressed(folder: Path) -> str:
    return saved(folder, np.savez_compressed, x=X, labels=Y)


def npz_fortran(folder: Path) -> str:
    return saved(folder, x=np.asfortranarray(X), labels=Y)


def npz_double(folder: Path) -> str:
    return saved(folder, x=X.astype(">f8"), labels=Y)


def npy_folder(folder: Path) -> str:
    np.save(folder / "x.npy", X)
    np.save(folder / "labels.npy", Y)
    return str(folder)


def shards(folder: Path) -> str:
    np.savez(folder / "a.npz", x=X[:3], labels=Y[:3])
    np.savez_compressed(folder / "b.npz", x=X[3:9], labels=Y[3:9])
    np.savez(folder / "c.npz", x=X[9:], labels=Y[9:])
    return str(folder)


@pytest.fixture
def function(tmp_path, monkeypatch):
    """Writes a module with ``batches`` of these lines; gives its name for open_dataset."""
    monkeypatch.chdir(tmp_path)
    counter = iter(range(99))

    def write(*lines: str) -> str:
        module = f"samples_{tmp_path.name.replace('-', '_')}_{next(counter)}"
        body = ["import numpy as np", "def batches():", *(f"    {line}" for line in lines)]
        (tmp_path / f"{module}.py").write_text("\n".join(body))
        return f"{module}:batches"

    return write


SOURCES = {
    "an npz file": npz,
    "a compressed npz file": npz_compressed,
    "an npz file in Fortran order": npz_fortran,
    "an npz file of big-endian doubles": npz_double,
    "a folder of npy files": npy_folder,
    "a folder of npz shards": shards,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_sources_give_the_same_samples(source, tmp_path) -> None:
    data = open_dataset(source(tmp_path), [spec()])
    assert (len(data), data.has_labels, data.has_class_labels, data.synthetic) == (10, True, True, False)
    assert data.about.endswith(": 10 samples")
    np.testing.assert_array_equal(everything(data), X)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in data.batches(4)]), Y)
    part, rest = data.split(0.4, seed=1)
    both = np.concatenate([everything(part, size=4), everything(rest, size=4)])
    np.testing.assert_array_equal(np.sort(both[:, 0]), X[:, 0])
    assert next(data.batches(3)).feeds["x"].dtype == np.float32


def test_a_function_is_read_once_and_kept(function) -> None:
    name = function(
        "for i in range(3):", "    yield {'x': np.full((i + 1, 4), i, np.float32), 'labels': [i] * (i + 1)}"
    )
    data = open_dataset(name, [spec()])
    assert len(data) == 6
    for _ in range(2):
        assert everything(data)[:, 0].tolist() == [0, 1, 1, 2, 2, 2]


def test_a_function_may_yield_batches_of_different_shapes_if_they_are_not_mixed(function) -> None:
    name = function("for i in range(1, 4):", "    yield {'x': np.ones((2, i), np.float32)}")
    data = open_dataset(name, [spec(shape=(None, None))])
    assert [b.feeds["x"].shape for b in data.batches(2)] == [(2, 1), (2, 2), (2, 3)]
    with pytest.raises(DataError, match="pad them"):
        list(data.batches(3))


def test_onnx_test_data_sets(tmp_path) -> None:
    for i in range(12):
        folder = tmp_path / f"test_data_set_{i}"
        folder.mkdir()
        for k, array in enumerate([X[:2] + i, np.int64(i)]):
            (folder / f"input_{k}.pb").write_bytes(numpy_helper.from_array(np.asarray(array)).SerializeToString())
    inputs = [spec(), spec("sr", np.int64, ())]
    data = open_dataset(str(tmp_path), inputs)
    assert [int(b.feeds["sr"]) for b in data.batches()] == list(range(12))
    assert {b.feeds["x"].shape for b in data.batches()} == {(2, 4)}
    assert len(open_dataset(str(tmp_path / "test_data_set_3"), inputs)) == 1


def picture(path: Path, color=(255, 0, 51), size=(8, 6), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


IMAGE = spec("image", shape=("batch", 3, 4, 4))


def test_images_in_class_folders(tmp_path) -> None:
    for name in ("dog/1.png", "dog/2.BMP", "cat/1.png", "cat/deep/2.png"):
        picture(tmp_path / name)
    (tmp_path / "cat/notes.txt").write_text("no image")
    data = open_dataset(str(tmp_path), [IMAGE])
    batch = next(data.batches())
    assert batch.labels is not None
    assert batch.labels.tolist() == [0, 0, 1, 1]
    assert batch.feeds["image"].shape == (4, 3, 4, 4)
    np.testing.assert_allclose(batch.feeds["image"][0, :, 0, 0], [1, 0, 0.2])
    assert "resize=4x4" in data.about
    assert "scale=255" in data.about


def test_images_flat_as_the_input_wants_them(tmp_path) -> None:
    picture(tmp_path / "a.png")
    last = open_dataset(str(tmp_path), [spec(shape=(1, 4, 4, 3))], preprocess="none,color=bgr,resize=4x4")
    assert not last.has_labels
    assert next(last.batches()).feeds["x"][0, 0, 0].tolist() == [51, 0, 255]
    pixels = open_dataset(str(tmp_path), [spec(dtype=np.uint8, shape=(1, 3, 4, 4))])
    assert next(pixels.batches()).feeds["x"].dtype == np.uint8
    gray = open_dataset(str(tmp_path), [spec(shape=(None, 1, None, None))])
    assert next(gray.batches()).feeds["x"].shape == (1, 1, 6, 8)


# --- preprocessing ---


def test_preprocess_resizes_the_short_side_and_crops_the_centre(tmp_path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 4:] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    array = Preprocess.parse("resize=8,crop=4,filter=nearest,scale=200,mean=1,std=0.5")(tmp_path / "a.png")
    assert array.shape == (3, 4, 4)
    np.testing.assert_allclose(array[0, 0], [-2, -2, 0, 0])


def test_preprocess_presets_can_be_changed() -> None:
    imagenet = Preprocess.parse("imagenet")
    assert (imagenet.resize, imagenet.crop, imagenet.scale) == (256, (224, 224), 255)
    assert Preprocess.parse("imagenet,crop=227").crop == (227, 227)
    assert Preprocess.parse("caffe").color == "bgr"
    assert Preprocess.parse(str(imagenet)) == imagenet


WORDS = {
    "unknown preset": ("imagnet", "did you mean 'imagenet'"),
    "unknown key": ("resise=3", "did you mean 'resize'"),
    "a size of zero": ("resize=0", "resize=256"),
    "a hostile size": ("resize=999999999", "resize=256"),
    "a standard deviation of zero": ("std=0/1/1", "std="),
    "a mean that is no number": ("mean=a/b", "mean="),
    "an unknown filter": ("filter=sharp", "bicubic"),
    "nothing": ("", "no preprocessing"),
}


@pytest.mark.parametrize(("text", "message"), WORDS.values(), ids=WORDS.keys())
def test_preprocess_refuses(text, message) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocess.parse(text)


BAD_IMAGES = {
    "not an image": (lambda p: p.write_bytes(b"text"), None, "a.png is not a readable image"),
    "a truncated image": (lambda p: (picture(p), p.write_bytes(p.read_bytes()[:45])), None, "not a readable"),
    "16 bits per channel": (lambda p: Image.new("I;16", (4, 4)).save(p), None, "8 bits"),
    "smaller than the crop": (picture, "crop=7", "smaller than the crop"),
    "a shape that becomes huge": (lambda p: picture(p, size=(9000, 1)), "resize=9000", "too large"),
    "another size than the model's": (picture, "resize=5x5", "it must be 4"),
    "colours the model does not take": (picture, "color=gray", "gray images have 1 channels"),
}


@pytest.mark.parametrize(("make", "words", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_bad_images(make, words, message, tmp_path) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        list(open_dataset(str(tmp_path), [IMAGE], preprocess=words).batches())


def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch) -> None:
    picture(tmp_path / "a.png")
    for most in (30, 10):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(DataError, match="too large to be decoded safely"):
            open_dataset(str(tmp_path), [IMAGE])


def test_images_of_two_sizes_need_a_resize(tmp_path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(9, 9))
    with pytest.raises(DataError, match=r"b\.png becomes .* resize=HxW"):
        list(open_dataset(str(tmp_path), [spec(shape=(None, 3, None, None))]).batches())


# --- views ---


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 40),
    size=st.integers(1, 50),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
    group=st.integers(1, 2),
)
def test_every_sample_comes_once(count, size, fraction, seed, group) -> None:
    inputs = [spec("x", np.float32, (1, 2))]
    data = random_dataset(inputs, {}, count=2 * count, seed=0).grouped(group)
    first, second = data.split(fraction, seed)
    seen = [int(row) for part in (first, second) for row in part.index]
    assert sorted(seen) == list(range(2 * count))
    assert min(len(first), len(second)) >= group
    assert all(a + 1 == b for a, b in zip(seen[0::2], seen[1::2], strict=True)) or group == 1
    assert sum(batch.size for batch in first.batches(size)) == len(first)


def test_groups_stay_together_in_batches(tmp_path) -> None:
    data = open_dataset(npz(tmp_path), [spec()]).grouped(2)
    assert [b.size for b in data.batches(3)] == [2] * 5
    assert [b.size for b in data.batches(1)] == [2] * 5
    assert len(data.take(5)) == 4


def test_splits_are_seeded_or_in_time_order(tmp_path) -> None:
    data = open_dataset(npz(tmp_path), [spec()])
    assert data.split(0.5, 3)[0].index.tolist() == data.split(0.5, 3)[0].index.tolist()
    assert data.split(0.5, 3)[0].index.tolist() != data.split(0.5, 4)[0].index.tolist()
    assert data.split(0.3, 3, ordered=True)[1].index.tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert data.split(0.3, 0)[0].about.endswith("3 of 10 samples")


def test_take_gives_the_first(tmp_path) -> None:
    data = open_dataset(npz(tmp_path), [spec()])
    np.testing.assert_array_equal(everything(data.take(3)), X[:3])
    assert len(data.take(99)) == 10


def test_a_fixed_batch_drops_a_ragged_tail_and_says_so(tmp_path) -> None:
    data = open_dataset(npz(tmp_path), [spec(shape=(4, 4))])
    assert [b.size for b in data.batches(32)] == [4, 4]
    assert "the last 2 left out" in data.about
    assert [len(part) for part in data.split(0.1, 0)] == [4, 4]
    assert len(data.take(1)) == 4


def test_whole_feeds_make_batches_of_one(tmp_path) -> None:
    inputs = [spec(), spec("sr", np.int64, ()), spec("state", np.float32, (2, None, 3))]
    path = saved(tmp_path, x=X, sr=np.full(10, 16000, np.int32), state=np.zeros((10, 2, 1, 3)))
    batches = list(open_dataset(path, inputs).batches(8))
    shapes = {name: array.shape for name, array in batches[0].feeds.items()}
    assert shapes == {"x": (1, 4), "sr": (), "state": (2, 1, 3)}
    assert (len(batches), batches[0].size, batches[0].feeds["sr"].dtype) == (10, 1, np.int64)


def test_optional_inputs_may_be_absent_and_are_not_fed(tmp_path) -> None:
    inputs = [spec(), spec("h", np.float32, (2, 1, 3))]
    for arrays in ({"x": X}, {"x": X, "h": np.zeros((10, 2, 1, 3))}):
        data = open_dataset(saved(tmp_path, **arrays), inputs, optional=["h"])
        assert list(next(data.batches()).feeds) == ["x"]


def test_an_input_named_labels_is_an_input(tmp_path) -> None:
    data = open_dataset(saved(tmp_path, labels=X), [spec("labels")])
    assert not data.has_labels
    np.testing.assert_array_equal(everything(data, "labels"), X)


def test_unknown_rank_has_samples_on_axis_0(tmp_path) -> None:
    assert next(open_dataset(npz(tmp_path), [spec(shape=None)]).batches(4)).feeds["x"].shape == (4, 4)


CASTS = {
    "double to float": (X.astype(np.float64), np.float32),
    "float to half": (X, np.float16),
    "int32 to int64": (X.astype(np.int32), np.int64),
    "int64 to int32 where the values fit": (X.astype(np.int64), np.int32),
    "unicode to strings": (X.astype("U"), object),
    "bytes to strings": (X.astype("S"), object),
}


@pytest.mark.parametrize(("array", "dtype"), CASTS.values(), ids=CASTS.keys())
def test_safe_casts(array, dtype, tmp_path) -> None:
    result = everything(open_dataset(saved(tmp_path, x=array), [spec(dtype=dtype)]))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(str).astype(float), X)


# --- bad data ---

ARRAYS = {
    "a missing input": ({"labels": Y}, "no array for the input 'x' .there are: 'labels'"),
    "a misspelt input": ({"xx": X}, "no input 'xx'; did you mean 'x'|no input 'xx'; there are labels, x"),
    "an unknown array": ({"x": X, "label": Y}, "no input 'label'; did you mean 'labels'"),
    "a wrong rank": ({"x": X[:, 0]}, r"shape \(10,\), but the input is float32\[batch,4\]"),
    "a scalar": ({"x": np.float32(3)}, r"shape \(\)"),
    "a wrong fixed dimension": ({"x": X[:, :3]}, "has 3 on axis 1 .* it must be 4"),
    "pixels for floats": ({"x": X.astype(np.uint8)}, r"x\.astype\(np\.float32\), scaled"),
    "floats for nothing": ({"x": X.astype(complex)}, "is complex128"),
    "arrays of different length": ({"x": X, "labels": Y[:9]}, "'x' 10, 'labels' 9"),
    "no samples": ({"x": X[:0]}, "no samples"),
    "python objects": ({"x": np.array([{}, {}])}, "Python objects, which are never unpickled"),
    "NaN": ({"x": np.where(X == 30, np.nan, X)}, "'x' has NaN or inf at sample 7"),
    "inf": ({"x": np.where(X == 30, np.inf, X)}, "'x' has NaN or inf at sample 7"),
    "too large for the dtype": ({"x": X.astype(np.float64) * 1e300}, "NaN or inf at sample 0"),
    "NaN in the labels": ({"x": X, "labels": np.full(10, np.nan)}, "labels have NaN"),
}


@pytest.mark.parametrize(("arrays", "message"), ARRAYS.values(), ids=ARRAYS.keys())
def test_bad_arrays(arrays, message, tmp_path) -> None:
    with pytest.raises(DataError, match=message):
        list(open_dataset(saved(tmp_path, **arrays), [spec()]).batches())


def test_integers_that_do_not_fit(tmp_path) -> None:
    data = open_dataset(saved(tmp_path, x=np.full((3, 4), 2**40)), [spec(dtype=np.int32)])
    with pytest.raises(DataError, match=r"does not fit .* at sample 0"):
        list(data.batches())


def test_nan_is_found_when_its_batch_is_made(tmp_path) -> None:
    batches = open_dataset(saved(tmp_path, x=np.where(X == 30, np.nan, X)), [spec()]).batches(5)
    assert next(batches).size == 5
    with pytest.raises(DataError, match="sample 7"):
        next(batches)


def header(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def zipped(content: bytes, compression=zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("x.npy", content)
    return stream.getvalue()


def flipped() -> bytes:
    """Compressed noise with one byte changed."""
    noise = np.random.default_rng(0).random((4000, 4), np.float32)
    whole = bytearray(zipped(header("(4000, 4)", noise.tobytes())))
    whole[len(whole) // 2] ^= 0x55
    return bytes(whole)


FILES = {
    "a missing file": ("gone.npz", None, "does not exist; give an .npz"),
    "an empty zip": ("a.npz", b"", "not a readable .npz"),
    "no zip": ("a.npz", b"PK nonsense", "not a readable .npz"),
    "a zip without arrays": ("a.npz", zipped(b"hello"), "array 'x' is not a readable .npy"),
    "a damaged zip": ("a.npz", flipped(), "is damaged"),
    "a header that promises too much": ("a.npz", zipped(header("(999999999999, 4)")), "needs .* bytes"),
    "an uncompressed header that promises too much": (
        "a.npz",
        zipped(header("(9999999999, 4)"), zipfile.ZIP_STORED),
        "needs .* bytes",
    ),
    "a negative shape": ("a.npz", zipped(header("(-3, 4)")), "is damaged"),
    "a hostile header": ("a.npz", zipped(header("(" * 90)), "not a readable .npy"),
    "a text file": ("a.txt", b"1,2,3", "is no data that can be read"),
    "a model file": ("a.onnx", b"", "is no data that can be read"),
    "an empty npy": ("folder/x.npy", b"", "x.npy is not a readable .npy"),
    "a truncated npy": ("folder/x.npy", header("(10, 4)", bytes(100)), "needs 160 bytes, and there are 100"),
    "an npy of objects": ("folder/x.npy", header("(10,)", bytes(80), "'|O'"), "never unpickled"),
    "a folder without data": ("folder/readme.txt", b"", "holds no data"),
    "a broken tensor": ("folder/input_0.pb", b"\xff\xff", "not a readable ONNX tensor"),
    "a tensor that promises too much": (
        "folder/input_0.pb",
        onnx.TensorProto(dims=[10**9, 4], data_type=1, raw_data=bytes(16)).SerializeToString(),
        "not a readable ONNX tensor",
    ),
    "a tensor in another file": (
        "folder/input_0.pb",
        onnx.TensorProto(dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL).SerializeToString(),
        "external data",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), FILES.values(), ids=FILES.keys())
def test_bad_files(name, content, message, tmp_path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(open_dataset(str(path.parent if "/" in name else path), [spec()]).batches())


def test_a_folder_of_two_kinds_is_refused(tmp_path) -> None:
    npy_folder(tmp_path)
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"both \.npy files and images"):
        open_dataset(str(tmp_path), [spec()])


def test_shards_must_be_alike(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=X, labels=Y)
    np.savez(tmp_path / "b.npz", x=X)
    with pytest.raises(DataError, match="some files have labels"):
        open_dataset(str(tmp_path), [spec()])
    np.savez(tmp_path / "b.npz", x=X[None], labels=Y[:1])
    with pytest.raises(DataError, match="different ranks"):
        open_dataset(str(tmp_path), [spec()])


BATCHES = {
    "fewer samples than the fixed batch": ([spec(shape=(16, 4))], {"x": X}, "takes exactly 16 at a time"),
    "fixed batches of different sizes": (
        [spec(shape=(2, 4)), spec("y", shape=(5, 4))],
        {"x": X, "y": X},
        "different numbers of samples at a time",
    ),
    "whole feeds beside a fixed batch": (
        [spec(shape=(2, 4)), spec("sr", np.int64, ())],
        {"x": X, "sr": Y},
        "different numbers of samples at a time",
    ),
}


@pytest.mark.parametrize(("inputs", "arrays", "message"), BATCHES.values(), ids=BATCHES.keys())
def test_batches_that_cannot_be(inputs, arrays, message, tmp_path) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(saved(tmp_path, **arrays), inputs)


def test_one_sample_cannot_be_split(tmp_path) -> None:
    data = open_dataset(saved(tmp_path, x=X[:1]), [spec()])
    with pytest.raises(DataError, match="too few"):
        data.split(0.5, 0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        data.split(1.5, 0)
    with pytest.raises(UsageError, match="batch of 0"):
        data.batches(0)
    with pytest.raises(UsageError, match="take 1 or more"):
        data.take(0)


FUNCTIONS = {
    "that fails": (["raise RuntimeError('no disk')", "yield"], "failed with RuntimeError: no disk"),
    "that yields no dict": (["yield [1, 2]"], "yields list; let it yield dicts"),
    "that yields objects": (["yield {'x': [[{}]]}"], "Python objects"),
    "that yields another name": (["yield {'z': [1]}"], "no input 'z'"),
    "that yields nothing": (["yield from ()"], "has no samples"),
}


@pytest.mark.parametrize(("lines", "message"), FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_bad_functions(lines, message, function) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(function(*lines), [spec()])


def test_a_function_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="cannot be imported"):
        open_dataset("no_such_module_here:batches", [spec()])


def test_preprocessing_is_for_images(tmp_path) -> None:
    with pytest.raises(UsageError, match="no images"):
        open_dataset(npz(tmp_path), [spec()], preprocess="imagenet")


def test_images_need_one_image_input(tmp_path) -> None:
    picture(tmp_path / "a.png")
    for inputs, message in {(IMAGE, spec()): "2 inputs", (spec(),): "no image"}.items():
        with pytest.raises(DataError, match=message):
            open_dataset(str(tmp_path), inputs)


# --- random inputs ---


def test_random_inputs_of_every_kind() -> None:
    inputs = [
        spec("f", np.float16, ("batch", 3, None)),
        spec("i", np.int8, (None, "n")),
        spec("b", np.bool_, ()),
        spec("s", object, (2,)),
        spec("t", np.float32, (2, "batch", "n")),
    ]
    data = random_dataset(inputs, {"f": (2, 3, 5)}, count=4, seed=7, fill=6, high=1000)
    batches = list(data.batches())
    assert data.synthetic
    assert len(batches) == 4
    feeds = batches[0].feeds
    assert {name: array.shape for name, array in feeds.items()} == {
        "f": (2, 3, 5),
        "i": (1, 6),
        "b": (),
        "s": (2,),
        "t": (2, 2, 6),
    }
    assert [array.dtype for array in feeds.values()] == [np.float16, np.int8, np.bool_, object, np.float32]
    again = next(random_dataset(inputs, {"f": (2, 3, 5)}, count=1, seed=7, fill=6, high=1000).batches())
    np.testing.assert_array_equal(again.feeds["f"], feeds["f"])
    assert not np.array_equal(batches[1].feeds["f"], feeds["f"])


def test_random_inputs_refuse() -> None:
    with pytest.raises(UsageError, match="no input 'y'"):
        random_dataset([spec()], {"y": (1, 4)}, count=1, seed=0)
    with pytest.raises(UsageError, match=r"does not fit the input 'x'"):
        random_dataset([spec()], {"x": (1, 5)}, count=1, seed=0)
    with pytest.raises(DataError, match="no known rank"):
        random_dataset([spec(shape=None)], {}, count=1, seed=0)
    with pytest.raises(UsageError, match="1 or more"):
        random_dataset([spec()], {}, count=0, seed=0)
