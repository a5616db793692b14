from __future__ import annotations

import numpy as np
import pandas as pd

from embedding_adaptation.pipelines.contrastive_finetuning.hard_negatives import mined_negatives
from embedding_adaptation.pipelines.contrastive_finetuning.options import HardNegativesOptions

ANGLES = {"anchor": 0, "positive": 40, "near": 5, "own": 10, "hard": 50, "far": 150}
CORPUS = pd.DataFrame({"id": ["1", "2", "3", "4", "5"], "text": ["anchor", "near", "own", "hard", "far"]})
PAIRS = pd.DataFrame({"source_id": ["1"], "other_id": ["3"], "source_text": ["anchor"], "generated_text": ["positive"]})


def encode(texts):
    angles = np.deg2rad([ANGLES[text] for text in texts])
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * 2).astype(np.float32)


def options(**changes):
    return HardNegativesOptions(**({"skip": 0, "within": 4, "relative_margin": 0.05} | changes))


def test_a_negative_is_the_closest_that_is_less_similar_than_the_positive_and_of_another_source():
    assert mined_negatives(encode, PAIRS, CORPUS, options(), 0) == ["hard"]


def test_ranks_are_skipped():
    assert mined_negatives(encode, PAIRS, CORPUS, options(skip=4), 0) == ["far"]


def test_where_none_is_left_a_random_text_of_another_source_takes_the_place():
    drawn = {mined_negatives(encode, PAIRS, CORPUS, options(within=2), seed)[0] for seed in range(20)}
    assert drawn == {"near", "hard", "far"}


def test_the_draw_follows_the_seed():
    many = pd.concat([PAIRS] * 20, ignore_index=True)
    one, same, other = (mined_negatives(encode, many, CORPUS, options(relative_margin=0.0, within=5), seed) for seed in (0, 0, 1))
    assert one == same != other
