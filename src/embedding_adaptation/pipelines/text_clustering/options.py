"""Typed options of text clustering."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from embedding_adaptation.options import EmbedderOptions, Names, Options, ServerOptions

TEXTS_SLOT = "{texts}"


class StrategyNames(Options):
    """The strategy of the embedder to use, by weights."""

    base: str = Field("consensus", description="Strategy with base weights.")
    adapted: str = Field("consensus_adapted", description="Strategy with adapted weights.")


class SmoothingOptions(Options):
    """Each vector averaged with its nearest neighbours, for k-means, words and map; not for the choice of the number of clusters."""

    neighbours: int = Field(10, ge=1, description="Number of nearest neighbours; at most a fiftieth of the texts are used.")
    rounds: int = Field(1, ge=1, le=10, description="How often; each round finds the neighbours anew.")
    max_texts: int = Field(20_000, ge=1, description="Vectors of more texts are not smoothed: time grows with the square of their number.")


class StabilityOptions(Options):
    """How to choose the number of clusters: by comparing clusterings of resamples."""

    candidates: tuple[int, ...] = Field(
        min_length=2, description="Numbers of clusters to choose from; those with too few texts per cluster are left out."
    )
    pairs: int = Field(
        10, ge=2, description="Pairs of resamples per number of clusters, for the texts and for every reference; time grows with it."
    )
    share: float = Field(0.8, gt=0.5, lt=1.0, description="Share of the texts in a resample.")
    max_texts: int = Field(2000, ge=20, description="Number of texts drawn for resampling.")
    dimensions: int = Field(50, ge=2, description="Number of principal components in which to cluster texts and references.")

    @field_validator("candidates")
    @classmethod
    def _check_candidates(cls, candidates: tuple[int, ...]) -> tuple[int, ...]:
        if min(candidates) < 2 or len(set(candidates)) < len(candidates):  # noqa: PLR2004
            msg = f"candidates {list(candidates)} must be distinct numbers of clusters, each at least 2"
            raise ValueError(msg)
        return tuple(sorted(candidates))


class KMeansOptions(Options):
    """k-means on unit vectors."""

    full_up_to: int = Field(20_000, ge=1, description="Cluster up to this many texts at once, and more in mini-batches.")
    batch_size: int = Field(4096, ge=64, description="Texts per mini-batch.")
    epochs: int = Field(2, ge=1, description="Passes of the mini-batches over all texts.")
    starts: int = Field(5, ge=1, description="Number of starts, of which the best is kept.")


class HdbscanOptions(Options):
    """HDBSCAN, which finds the number of clusters itself and treats texts in no cluster as noise."""

    min_cluster_size: int | None = Field(None, ge=2, description="Minimum texts per cluster; null takes 1 % of the texts, at least 5.")
    min_samples: int | None = Field(None, ge=1, description="Higher values give more noise; null takes min_cluster_size.")
    dimensions: int | None = Field(
        5, ge=2, description="Reduce the vectors to this many dimensions with UMAP first; null leaves them as they are."
    )
    max_texts: int = Field(20_000, ge=100, description="Texts to cluster; further ones join the nearest cluster if it is near enough.")


class WordOptions(Options):
    """Distinctive words of a cluster."""

    count: int = Field(10, ge=1, description="Words per cluster.")
    stop_words: Names | None = Field(None, description="Words never to show; null takes those of the texts' language.")
    max_texts: int = Field(2000, ge=1, description="Texts per cluster whose words are counted.")


class NameExample(Options):
    """One sample name: small models follow an example far better than an instruction."""

    texts: tuple[str, ...] = Field(min_length=1, description="Texts of one cluster, on a different subject from the corpus.")
    name: str = Field(min_length=1, description="The desired name.")


class NamingOptions(Options):
    """Names of clusters: their distinctive words, unless a model that can be relied on proposes a name that has one of them."""

    model: bool = Field(True, description="Whether the base model proposes names if it is large enough.")
    min_parameters: int = Field(1_000_000_000, ge=0, description="Smaller base models are not asked: their names mislead.")
    server: ServerOptions | None = Field(None, description="A chat server that proposes names instead of the base model.")
    system_prompt: str = Field(description="The role given to the model.")
    instruction: str = Field(description="The request to the model, with one {texts} slot.")
    examples: tuple[NameExample, ...] = Field((), description="Shown as earlier turns of the conversation.")
    max_words: int = Field(6, ge=1, description="Longer answers are not used as names.")
    text_characters: int = Field(200, ge=20, description="Characters of each text to show to the model.")

    @field_validator("instruction")
    @classmethod
    def _check_slot(cls, instruction: str) -> str:
        if instruction.count(TEXTS_SLOT) != 1:
            msg = f"instruction must have one {TEXTS_SLOT} slot: {instruction!r}"
            raise ValueError(msg)
        return instruction


class MapOptions(Options):
    """The two-dimensional map."""

    max_texts: int = Field(5000, ge=10, description="Texts on the map; if there are more, they are drawn at random.")
    neighbours: int = Field(15, ge=2, description="UMAP's neighbours: fewer show finer structure, more the overall layout.")
    min_distance: float = Field(0.1, ge=0.0, lt=1.0, description="Minimum distance between points in UMAP.")
    hover_characters: int = Field(160, ge=10, description="Characters of a text to show at its point.")


class TextClusteringOptions(Options):
    """All options of text clustering."""

    weights: Literal["base", "adapted"] | None = Field(
        None, description="null takes what was exported for these texts; see choose_weights."
    )
    strategies: StrategyNames = Field(StrategyNames(), description="Strategy of the embedder for each kind of weights.")
    fitting_texts: int = Field(2000, ge=2, description="Texts drawn to fit after-processing, if the strategy has any.")
    smoothing: SmoothingOptions | None = Field(SmoothingOptions(), description="Average vectors with their neighbours; null: do not.")
    method: Literal["kmeans", "hdbscan"] = Field("kmeans", description="The clustering algorithm.")
    clusters: int | None = Field(None, ge=2, description="Number of clusters of k-means; null chooses it by stability.")
    stability: StabilityOptions = Field(description="How to choose the number of clusters.")
    kmeans: KMeansOptions = Field(KMeansOptions(), description="Options of k-means.")
    hdbscan: HdbscanOptions = Field(HdbscanOptions(), description="Options of HDBSCAN.")
    nearest_texts: int = Field(5, ge=1, le=20, description="Texts nearest to the centre to show for each cluster.")
    words: WordOptions = Field(WordOptions(), description="Distinctive words.")
    naming: NamingOptions = Field(description="Names.")
    map: MapOptions = Field(MapOptions(), description="The map.")
    page_texts: int = Field(20_000, ge=0, description="Texts whose themes can be taken from the page as a table.")
    private: bool = Field(False, description="Whether to leave texts, words and names out of the page.")
    seed: int = Field(ge=0, description="Seed of all draws and starts.")

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if self.method == "hdbscan" and self.clusters is not None:
            msg = f"clusters is {self.clusters}, but hdbscan finds their number itself; set clusters to null, or method to kmeans"
            raise ValueError(msg)
        return self

    def strategy(self, weights: Literal["base", "adapted"]) -> str:
        """Name of the strategy for these weights."""
        return self.strategies.base if weights == "base" else self.strategies.adapted

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:
        """Check that the strategies exist with the right weights, and that a required adapter exists; see :meth:`Options.check`."""
        every = embedder.every_strategy
        weights: Literal["base", "adapted"]
        for weights in ("base", "adapted"):
            name = self.strategy(weights)
            usable = [other for other, strategy in every.items() if strategy.weights == weights]
            if name not in usable and self.weights in {None, weights}:
                msg = (
                    f"unusable strategy {name!r} in text_clustering.strategies.{weights}: it must have {weights} weights; "
                    f"choose from {', '.join(usable) or 'none'}"
                )
                raise ValueError(msg)
        if self.weights == "adapted" and not is_there("trained_adapter"):
            msg = (
                "text_clustering.weights is adapted, but there is no adapter; run 'kedro run --pipelines=contrastive_finetuning' first, or "
                "set it to base"
            )
            raise ValueError(msg)
