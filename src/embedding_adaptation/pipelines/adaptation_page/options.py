"""Typed options of the page about an adaptation."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import Options


class PageOptions(Options):
    """What the page shows."""

    max_texts: int = Field(5000, ge=2, description="Texts on the map; if there are more, they are drawn at random.")
    neighbours: int = Field(15, ge=2, description="UMAP's neighbours: fewer show finer structure, more the overall layout.")
    min_distance: float = Field(0.1, ge=0.0, lt=1.0, description="Minimum distance between points in UMAP.")
    moved_texts: int = Field(10, ge=0, description="Texts whose neighbours changed most, to be shown with these.")
    nearest: int = Field(5, ge=1, description="Number of their neighbours to show.")
    attention_texts: int = Field(3, ge=0, description="How many of them to show with the attention on each of their words; 0 shows none.")
    fitting_texts: int = Field(2000, ge=2, description="Texts drawn to fit after-processing, if the strategy has any.")
    private: bool = Field(False, description="Whether to leave texts, words and names out of the page.")
    seed: int = Field(ge=0, description="Seed of all draws.")
