"""Figure of attention over the checkpoints."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from embedding_adaptation.attention.comparison import ALL, TITLES
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR

_TRAINING = ("text", "content", "prefix", "suffix", "sink", "entropy")


def training_shares(over_training: pd.DataFrame, scores: pd.DataFrame, quality: str) -> Figure:
    """Shares by optimiser step with intervals over texts, and the quality of the same checkpoints; step 0 is the base model."""
    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True).ravel()
    overall = over_training[over_training["layer"].astype(str) == ALL]
    for axis, measure in zip(axes, _TRAINING, strict=False):
        rows = overall[overall["measure"] == measure].sort_values("step")
        axis.fill_between(rows["step"], rows["low"], rows["high"], color=ADAPTED_COLOUR, alpha=0.2, linewidth=0)
        axis.plot(rows["step"], rows["mean"], color=ADAPTED_COLOUR, marker="D", markersize=3)
        axis.plot(rows["step"].iloc[:1], rows["mean"].iloc[:1], "o", color=BASE_COLOUR)
        axis.set_title(TITLES[measure], fontsize=9)
        axis.set_ylabel("nats" if measure == "entropy" else "share of attention", fontsize=8)
    known = scores.dropna(subset=[quality]) if quality in scores else pd.DataFrame({"step": [], quality: []})
    axes[-2].plot(known["step"], known[quality], color="black", marker="s", markersize=3)
    axes[-2].set_title(quality.replace("_", " "), fontsize=9)
    axes[-2].set_ylabel("score", fontsize=8)
    axes[-1].set_axis_off()
    axes[-1].plot([], [], "o", color=BASE_COLOUR, label="base (step 0)")
    axes[-1].plot([], [], "D-", color=ADAPTED_COLOUR, label="adapted")
    axes[-1].legend(frameon=False, fontsize=9, loc="center")
    positive = overall.loc[overall["step"] > 0, "step"]
    for axis in axes[:-1]:
        axis.set_xscale("symlog", linthresh=max(1.0, float(positive.min()) if len(positive) else 1.0))
        axis.set_xlabel("optimiser step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
