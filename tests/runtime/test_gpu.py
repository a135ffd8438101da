"""What is missing to run on the GPU: a sentence each for the wheel, the driver, the GPU and a library."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt import runtime
from onnxopt.errors import RuntimeMissing
from onnxopt.runtime import Session, gpu, missing_gpu
from onnxopt.target import Target
from onnxopt.testing import parse

CUDA = Target("cuda")


class Driver:
    """libcuda with as many GPUs and of such a version."""

    def __init__(self, count: int = 1, version: int = 13000, code: int = 0) -> None:
        self.count, self.version, self.code = count, version, code

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, found: Any) -> int:  # noqa: N802
        found._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, found: Any) -> int:  # noqa: N802
        found._obj.value = self.version
        return 0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was asked before is forgotten."""
    gpu._machine.cache_clear()
    yield
    gpu._machine.cache_clear()


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The GPU's wheel, and what the loader finds by name; all it needs, to begin with."""
    ort = runtime.onnxruntime()
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / gpu.PROVIDER_LIBRARY).touch()
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(ort, "__version__", "1.31.1")
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    found: dict[str, Any] = {gpu.DRIVER: Driver(), gpu.PROVIDER_LIBRARY: object(), gpu.CUDNN: object()}

    def load(name: str) -> Any:
        thing = found.get(Path(name).name)
        if thing is None:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        if isinstance(thing, str):
            raise OSError(thing)
        return thing

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_nothing_is_missing(wheel: dict[str, Any]) -> None:
    assert missing_gpu() is None
    assert missing_gpu(CUDA) is None


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (
            {"onnxruntime"},
            "onnxruntime 1.31.1 is installed, which knows CPUs only: pip uninstall onnxruntime, then pip",
        ),
        ({"onnxruntime", "onnxruntime-gpu"}, "onnxruntime lies over it: pip uninstall onnxruntime onnxruntime-gpu, "),
    ],
)
def test_the_wheel(installed: set[str], said: str, wheel: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.onnxruntime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(gpu, "installed", lambda name: name in installed)
    sentence = missing_gpu()
    assert sentence is not None
    assert sentence.startswith("--provider cuda needs the wheel onnxruntime-gpu, but ")
    assert said in sentence
    assert sentence.endswith("pip install 'onnxopt[gpu]'")


@pytest.mark.parametrize(("device", "said"), [(True, "though there is /dev/"), (False, "nor is there /dev/")])
def test_the_driver(
    device: bool, said: str, wheel: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    del wheel[gpu.DRIVER]
    path = tmp_path / "dev" / "nvidia0"
    path.parent.mkdir()
    if device:
        path.touch()
    monkeypatch.setattr(gpu, "DEVICE", path)
    sentence = missing_gpu() or ""
    assert sentence.startswith("--provider cuda needs NVIDIA's driver, but libcuda.so.1 is not found, ")
    assert said.removesuffix("/dev/") + str(path) in sentence


DRIVERS: dict[str, tuple[Driver, Target, str | None, str]] = {
    "no GPU": (Driver(0, code=100), CUDA, None, "the driver shows no GPU: see what nvidia-smi says"),
    "a hidden GPU": (Driver(0, code=100), CUDA, "-1", "shows no GPU, with CUDA_VISIBLE_DEVICES=-1: see"),
    "too few": (Driver(1), Target("cuda", device_id=2), None, "shows one GPU and --device-id 2 needs 3"),
    "broken": (Driver(code=999), CUDA, None, "driver does not start (cuInit gives 999)"),
    "too old": (
        Driver(version=12040),
        CUDA,
        None,
        "built for CUDA 13.0 and the driver knows CUDA 12.4 at most: update",
    ),
}


@pytest.mark.parametrize(("driver", "target", "hidden", "said"), DRIVERS.values(), ids=DRIVERS.keys())
def test_the_gpu(
    driver: Driver,
    target: Target,
    hidden: str | None,
    said: str,
    wheel: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel[gpu.DRIVER] = driver
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert said in (missing_gpu(target) or "")


LACKING = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
LIBRARIES = {
    "of CUDA": (
        gpu.PROVIDER_LIBRARY,
        LACKING,
        "cuDNN 9, and libcublasLt.so.13 is not found: pip install 'onnxruntime-",
    ),
    "cuDNN": (gpu.CUDNN, None, "cuDNN 9, and libcudnn.so.9 is not found: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    "of another kind": (gpu.CUDNN, "libcudnn.so.9: file too short", "it does not load (libcudnn.so.9: file too short)"),
}


@pytest.mark.parametrize(("name", "problem", "said"), LIBRARIES.values(), ids=LIBRARIES.keys())
def test_a_library(name: str, problem: str | None, said: str, wheel: dict[str, Any]) -> None:
    wheel[name] = problem
    sentence = missing_gpu() or ""
    assert sentence.startswith("--provider cuda: onnxruntime-gpu 1.31.1 is built for CUDA 13.0 and ")
    assert said in sentence


def test_cudnn_may_be_done_without(wheel: dict[str, Any]) -> None:
    del wheel[gpu.CUDNN]
    assert missing_gpu(Target("cuda", provider_options={"enable_cudnn": "0"})) is None


def test_the_libraries_of_nvidias_wheels_are_loaded_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def preload_dlls(*, directory: str) -> None:
        asked.append(directory)
        print("Failed to load libcublasLt.so.13")

    monkeypatch.setattr(runtime.onnxruntime(), "preload_dlls", preload_dlls, raising=False)
    gpu.preload.__wrapped__()
    assert asked == [""]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("beside", [True, False])
def test_libraries_in_another_folder_of_the_path_are_found(
    beside: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PyTorch's, say; those beside ONNX Runtime it finds itself."""
    ort, loaded = runtime.onnxruntime(), list[str]()
    folder = tmp_path / "torch" / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    for name in ("libcublas.so.13", "libcublasLt.so.13", "libcudart.so.13", "libother.so.13"):
        (folder / name).touch()
    site = tmp_path / "site"
    (site / "onnxruntime").mkdir(parents=True)
    if beside:
        (site / "nvidia").mkdir()
    monkeypatch.setattr(ort, "__file__", str(site / "onnxruntime" / "__init__.py"))
    monkeypatch.setattr(ort, "preload_dlls", lambda directory: None)
    monkeypatch.setattr("sys.path", [str(site), str(tmp_path / "torch")])
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded.append(Path(name).name))
    gpu.preload.__wrapped__()
    assert loaded == ([] if beside else ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13"])


def test_a_session_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxopt.runtime.session.missing_gpu", lambda target: f"no GPU {target.device_id}")
    with pytest.raises(RuntimeMissing, match="no GPU 1") as error:
        Session(parse("g (float[2] x) => (float[2] y) { y = Relu(x) }"), Target("cuda", device_id=1))
    assert error.value.exit_code == 2


def test_a_real_gpu_computes(gpu: Target) -> None:
    model = parse("g (float[2,3] x) => (float[2,4] y) <float[3,4] w> { y = MatMul(x, w) }")
    feeds = {"x": np.ones((2, 3), np.float32)}
    there, here = Session(model, gpu), Session(model, Target())
    np.testing.assert_allclose(there.run(feeds)["y"], here.run(feeds)["y"], rtol=1e-2)
    there.bound(feeds)()
    assert there.placed is not None
    assert not any(one.on_cpu for one in there.placed)
