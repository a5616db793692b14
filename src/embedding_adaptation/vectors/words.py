"""Vectors of texts by their words alone: a view that owes nothing to a language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from embedding_adaptation.vectors.unit import unit_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHARACTER_DIMENSIONS = 64
_CHARACTERS_PER_WORD = 12  # with longer "words", a text has no spaces between its words


def tfidf_vectors(texts: Sequence[str], dimensions: int, seed: int) -> np.ndarray:
    """Words weighted by TF-IDF, reduced by SVD (latent semantic analysis); fitted on these texts.

    Where words are not separated by spaces (Chinese, Japanese, Thai), sequences of two and three characters take their place.

    Args:
        texts: The texts.
        dimensions: Number of dimensions; fewer are left where there are fewer words or texts.
        seed: Seed of the randomised SVD.

    Returns:
        Unit vectors ``[N, D]`` float32; a text without any known word is zero.
    """
    characters, words = sum(map(len, texts)), sum(len(text.split()) for text in texts)
    separated = {"analyzer": "char", "ngram_range": (2, 3)} if characters > _CHARACTERS_PER_WORD * max(words, 1) else {}
    try:
        counts = TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **separated).fit_transform(texts)  # [N, V]
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 1), np.float32)
    # The randomised SVD wants fewer dimensions than there are words.
    kept = max(1, min(dimensions, counts.shape[1] - 1, len(texts) - 1))
    if counts.shape[1] == 1:
        return counts.toarray()
    return unit_vectors(TruncatedSVD(kept, random_state=seed).fit_transform(counts).astype(np.float32))


def character_vectors(texts: Sequence[str], seed: int = 0) -> np.ndarray:
    """Sequences of three to five characters weighted by TF-IDF, reduced by SVD; fitted on these texts.

    They find texts alike that share parts of words, in any language, and differ from :func:`tfidf_vectors` in what they leave out.

    Args:
        texts: The texts.
        seed: Seed of the randomised SVD.

    Returns:
        Unit vectors ``[N, D]`` float32 of at most 64 dimensions; a text that shares nothing with others is zero.
    """
    try:
        counts = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2, dtype=np.float32).fit_transform(texts)
    except ValueError:  # no two texts share anything
        return np.zeros((len(texts), 1), np.float32)
    kept = max(1, min(_CHARACTER_DIMENSIONS, counts.shape[1] - 1, len(texts) - 1))
    if counts.shape[1] == 1:
        return unit_vectors(counts.toarray())
    return unit_vectors(TruncatedSVD(kept, random_state=seed).fit_transform(counts).astype(np.float32))
