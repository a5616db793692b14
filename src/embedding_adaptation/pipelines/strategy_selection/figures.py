"""Figure of the strategy ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from embedding_adaptation.vectors.criteria import CRITERIA

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_RANKED = 25


def ranking_map(ranking: pd.DataFrame, criteria: Sequence[str]) -> Figure:
    """The ranks of the best strategies under each criterion; the criteria that decide are in bold."""
    names = [name for name in CRITERIA if ranking[name].notna().any()]
    ranks = ranking[names].rank(ascending=False).head(_RANKED).to_numpy()  # [S, C]
    best = ranking["strategy"].head(_RANKED).tolist()
    figure = Figure(figsize=(2.6 + 0.62 * len(names), 2.2 + 0.24 * len(best)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(ranks, cmap="cividis_r", aspect="auto", vmin=1, vmax=len(ranking))
    axis.set_yticks(range(len(best)), best, fontsize=7)
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=45, ha="right", fontsize=8)
    for tick, name in zip(axis.get_xticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in criteria else "normal")
    figure.colorbar(image, ax=axis, label=f"rank among {len(ranking)} strategies (1 is the best)")
    axis.set_title("Best strategies by the criteria in bold", fontsize=9)
    return figure
