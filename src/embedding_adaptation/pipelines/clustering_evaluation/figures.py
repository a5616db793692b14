"""Figures of the evaluation: templates by poolings, strategies with intervals, the spread over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from embedding_adaptation.comparison_table import ALL_TASKS, PUBLISHED
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR
from embedding_adaptation.pipelines.clustering_evaluation.vectors import COMPARATOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
_LABEL_COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999")
_MARKERS = "osD^vP*X"
_MAP_COMPONENTS = 50
_PERPLEXITY = 30.0
_MAP_ITERATIONS = 500  # after which a map of a thousand points hardly changes
_COLOURS = {"base": BASE_COLOUR, "adapted": ADAPTED_COLOUR, COMPARATOR: "#999999", PUBLISHED: "white"}
_TITLES = {"base": "base", "adapted": "adapted", COMPARATOR: "comparator", PUBLISHED: "published (by mteb's protocol, not tested)"}
_METRICS = {
    "v_measure": "V-measure (mteb)",
    "v_measure_unique": "V-measure (unique documents)",
    "ami_unique": "AMI (unique documents)",
    "ari_unique": "ARI (unique documents)",
    "accuracy_unique": "accuracy (unique documents)",
}
_PERCENT = 100.0
_MOST_PANELS = 4
_MOST_BARS = 30


def strategy_heatmap(comparison: pd.DataFrame) -> Figure:
    """V-measure of every template and pooling, base and adapted side by side; the best of several layers or after-processing steps.

    Args:
        comparison: Rows of one task, or of all tasks' mean.
    """
    own = comparison[comparison["kind"].isin(["base", "adapted"])]
    kinds = [kind for kind in ("base", "adapted") if (own["kind"] == kind).any()]
    templates = list(dict.fromkeys(own["template"]))
    poolings = list(dict.fromkeys(own["pooling"]))
    tables = {
        kind: own[own["kind"] == kind].pivot_table(index="template", columns="pooling", values="v_measure", aggfunc="max")
        .reindex(index=templates, columns=poolings).to_numpy(dtype=float) * _PERCENT
        for kind in kinds
    }  # fmt: skip
    low, high = float(own["v_measure"].min()) * _PERCENT, float(own["v_measure"].max()) * _PERCENT
    width = 2.4 + max(1, len(kinds)) * (0.8 + 0.72 * len(poolings))
    figure = Figure(figsize=(width, 2.2 + 0.34 * len(templates)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, max(1, len(kinds)), sharey=True))
    for axis, kind in zip(axes, kinds, strict=False):
        table = tables[kind]  # [T, P]
        image = axis.imshow(table, cmap="cividis", aspect="auto", vmin=low, vmax=max(high, low + 1e-9))
        for row, column in np.argwhere(np.isfinite(table)):
            bright = table[row, column] > (low + high) / 2
            axis.text(column, row, f"{table[row, column]:.1f}", ha="center", va="center", fontsize=8, color="black" if bright else "white")
        axis.set_xticks(range(len(poolings)), [name.replace("_", " ") for name in poolings], rotation=40, ha="right", fontsize=8)
        axis.set_yticks(range(len(templates)), templates, fontsize=8)
        axis.set_title(_TITLES[kind], fontsize=9, color=_COLOURS[kind])
    axes[0].set_ylabel("template", fontsize=8)
    if kinds:
        bar = figure.colorbar(image, ax=list(axes))
        several = own.duplicated(["kind", "template", "pooling"]).any()
        bar.set_label("V-measure (mteb), percent" + (", best of layers and after-processing" if several else ""), fontsize=8)
        bar.ax.tick_params(labelsize=8)
        figure.suptitle(f"{_subject(comparison)}: which template, which pooling", fontsize=10)
    return figure


def comparison_bars(comparison: pd.DataFrame, metric: str, confidence: float) -> Figure:
    """Scores of strategies and comparators with intervals, and published scores; one panel per task, or the mean of more than four.

    Args:
        comparison: Rows of all tasks.
        metric: The metric of the intervals. Published scores are V-measures by mteb's protocol, drawn without intervals.
        confidence: Confidence of the intervals.
    """
    tasks = [task for task in dict.fromkeys(comparison["task"]) if task != ALL_TASKS]
    if len(tasks) > _MOST_PANELS:
        tasks = [ALL_TASKS]
    longest = max(min(_MOST_BARS, int((comparison["task"] == task).sum())) for task in tasks)
    figure = Figure(figsize=(1.9 + 3.4 * len(tasks) + 0.6, 1.5 + 0.25 * longest), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(tasks)))
    for axis, task in zip(axes, tasks, strict=True):
        _draw_bars(axis, comparison[comparison["task"] == task], metric)
        axis.set_title(task, fontsize=8)
    figure.suptitle(f"{_METRICS[metric]}, percent; lines: {_PERCENT * confidence:g} % intervals", fontsize=9)
    present = [kind for kind in _TITLES if (comparison["kind"] == kind).any()]
    handles = [Patch(**_look(kind)) for kind in present]
    figure.legend(handles, [_TITLES[kind] for kind in present], loc="outside lower center", ncols=len(present), fontsize=8, frameon=False)
    return figure


def seed_spread(scores: pd.DataFrame, metrics: tuple[str, ...] = ("v_measure", "v_measure_unique")) -> Figure:
    """Each seed's distance from the strategy's mean: how much clustering varies by chance.

    Args:
        scores: The long table; several tasks are averaged per seed.
        metrics: One panel each.
    """
    whole = scores[scores["part"] == "all"]
    table = whole.groupby(["metric", "kind", "strategy", "task", "seed"], sort=False)["value"].mean().reset_index()
    # Tasks have seeds of their own: the k-th seeds belong together.
    table["turn"] = table.groupby(["metric", "strategy", "task"], sort=False).cumcount()
    table = table.groupby(["metric", "kind", "strategy", "turn"], sort=False)["value"].mean().reset_index()
    ranked = table[table["metric"] == metrics[0]].groupby("strategy")["value"].mean().sort_values(ascending=False)
    kinds = dict(zip(table["strategy"], table["kind"], strict=True))
    ranked = ranked[_shown(ranked.index.map(kinds) == COMPARATOR)]
    figure = Figure(figsize=(7.4, 1.4 + 0.25 * len(ranked)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(metrics), sharex=True, sharey=True))
    for axis, metric in zip(axes, metrics, strict=True):
        for place, name in enumerate(ranked.index):
            scored = table[(table["metric"] == metric) & (table["strategy"] == name)]["value"].to_numpy() * _PERCENT  # [S]
            values = scored - scored.mean()
            colour = _COLOURS[kinds[name]]
            axis.plot([values.min(), values.max()], [place, place], color=colour, linewidth=1, alpha=0.5)
            axis.scatter(values, np.full(len(values), place), s=16, color=colour, zorder=3)
        axis.axvline(0, color="#555555", linewidth=0.8)
        axis.set_xlabel(f"{_METRICS[metric]}:\ndistance from the mean (points)", fontsize=8)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    names = [f"{name} ({_PERCENT * mean:.1f})" for name, mean in ranked.items()]
    axes[0].set_yticks(range(len(ranked)), names, fontsize=8)
    axes[0].set_ylim(len(ranked) - 0.5, -0.5)
    for tick, name in zip(axes[0].get_yticklabels(), ranked.index, strict=True):
        tick.set_color(_COLOURS[kinds[name]] if kinds[name] != COMPARATOR else "#555555")
    figure.suptitle(f"Seeds around their mean (in brackets: {_METRICS[metrics[0]]}, percent)", fontsize=9)
    return figure


def cluster_map(vectors: Mapping[str, np.ndarray], labels: Sequence[str], *, seed: int) -> Figure:
    """Vectors in two dimensions (PCA, then t-SNE), one panel per strategy, one colour and marker per label."""
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


def _draw_bars(axis: Axes, rows: pd.DataFrame, metric: str) -> None:
    height = rows[metric].where(rows["kind"] != PUBLISHED, rows["v_measure"])
    ordered = rows.assign(height=height * _PERCENT).sort_values("height", ascending=False)
    ordered = ordered[_shown(ordered["kind"] == COMPARATOR)]
    for place, row in enumerate(ordered.to_dict("records")):
        axis.barh(place, row["height"], height=0.72, **_look(str(row["kind"])))
        if row["kind"] != PUBLISHED:
            low, high = _PERCENT * row["low"], _PERCENT * row["high"]
            axis.plot([low, high], [place, place], color="black", linewidth=1.2, solid_capstyle="butt")
    axis.set_yticks(range(len(ordered)), ordered["strategy"], fontsize=7)
    axis.set_xlim(left=min(0.0, float(ordered["height"].min())))
    axis.set_ylim(len(ordered) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _shown(comparators: Any) -> np.ndarray:
    """Which of many ordered rows are drawn: all comparators, and the first of the others, ``[N]`` bool."""
    kept = np.asarray(comparators, bool)
    others = ~kept
    return kept | (others & (np.cumsum(others) <= _MOST_BARS - kept.sum()))


def _look(kind: str) -> dict[str, Any]:
    hatched = kind == PUBLISHED
    edge = "#555555" if hatched else _COLOURS[kind]
    return {"facecolor": _COLOURS[kind], "edgecolor": edge, "hatch": "////" if hatched else None, "linewidth": 0.6}


def _subject(comparison: pd.DataFrame) -> str:
    task = str(comparison["task"].iloc[0])
    return "mean of all tasks" if task == ALL_TASKS else task


def _two_dimensions(matrix: np.ndarray, seed: int) -> np.ndarray:
    components = min(_MAP_COMPONENTS, *matrix.shape)
    reduced = PCA(components, random_state=seed).fit_transform(matrix)  # [N, C]
    perplexity = min(_PERPLEXITY, (len(matrix) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", max_iter=_MAP_ITERATIONS, random_state=seed).fit_transform(reduced)  # [N, 2]
