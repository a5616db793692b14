from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.pipelines.text_clustering.figures import cluster_tree, hover_text, stability_figure, text_map
from embedding_adaptation.pipelines.text_clustering.tree import cluster_linkage


def summary(*clusters):
    return pd.DataFrame({"cluster": clusters, "name": [f"name {c}" for c in clusters], "size": [10 * (c + 2) for c in clusters]})


def drawn(labels, table, texts=None, **options):
    labels = np.asarray(labels)
    places = np.random.default_rng(0).normal(size=(len(labels), 2))
    options = {"hover_characters": 80, "total": len(labels)} | options
    return text_map(places, labels, texts or [f"text {n}" for n in range(len(labels))], table, **options)


def test_hover_texts_hold_no_markup_are_cut_and_wrapped():
    text = '<script>alert("x")</script> & <b>bold</b>\n' + "word " * 60
    shown = hover_text(text, 120)
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "&amp; &lt;b&gt;bold" in shown
    assert shown.endswith("…")
    assert max(map(len, shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").split("<br>"))) <= 60
    assert hover_text("short", 120) == "short"


def test_every_cluster_is_a_trace_with_its_texts_and_noise_is_grey_below():
    figure = drawn([0, 1, 0, NOISE], summary(0, 1, NOISE), ["a", "b<i>", "c", "d"])
    assert [trace.name for trace in figure.data] == ["name -1 (10)", "0 · name 0 (20)", "1 · name 1 (30)"]
    assert [list(trace.text) for trace in figure.data] == [["d"], ["a", "c"], ["b&lt;i&gt;"]]
    assert figure.data[0].marker.color == "#BBBBBB"
    assert figure.layout.xaxis.title.text.startswith("UMAP 1")
    assert json.loads(figure.to_json())["data"]


def test_no_two_of_many_clusters_look_the_same():
    figure = drawn(list(range(56)), summary(*range(56)))
    assert len({(trace.marker.color, trace.marker.symbol) for trace in figure.data}) == 56


def test_a_name_can_neither_be_markup_nor_a_template():
    table = summary(0)
    table["name"] = "<img src=x> %{text} " + "long " * 20
    (trace,) = drawn([0, 0], table).data
    assert "<img" not in trace.name + trace.hovertemplate
    assert trace.hovertemplate.count("%{text}") == 1
    assert len(trace.name) < 70


def test_very_many_points_are_drawn_by_webgl_and_a_draw_is_said_to_be_one():
    figure = drawn([0] * 2001, summary(0), total=1_000_000)
    assert figure.data[0].type == "scattergl"
    assert "2,001 of 1,000,000 texts" in figure.layout.title.text


def test_the_curve_marks_the_number_that_was_taken():
    curve = pd.DataFrame({"clusters": [2, 5], "agreement": [0.4, 0.9], "standard_error": [0.1, 0.02], "pairs": 3, "chosen": [False, True]})
    figure = stability_figure(curve, "kmeans")
    assert list(figure.data[0].y) == [0.4, 0.9]
    assert list(figure.data[0].error_y.array) == [0.1, 0.02]
    assert figure.layout.shapes[0].x0 == 5
    assert "5 clusters chosen" in figure.layout.annotations[0].text


def test_the_curve_shows_what_it_was_compared_with_and_the_number_of_hdbscan():
    curve = pd.DataFrame({"clusters": [2, 5, 8], "agreement": [0.9, 0.8, 0.7], "standard_error": 0.02, "chosen": [False, True, False]})
    curve = curve.assign(reference=[0.8, 0.3, 0.2], corrected=[0.5, 0.7, 0.6], explained=[np.nan, 0.4, 0.3], hdbscan_clusters=7)
    figure = stability_figure(curve, "kmeans")
    lines = {trace.name: list(trace.y) for trace in figure.data}
    assert lines["without groups, same covariance"] == [0.8, 0.3, 0.2]
    assert lines["corrected for agreement without groups"] == [0.5, 0.7, 0.6]
    assert lines["with the coarser groups only"] == [0.4, 0.3]
    assert [shape.x0 for shape in figure.layout.shapes] == [5, 7]
    assert "HDBSCAN: 7" in figure.layout.annotations[1].text
    assert figure.layout.showlegend


def test_an_agreement_that_could_not_be_measured_is_left_out_of_the_curve():
    curve = pd.DataFrame({"clusters": [3], "agreement": [np.nan], "standard_error": [np.nan], "pairs": 0, "chosen": True})
    assert not stability_figure(curve, "hdbscan").data[0].y


@pytest.mark.parametrize("count", [1, 2, 5, 70])
def test_the_tree_names_its_leaves(count):
    centres = np.random.default_rng(0).normal(size=(count, 8))
    names = [f"$cost {n}" for n in range(count)]
    figure = cluster_tree(cluster_linkage(centres), names, [3] * count)
    figure.savefig(io.BytesIO())
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    if 1 < count < 60:
        assert sorted(labels) == [f"\\$cost {n} (3)" for n in range(count)]
    if count > 60:
        assert len(labels) == 60
        assert any(label.startswith("several clusters") for label in labels)
