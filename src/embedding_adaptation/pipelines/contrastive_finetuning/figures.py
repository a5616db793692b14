"""Figure of the training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR

if TYPE_CHECKING:
    import pandas as pd


def training_curve(history: pd.DataFrame) -> go.Figure:
    """Training and held-out loss over the steps, shares between 0 and 1 on a second axis, and the step that was kept."""
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
