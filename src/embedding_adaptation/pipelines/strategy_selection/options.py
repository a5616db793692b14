"""Typed options of strategy selection."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import GridOptions, Names, Options


class SelectionOptions(Options):
    """All options of strategy selection."""

    grid: GridOptions | None = Field(None, description="Strategies to rank in addition to those of the embedder.")
    strategies: Names | None = Field(None, description="Names of strategies, or patterns with *; null ranks all.")
    max_texts: int = Field(1000, ge=20, description="Number of texts drawn from the corpus.")
    clusters: tuple[int, ...] = Field((10, 20, 50), min_length=1, description="Numbers of clusters for the criteria that cluster.")
    criteria: Names = Field(min_length=1, description="The criteria whose ranks are averaged into the combined rank.")
    seed: int = Field(ge=0, description="Seed of the draw and of the clusterings.")
