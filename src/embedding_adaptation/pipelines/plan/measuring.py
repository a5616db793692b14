"""Measure what a plan is made from."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.embedder.tokenizer import load_tokenizer
from embedding_adaptation.memory import available_memory
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.plan.errors import PlanError
from embedding_adaptation.pipelines.plan.sample_runs import TINY_MODEL, sample_run
from embedding_adaptation.vectors.neighbours import Search, nearest_neighbours
from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.pipelines.plan.options import PlanOptions
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)

_FEWEST = 32  # texts, below which stability, training and map have nothing to work on
_VECTORS = 4000  # compared with each other to see how long a comparison takes


def measured(corpus: TextStream, base_model: DecoderWeights, parameters: dict[str, Any], options: PlanOptions) -> dict[str, Any]:
    """Facts about the corpus, this machine, and runs on samples; see :func:`~.nodes.measure_samples`."""
    texts, characters = 0, 0
    for piece in corpus.pieces():
        texts += len(piece)
        characters += int(piece["text"].str.len().sum())
    largest = corpus.sample(max(*options.samples, *options.cheap_samples), options.seed)["text"].tolist()
    if len(largest) < _FEWEST:
        msg = f"the corpus has {len(largest)} distinct texts, too few to plan from; give at least {_FEWEST}, or just run the pipeline"
        raise PlanError(msg)
    embedder = EmbedderOptions.model_validate(parameters["embedder"])
    config = json.loads((base_model.base / "config.json").read_text(encoding="utf-8"))
    strategy = embedder.strategy("planned", embedder.every_strategy[parameters["text_clustering"]["strategies"]["base"]])
    tokenizer = load_tokenizer(base_model.base, config["vocab_size"])
    drawn = largest[: options.samples[1]]
    of_text = float(np.mean([len(ids) for ids in strategy.templates[0].text_ids(drawn, tokenizer)]))
    of_frames = sum(len(frame.suffix) for frame in (one.frame(tokenizer, embedder.max_length) for one in strategy.templates))
    width = int(config["hidden_size"]) * strategy.parts
    runs = []
    for tiny, sizes in ((False, options.samples), (True, options.cheap_samples)):
        for size in _sizes(sizes, len(largest)):
            logger.info("a short run on %d texts with %s", size, "a tiny random model" if tiny else "the base model")
            setting = TINY_MODEL if tiny else str(base_model.base)
            runs.append(sample_run(largest[:size], parameters, base_model=setting, steps=options.steps, tiny=tiny).facts)
    return {
        "texts": texts,
        "characters": characters,
        "tokens_a_text": of_text,
        "tokens_read_a_text": of_text * len(strategy.templates) + of_frames,
        "width": width,
        "model": base_model.card.source,
        "pair_seconds": _pair_seconds(width, options.seed),
        "available_bytes": available_memory(),
        "processors": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "runs": runs,
    }


def _sizes(wanted: tuple[int, int], available: int) -> tuple[int, int]:
    """The sizes of two samples; of a small corpus, all and a third of it."""
    many = min(wanted[1], available)
    return min(wanted[0], max(many // 3, _FEWEST // 2)), many


def _pair_seconds(width: int, seed: int) -> float:
    """Seconds to compare two vectors in an exact search."""
    vectors = unit_vectors(np.random.default_rng(seed).normal(size=(_VECTORS, width)))
    start = time.perf_counter()
    nearest_neighbours(vectors, 8, Search("exact"))
    return (time.perf_counter() - start) / _VECTORS**2
