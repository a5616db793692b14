from __future__ import annotations

import io

import pytest

from embedding_adaptation.pipelines.data_augmentation.figures import augmentation_overview
from embedding_adaptation.pipelines.data_augmentation.filters import REASONS


def tally(accepted, **rejected):
    return {"candidates": accepted + sum(rejected.values()), "accepted": accepted, "rejected": rejected}


def report(**generators):
    return {"generators": {name: {"styles": {}} | part for name, part in generators.items()}}


def drawn(figure):
    """Names of the bars, texts beside them, names of the legend."""
    axis = figure.axes[0]
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [label.get_text() for label in axis.get_yticklabels()], [text.get_text() for text in axis.texts], legend


def test_each_generator_and_style_has_a_bar():
    styles = {"simpler": tally(30, copy=10, drift=10), "subject": tally(1)}
    figure = augmentation_overview(report(rewrite=tally(31, copy=10, drift=10) | {"styles": styles}, span_pairs=tally(900, empty=100)))
    bars, counts, legend = drawn(figure)
    assert bars == ["rewrite: simpler", "rewrite: subject", "span pairs"]
    assert counts == ["30 of 50", "1 of 1", "900 of 1,000"]
    assert legend == ["accepted", "empty", "copy", "drift"]
    widths = [patch.get_width() for patch in figure.axes[0].patches]
    assert widths == [60, 100, 90, 0, 0, 10, 20, 0, 0, 20, 0, 0]


def test_no_two_reasons_look_the_same():
    figure = augmentation_overview(report(rewrite=tally(1, **dict.fromkeys(REASONS, 1))))
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in figure.axes[0].patches}
    assert len(looks) == len(figure.axes[0].patches) == 1 + len(REASONS)


@pytest.mark.parametrize("generators", [{}, {"rewrite": tally(0)}])
def test_a_report_without_candidates_can_be_drawn(generators):
    figure = augmentation_overview(report(**generators))
    figure.savefig(io.BytesIO(), format="png")
    assert len(drawn(figure)[0]) == len(generators)
