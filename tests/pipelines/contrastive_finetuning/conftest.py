"""Pairs that train a tiny model in a moment, and the job of doing so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob

WORDS = ["bus", "water", "house", "street", "garden", "library", "school", "council", "letter", "book", "people", "work"]


@pytest.fixture
def pairs() -> Callable[[int], pd.DataFrame]:
    """A maker of so many pairs, each of a source of its own."""

    def make(count: int) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "source_id": [str(n) for n in range(count)],
                "source_text": [f"the {WORDS[n % 12]} number {n} is good" for n in range(count)],
                "generated_text": [f"good {WORDS[n % 12]} {n}" for n in range(count)],
            }
        )

    return make


@pytest.fixture
def corpus() -> pd.DataFrame:
    """Thirty texts without labels."""
    return pd.DataFrame({"id": [f"t{n}" for n in range(30)], "text": [f"{WORDS[n % 12]} and {WORDS[n % 7]} {n}" for n in range(30)]})


@pytest.fixture
def job_of(
    tiny_weights: DecoderWeights, embedder_options: Callable[..., Any], pairs: Callable[[int], pd.DataFrame]
) -> Callable[..., TrainingJob]:
    """A maker of jobs on the tiny model, with the given options changed."""
    from embedding_adaptation.pipelines.contrastive_finetuning.job import TrainingJob
    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

    def make(
        train_pairs: pd.DataFrame | int = 24,
        held_out: int = 6,
        *,
        corpus: pd.DataFrame | None = None,
        checkpoints: Any = None,
        embedder: dict[str, Any] | None = None,
        **changes: Any,
    ) -> TrainingJob:
        values = {
            "loss": "info_nce",
            "steps": 3,
            "batch_size": 6,
            "chunk_tokens": 64,
            "learning_rate": 5e-3,
            "validate_every": 2,
            "seed": 0,
            "interpolation": None,
        }
        values |= {"false_negatives": {"near_duplicate": None}}  # the texts here differ in a number
        stopping = {"criterion": None, "reference": None} | changes.pop("stopping", {})
        lora = {"layers": "all"} | changes.pop("lora", {})
        options = FinetuningOptions.model_validate(values | {"stopping": stopping, "lora": lora} | changes)
        given = pairs(train_pairs) if isinstance(train_pairs, int) else train_pairs
        return TrainingJob(tiny_weights, given, pairs(held_out), options, embedder_options(**(embedder or {})), corpus, checkpoints)

    return make
