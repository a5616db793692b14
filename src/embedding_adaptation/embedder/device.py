"""Where and in which number format the model runs."""

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
    """A device that was asked for and is not there."""


def choose_device(requested: DeviceName = "auto") -> str:
    """Pick the device: CUDA where there is one, else Apple's MPS, else the CPU.

    Raises:
        DeviceError: If a device is asked for by name that this machine does not have.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = next(name for name, usable in available.items() if usable) if requested == "auto" else requested
    if not available[device]:
        choices = ", ".join(["auto", *(name for name, usable in available.items() if usable)])
        msg = f"device {device!r} is not available on this machine; choose from {choices}"
        raise DeviceError(msg)
    if device == "cpu":
        # oneDNN reads it when it is first used. Packed batches have many shapes, and it would keep what it prepared for a thousand of them:
        # half a gigabyte. A batch needs a few dozen.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    return device


def choose_dtype(requested: DtypeName = "auto", device: str = "cpu") -> torch.dtype:
    """Pick the number format of weights and activations.

    ``auto`` is bfloat16 on CUDA and MPS; on a CPU it is bfloat16 only where a measurement of about 50 ms shows it to be faster than
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
