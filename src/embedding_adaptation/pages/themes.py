"""Clusters of texts as a page shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedding_adaptation.pages.long_texts import cut

if TYPE_CHECKING:
    import pandas as pd

_NOISE = -1


@dataclass(frozen=True)
class Theme:
    """A cluster of texts.

    Attributes:
        cluster: Its number; -1 are texts in no cluster.
        name: Its name.
        size: Number of texts.
        share: Share of all texts.
        cohesion: Mean cosine of its texts to its centre; ``None`` for texts in no cluster.
        words: Its distinctive words.
        nearest: The texts nearest to its centre; long ones are cut.
    """

    cluster: int
    name: str
    size: int
    share: float
    cohesion: float | None
    words: str
    nearest: tuple[str, ...]


def themes_of(summary: pd.DataFrame, *, private: bool) -> list[Theme]:
    """The clusters, largest first.

    Args:
        summary: ``cluster``, ``name``, ``size``, ``share``, ``cohesion``, ``words``, ``nearest_1`` and so on.
        private: Leave out names, words and texts, which are the user's.
    """
    nearest = [column for column in map(str, summary.columns) if column.startswith("nearest_")]
    themes = [
        Theme(
            cluster=int(row["cluster"]),
            name=_neutral(int(row["cluster"])) if private else str(row["name"]),
            size=int(row["size"]),
            share=float(row["share"]),
            cohesion=None if math.isnan(row["cohesion"]) else float(row["cohesion"]),
            words="" if private else str(row["words"]),
            nearest=() if private else tuple(cut(text) for column in nearest if isinstance(text := row[column], str) and text),
        )
        for row in summary.to_dict("records")
    ]
    return sorted(themes, key=lambda theme: (theme.cluster == _NOISE, -theme.size))


def _neutral(cluster: int) -> str:
    return "in no theme" if cluster == _NOISE else f"theme {cluster}"
