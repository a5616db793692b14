"""Options, texts and vectors to be clustered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def make_options() -> Callable[..., Any]:
    """A maker of text clustering's options with the given fields changed."""
    from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions

    def make(**changes: object) -> TextClusteringOptions:
        values: dict[str, object] = {
            "strategies": {"base": "prompted_last", "adapted": "prompted_last_adapted"},
            "stability": {"candidates": [2, 3, 4, 5, 6], "pairs": 3},
            "hdbscan": {"dimensions": None},  # UMAP takes seconds to be compiled
            "naming": {"system_prompt": "You name.", "instruction": "Name these:\n{texts}"},
            "seed": 0,
        }
        return TextClusteringOptions.model_validate(values | changes)

    return make


@pytest.fixture
def groups() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A maker of vectors in well-separated groups: vectors [N, D] of any length, and their groups [N]."""

    def make(sizes: tuple[int, ...] = (60, 40, 30, 20), dimension: int = 16, spread: float = 0.08) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        centres = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0][: len(sizes)]
        vectors = centres[labels] + spread * rng.normal(size=(len(labels), dimension))
        return (vectors * rng.uniform(0.5, 2.0, size=(len(labels), 1))).astype(np.float32), labels

    return make
