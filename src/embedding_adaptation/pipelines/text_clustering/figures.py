"""Figures of text clustering."""

from __future__ import annotations

import html
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram

from embedding_adaptation.datasets.clusters import NOISE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

# Okabe and Ito's palette, distinguishable with every common colour vision deficiency; without yellow, which is hardly visible on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "pentagon")
_NOISE_COLOUR = "#BBBBBB"
_LINE = "#0072B2"
_DENSITY_COLOUR = "#CC79A7"
# Further lines of the stability curve: name, colour, dash.
_FURTHER_LINES = {
    "reference": ("without groups, same covariance", "#777777", "dash"),
    "explained": ("with the coarser groups only", "#E69F00", "dash"),
    "corrected": ("corrected for agreement without groups", "#009E73", "solid"),
}
_NAMED = "%{x} clusters: %{y:.3f}<extra>%{fullData.name}</extra>"
_LEGEND_CHARACTERS, _LEAF_CHARACTERS = 34, 44
_HOVER_LINE = 60
_MOST_NUMBERED = 60
_MOST_LEAVES = 60
# Above this many points, SVG gets slow in the browser, and WebGL is used instead.
_MOST_SVG_POINTS = 2000


def stability_figure(curve: pd.DataFrame, method: str) -> go.Figure:
    """Plot agreement of resamples over the number of clusters, with the reference without groups, the chosen number and HDBSCAN's.

    Args:
        curve: ``clusters``, ``agreement``, ``standard_error``, ``chosen``; optionally ``reference``, ``corrected``, ``explained`` and
            ``hdbscan_clusters``.
        method: kmeans or hdbscan.
    """
    figure = go.Figure()
    known = curve.dropna(subset=["agreement"])
    figure.add_scatter(
        x=known["clusters"].tolist(),
        y=known["agreement"].round(4).tolist(),
        mode="lines+markers",
        line={"color": _LINE},
        marker={"size": 8},
        error_y={"array": known["standard_error"].round(4).tolist(), "color": _LINE, "thickness": 1.2},
        name="these texts (mean and standard error)",
        hovertemplate="%{x} clusters: %{y:.3f}<extra></extra>",
    )
    lowest = min(0.0, *known["agreement"], 0.0)
    for column, (name, colour, dash) in _FURTHER_LINES.items():
        line_points = known.dropna(subset=[column]) if column in known else known.iloc[:0]
        if len(line_points):
            figure.add_scatter(
                x=line_points["clusters"].tolist(),
                y=line_points[column].round(4).tolist(),
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"size": 5},
                name=name,
                hovertemplate=_NAMED,
            )
    for number in curve.loc[curve["chosen"], "clusters"]:
        figure.add_vline(int(number), line={"color": "#333333", "dash": "dot"}, annotation_text=f"{int(number)} clusters chosen")
    density = curve["hdbscan_clusters"].dropna() if "hdbscan_clusters" in curve and method == "kmeans" else curve.iloc[:0, 0]
    if len(density) and int(density.iloc[0]) > 0:
        line = {"color": _DENSITY_COLOUR, "dash": "dash"}
        figure.add_vline(
            int(density.iloc[0]), line=line, annotation_text=f"HDBSCAN: {int(density.iloc[0])}", annotation_position="bottom right"
        )
    algorithm = "HDBSCAN" if method == "hdbscan" else "k-means"
    figure.update_layout(
        template="plotly_white",
        title={"text": f"How well {algorithm} clusters of different draws of the texts agree"},
        xaxis={"title": "number of clusters"},
        yaxis={"title": "adjusted Rand index (0: chance, 1: identical)", "range": [max(lowest, -0.3) - 0.02, 1.02]},
        legend={"orientation": "h", "y": -0.2},
        showlegend=len(figure.data) > 1,
    )
    return figure


def text_map(
    coordinates: np.ndarray, labels: np.ndarray, texts: Sequence[str], summary: pd.DataFrame, *, hover_characters: int, total: int
) -> go.Figure:
    """Plot texts in two dimensions: one colour and symbol per cluster, switchable in the legend, and the text at the pointer.

    Args:
        coordinates: ``[n, 2]``.
        labels: Their clusters, ``[n]``.
        texts: The texts.
        summary: ``cluster``, ``name`` and ``size`` of all clusters.
        hover_characters: Characters of a text to show.
        total: Number of texts that were clustered.
    """
    figure = go.Figure()
    scatter = go.Scatter if len(labels) <= _MOST_SVG_POINTS else go.Scattergl
    shown = len(labels)
    for row in sorted(summary.to_dict("records"), key=lambda row: (row["cluster"] != NOISE, row["cluster"])):
        cluster, name = int(row["cluster"]), str(row["name"])
        members = np.flatnonzero(labels == cluster)
        noise = cluster == NOISE
        number = "" if noise else f"{cluster} · "
        figure.add_trace(
            scatter(
                x=coordinates[members, 0].round(4).tolist(),
                y=coordinates[members, 1].round(4).tolist(),
                mode="markers",
                name=html.escape(f"{number}{_cut(name, _LEGEND_CHARACTERS)} ({int(row['size']):,})", quote=False),
                legendrank=2000 if noise else 1000,
                marker={
                    "color": _NOISE_COLOUR if noise else _COLOURS[cluster % len(_COLOURS)],
                    "symbol": "circle" if noise else _SYMBOLS[(cluster // len(_COLOURS)) % len(_SYMBOLS)],
                    "size": 4 if noise else 7,
                    "opacity": 0.75,
                },
                text=[hover_text(texts[member], hover_characters) for member in members.tolist()],
                hovertemplate=f"<b>{html.escape(number + name, quote=False).replace('%{', '% {')}</b><br>%{{text}}<extra></extra>",
            )
        )
        if not noise and len(members) and cluster < _MOST_NUMBERED:
            middle = np.median(coordinates[members], axis=0)
            figure.add_annotation(
                x=float(middle[0]), y=float(middle[1]), text=f"<b>{cluster}</b>", showarrow=False, font={"size": 12, "color": "#000000"},
                bgcolor="rgba(255, 255, 255, 0.75)", borderpad=1,
            )  # fmt: skip
    count = f"{shown:,} of {total:,} texts" if shown < total else f"{total:,} texts"
    axis = {"showticklabels": False, "showgrid": False, "zeroline": False}
    figure.update_layout(
        template="plotly_white",
        title={"text": f"{count} by cluster; near points are similar, large distances say little"},
        xaxis={"title": "UMAP 1 (no unit)", **axis},
        yaxis={"title": "UMAP 2 (no unit)", **axis},
        legend={"title": {"text": "cluster (texts)"}, "itemsizing": "constant", "font": {"size": 11}},
        hoverlabel={"align": "left", "font": {"size": 12}},
        margin={"l": 50, "r": 20, "t": 60, "b": 50},
    )
    return figure


def hover_text(text: str, characters: int) -> str:
    """Prepare a text for display at its point: cut, wrapped, and with markup escaped."""
    return "<br>".join(html.escape(line, quote=False) for line in textwrap.wrap(_cut(text, characters), _HOVER_LINE))


def cluster_tree(links: np.ndarray, names: Sequence[str], sizes: Sequence[int]) -> Figure:
    """Plot the tree of clusters with named leaves, or only its upper part if there are very many clusters."""
    leaves = min(len(names), _MOST_LEAVES)
    figure = Figure(figsize=(8.0, 1.4 + 0.26 * max(leaves, 2)), layout="constrained")
    axis = figure.subplots()
    axis.set_title("Which clusters are similar", fontsize=10)
    if len(links):
        titles = [_plain(f"{_cut(name, _LEAF_CHARACTERS)} ({size:,})") for name, size in zip(names, sizes, strict=True)]
        node_sizes = _node_sizes(links, sizes)

        def title(node: int) -> str:
            return titles[node] if node < len(titles) else f"several clusters ({node_sizes[node]:,})"

        dendrogram(
            links, orientation="right", ax=axis, leaf_label_func=title, leaf_font_size=8, color_threshold=0, above_threshold_color=_LINE,
            truncate_mode="lastp" if len(names) > _MOST_LEAVES else None, p=_MOST_LEAVES,
        )  # fmt: skip
        axis.set_xlabel("mean cosine distance between cluster centres (0: same direction)", fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
    else:
        axis.text(0.5, 0.5, "one cluster: no tree", ha="center", va="center")
        axis.set_axis_off()
    axis.spines[["top", "left", "right"]].set_visible(False)
    return figure


def _cut(text: str, characters: int) -> str:
    words = " ".join(text.split())
    return words if len(words) <= characters else f"{words[: characters - 1].rstrip()}…"


def _plain(text: str) -> str:
    """Escape dollar signs, between which matplotlib expects a formula."""
    return text.replace("$", r"\$")


def _node_sizes(links: np.ndarray, sizes: Sequence[int]) -> list[int]:
    node_sizes = list(sizes)
    for left, right, *_ in links:
        node_sizes.append(node_sizes[int(left)] + node_sizes[int(right)])
    return node_sizes
