"""What is missing where ``--provider cuda`` cannot run: the wheel, the driver, the GPU or a library.

ONNX Runtime itself says nothing that a user can act on: it computes on the CPU instead, and writes to its log.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxopt.runtime.library import installed, onnxruntime
from onnxopt.target import PROVIDERS, Target

DRIVER, DEVICE = "libcuda.so.1", Path("/dev/nvidia0")
PROVIDER_LIBRARY = "libonnxruntime_providers_cuda.so"
CUDNN = "libcudnn.so.9"
"""The provider library loads it by itself later, when the first session starts."""
LIBRARIES = ("libcudart", "libcublasLt", "libcublas", "libnvrtc", "libcurand", "libcufft", "libcudnn")
"""In an order in which each finds what it needs."""
NO_DEVICE = 100
"""What cuInit gives where there is a driver and no GPU that this process may see (CUDA_ERROR_NO_DEVICE)."""
INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"


def missing_gpu(target: Target | None = None) -> str | None:
    """What is missing to run on the GPU, and what to do, in one sentence; None where nothing is known to be.

    Args:
        target: whose GPU is asked for; by default the first.

    Raises:
        RuntimeMissing: if ONNX Runtime is not installed at all.
    """
    ort, target = onnxruntime(), target or Target("cuda")
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return _wheel(str(ort.__version__))
    cudnn = target.provider_options.get("enable_cudnn") != "0"
    return _machine(target.device_id, cudnn, str(ort.__version__), str(getattr(ort, "cuda_version", "") or ""))


@functools.cache
def preload() -> None:
    """Load CUDA's libraries from NVIDIA's wheels where there are such; what is missing then is said elsewhere.

    ONNX Runtime finds them beside itself; beside PyTorch, say, in another folder of the path, they are found here.
    """
    ort = onnxruntime()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(RuntimeError):
        ort.preload_dlls(directory="")
    if (Path(ort.__file__).parents[1] / "nvidia").exists():
        return
    folders = [Path(entry) / "nvidia" for entry in sys.path]
    for name in LIBRARIES:
        found = (path for folder in folders for path in sorted(folder.glob(f"*/lib/{name}.so.*")))
        if (path := next(found, None)) is not None:
            _loaded(str(path))


def _wheel(version: str) -> str:
    both = installed("onnxruntime") and installed("onnxruntime-gpu")
    found = "onnxruntime lies over it" if both else f"onnxruntime {version} is installed, which knows CPUs only"
    remove = "onnxruntime onnxruntime-gpu" if both else "onnxruntime"
    return (
        f"--provider cuda needs the wheel onnxruntime-gpu, but {found}: "
        f"pip uninstall {remove}, then pip install 'onnxopt[gpu]'"
    )


@functools.cache
def _machine(device_id: int, cudnn: bool, version: str, cuda: str) -> str | None:
    """What the machine lacks; asked once, because nobody installs a driver while we run."""
    return _driver(device_id, cuda) or _library(cudnn, version, cuda)


def _driver(device_id: int, cuda: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """What is wrong with the driver, if something is."""
    driver = _loaded(DRIVER)
    if isinstance(driver, str):
        seen = f"though there is {DEVICE}" if DEVICE.exists() else f"nor is there {DEVICE}"
        return (
            f"--provider cuda needs NVIDIA's driver, but {DRIVER} is not found, {seen}: install the driver, "
            "and give a container the GPU (docker run --gpus all)"
        )
    code, count, newest = driver.cuInit(0), ctypes.c_int(), ctypes.c_int()
    if code in (0, NO_DEVICE):
        driver.cuDeviceGetCount(ctypes.byref(count))
    elif code:
        return f"--provider cuda: NVIDIA's driver does not start (cuInit gives {code}): see what nvidia-smi says"
    if device_id >= count.value:
        seen = {0: "no GPU", 1: "one GPU"}.get(count.value, f"{count.value} GPUs")
        hidden = environment.get("CUDA_VISIBLE_DEVICES")
        because = f", with CUDA_VISIBLE_DEVICES={hidden}" if hidden is not None else ""
        which = f" and --device-id {device_id} needs {device_id + 1}" if count.value else ""
        return f"--provider cuda: the driver shows {seen}{because}{which}: see what nvidia-smi says"
    driver.cuDriverGetVersion(ctypes.byref(newest))
    wanted = int(cuda.partition(".")[0] or 0)
    if newest.value // 1000 < wanted:
        knows = f"{newest.value // 1000}.{newest.value % 1000 // 10}"
        return (
            f"--provider cuda: the wheel is built for CUDA {cuda} and the driver knows CUDA {knows} at most: "
            f"update the driver, or install a wheel for CUDA {newest.value // 1000}"
        )
    return None


def _library(cudnn: bool, version: str, cuda: str) -> str | None:
    """Which library is not found, if one is not: asked of the loader itself, for the versions the wheel wants."""
    preload()
    provider = Path(onnxruntime().__file__).parent / "capi" / PROVIDER_LIBRARY
    if not provider.exists():
        return None  # built in, or a system whose libraries have other names: ONNX Runtime's own word must do
    for name in (str(provider), *([CUDNN] if cudnn else [])):
        problem = _loaded(name)
        if isinstance(problem, str):
            lacking = re.match(r"\S+\.so[.\d]*(?=: cannot open)", problem)
            what = f"{lacking[0]} is not found" if lacking else f"it does not load ({problem[:200]})"
            wheel = f"onnxruntime-gpu {version} is built for CUDA {cuda} and cuDNN 9"
            return f"--provider cuda: {wheel}, and {what}: {INSTALL}"
    return None


def _loaded(name: str) -> Any:
    """A shared library, or what the loader says."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        return str(error)
