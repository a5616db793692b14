"""Scores of candidate pairs, on which all filters are based.

No score depends on a threshold or on other pairs, so scores are stored once, and thresholds can change without scoring again.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Indel
from rapidfuzz.process import cpdist

from embedding_adaptation.pipelines.data_augmentation.facts import Facts
from embedding_adaptation.pipelines.data_augmentation.generators.request import load_generator
from embedding_adaptation.texts.answers import SENTENCE_END, cut_back, is_preamble, is_refusal, plain, tidy_answer
from embedding_adaptation.texts.language import identify_language
from embedding_adaptation.texts.scripts import UNSPACED, UNSPACED_WORD, count_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Similarity = Callable[[list[str], list[str]], np.ndarray]

_FEWEST_TEXTS = 3  # fewer texts give no useful random pairs
_REFERENCE_SHIFTS = 50  # random pairs for each text
_FEWEST_LOOPING_WORDS = 4
_FEWEST_WORDS = 6  # fewer words say too little about repeated 3-grams

_QUESTION_MARKS = "?？؟"
_OTHER_MARKS = ".!…。！;:؛۔।"
_AUXILIARY = r"(?:is|are|am|was|were|does|did|can|could|will|would|should|shall|may|might|must|has)(?:n't)?"
_SUBJECT = r"(?:i|you|s?he|it|we|they|there|th(?:is|at|ese|ose|e)|any\w*|some\w*|every\w*|no ?one|an?|my|your|our|his|her|its|their)"
_QUESTION_START = re.compile(
    r"(?:(?:so|and|but|or|also|hi|hello|hey|please|ok)\b[\s,]*)*"
    r"(?:(?:who|whom|whose|which|why|how|what(?! an?\b))(?:'\w+)?\b|"
    rf"(?:when|where)(?:'s\b|\s+(?:to|do|have|had|{_AUXILIARY})\b)|"
    r"(?:do|have|had)(?:n't)?\s+(?:i|you|we|they|any\w*|these|those)\b|"
    rf"{_AUXILIARY}\s+{_SUBJECT}\b|any(?:one|body)\s+(?:know|got|else|here)\b)",
)
_TOKEN = re.compile(rf"{UNSPACED_WORD}|[^\W{UNSPACED}]+")
_STEM = 4  # letters; shorter words say little about the subject of a text
_LONG_WORD = re.compile(rf"[^\W\d_]{{{_STEM},}}")
_ALIKE = 75.0  # rapidfuzz's ratio from which two words are the same
_LETTER_LOOP = re.compile(r"([^\W\d]{1,4}?)\1{7,}")


def score(candidates: pd.DataFrame, similarity: Similarity | None, reference: np.ndarray | None) -> pd.DataFrame:
    """Score candidate pairs.

    Args:
        candidates: ``key``, ``source_text``, ``generated_text``, ``generator`` and ``finished``.
        similarity: Computes cosine similarities between two lists of texts, pair by pair; ``None`` leaves them out.
        reference: Sorted similarities of random pairs, from :func:`drift_reference`; ``None`` leaves percentiles out.

    Returns:
        One row per candidate, in their order:

        - ``key``;
        - ``answer``: the generated text; if a language model wrote it, it is tidied, and an unfinished one is cut after its last complete
          sentence, if any;
        - ``copy_similarity``: edit similarity of text and answer (Indel, 0 to 1), ignoring case and white space;
        - ``length_ratio``: words of the answer per word of the text;
        - ``refusal``, ``preamble``: 1 if the answer refuses, or talks about itself, in words that the text does not use;
        - ``source_language``, ``language``: ISO 639-1 codes; empty if there is no language, as in digits;
        - ``language_confidence``: the lower of the two confidences;
        - ``source_question``, ``question``: whether they are questions;
        - ``repetition``: share of repeated word 3-grams in the answer;
        - ``new_words``: share of the answer's longer words that resemble none in the text;
        - ``lost_facts``: share of the text's numbers and names that the answer lacks; 0 if the text has none;
        - ``invented_facts``: number of the answer's numbers and names that the text lacks;
        - ``similarity``: cosine similarity of text and answer; NaN if not requested, or if one of them has no word;
        - ``percentile``: percentage of random pairs that are no more similar, 0 to 100; NaN without random pairs.
    """
    sources = candidates["source_text"].tolist()
    answers = _answers(candidates)
    pairs = list(zip(sources, answers, strict=True))
    similarities = _similarities(sources, answers, similarity)
    return pd.DataFrame(
        {
            "key": _strings(candidates["key"]),
            "answer": _strings(answers),
            "copy_similarity": _copy_similarities(sources, answers),
            "length_ratio": np.array([length_ratio(*pair) for pair in pairs], np.float64),
            "refusal": np.array([is_refusal(*pair) for pair in pairs], np.int8),
            "preamble": np.array([is_preamble(*pair) for pair in pairs], np.int8),
            **_languages_and_facts(pairs),
            "source_question": np.array([is_question(text) for text in sources], bool),
            "question": np.array([is_question(text) for text in answers], bool),
            "repetition": np.array([repetition(text) for text in answers], np.float64),
            "new_words": np.array([new_words(*pair) for pair in pairs], np.float64),
            "similarity": similarities,
            "percentile": _percentiles(similarities, reference),
        }
    )


def drift_reference(texts: list[str], similarity: Similarity) -> np.ndarray:
    """Similarities of random pairs, which any two texts of a corpus have without being about the same subject.

    Args:
        texts: Texts of the corpus.
        similarity: Computes cosine similarities between two lists of texts, pair by pair.

    Returns:
        Sorted similarities ``[P]``: 50 per distinct text, fewer for at most 100 texts, and none for fewer than three.
    """
    distinct = list(dict.fromkeys(texts))
    count = len(distinct)
    if count < _FEWEST_TEXTS:
        return np.empty(0)
    # A corpus may be sorted by subject, so its order is shuffled before neighbours become pairs.
    shuffled = [distinct[index] for index in np.random.default_rng(0).permutation(count)]
    shifts = range(1, min(_REFERENCE_SHIFTS, (count - 1) // 2) + 1)  # less than half way round, no pair occurs twice
    shifted = [text for shift in shifts for text in (*shuffled[shift:], *shuffled[:shift])]
    return np.sort(np.asarray(similarity(shuffled * len(shifts), shifted), np.float64))


def length_ratio(source: str, answer: str) -> float:
    """Number of words of the answer per word of the text."""
    return count_words(answer) / max(count_words(source), 1)


def is_question(text: str) -> bool:
    """Whether a text ends with a question mark, or without any mark while its last sentence begins like an English question.

    Titles such as "how to change an address" count as questions, too.
    """
    is_closed = False
    for character in reversed(text):
        if character in _QUESTION_MARKS:
            return True
        if character.isalnum():
            break
        is_closed |= character in _OTHER_MARKS
    if is_closed:
        return False
    start = 0
    for end in SENTENCE_END.finditer(text):
        start = end.end()
    return _QUESTION_START.match(plain(text[start:]).lstrip(" \t\n\"'“„«(-")) is not None


def new_words(source: str, answer: str) -> float:
    """Share of an answer's distinct words of four or more letters that resemble none in the source.

    Words resemble each other if their first four letters are equal or they differ in few letters, so that endings, compounds and
    misspellings count as known. In scripts without spaces there are hardly any such words, and the share is 0.
    """
    known = set(_LONG_WORD.findall(source.casefold()))
    stems = {word[:_STEM] for word in known}
    words = set(_LONG_WORD.findall(answer.casefold()))
    if not words:
        return 0.0
    without_stem = [word for word in words if word[:_STEM] not in stems]
    unknown = [word for word in without_stem if process.extractOne(word, known, scorer=fuzz.ratio, score_cutoff=_ALIKE) is None]
    return len(unknown) / len(words)


def repetition(text: str) -> float:
    """Share of repeated word 3-grams in a text.

    For fewer than six words, the share of the most common word (among at least four) or of a looping sequence of letters, if that is more
    than half of the text, else 0.
    """
    words = _TOKEN.findall(text.casefold())
    count = len(words) - 2
    if len(words) >= _FEWEST_WORDS:
        return 1.0 - len(set(zip(words, words[1:], words[2:], strict=False))) / count
    share = max(Counter(words).values()) / len(words) if len(words) >= _FEWEST_LOOPING_WORDS else 0.0
    loop = _LETTER_LOOP.search(text)
    if loop:
        share = max(share, len(loop.group()) / len(text))
    return share if share > 0.5 else 0.0  # noqa: PLR2004  half


def _answers(candidates: pd.DataFrame) -> list[str]:
    answers = []
    for text, generator, finished in zip(candidates["generated_text"], candidates["generator"], candidates["finished"], strict=True):
        if load_generator(generator).is_written:
            answers.append(tidy_answer(text if finished else cut_back(text) or text))
        else:
            answers.append(text)
    return answers


def _strings(values: Iterable[str]) -> pd.Series:
    return pd.Series(list(values), dtype=str)


def _copy_similarities(sources: list[str], answers: list[str]) -> np.ndarray:
    left, right = ([" ".join(text.casefold().split()) for text in texts] for texts in (sources, answers))
    return cpdist(left, right, scorer=Indel.normalized_similarity, dtype=np.float64)


def _languages_and_facts(pairs: list[tuple[str, str]]) -> dict[str, pd.Series | np.ndarray]:
    source_languages, languages, confidences, lost, invented = [], [], [], [], []
    for source, answer in pairs:
        source_language, source_confidence = identify_language(source)
        language, confidence = identify_language(answer)
        facts, answered = Facts(source, source_language), Facts(answer, language)
        source_languages.append(source_language)
        languages.append(language)
        confidences.append(min(source_confidence, confidence))
        lost.append(facts.missing_in(answered) / max(len(facts), 1))
        invented.append(answered.missing_in(facts))
    return {
        "source_language": _strings(source_languages),
        "language": _strings(languages),
        "language_confidence": np.array(confidences, np.float64),
        "lost_facts": np.array(lost, np.float64),
        "invented_facts": np.array(invented, np.int64),
    }


def _similarities(sources: list[str], answers: list[str], similarity: Similarity | None) -> np.ndarray:
    similarities = np.full(len(sources), np.nan)
    rows = [row for row, pair in enumerate(zip(sources, answers, strict=True)) if all(any(map(str.isalnum, text)) for text in pair)]
    if similarity is not None and rows:
        similarities[rows] = similarity([sources[row] for row in rows], [answers[row] for row in rows])
    return similarities


def _percentiles(similarities: np.ndarray, reference: np.ndarray | None) -> np.ndarray:
    if reference is None or not len(reference):
        return np.full(len(similarities), np.nan)
    percentiles = np.searchsorted(reference, similarities, side="right") * (100.0 / len(reference))
    return np.where(np.isnan(similarities), np.nan, percentiles)
