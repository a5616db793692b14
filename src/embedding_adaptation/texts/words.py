"""Words of texts in any language, and vectors of which words a text has."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import regex
from sklearn.feature_extraction.text import TfidfVectorizer

from embedding_adaptation.texts.function_words import FUNCTION_WORDS
from embedding_adaptation.texts.scripts import UNSPACED

if TYPE_CHECKING:
    from collections.abc import Sequence

_LETTERS = r"\p{L}\p{M}\p{N}"


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; in scripts without spaces, every two adjacent characters.

    Numbers, and single letters in scripts with spaces, are left out.

    Example:
        >>> words_of("Don't wait 20 minutes: übermorgen!")
        ["don't", 'wait', 'minutes', 'übermorgen']
        >>> words_of("機械学習")
        ['機械', '械学', '学習']
    """
    words = []
    for match in _pattern().finditer(unicodedata.normalize("NFC", text).lower()):
        word = match.group().replace("’", "'")
        if match.lastgroup == "unspaced":
            words += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif len(word) > 1 and not word.isnumeric():
            words.append(word)
    return words


@cache
def _pattern() -> regex.Pattern[str]:
    spaced = rf"[[{_LETTERS}]--[{UNSPACED}]]+"
    return regex.compile(rf"(?V1)(?P<unspaced>[[{_LETTERS}]&&[{UNSPACED}]]+)|(?P<spaced>{spaced}(?:['’\-]{spaced})*)")


def word_vectors(texts: Sequence[str], most_words: int = 10_000) -> np.ndarray:
    """TF-IDF vectors of texts: a view of them in which no language model has a part.

    A word counts ``1 + log(its number in the text)``, times the logarithm of its rarity in these texts. English function words are left
    out.

    Args:
        texts: The texts.
        most_words: Only this many words are used, the most frequent ones.

    Returns:
        Float32 ``[N, W]`` of unit length; a text without words is zero.
    """
    try:
        counted = TfidfVectorizer(analyzer=_content_words, sublinear_tf=True, max_features=most_words, dtype=np.float32).fit_transform(
            texts
        )
    except ValueError:  # there is no word in any of them
        return np.zeros((len(texts), 1), np.float32)
    return np.asarray(counted.toarray(), np.float32)


def _content_words(text: str) -> list[str]:
    return [word for word in words_of(text) if word not in FUNCTION_WORDS]
