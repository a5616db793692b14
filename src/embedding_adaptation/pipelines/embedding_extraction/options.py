"""Typed options of embedding extraction."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from embedding_adaptation.options import EmbedderOptions, Names, Options, chosen_names


class ExtractionOptions(Options):
    """Which strategies to extract, and what to fit after-processing on."""

    strategies: Names | None = Field(None, description="Names of strategies, or patterns with *; null extracts all.")
    fitting_texts: int = Field(2000, ge=2, description="Texts drawn from the corpus to fit after-processing.")
    seed: int = Field(ge=0, description="Seed of the draw.")

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  the signature of all options
        """Check that the strategies exist; see :meth:`Options.check`."""
        chosen_names(self.strategies, embedder.every_strategy, "embedding_extraction.strategies")
