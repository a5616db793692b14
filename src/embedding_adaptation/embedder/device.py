"""The device and number format in which the model runs."""

from __future__ import annotations

import logging
import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

logger = logging.getLogger(__name__)

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
FormatName = Literal["float32", "bfloat16", "float16", "int8"]
DtypeName = Literal["auto", FormatName]

_MEASURE_SECONDS = 0.075
_MATRIX = 512  # large enough to reach the matrix units (AMX, AVX512-BF16), small enough for a few calls in the time
# 8-bit products are taken only if they are this many times as fast as the next best: at 2.7 times, encoding
# gains only a fifth (docs/explanation/results.md), and a text may fall below a cosine of 0.998.
_WORTH_IT = 4.0


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


def choose_format(requested: DtypeName = "auto", device: str = "cpu") -> FormatName:
    """Choose the number format in which the model computes.

    ``auto`` is bfloat16 on CUDA and MPS. On a CPU, a measurement of about 75 ms decides between float32, bfloat16 (CPUs without bfloat16
    matrix instructions emulate it, many times slower) and int8, where products of 8-bit integers lie between float32 activations.

    Raises:
        DeviceError: If int8 is requested where it cannot be computed.
    """
    if requested == "int8":
        _check_int8(device)
    if requested != "auto":
        return requested
    return _fastest_on_cpu() if device == "cpu" else "bfloat16"


def choose_dtype(requested: DtypeName = "auto", device: str = "cpu") -> torch.dtype:
    """The dtype of weights in memory for a number format (see :func:`choose_format`); with int8, that of what lies between products.

    Raises:
        DeviceError: If int8 is requested where it cannot be computed.
    """
    import torch

    chosen = choose_format(requested, device)
    return torch.float32 if chosen == "int8" else getattr(torch, chosen)


def _check_int8(device: str) -> None:
    from embedding_adaptation.embedder.quantised import has_kernel

    if device != "cpu":
        msg = f"dtype 'int8' runs on a CPU only, not on {device!r}; use dtype 'auto' or 'bfloat16', or device 'cpu'"
        raise DeviceError(msg)
    if not has_kernel():
        msg = (
            "dtype 'int8' needs exact products of 8-bit integers, which this processor or this build of torch does not have; "
            "use dtype 'auto' or 'float32'"
        )
        raise DeviceError(msg)


def cpu_speedups() -> dict[FormatName, float]:
    """Speed of matrix products in each number format that this processor computes, relative to float32, from about 75 ms of trial."""
    from embedding_adaptation.embedder.quantised import has_kernel

    formats: tuple[FormatName, ...] = ("float32", "bfloat16", "int8") if has_kernel() else ("float32", "bfloat16")
    speeds = {name: _products_per_second(name, _MEASURE_SECONDS / len(formats)) for name in formats}
    return {name: speed / speeds["float32"] for name, speed in speeds.items()}


@lru_cache(maxsize=1)
def _fastest_on_cpu() -> FormatName:
    speedups = cpu_speedups()
    logger.info(
        "CPU matrix products run at %s the speed of float32",
        ", ".join(f"{speedup:.1f} times ({name})" for name, speedup in speedups.items() if name != "float32"),
    )
    eight_bits = speedups.pop("int8", 0.0)
    best = max(speedups, key=lambda name: speedups[name])
    return "int8" if eight_bits > _WORTH_IT * speedups[best] else best


def _products_per_second(name: FormatName, seconds: float) -> float:
    """Matrix products a second in a number format; with int8, the quantisation of one side counts."""
    import torch

    multiply: Callable[[], object]
    if name == "int8":
        from embedding_adaptation.embedder.quantised import QuantisedWeight

        states = torch.ones(_MATRIX, _MATRIX)  # [M, M]
        weight = QuantisedWeight(states)
        multiply = lambda: weight.multiply(weight.preparation.quantise(states))  # noqa: E731
    else:
        left, right = (torch.ones(_MATRIX, _MATRIX, dtype=getattr(torch, name)) for _ in range(2))  # [M, M]
        multiply = lambda: left @ right  # noqa: E731
    multiply()  # the first call sets up kernels and threads
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        multiply()
        count += 1
    return count / elapsed
