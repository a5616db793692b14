"""Figures of the reports: one message each, base and adapted always in the same two colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.pipelines.data_augmentation.filters import REASONS
from embedding_adaptation.pipelines.strategy_selection.criteria import CRITERIA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common colour vision deficiency.
BASE_COLOUR, ADAPTED_COLOUR = "#0072B2", "#D55E00"
_LABEL_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")
# Paul Tol's muted palette, for categories of which many stand side by side; hatched where the reasons outnumber the colours.
_ACCEPTED_COLOUR = "#117733"
_REASON_COLOURS = ("#CC6677", "#332288", "#DDCC77", "#88CCEE", "#882255", "#AA4499", "#999933")
_MARKERS = "osD^vP*X"
_MAP_COMPONENTS = 50
_PERPLEXITY = 30.0
_MAP_ITERATIONS = 500  # after which a map of a thousand points hardly changes
_RANKED = 25
_LEGEND_COLUMNS = 4


def training_curve(history: pd.DataFrame) -> go.Figure:
    """Training and held-out loss over the steps, on a second axis what lies between 0 and 1, and the step that was chosen."""
    import plotly.graph_objects as go

    held_out = history.dropna(subset=["validation_loss"])
    trained = history.dropna(subset=["train_loss"])
    figure = go.Figure()
    figure.add_scatter(x=trained["step"], y=trained["train_loss"], name="training loss", line={"color": "#999999"})
    figure.add_scatter(
        x=held_out["step"], y=held_out["validation_loss"], name="held-out loss",
        mode="lines+markers", line={"color": ADAPTED_COLOUR},
    )  # fmt: skip
    for column, name, dash in (
        ("validation_accuracy", "held-out accuracy at 1", "dot"),
        ("neighbour_agreement", "neighbours kept", "dash"),
        ("text_attention", "attention on the text", "dashdot"),
    ):
        if column in held_out and held_out[column].notna().any():
            figure.add_scatter(
                x=held_out["step"],
                y=held_out[column],
                name=name,
                mode="lines+markers",
                line={"color": BASE_COLOUR, "dash": dash},
                yaxis="y2",
            )
    if "chosen" in history and history["chosen"].any():
        figure.add_vline(
            int(history.loc[history["chosen"], "step"].iloc[0]), line={"color": "#333333", "dash": "dot"}, annotation_text="kept"
        )
    figure.update_layout(
        template="plotly_white",
        xaxis={"title": "optimiser step"},
        yaxis={"title": "InfoNCE loss (nats)", "rangemode": "tozero"},
        yaxis2={"title": "share", "overlaying": "y", "side": "right", "range": [0, 1], "showgrid": False},
        legend={"orientation": "h", "y": 1.15},
    )
    return figure


def cluster_map(vectors: Mapping[str, np.ndarray], labels: Sequence[str], *, seed: int) -> Figure:
    """Vectors in two dimensions (PCA, then t-SNE), one panel a strategy, a colour and marker a label."""
    from matplotlib.figure import Figure

    names = sorted(set(labels))
    by_label = np.asarray(labels)
    figure = Figure(figsize=(5.2 * len(vectors), 5.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(vectors)))
    for axis, (strategy, matrix) in zip(axes, vectors.items(), strict=True):
        points = _two_dimensions(matrix, seed)  # [N, 2]
        for number, name in enumerate(names):
            chosen = points[by_label == name]
            marker = _MARKERS[(number // len(_LABEL_COLOURS)) % len(_MARKERS)]
            colour = _LABEL_COLOURS[number % len(_LABEL_COLOURS)]
            axis.scatter(chosen[:, 0], chosen[:, 1], s=14, color=colour, marker=marker, linewidths=0, label=name)
        axis.set_title(strategy)
        axis.set_xlabel("t-SNE 1 (no unit)")
        axis.set_ylabel("t-SNE 2 (no unit)")
        axis.set_xticks([])
        axis.set_yticks([])
    most_named = 20
    if len(names) <= most_named:
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _two_dimensions(matrix: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = min(_MAP_COMPONENTS, *matrix.shape)
    reduced = PCA(components, random_state=seed).fit_transform(matrix)  # [N, C]
    perplexity = min(_PERPLEXITY, (len(matrix) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", max_iter=_MAP_ITERATIONS, random_state=seed).fit_transform(reduced)  # [N, 2]


def ranking_map(ranking: pd.DataFrame, criteria: Sequence[str]) -> Figure:
    """The best strategies' rank under each criterion; those that decide are in bold."""
    from matplotlib.figure import Figure

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


def augmentation_overview(report: Mapping[str, Any]) -> Figure:
    """What became of the candidates: a bar a generator and style, divided into accepted and rejected by reason."""
    from matplotlib.figure import Figure

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
        colour = _REASON_COLOURS[(number - 1) % len(_REASON_COLOURS)] if number else _ACCEPTED_COLOUR
        axis.barh(
            range(len(rows)), shares[:, number], left=starts, height=0.72, label=name.replace("_", " "),
            color=colour, hatch="////" if number > len(_REASON_COLOURS) else None, edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        starts += shares[:, number]
    for place, row in enumerate(rows.values()):
        axis.text(101, place, f"{row['accepted']:,} of {row['candidates']:,}", va="center", fontsize=8)
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
    """The tallies of a report by the names of their bars: the styles of generators that have some, else the generator."""
    rows: dict[str, Any] = {}
    for generator, tally in generators.items():
        title = generator.replace("_", " ")
        rows |= {f"{title}: {style}": of_style for style, of_style in tally["styles"].items()} or {title: tally}
    return rows
