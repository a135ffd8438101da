"""Where the model will run: the provider, its threads, and the sizes of dynamic inputs."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from onnxopt.errors import UsageError
from onnxopt.provider_options import checked

CPU_INFO = Path("/proc/cpuinfo")
GPU_INFO = Path("/proc/driver/nvidia/gpus")
"""A folder for each GPU, where NVIDIA's driver says what it is."""
EXACT_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Target:
    """Where the optimized model will run.

    Attributes:
        provider: ``cpu`` or ``cuda``.
        threads: of one operator (ONNX Runtime's intra-op threads).
        shapes: input name to its shape, for inputs with dynamic dimensions; or such a dimension's name to ``(size,)``.
        ranges: input name to the smallest and the largest number in it, where inputs are random.
        provider_options: of the CUDA provider, by ONNX Runtime's names (``use_tf32``).
        device_id: which GPU.
        cuda_graph: whether timed runs replay a CUDA graph.
        require_gpu: whether a node that runs on the CPU all the same is an error.
        features: instruction sets as Linux names them (``avx2``, ``avx512_vnni``, ``amx_int8``); None: those of
            this processor.

    Raises:
        UsageError: for an option of the CUDA provider that it has not, or where the provider is another.
    """

    provider: str = "cpu"
    threads: int = 1
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    features: frozenset[str] | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    provider_options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    device_id: int = 0
    cuda_graph: bool = False
    require_gpu: bool = False

    def __post_init__(self) -> None:
        """Refuse what no provider understands."""
        given = {
            "--provider-option": bool(self.provider_options),
            "--device-id": self.device_id != 0,
            "--cuda-graph": self.cuda_graph,
            "--require-gpu": self.require_gpu,
        }
        for word in (word for word, is_given in given.items() if is_given and not self.on_gpu):
            raise UsageError(f"{word} is for the GPU: add --provider cuda")
        object.__setattr__(self, "provider_options", MappingProxyType(checked(self.provider_options)))

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.provider == "cuda"

    @property
    def int8_saturates(self) -> bool:
        """Whether products of uint8 activations and 8-bit weights may overflow their 16-bit sums.

        True on x86 without VNNI or AMX (vpmaddubsw adds two products in 16 bits). Measured on a Zen 3: with 8-bit
        weights kws_dscnn falls from 0.908 to 0.081. Where the processor cannot be asked, x86 is taken to saturate.
        """
        return self.provider == "cpu" and _is_x86() and EXACT_INT8.isdisjoint(self._features())

    @property
    def has_amx(self) -> bool:
        """Whether matrix products in int8 run on AMX tiles, twice to ten times as fast as with VNNI."""
        return self.provider == "cpu" and "amx_int8" in self._features()

    @property
    def has_avx512(self) -> bool:
        """Whether convolutions compute 16 channels at once, instead of 8."""
        return self.provider == "cpu" and "avx512f" in self._features()

    @property
    def no_int8(self) -> str | None:
        """Why int8 would not pay there; None where it may (read from ONNX Runtime's kernels and selectors)."""
        if self.provider == "cpu":
            return None
        return (
            "on CUDA, ONNX Runtime has no int8 kernels for convolutions and matrix products: they would run in float "
            "between conversions, slower than before; float16 is what pays there"
        )

    @property
    def is_here(self) -> bool:
        """Whether it is the CPU of this machine, whose kernels can be timed."""
        return self.provider == "cpu" and self.features is None

    def _features(self) -> frozenset[str]:
        return instruction_sets() if self.features is None else self.features


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686")


def processor() -> str:
    """The name of this processor; Linux keeps it where ``platform`` does not look."""
    return next(iter(_told("model name")), None) or platform.processor() or platform.machine()


def gpu() -> str | None:
    """The name of the first GPU, where NVIDIA's driver tells it."""
    for path in sorted(GPU_INFO.glob("*/information")):
        for line in path.read_text().splitlines():
            name, _, model = line.partition(":")
            if name.strip() == "Model":
                return model.strip()
    return None


def instruction_sets() -> frozenset[str]:
    """Those of this processor, as Linux names them; empty where it cannot be asked."""
    return frozenset(" ".join(_told("flags", "Features")).split())


@functools.cache
def _told(*names: str) -> tuple[str, ...]:
    """What the system says of its cores under these names."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    pairs = [line.partition(":") for line in lines]
    return tuple(value.strip() for name, _, value in pairs if name.strip() in names)
