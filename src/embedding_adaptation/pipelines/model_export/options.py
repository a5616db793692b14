"""Typed options of model export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from embedding_adaptation.embedder.export import ExportError, check_exportable
from embedding_adaptation.options import EmbedderOptions, Names, Options


class ExportOptions(Options):
    """What is exported, and what the model card says that only a person knows."""

    strategy: str | None = Field(None, description="Name of the adapted strategy to export; null exports embedder.adapt.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Number format of the exported weights.")
    title: str = Field("Adapted text embedding model", min_length=1, description="Heading of the model card.")
    languages: Names | None = Field(None, description="ISO 639-1 codes; null takes those of the training pairs, where they were told.")
    licence: str | None = Field(None, description="Licence of the exported weights; null takes the base model's.")
    intended_use: str | None = Field(None, description="What the model is for; null says what the training data suggest.")

    def chosen(self, embedder_options: EmbedderOptions) -> str:
        """The name of the strategy to export.

        Raises:
            ValueError: If there is no such strategy, it has the base weights, or plain sentence-transformers cannot carry it out.
        """
        name = self.strategy or embedder_options.adapt
        setting = f"model_export.strategy names {name!r}" if self.strategy else f"embedder.adapt names {name!r}, which is to be exported"
        every = embedder_options.every_strategy
        adapted = ", ".join(found for found, strategy in every.items() if strategy.weights == "adapted")
        if name not in every or every[name].weights != "adapted":
            msg = f"{setting}, which is no strategy with adapted weights; there are: {adapted}"
            raise ValueError(msg)
        if every[name].after.title:
            msg = f"{setting}: its after-processing cannot be exported; name one without in model_export.strategy"
            raise ValueError(msg)
        try:
            check_exportable(embedder_options.strategy(name, every[name]))
        except ExportError as error:
            msg = (
                f"{setting}: {error}. Name another in model_export.strategy (adapted: {adapted}), or leave the export out: kedro run "
                "--pipelines=data_augmentation,contrastive_finetuning,embedding_extraction,clustering_evaluation,attention_analysis"
            )
            raise ValueError(msg) from error
        return name

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  the signature of all options
        """Check that the strategy exists and can be exported; see :meth:`Options.check`."""
        self.chosen(embedder)
