"""Typed options of model export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from embedding_adaptation.embedder.export import ExportError, check_exportable
from embedding_adaptation.options import EmbedderOptions, Names, Options


class ExportOptions(Options):
    """What to export, and the details of the model card that only the user knows."""

    strategy: str | None = Field(None, description="Name of the adapted strategy to export; null exports embedder.adapt, without any head.")
    flavour: Literal["plain", "package"] = Field(
        "plain",
        description="plain: for sentence-transformers alone; package: any strategy, for those who have this package installed, too.",
    )
    guard: bool = Field(
        True,
        description="If adaptation was not found to help (by answers, labelled texts or the verdict), export the base weights instead.",
    )
    fitting_texts: int = Field(2000, ge=2, description="Texts drawn to fit the strategy's after-processing, if none was extracted.")
    seed: int = Field(0, ge=0, description="Seed of the draw.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Number format of the exported weights.")
    title: str = Field("Adapted text embedding model", min_length=1, description="Heading of the model card.")
    languages: Names | None = Field(None, description="ISO 639-1 codes; null takes those of the training pairs, if known.")
    licence: str | None = Field(None, description="Licence of the exported weights; null takes the base model's.")
    intended_use: str | None = Field(None, description="Intended use; null describes what the training data suggest.")

    def strategy_name(self, embedder_options: EmbedderOptions) -> str:
        """The name of the strategy to export.

        Raises:
            ValueError: If the strategy does not exist, has base weights, or, with flavour ``plain``, cannot be reproduced by plain
                sentence-transformers.
        """
        name = self.strategy or embedder_options.adapt
        setting = "model_export.strategy" if self.strategy else "embedder.adapt"
        every = embedder_options.every_strategy
        adapted = ", ".join(other for other, strategy in every.items() if strategy.weights == "adapted")
        if name not in every or every[name].weights != "adapted":
            msg = f"unusable strategy {name!r} in {setting}: it must have adapted weights to be exported; choose from {adapted}"
            raise ValueError(msg)
        if self.flavour == "package":
            return name
        try:
            check_exportable(embedder_options.strategy(name, every[name]))
        except ExportError as error:
            msg = (
                f"{setting}: {error}. Set model_export.strategy to another (adapted: {adapted}) or model_export.flavour to package, or "
                "skip the export: kedro run --pipelines=data_augmentation,contrastive_finetuning,embedding_extraction,"
                "clustering_evaluation,attention_analysis"
            )
            raise ValueError(msg) from error
        return name

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  interface of all options
        """Check that the strategy exists and can be exported; see :meth:`Options.check`."""
        self.strategy_name(embedder)
