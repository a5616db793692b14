"""Distinctive words of clusters, in any language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import regex

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.texts.scripts import UNSPACED

if TYPE_CHECKING:
    from collections.abc import Iterable


_LETTERS = r"\p{L}\p{M}\p{N}"
# Minimum ratio of a word's frequency in its cluster to that in the others.
_LIFT = 1.5
# A word from a single text says nothing about its cluster, unless the cluster is very small.
_FEWEST_TEXTS = 2
_SMALL = 5


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


class WordCounts:
    """Counts of words by cluster.

    Args:
        clusters: Number of clusters.
    """

    def __init__(self, clusters: int) -> None:
        self._clusters = clusters
        self._words: dict[int, Counter[str]] = {cluster: Counter() for cluster in (NOISE, *range(clusters))}
        self._texts: dict[int, Counter[str]] = {cluster: Counter() for cluster in range(clusters)}
        self._size = Counter[int]()

    def add(self, texts: Iterable[str], labels: Iterable[int]) -> None:
        """Count the words of texts, given their clusters."""
        for text, label in zip(texts, labels, strict=True):
            words = words_of(text)
            self._words[label].update(words)
            self._size[label] += 1
            if label != NOISE:
                self._texts[label].update(set(words))

    def distinctive(self, count: int, stop_words: Iterable[str] = ()) -> list[list[str]]:
        """The most distinctive words of each cluster, by class TF-IDF.

        A word's weight in a cluster is its share of the cluster's words times ``log(1 + A / f)``, where ``A`` is the mean number of words
        per cluster and ``f`` the total number of occurrences of the word. Words less than 1.5 times as frequent as in the other clusters
        are left out, because they are common in the language or the corpus.

        Args:
            count: Words per cluster.
            stop_words: Words to leave out.

        Returns:
            For each cluster, at most ``count`` words, the most distinctive first.

        References:
            Grootendorst, BERTopic: neural topic modeling with a class-based TF-IDF procedure (arXiv 2203.05794).
        """
        excluded = {word for stop_word in stop_words for word in words_of(stop_word)}
        classes = [words for words in self._words.values() if words]
        overall: Counter[str] = Counter()
        for words in classes:
            overall.update(words)
        total = overall.total()
        mean = total / max(len(classes), 1)
        lists = []
        for cluster in range(self._clusters):
            words, texts = self._words[cluster], self._texts[cluster]
            own, rest = max(words.total(), 1), max(total - words.total(), 1)
            fewest = _FEWEST_TEXTS if self._size[cluster] >= _SMALL else 1
            weights = {
                word: occurs / own * float(np.log1p(mean / overall[word]))
                for word, occurs in words.items()
                if texts[word] >= fewest and occurs / own > _LIFT * (overall[word] - occurs) / rest and word not in excluded
            }
            lists.append(sorted(weights, key=lambda word: (-weights[word], word))[:count])
        return lists
