from __future__ import annotations

import io

import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from embedding_adaptation.attention.comparison import compare_heads, compare_layers, compare_words, paired_words
from embedding_adaptation.attention.shares import Spans, measure_rows, measure_words
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR
from embedding_adaptation.pipelines.attention_analysis import figures


@pytest.fixture(scope="module")
def tables(recorded):
    shares = [pd.concat(list(measure_rows(recorded[name], Spans())), ignore_index=True) for name in ("base", "adapted")]
    words = [pd.concat(list(measure_words(recorded[name], Spans())), ignore_index=True) for name in ("base", "adapted")]
    return {
        "layers": compare_layers(*shares, resamples=20),
        "heads": compare_heads(*shares, resamples=20),
        "words": compare_words(*words, min_texts=1, resamples=20),
        "paired": paired_words(*words),
    }


def drawn(figure):
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_curves_have_base_and_adapted_in_their_colours_in_every_panel(tables):
    figure = drawn(figures.layer_curves(tables["layers"]))
    assert len(figure.axes) == 8
    for axis in figure.axes:
        assert [line.get_color() for line in axis.lines] == [BASE_COLOUR, ADAPTED_COLOUR]
        assert list(axis.lines[0].get_xdata()) == [1, 2, 3]


def test_the_map_of_layers_and_spans_shows_base_adapted_and_shift(tables):
    figure = drawn(figures.layer_span_map(tables["layers"]))
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["base", "adapted", "adapted − base"]
    assert panels[0].images[0].get_array().shape == (3, 9)
    low, high = panels[2].images[0].get_clim()
    assert low == -high


def test_the_heads_that_changed_most_are_numbered(tables):
    figure = drawn(figures.head_map(tables["heads"]))
    numbers = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    first = tables["heads"].iloc[0]
    assert numbers["1"] == (first["head"], first["layer"] - 1)
    assert len(numbers) == 8


def test_bars_are_words_and_the_sink_is_a_number(tables):
    figure = drawn(figures.word_bars(tables["paired"], ["example 1", "t0"]))
    axis = figure.axes[0]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels[-1].endswith("(self)")
    assert [label for label in labels if label in {"the", "late", "bus"}] == ["the", "late", "bus"]
    sink = tables["paired"][(tables["paired"]["id"] == "example 1") & (tables["paired"]["part"] == "sink")]
    assert f"base {100 * sink['base'].sum():.1f} %" in axis.get_title(loc="left")
    colours = {patch.get_facecolor()[:3] for patch in axis.patches}
    assert {to_rgb(BASE_COLOUR), to_rgb(ADAPTED_COLOUR)} <= colours


def test_a_long_prompt_is_drawn_in_part_and_says_so(tables):
    long = pd.concat([tables["paired"][tables["paired"]["id"] == "t0"]] * 8, ignore_index=True)
    long.loc[long.index[30:], "part"] = "text"
    figure = drawn(figures.word_bars(long.assign(word="$a_b$ <x>"), ["t0"]))
    assert "first 70 words" in figure.axes[0].get_title(loc="left")


def test_words_that_gained_and_lost_stand_in_two_panels(tables):
    figure = drawn(figures.word_changes(tables["words"]))
    assert [axis.get_title() for axis in figure.axes] == ["gained most (number of texts)", "lost most (number of texts)"]
    gained = tables["words"][tables["words"]["shift"] > 0]
    assert figure.axes[0].get_yticklabels()[0].get_text() == f"{gained.iloc[0]['word']} ({gained.iloc[0]['texts']})"


def test_no_ranked_words_can_be_drawn(tables):
    assert "no word" in drawn(figures.word_changes(tables["words"].iloc[:0])).axes[0].texts[0].get_text()


@pytest.mark.parametrize("texts", [0, 4])
def test_faithfulness_has_a_line_for_each_side_and_one_without_attention(texts):
    value = 0.5 if texts else float("nan")
    columns = {f"{side}{end}": value for side in ("base", "adapted", "shift") for end in ("", "_low", "_high")}
    figure = drawn(
        figures.faithfulness_curves(pd.DataFrame([{"layer": layer, "texts": texts} | columns for layer in ("1", "2", "all", "tokens")]))
    )
    assert {line.get_label() for line in figure.axes[0].lines} >= {"base", "adapted", "number of tokens, base"}
    assert f"({texts} texts)" in figure.axes[0].get_title()
