"""What a corpus's texts have in common by several views at once: the vectors that a single strategy is taught to agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embedding_adaptation.vectors.smoothing import smoothed
from embedding_adaptation.vectors.unit import unit_vectors
from embedding_adaptation.vectors.words import tfidf_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD_DIMENSIONS = 128
_SEED = 0


def teacher_vectors(vectors: np.ndarray, texts: Sequence[str], *, words: float = 0.5, neighbours: int = 10, rounds: int = 2) -> np.ndarray:
    """Vectors of a fixed set of texts on which several views agree.

    The cosine of two texts is a weighted mean of their cosine under the model and of that of their words. Averaging with nearest neighbours
    then removes what is particular to a single text or view. So the result describes these texts as a set, not texts to come: a strategy
    learns from it, by fine-tuning or in closed form (:func:`~embedding_adaptation.vectors.head.fit_head`), and carries over what it has
    learned to other texts.

    Args:
        vectors: ``[N, D]`` of the base model, such as a consensus of several templates.
        texts: Their texts.
        words: Weight of the texts' words (TF-IDF) beside the model's vectors; 0 leaves them out.
        neighbours: Number of nearest neighbours that each vector is averaged with.
        rounds: How often; 0 does not smooth.

    Returns:
        Unit vectors ``[N, D']`` float32.

    References:
        Averaging with neighbours: https://arxiv.org/abs/2402.12890
    """
    views = [unit_vectors(vectors)]
    if words:
        views.append(np.float32(words) * tfidf_vectors(texts, _WORD_DIMENSIONS, _SEED))
    return smoothed(unit_vectors(np.concatenate(views, axis=1)), neighbours=neighbours, rounds=rounds)
