from __future__ import annotations

import io

import pandas as pd

from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR
from embedding_adaptation.pipelines.attention_over_training.figures import training_shares


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_shares_over_training_begin_with_the_base_model_and_end_with_quality():
    rows = [
        {"step": step, "layer": "all", "measure": name, "mean": 0.1, "low": 0.05, "high": 0.2}
        for step in (0, 10, 100)
        for name in ("text", "content", "prefix", "suffix", "sink", "entropy")
    ]
    scores = pd.DataFrame({"step": [0, 10, 100], "v_measure": [0.1, 0.3, 0.2]})
    figure = drawn(training_shares(pd.DataFrame(rows), scores, "v_measure"))
    assert [line.get_color() for line in figure.axes[0].lines] == [ADAPTED_COLOUR, BASE_COLOUR]
    assert figure.axes[6].get_title() == "v measure"
    assert list(figure.axes[6].lines[0].get_ydata()) == [0.1, 0.3, 0.2]
    drawn(training_shares(pd.DataFrame(rows), scores, "other"))
