"""Sources of vectors: extracted embeddings, the embedding store, and models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.embedder.device import choose_device, choose_format
from embedding_adaptation.embedder.embedder import Embedder, finish_vectors
from embedding_adaptation.identity import canonical, vectors_identity
from embedding_adaptation.options import RANDOM_STRATEGY, EmbedderOptions, chosen_names
from embedding_adaptation.pipelines.clustering_evaluation.comparators import (
    RANDOM_DIMENSION,
    SentenceModel,
    random_source,
    tfidf_source,
)
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.options import TFIDF_STRATEGY, ComparatorOptions
from embedding_adaptation.pipelines.clustering_evaluation.scoring import VectorSource, by_text
from embedding_adaptation.pipelines.clustering_evaluation.tasks import CLUSTERING, EvaluationTask
from embedding_adaptation.runtime import load_embedder

if TYPE_CHECKING:
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

COMPARATOR = "comparator"
_CHUNK = 2048  # texts embedded per write


@dataclass
class Contenders:
    """Everything that is compared, and where its vectors come from.

    Args:
        names: Strategies, in the order used in tables.
        data: Labelled texts with their vectors, after-processing and weights.
        embedder_options: Definitions of the strategies.
        comparators: What they are compared with.
        store: Vectors of all other texts; filled on demand.
    """

    names: Sequence[str]
    data: LabelledVectors
    embedder_options: EmbedderOptions
    comparators: ComparatorOptions
    store: EmbeddingStore
    _embedder: tuple[str, Embedder] | None = field(default=None, init=False)
    _formats: dict[str, str] = field(default_factory=dict, init=False)

    def of_task(self, task: EvaluationTask) -> list[str]:
        """Names to score on a task. TF-IDF is fitted on the texts of a clustering, so it is scored on clustering tasks only."""
        baselines = [RANDOM_STRATEGY] * self.comparators.random
        baselines += [TFIDF_STRATEGY] * (self.comparators.tfidf and task.kind == CLUSTERING)
        return [*baselines, *self.comparators.models, *self.names]

    def kind(self, name: str) -> str:
        """base, adapted or comparator."""
        return self.embedder_options.every_strategy[name].weights if name in self.names else COMPARATOR

    def identity(self, name: str, *, given: bool) -> dict[str, Any]:
        """Everything that affects a contender's vectors on a task, for the fingerprint of its score.

        Args:
            name: The contender.
            given: Whether the task uses the labelled texts whose vectors were extracted.
        """
        if name == RANDOM_STRATEGY:
            return {"random": RANDOM_DIMENSION}
        if name == TFIDF_STRATEGY:
            return {"tfidf": self.comparators.tfidf_dimensions, "scikit-learn": metadata.version("scikit-learn")}
        if name in self.comparators.models:
            return {"key": self._key(name)}
        if given:
            return {"vectors": canonical(self.data.vectors[name])}
        return {"key": self._vectors_identity(self._fitted(name), self.kind(name))}

    def source(self, name: str, seed: int, *, given: bool, company: Sequence[str] = ()) -> VectorSource:
        """Vectors of a contender on a task.

        Args:
            name: The contender.
            seed: Seed of random contenders.
            given: Whether the task uses the labelled texts whose vectors were extracted.
            company: Others that will embed the same texts: their vectors are kept if the same pass yields them.
        """
        if name == RANDOM_STRATEGY:
            return random_source(seed)
        if name == TFIDF_STRATEGY:
            return tfidf_source(self.comparators.tfidf_dimensions, seed)
        if given and name in self.names:
            return by_text(self.data.texts["text"].tolist(), self.data.vectors[name])

        def source(texts: Sequence[str]) -> np.ndarray:
            self._embed(name, texts, company)
            vectors = self.store.vectors(self._key(name), texts)  # [N, D]
            if name in self.data.after:
                vectors = finish_vectors(vectors, self._fitted(name))
            return vectors

        return source

    def at_hand(self, name: str, *, given: bool) -> bool:
        """Whether :meth:`source` needs no model."""
        return name in (RANDOM_STRATEGY, TFIDF_STRATEGY) or (given and name in self.names)

    def _embed(self, name: str, texts: Sequence[str], company: Sequence[str]) -> None:
        missing = self.store.missing(self._key(name), texts)
        if not missing:
            return
        if name in self.comparators.models:
            for chunk in _chunks(missing):
                self.store.add(self._key(name), chunk, self._models[name].encode(chunk))
            return
        kind = self.kind(name)
        others = [other for other in company if other in self.names and self.kind(other) == kind]
        group = {self._key(other): other for other in [name, *others] if self.store.missing(self._key(other), texts) == missing}
        strategies = [dataclasses.replace(self._plain(other), name=key) for key, other in group.items()]
        embedder = self._load(kind)
        for chunk in _chunks(missing):
            for key, vectors in embedder.encode_strategies(chunk, strategies).items():
                self.store.add(key, chunk, vectors)

    def _load(self, kind: str) -> Embedder:
        # One at a time: base and adapted weights need not fit into memory together.
        if self._embedder is None or self._embedder[0] != kind:
            self._embedder = None
            self._embedder = (kind, load_embedder(self.data.models[kind], self.embedder_options))
        return self._embedder[1]

    def _plain(self, name: str) -> Strategy:
        return self.embedder_options.strategy(name, self.embedder_options.every_strategy[name])

    def _key(self, name: str) -> str:
        if name in self.comparators.models:
            return self._models[name].identity
        return self._vectors_identity(self._plain(name), self.kind(name))

    def _fitted(self, name: str) -> Strategy:
        if name not in self.data.after and self.embedder_options.every_strategy[name].after.title:
            msg = f"strategy {name!r} has after-processing that was not fitted; run embedding_extraction again with this strategy"
            raise EvaluationError(msg)
        return dataclasses.replace(self._plain(name), after=self.data.after.get(name))

    def _vectors_identity(self, strategy: Strategy, kind: str) -> str:
        return vectors_identity(self._weights[kind], strategy, max_length=self.embedder_options.max_length, dtype=self._number_format(kind))

    @cached_property
    def _weights(self) -> dict[str, str]:
        return {kind: weights.fingerprint() for kind, weights in self.data.models.items()}

    def _number_format(self, kind: str) -> str:
        if kind not in self._formats:
            chosen = choose_format(self.embedder_options.dtype, choose_device(self.embedder_options.device))
            # Only the loaded model knows whether its vectors keep in 8 bits.
            self._formats[kind] = self._load(kind).number_format if chosen == "int8" else chosen
        return self._formats[kind]

    @cached_property
    def _models(self) -> dict[str, SentenceModel]:
        device = choose_device(self.embedder_options.device)
        return {name: SentenceModel(name, options, device) for name, options in self.comparators.models.items()}


def find_contenders(
    data: LabelledVectors, store: EmbeddingStore, options: EvaluationOptions, embedder_options: EmbedderOptions
) -> Contenders:
    """The strategies and comparators selected in the options.

    Raises:
        EvaluationError: If a name is unknown or already used, or base and adapted vectors would come from two models.
    """
    every = [name for name in embedder_options.every_strategy if name in data.vectors]
    names = chosen_names(options.strategies, every, "clustering_evaluation.strategies")
    base_model, adapter = data.models["base"], data.models["adapted"]
    if not adapter.shares_base(base_model) and any(embedder_options.every_strategy[name].weights == "adapted" for name in names):
        msg = (
            f"the adapter belongs to {adapter.card.source!r}, not to {base_model.card.source!r}, so base and adapted vectors would come "
            "from two models; set base_model to the first, or run 'kedro run --pipelines=data_augmentation,contrastive_finetuning' first"
        )
        raise EvaluationError(msg)
    clashes = [name for name in options.comparators.models if name in names]
    if clashes:
        msg = f"the name {clashes[0]!r} in comparators.models is already a strategy's; choose another"
        raise EvaluationError(msg)
    baseline = options.statistics.baseline
    scored = [*names, *options.comparators.models]
    if baseline is not None and baseline not in scored:
        msg = f"unknown strategy {baseline!r} in clustering_evaluation.statistics.baseline; choose from {', '.join(scored)}"
        raise EvaluationError(msg)
    return Contenders(names, data, embedder_options, options.comparators, store)


def _chunks(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[first : first + _CHUNK] for first in range(0, len(texts), _CHUNK)]
