"""Vectors that evaluation has computed: no text twice under the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash

from embedding_adaptation.embedder.quantised import quantisation_state

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from peft import PeftModel

    from embedding_adaptation.pipelines.contrastive_finetuning.grad_cache import Row

_LIMIT_MB = 64
_UP, _MAGNITUDE = "lora_B", "lora_magnitude_vector"


class SeenVectors:
    """Vectors of token rows by the weights that computed them, up to a limit; the oldest weights' are forgotten first.

    Args:
        limit_mb: Memory for them.
    """

    def __init__(self, limit_mb: int = _LIMIT_MB) -> None:
        self.rows_computed = 0
        self._limit = limit_mb << 20
        self._of: dict[Hashable, dict[Row, np.ndarray]] = {}

    def of(self, weights: Hashable, rows: Sequence[Row], compute: Callable[[list[Row]], np.ndarray]) -> np.ndarray:
        """Vectors of rows, ``[N, D]``.

        Args:
            weights: Identifies the weights, from :func:`weights_key`.
            rows: The rows, in any order and with repeats.
            compute: Computes vectors ``[M, D]`` of distinct rows.
        """
        known = self._of.get(weights, {})
        missing = [row for row in dict.fromkeys(rows) if row not in known]
        fresh = compute(missing) if missing or not rows else np.empty(0)
        if not rows:
            return fresh
        self.rows_computed += len(missing)
        found = known | dict(zip(missing, fresh, strict=True))
        vectors = np.stack([found[row] for row in rows])
        if fresh.nbytes + sum(vector.nbytes for vector in known.values()) <= self._limit:
            self._of.pop(weights, None)
            self._of[weights] = {row: found[row] for row in found}
            while len(self._of) > 1 and self._size() > self._limit:
                del self._of[next(iter(self._of))]
        return vectors

    def _size(self) -> int:
        return sum(vector.nbytes for vectors in self._of.values() for vector in vectors.values())


def weights_key(model: PeftModel, adapter: Mapping[str, torch.Tensor]) -> Hashable:
    """Identifies the weights of a model of which only an adapter changes: equal keys give equal vectors.

    Args:
        model: The model, with its adapter on or off.
        adapter: The adapter's present weights by name.
    """
    changes = any(_MAGNITUDE in name for name in adapter) or any(bool(weight.any()) for name, weight in adapter.items() if _UP in name)
    if not changes:  # an adapter whose upper matrices are zero adds nothing, whatever its lower ones
        return quantisation_state(model), 0
    digest = xxhash.xxh3_128()
    for name, weight in adapter.items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return quantisation_state(model), digest.intdigest()
