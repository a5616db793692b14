"""The device and number format in which the model runs."""

from __future__ import annotations

import logging
import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]

_MEASURE_SECONDS = 0.05
_MATRIX = 512  # large enough to reach the matrix units (AMX, AVX512-BF16), small enough for a few calls in the time


class DeviceError(RuntimeError):
    """A requested device that is not available."""


def choose_device(requested: DeviceName = "auto") -> str:
    """Choose the device: CUDA if available, otherwise Apple's MPS, otherwise the CPU.

    Raises:
        DeviceError: If the requested device is not available.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(name for name, usable in available.items() if usable) if requested == "auto" else requested
    if not available[device]:
        choices = ", ".join(["auto", *(name for name, usable in available.items() if usable)])
        msg = f"device {device!r} is not available on this machine; choose from {choices}"
        raise DeviceError(msg)
    if device == "cpu":
        # oneDNN reads this on first use. Packed batches have many shapes, and by default it caches primitives for a thousand of them: half
        # a gigabyte. A batch needs a few dozen.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    return device


def choose_dtype(requested: DtypeName = "auto", device: str = "cpu") -> torch.dtype:
    """Choose the number format of weights and activations.

    ``auto`` is bfloat16 on CUDA and MPS; on a CPU it is bfloat16 only if a measurement of about 50 ms shows it to be faster than
    float32 (CPUs without bfloat16 matrix instructions emulate it, many times slower).
    """
    import torch

    if requested != "auto":
        return getattr(torch, requested)
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if _cpu_bfloat16_is_faster() else torch.float32


@lru_cache(maxsize=1)
def _cpu_bfloat16_is_faster() -> bool:
    import torch

    speeds = {dtype: _matmuls_per_second(dtype, _MEASURE_SECONDS / 2) for dtype in (torch.float32, torch.bfloat16)}
    ratio = speeds[torch.bfloat16] / speeds[torch.float32]
    logger.info("CPU matrix products in bfloat16 run at %.1f times the speed of float32", ratio)
    return ratio > 1.0


def _matmuls_per_second(dtype: torch.dtype, seconds: float) -> float:
    import torch

    left, right = torch.ones(_MATRIX, _MATRIX, dtype=dtype), torch.ones(_MATRIX, _MATRIX, dtype=dtype)  # [M, M]
    left @ right  # the first call sets up kernels and threads
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        left @ right
        count += 1
    return count / elapsed
