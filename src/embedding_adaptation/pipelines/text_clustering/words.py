"""Distinctive words of clusters, in any language."""

from __future__ import annotations

import html
import math
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import regex

from embedding_adaptation.datasets.clusters import NOISE
from embedding_adaptation.texts.scripts import UNSPACED
from embedding_adaptation.texts.word_forms import stemmer, stop_words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


_LETTERS = r"\p{L}\p{M}\p{N}"
# Minimum ratio of a word's frequency in its cluster to that in the others.
_LIFT = 1.5
# A word from a single text says nothing about its cluster, unless the cluster is very small.
_FEWEST_TEXTS = 2
_SMALL = 5
# Two adjacent words stand for one of them if they make up this share of its occurrences, in so many texts at least.
_TOGETHER = 0.5
_FEWEST_PAIRS = 3
# Both must be this much more frequent than in the other clusters, or every word would stand with its article.
_PARTNER = 1.2
# Above this many different pairs in a cluster, those seen once are forgotten, so that memory does not grow with the texts.
_MOST_PAIRS = 200_000
_LONGEST = 40  # characters; longer runs are keys, hashes and encoded data
# What is left of HTML's character references and tags where punctuation has been removed.
_MARKUP = frozenset({"amp", "br", "gt", "lt", "nbsp", "quot"})


class Token(NamedTuple):
    """A word in its text.

    Attributes:
        word: In lower case.
        shown: As it is written; empty if its capital letter may come from the start of a sentence.
        follows: Whether nothing but white space separates it from the token before.
    """

    word: str
    shown: str
    follows: bool


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; in scripts without spaces, every two adjacent characters.

    Numbers, quantities, single letters in scripts with spaces, addresses and HTML are left out. Of a contraction, the longest part is the
    word.

    Example:
        >>> words_of("<b>Don't</b> wait 20 minutes&nbsp;: übermorgen!")
        ['do', 'wait', 'minutes', 'übermorgen']
        >>> words_of("C# or l'argent, 10mb")
        ['c#', 'or', 'argent']
        >>> words_of("機械学習")
        ['機械', '械学', '学習']
    """
    return [token.word for token in tokens_of(text)]


def tokens_of(text: str) -> Iterator[Token]:
    """The words of a text with what is known of their places; see :func:`words_of`."""
    text = _noise().sub(" ", html.unescape(unicodedata.normalize("NFC", text)))
    end, follows = 0, False
    for match in _word().finditer(text):
        gap = text[end : match.start()]
        starts = not end or any(character in ".!?:\n" for character in gap)
        follows, end = follows and gap.isspace(), match.end()
        if match.lastgroup == "unspaced":
            run = match.group().lower()
            yield from (Token(run[i : i + 2], run[i : i + 2], follows=False) for i in range(max(1, len(run) - 1)))
            follows = False
            continue
        shown = _without_clitics(match.group())
        word = shown.lower()
        if _is_word(word):
            yield Token(word, "" if starts and shown[1:].islower() else shown, follows)
            follows = True
        else:
            follows = False


def _without_clitics(word: str) -> str:
    word = word.replace("’", "'")
    # Where other scripts write an apostrophe, as Ukrainian does, it is a letter of the word.
    if "'" not in word or not _latin().match(word):
        return word
    if word.lower().endswith("n't"):
        return word[:-3]
    return max(word.split("'"), key=len)


def _is_word(word: str) -> bool:
    if not 1 < len(word) <= _LONGEST or word in _MARKUP:
        return False
    letters, digits = sum(map(str.isalpha, word)), sum(map(str.isnumeric, word))
    return not digits or (letters > 1 and letters >= digits and not _quantity().fullmatch(word))


@cache
def _word() -> regex.Pattern[str]:
    spaced = rf"[[{_LETTERS}]--[{UNSPACED}]]+"
    return regex.compile(
        rf"(?V1)(?P<unspaced>[[{_LETTERS}]&&[{UNSPACED}]]+)"
        rf"|(?P<spaced>{spaced}(?:['’\-]{spaced})*(?:(?:\+\+|#)(?![{_LETTERS}]))?)"  # C++, C#
    )


@cache
def _noise() -> regex.Pattern[str]:
    tags = "a|abbr|b|blockquote|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|img|li|ol|p|pre|small|span|strong|sub|sup|table|tbody"
    return regex.compile(rf"(?i)</?(?:{tags}|td|th|thead|tr|u|ul)\b[^<>]*>|\bhttps?://\S+|\bwww\.\S+|\b[\w.+-]+@[\w-]+\.[\w.-]+")


@cache
def _quantity() -> regex.Pattern[str]:
    return regex.compile(r"\d+(?:st|nd|rd|th|am|pm|kb|mb|gb|tb|px|pt|em|ms|kg|km|cm|mm|hz|khz|mhz|ghz)")


@cache
def _latin() -> regex.Pattern[str]:
    return regex.compile(r"\p{Latin}")


class WordCounts:
    """Counts of words by cluster.

    Args:
        clusters: Number of clusters.
    """

    def __init__(self, clusters: int) -> None:
        self._clusters = clusters
        self._words: dict[int, Counter[str]] = {cluster: Counter() for cluster in (NOISE, *range(clusters))}
        self._texts: dict[int, Counter[str]] = {cluster: Counter() for cluster in range(clusters)}
        self._shown: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._pairs: dict[int, Counter[tuple[str, str]]] = {cluster: Counter() for cluster in range(clusters)}
        self._size = Counter[int]()

    def add(self, texts: Iterable[str], labels: Iterable[int]) -> None:
        """Count the words of texts, given their clusters."""
        for text, label in zip(texts, labels, strict=True):
            tokens = list(tokens_of(text))
            self._words[label].update(token.word for token in tokens)
            self._size[label] += 1
            for token in tokens:
                if token.shown != token.word:
                    self._shown[token.word][token.shown] += 1
            if label == NOISE:
                continue
            self._texts[label].update({token.word for token in tokens})
            pairs = self._pairs[label]
            # Once per text, so that one text that repeats itself does not make a collocation.
            pairs.update({(tokens[i - 1].word, token.word) for i, token in enumerate(tokens) if token.follows})
            if len(pairs) > _MOST_PAIRS:
                self._pairs[label] = Counter({pair: texts for pair, texts in pairs.items() if texts > 1})

    def distinctive(self, count: int, stop_words: Iterable[str] | None = None, languages: Sequence[str] = ()) -> list[list[str]]:
        """The most distinctive words of each cluster, by class TF-IDF.

        A word's weight in a cluster is its share of the cluster's words times ``log(1 + A / f)``, where ``A`` is the mean number of words
        per cluster and ``f`` the total number of occurrences of the word. Words less than 1.5 times as frequent as in the other clusters
        are left out, because they are common in the language or the corpus. The forms of a word count as one, which is shown in its most
        frequent form. Where two words mostly stand side by side, both are shown.

        Args:
            count: Words per cluster.
            stop_words: Words to leave out; ``None``: those of the cluster's language.
            languages: The language of each cluster, as ISO 639-1 codes; without, forms of a word are not recognised.

        Returns:
            For each cluster, at most ``count`` words, the most distinctive first.

        References:
            Grootendorst, BERTopic: neural topic modeling with a class-based TF-IDF procedure (arXiv 2203.05794).
        """
        listed = None if stop_words is None else frozenset(word for stop_word in stop_words for word in words_of(stop_word))
        overall: Counter[str] = Counter()
        for words in self._words.values():
            overall.update(words)
        mean = overall.total() / max(sum(map(bool, self._words.values())), 1)
        stems_of: dict[str, dict[str, str]] = {}
        totals_of: dict[str, Counter[str]] = {}
        written = self._as_written(overall)
        lists = []
        for cluster in range(self._clusters):
            language = languages[cluster] if languages else ""
            excluded = stop_words_of(language) if listed is None else listed
            if language not in stems_of:
                stem = stemmer(language)
                stems_of[language] = {word: stem(word) for word in overall if word not in excluded}
                totals_of[language] = _sums(overall, stems_of[language])
            stems = stems_of[language]
            totals = totals_of[language]
            own = _sums(self._words[cluster], stems)
            lifts = self._lifts(cluster, own, totals, overall.total())
            weights = self._weights(cluster, own, totals, lifts, stems, mean)
            lists.append([" ".join(map(written, words)) for words in self._chosen(cluster, weights, lifts, stems, count)])
        return lists

    def _lifts(self, cluster: int, own: Counter[str], totals: Counter[str], total: int) -> dict[str, float]:
        """How many times as frequent stems are in a cluster as in the others."""
        words = self._words[cluster].total()
        ratio = max(total - words, 1) / max(words, 1)
        return {stem: ratio * occurs / others if (others := totals[stem] - occurs) else math.inf for stem, occurs in own.items()}

    def _weights(
        self, cluster: int, own: Counter[str], totals: Counter[str], lifts: dict[str, float], stems: dict[str, str], mean: float
    ) -> dict[str, float]:
        """Weights of the stems that are distinctive of a cluster."""
        words = max(self._words[cluster].total(), 1)
        fewest = _FEWEST_TEXTS if self._size[cluster] >= _SMALL else 1
        texts: Counter[str] = Counter()
        for word, number in self._texts[cluster].items():
            if word in stems:
                texts[stems[word]] = max(texts[stems[word]], number)
        return {
            stem: occurs / words * float(np.log1p(mean / totals[stem]))
            for stem, occurs in own.items()
            if texts[stem] >= fewest and lifts[stem] > _LIFT
        }

    def _as_written(self, overall: Counter[str]) -> Callable[[str], str]:
        """A function that gives a word the capital letters with which it is mostly written within sentences."""

        def written(word: str) -> str:
            counts = Counter(self._shown.get(word, {}))
            unknown = counts.pop("", 0)
            counts[word] = overall[word] - unknown - counts.total()
            return max(sorted(counts), key=counts.__getitem__)

        return written

    def _chosen(
        self, cluster: int, weights: dict[str, float], lifts: dict[str, float], stems: dict[str, str], count: int
    ) -> list[tuple[str, ...]]:
        """Single words and pairs that stand for the stems with the largest weights."""
        words, texts = self._words[cluster], self._texts[cluster]
        forms: defaultdict[str, list[str]] = defaultdict(list)
        for word in words:
            if word in stems:
                forms[stems[word]].append(word)
        together: Counter[tuple[str, str]] = Counter()
        most: dict[tuple[str, str], tuple[int, tuple[str, str]]] = {}
        for (first, second), number in self._pairs[cluster].items():
            if first in stems and second in stems and stems[first] != stems[second]:
                pair = stems[first], stems[second]
                together[pair] += number
                most[pair] = max(most.get(pair, (0, ("", ""))), (number, (first, second)))
        best: dict[str, tuple[int, tuple[str, str]]] = {}
        for pair, number in together.items():
            if all(lifts[stem] > _PARTNER for stem in pair):
                for stem in pair:
                    best[stem] = max(best.get(stem, (0, pair)), (number, pair))
        found: list[tuple[str, ...]] = []
        covered: set[str] = set()
        for stem in sorted(weights, key=lambda stem: (-weights[stem], stem)):
            if len(found) == count:
                break
            if stem in covered:
                continue
            number, pair = best.get(stem, (0, ("", "")))
            if number >= _FEWEST_PAIRS and number >= _TOGETHER * sum(texts[form] for form in forms[stem]):
                found.append(most[pair][1])
                covered.update(one for one in pair if number >= _TOGETHER * sum(texts[form] for form in forms[one]))
            else:
                found.append((max(sorted(forms[stem]), key=words.__getitem__),))
            covered.add(stem)
        return found


def _sums(counts: Counter[str], stems: dict[str, str]) -> Counter[str]:
    """Counts of stems; words without one are left out."""
    sums: Counter[str] = Counter()
    for word, number in counts.items():
        if word in stems:
            sums[stems[word]] += number
    return sums
