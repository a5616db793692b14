"""Typed options of clustering evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from embedding_adaptation.comparison_table import ALL_TASKS, LABELLED_TEXTS
from embedding_adaptation.options import RANDOM_STRATEGY, EmbedderOptions, Names, Options, chosen_names

TFIDF_STRATEGY = "tfidf_svd"

TestedMetric = Literal["v_measure_unique", "ami_unique", "ari_unique", "accuracy_unique"]


class LabelledFileOptions(Options):
    """A labelled file to score on, in addition to the catalog's ``labelled_texts``."""

    path: str = Field(description="The file: .csv, .tsv, .jsonl, .json, .parquet or .xlsx.")
    text_column: str = Field("text", coerce_numbers_to_str=True, description="Column of the texts.")
    label_column: Names = Field(("label",), min_length=1, description="Column of the labels, or several from coarse to fine.")
    encoding: str | None = Field(None, description="Encoding of text formats; null detects it.")
    separator: str | None = Field(None, description="Separator of .csv and .tsv, such as ';' or 'tab'; null detects it.")


class ModelOptions(Options):
    """A sentence-transformers model to compare with."""

    model: str = Field(description="A folder, or a Hub id with or without @REVISION.")
    prompt: str = Field("", description="Prompt before each text, as recommended by the model's authors.")


class ComparatorOptions(Options):
    """What strategies are compared with."""

    random: bool = Field(True, description="Random vectors: the score of no information.")
    tfidf: bool = Field(True, description="Word TF-IDF and SVD, fitted on the task's texts: the score of counting words.")
    tfidf_dimensions: int = Field(256, ge=2, description="Dimensions of the SVD.")
    models: dict[str, ModelOptions] = Field(default_factory=dict, description="sentence-transformers models by their names in tables.")


class ClusterCountOptions(Options):
    """How the number of clusters is estimated if the number of labels is not used."""

    candidates: int = Field(8, ge=2, description="How many numbers of clusters to try, evenly spaced on a logarithmic scale.")
    max_documents: int = Field(1000, ge=10, description="Documents to draw for the silhouette of a number of clusters.")


class StatisticsOptions(Options):
    """Intervals and tests."""

    resamples: int = Field(1000, ge=100, description="Bootstrap resamples of the documents.")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="Confidence of intervals; tests use one minus this as their level.")
    metric: TestedMetric = Field("v_measure_unique", description="The metric for tests and intervals.")
    baseline: str | None = Field(None, description="The strategy that all others are tested against; null uses the first one scored.")
    seed: int = Field(ge=0, description="Seed of the resamples.")


class EvaluationOptions(Options):
    """All options of clustering evaluation."""

    tasks: Names = Field((LABELLED_TEXTS,), min_length=1, description="labelled_texts, names of labelled_files, mteb tasks or benchmarks.")
    labelled_files: dict[str, LabelledFileOptions] = Field(default_factory=dict, description="More labelled files by name.")
    task_types: Names = Field(("Clustering",), min_length=1, description="Types of tasks to take from a benchmark.")
    seeds: tuple[int, ...] = Field(min_length=1, description="Seeds for labelled files; every strategy is scored once per seed.")
    official_seeds: tuple[int, ...] = Field((42,), min_length=1, description="Seeds for mteb's tasks; 42 is mteb's own.")
    strategies: Names | None = Field(None, description="Names of extracted strategies, or patterns with *; null scores all.")
    max_documents: int | None = Field(None, ge=2, description="Score a random draw of this many labelled texts; null scores all.")
    comparators: ComparatorOptions = Field(ComparatorOptions(), description="What the strategies are compared with.")
    cluster_count: ClusterCountOptions | None = Field(
        ClusterCountOptions(), description="Also score with an estimated number of clusters; null does not."
    )
    statistics: StatisticsOptions = Field(description="Intervals and tests.")
    model_name: str = Field("local/embedding-adaptation", pattern=r"^[^/\s]+/[^/\s]+$", description="ORGANISATION/NAME for mteb.")
    map_strategies: tuple[str, str] = Field(description="The two strategies that the cluster map shows side by side.")

    @field_validator("seeds", "official_seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            msg = f"seeds {list(seeds)} contain duplicates; the spread needs distinct seeds"
            raise ValueError(msg)
        return seeds

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if LABELLED_TEXTS in self.labelled_files or ALL_TASKS in self.labelled_files:
            msg = f"the names {LABELLED_TEXTS!r} and {ALL_TASKS!r} in labelled_files are reserved; choose another name"
            raise ValueError(msg)
        for reserved in (RANDOM_STRATEGY, TFIDF_STRATEGY):
            if reserved in self.comparators.models:
                msg = f"the name {reserved!r} in comparators.models is reserved; choose another"
                raise ValueError(msg)
        return self

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  the signature of all options
        """Check that strategies and tasks exist; mteb is imported only if one of its tasks is named. See :meth:`Options.check`."""
        chosen_names(self.strategies, embedder.every_strategy, "clustering_evaluation.strategies")
        if set(self.tasks) != {LABELLED_TEXTS} or self.labelled_files:
            from embedding_adaptation.pipelines.clustering_evaluation.tasks import check_task_names

            check_task_names(self)
