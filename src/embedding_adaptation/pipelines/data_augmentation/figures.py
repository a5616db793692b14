"""Figure of accepted and rejected candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from embedding_adaptation.pipelines.data_augmentation.filters import REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping

# Paul Tol's muted palette, for many adjacent categories; bars are hatched where the reasons outnumber the colours.
_ACCEPTED_COLOUR = "#117733"
_REASON_COLOURS = ("#CC6677", "#332288", "#DDCC77", "#88CCEE", "#882255", "#AA4499", "#999933")
_HATCHES = (None, "////", "....", "xxxx")
_LEGEND_COLUMNS = 4


def augmentation_overview(report: Mapping[str, Any]) -> Figure:
    """One bar per generator and style, divided into accepted candidates and those rejected for each reason."""
    rows = _augmentation_rows(report["generators"])
    counts = np.array([[row["accepted"], *(row["rejected"].get(reason, 0) for reason in REASONS)] for row in rows.values()], float)
    counts = counts.reshape(len(rows), len(REASONS) + 1)  # [R, 1 + reasons]
    shares = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    legend_lines = -(-int((counts.sum(axis=0) > 0).sum()) // _LEGEND_COLUMNS)
    figure = Figure(figsize=(6.4, 1.0 + 0.32 * len(rows) + 0.2 * legend_lines), layout="constrained")
    axis = figure.subplots()
    starts = np.zeros(len(rows))
    for number, name in enumerate(("accepted", *REASONS)):
        if not counts[:, number].any():
            continue
        round_of_colours, place = divmod(max(number - 1, 0), len(_REASON_COLOURS))
        colour = _REASON_COLOURS[place] if number else _ACCEPTED_COLOUR
        axis.barh(
            range(len(rows)), shares[:, number], left=starts, height=0.72, label=name.replace("_", " "),
            color=colour, hatch=_HATCHES[round_of_colours], edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        starts += shares[:, number]
    for position, row in enumerate(rows.values()):
        axis.text(101, position, f"{row['accepted']:,} of {row['candidates']:,}", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axis.set_xlim(0, 100)
    axis.invert_yaxis()
    axis.set_xlabel("share of the candidates (%); beside the bars: number accepted", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if counts.any():
        figure.legend(loc="outside lower center", ncols=_LEGEND_COLUMNS, fontsize=8, frameon=False)
    return figure


def _augmentation_rows(generators: Mapping[str, Any]) -> dict[str, Any]:
    """The tallies of a report by bar title: one per style, or one per generator without styles."""
    rows: dict[str, Any] = {}
    for generator, tally in generators.items():
        title = generator.replace("_", " ")
        rows |= {f"{title}: {style}": of_style for style, of_style in tally["styles"].items()} or {title: tally}
    return rows
