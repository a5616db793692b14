"""Figures of attention analysis."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from embedding_adaptation.attention.comparison import ALL, TITLES
from embedding_adaptation.attention.faithfulness import TOKENS
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES = ("text", "content", "function", "prefix", "suffix", "self", "sink", "entropy")
_COLUMNS = ("sink", "prefix", "text", "suffix", "self", "content", "function", "number", "punctuation")
# Perceptually uniform and suitable for all common colour vision deficiencies: one map for amounts, one for signed changes.
_AMOUNTS, _CHANGES = "cividis", "PuOr_r"
_TEXT_SHADE, _GREY = "#F0F0F0", "#555555"
_MOST_BARS, _MOST_EXAMPLES, _MARKED_HEADS, _RANKED_WORDS = 70, 6, 8, 15
_LIGHT = 0.65


def layer_curves(layers: pd.DataFrame) -> Figure:
    """Mean shares by layer, base and adapted; the band is the interval of the paired shift, drawn around the adapted curve."""
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    table = _by_layer(layers)
    for axis, measure in zip(axes, _CURVES, strict=True):
        rows = table[table["measure"] == measure]
        axis.fill_between(
            rows["layer"], rows["base"] + rows["shift_low"], rows["base"] + rows["shift_high"],
            color=ADAPTED_COLOUR, alpha=0.25, linewidth=0,
        )  # fmt: skip
        axis.plot(rows["layer"], rows["base"], color=BASE_COLOUR, label="base")
        axis.plot(rows["layer"], rows["adapted"], color=ADAPTED_COLOUR, label="adapted", linestyle="--")
        axis.set_title(TITLES[measure], fontsize=10)
        axis.set_ylabel("nats" if measure == "entropy" else "share of attention", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[4:]:
        axis.set_xlabel("layer", fontsize=8)
    axes[0].legend(frameon=False, fontsize=8)
    figure.suptitle("Where the last token looks, mean over texts and heads", fontsize=11)
    return figure


def layer_span_map(layers: pd.DataFrame) -> Figure:
    """Heat maps of layers and spans: base, adapted, and the shift between them."""
    table = _by_layer(layers)
    sides = {
        side: table.pivot_table(index="layer", columns="measure", values=side)[list(_COLUMNS)] for side in ("base", "adapted", "shift")
    }
    count = len(sides["base"])
    figure = Figure(figsize=(10.5, 2.2 + 0.16 * count), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    highest = max(float(sides[side].to_numpy().max()) for side in ("base", "adapted"))
    furthest = max(float(np.abs(sides["shift"].to_numpy()).max()), 1e-6)
    for axis, (side, values) in zip(axes, sides.items(), strict=True):
        shift = side == "shift"
        image = axis.imshow(
            values, aspect="auto", origin="lower", cmap=_CHANGES if shift else _AMOUNTS,
            vmin=-furthest if shift else 0.0, vmax=furthest if shift else highest,
        )  # fmt: skip
        axis.set_xticks(range(len(_COLUMNS)), list(_COLUMNS), rotation=45, ha="right", fontsize=8)
        axis.axvline(4.5, color="white", linewidth=2)  # parts of the prompt | kinds of the text's words
        step = max(1, count // 15)
        axis.set_yticks(range(0, count, step), [str(layer) for layer in values.index[::step]], fontsize=8)
        axis.set_title(
            "adapted − base" if shift else side, fontsize=10, color={"base": BASE_COLOUR, "adapted": ADAPTED_COLOUR}.get(side, "black")
        )
        if side != "base":
            shown = [axes[0], axes[1]] if side == "adapted" else [axis]
            bar = figure.colorbar(image, ax=shown, label="shift of the share" if shift else "share of the last token's attention")
            bar.ax.tick_params(labelsize=8)
    axes[0].set_ylabel("layer")
    return figure


def head_map(heads: pd.DataFrame) -> Figure:
    """How far each head's attention to the text shifted; the heads that changed most are numbered."""
    values = heads.pivot_table(index="layer", columns="head", values="text_shift")
    count, width = values.shape
    figure = Figure(figsize=(2.6 + 0.42 * width, 2.0 + 0.16 * count), layout="constrained")
    axis = figure.subplots()
    furthest = max(float(np.abs(values.to_numpy()).max()), 1e-6)
    image = axis.imshow(values, aspect="auto", origin="lower", cmap=_CHANGES, vmin=-furthest, vmax=furthest)
    for rank, head in enumerate(heads.head(_MARKED_HEADS).to_dict("records"), start=1):
        x, y = list(values.columns).index(head["head"]), list(values.index).index(head["layer"])
        dark = abs(head["text_shift"]) > _LIGHT * furthest
        axis.text(x, y, str(rank), ha="center", va="center", fontsize=8, fontweight="bold", color="white" if dark else "black")
    axis.set_xticks(range(width), [str(head) for head in values.columns], fontsize=8)
    step = max(1, count // 15)
    axis.set_yticks(range(0, count, step), [str(layer) for layer in values.index[::step]], fontsize=8)
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    axis.set_title(f"Attention on the text, adapted − base\n(1 to {min(_MARKED_HEADS, len(heads))}: changed most)", fontsize=9)
    figure.colorbar(image, ax=axis, label="shift of the share").ax.tick_params(labelsize=8)
    return figure


def word_bars(words: pd.DataFrame, ids: Sequence[str], *, layers: str = "all layers") -> Figure:
    """The attention on each word of a prompt, base and adapted, one panel per text; the sink is given in the title.

    Args:
        words: Words with the attention of both models, from :func:`paired_words`.
        ids: The texts to draw, at most six.
        layers: Which layers were averaged, for the axis.
    """
    shown = [words[words["id"] == text_id] for text_id in list(ids)[:_MOST_EXAMPLES]]
    bars = [found[found["part"] != "sink"].head(_MOST_BARS) for found in shown]
    width = min(18.0, max(6.5, 0.3 * max(len(found) for found in bars)))
    figure = Figure(figsize=(width, 3.1 * len(bars)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(bars), 1))
    for axis, found, full in zip(axes, bars, shown, strict=True):
        _draw_words(axis, found, full, layers)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _draw_words(axis: Axes, found: pd.DataFrame, full: pd.DataFrame, layers: str) -> None:
    places = np.arange(len(found))
    inside = np.flatnonzero(found["part"] == "text")
    if len(inside):
        axis.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color=_TEXT_SHADE, zorder=0, label="the text")
    axis.bar(places - 0.2, 100 * found["base"], width=0.4, color=BASE_COLOUR, label="base")
    axis.bar(
        places + 0.2, 100 * found["adapted"], width=0.4, color=ADAPTED_COLOUR, label="adapted", hatch="///", edgecolor="white", linewidth=0
    )
    labels = [_plain(word + " (self)" if part == "self" else word) for word, part in zip(found["word"], found["part"], strict=True)]
    axis.set_xticks(places, labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_xlim(-0.6, len(found) - 0.4)
    axis.set_ylabel(f"% of attention\n({layers})", fontsize=8)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    sink = full.loc[full["part"] == "sink"]
    name = _plain(" ".join(sink["word"]))
    left_out = f"; first {len(found)} words" if len(found) < len(full) - len(sink) else ""
    axis.set_title(
        f"Not drawn, the sink “{name}”: base {100 * sink['base'].sum():.1f} %, adapted {100 * sink['adapted'].sum():.1f} %{left_out}",
        fontsize=9, loc="left",
    )  # fmt: skip


def word_changes(words: pd.DataFrame, *, layers: str = "all layers") -> Figure:
    """The words whose attention rose or fell most: mean share per occurrence, base and adapted."""
    gained = words[words["shift"] > 0].head(_RANKED_WORDS)
    lost = words[words["shift"] < 0].tail(_RANKED_WORDS).iloc[::-1]
    figure = Figure(figsize=(9, 1.8 + 0.24 * max(len(gained), len(lost), 1)), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True)
    for axis, found, title in zip(axes, (gained, lost), ("gained most", "lost most"), strict=True):
        places = np.arange(len(found))
        axis.hlines(places, 100 * found["base"], 100 * found["adapted"], color="#999999", linewidth=1.5)
        axis.plot(100 * found["base"], places, "o", color=BASE_COLOUR, label="base")
        axis.plot(100 * found["adapted"], places, "D", color=ADAPTED_COLOUR, label="adapted")
        axis.set_yticks(
            places, [f"{_plain(word)} ({texts})" for word, texts in zip(found["word"], found["texts"], strict=True)], fontsize=8
        )  # fmt: skip
        axis.invert_yaxis()
        axis.set_title(f"{title} (number of texts)", fontsize=9)
        axis.set_xlabel(f"% of attention on one occurrence ({layers})", fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlim(left=0)
        if found.empty:
            axis.text(0.5, 0.5, "no word is in enough texts", ha="center", va="center", transform=axis.transAxes, fontsize=8)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def faithfulness_curves(table: pd.DataFrame) -> Figure:
    """Rank correlation of attention and occlusion by layer; the dotted lines are a baseline from the length of words alone."""
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axis = figure.subplots()
    layers = table[~table["layer"].isin([ALL, TOKENS])]
    numbers = layers["layer"].astype(int)
    for side, colour, dashes in (("base", BASE_COLOUR, "-"), ("adapted", ADAPTED_COLOUR, "--")):
        axis.fill_between(numbers, layers[f"{side}_low"], layers[f"{side}_high"], color=colour, alpha=0.2, linewidth=0)
        axis.plot(numbers, layers[side], color=colour, linestyle=dashes, label=side)
        for tokens in table.loc[table["layer"] == TOKENS, side]:
            axis.axhline(tokens, color=colour, linestyle=":", linewidth=1, label=f"number of tokens, {side}")
    axis.axhline(0, color=_GREY, linewidth=0.6)
    axis.set_ylim(-1, 1)
    axis.set_xlabel("layer")
    axis.set_ylabel("Spearman's rank correlation")
    count = int(table["texts"].max()) if len(table) else 0
    axis.set_title(f"Attention on words against their effect when left out ({count} texts)", fontsize=9)
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="lower left")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _by_layer(layers: pd.DataFrame) -> pd.DataFrame:
    single = layers[layers["layer"].astype(str) != ALL]
    return single.assign(layer=single["layer"].astype(int))


def _plain(word: str) -> str:
    """A word as a label, shortened, and escaped so that matplotlib does not read it as a formula."""
    return textwrap.shorten(word, 24, placeholder="…").replace("$", r"\$") or "␣"
