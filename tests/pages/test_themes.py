from __future__ import annotations

import pandas as pd

from embedding_adaptation.pages.themes import themes_of

SUMMARY = pd.DataFrame(
    {
        "cluster": [0, 1, -1],
        "name": ["buses", "cakes", "noise"],
        "size": [30, 60, 90],
        "share": [0.2, 0.3, 0.5],
        "cohesion": [0.9, 0.8, float("nan")],
        "words": ["bus", "cake", ""],
        "nearest_1": ["a bus", "a cake", "a stray"],
        "nearest_2": ["a stop", "", None],
    }
)


def test_themes_are_sorted_by_size_and_noise_comes_last():
    themes = themes_of(SUMMARY, private=False)
    assert [theme.name for theme in themes] == ["cakes", "buses", "noise"]
    assert [theme.nearest for theme in themes] == [("a cake",), ("a bus", "a stop"), ("a stray",)]
    assert themes[-1].cohesion is None


def test_private_themes_have_numbers_and_no_words():
    themes = themes_of(SUMMARY, private=True)
    assert [theme.name for theme in themes] == ["theme 1", "theme 0", "in no theme"]
    assert not any(theme.words or theme.nearest for theme in themes)
