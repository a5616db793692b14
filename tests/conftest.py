"""Fixtures: a tiny random model made on the spot, so that no test fetches anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights

PROJECT = Path(__file__).parents[1]

# No test may reach for the Hub; those of the Hub's code start a server of their own and a process that is told of it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from threads, which fight over the cores where something else is running.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root."""
    return PROJECT


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> DecoderWeights:
    """A tiny random Llama, resolved as any base model is."""
    from embedding_adaptation.embedder.base_model import check_source, convert
    from embedding_adaptation.embedder.weights import DecoderWeights

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    return DecoderWeights(folder, convert(check_source("random:tiny-llama"), folder))


@pytest.fixture
def tiny_embedder(tiny_weights: DecoderWeights) -> Embedder:
    """An embedder of the tiny model in float32 on the CPU."""
    from embedding_adaptation.embedder.embedder import Embedder

    return Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)


@pytest.fixture
def embedder_options() -> Callable[..., object]:
    """A maker of embedder options with the given fields changed."""
    from embedding_adaptation.options import EmbedderOptions

    def make(**changes: object) -> EmbedderOptions:
        values: dict[str, object] = {
            "device": "cpu",
            "dtype": "float32",
            "max_length": 64,
            "templates": {"bare": "{text}", "one_word": 'This sentence: "{text}" means in one word: "'},
            "strategies": {
                "bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"},
                "prompted_last": {"weights": "base", "template": "one_word", "pooling": "last"},
                "prompted_last_adapted": {"weights": "adapted", "template": "one_word", "pooling": "last"},
            },
            "adapt": "prompted_last_adapted",
        }
        return EmbedderOptions.model_validate(values | changes)

    return make
