from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.pipelines.attention_analysis import create_pipeline
from embedding_adaptation.pipelines.attention_analysis.nodes import compare_attention, measure_attention, plot_attention_shift
from embedding_adaptation.pipelines.attention_analysis.options import AttentionOptions

TEXTS = pd.DataFrame({"id": [str(n) for n in range(9)], "text": [f"the bus number {n}" for n in range(9)]})


@pytest.fixture
def base(tiny_weights, embedder_options):
    return measure_attention(tiny_weights, TEXTS, AttentionOptions(max_texts=4, seed=0), embedder_options())


def test_a_row_for_each_text_and_layer_whose_shares_add_up(base):
    assert base["layer"].tolist() == [1, 2, 3] * 4
    assert base["id"].nunique() == 4
    np.testing.assert_allclose(base[["sink", "prompt", "text"]].sum(axis=1), 1.0, atol=1e-5)


def test_the_comparison_is_of_means_by_layer_and_over_all(base):
    adapted = base.assign(text=base["text"] + 0.1, prompt=base["prompt"] - 0.1)
    table = compare_attention(base, adapted)
    assert table["layer"].tolist() == ["1", "2", "3", "all"]
    assert table["text_shift"].tolist() == pytest.approx([0.1] * 4, abs=1e-4)
    assert table["prompt_shift"].tolist() == pytest.approx([-0.1] * 4, abs=1e-4)
    assert table["sink_base"].iloc[0] == pytest.approx(base[base["layer"] == 1]["sink"].mean(), abs=1e-4)


def test_the_figure_has_a_panel_for_text_prompt_and_sink(base):
    figure = plot_attention_shift(base, base)
    assert [axis.get_title() for axis in figure.axes] == ["on the text", "on the prompt", "on the first token (sink)"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["base", "adapted"]


def test_base_and_adapted_are_measured_by_the_same_code():
    nodes = [node for node in create_pipeline().nodes if node.name.endswith("measure_attention_node")]
    assert sorted(node.namespace for node in nodes) == ["adapted", "base"]
    assert len({node.func for node in nodes}) == 1
