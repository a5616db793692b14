from __future__ import annotations

import random

import numpy as np
import pytest

from embedding_adaptation.identity import CorpusIdentity, TextsIdentity, text_words

TEXTS = [f"text {number}" for number in range(50)] + ["", "é", "e\u0301", "\ud800", "text 3"]


def identity(texts):
    return TextsIdentity(texts).hexdigest()


def test_order_does_not_count_and_every_text_does():
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    assert identity(shuffled) == identity(TEXTS)
    for changed in (TEXTS[1:], [*TEXTS, "text 3"], [*TEXTS[1:], "text 0 "], [*TEXTS, ""], []):
        assert identity(changed) != identity(TEXTS)


def test_parts_can_be_added_up_whatever_adds_them():
    words = np.array([text_words(text) for text in TEXTS], np.uint64)
    parts = TextsIdentity(TEXTS[:20])
    parts.add_words(words[20:].sum(axis=0, dtype=np.uint64))
    assert parts.hexdigest() == identity(TEXTS)


def test_the_identity_is_that_of_other_versions_and_machines():
    assert identity(["one", "two"]) == "ca5fa7cf46c10f9e36dc068b7f3136e7"


@pytest.mark.parametrize(
    ("corpus", "title"),
    [
        (CorpusIdentity("mine.txt", 1203, "c1", "a1"), "mine.txt (1,203 clean texts)"),
        (CorpusIdentity("", 0, "0123456789"), "a corpus without a name (01234567)"),
    ],
)
def test_a_corpus_is_known_by_its_texts_before_and_after_cleaning(corpus, title):
    assert corpus.title == title
    assert CorpusIdentity.from_dict(corpus.to_dict()) == corpus
    assert corpus.is_of(corpus.clean)
    assert not corpus.is_of("other")


def test_an_unknown_raw_identity_is_that_of_no_texts():
    assert not CorpusIdentity("", 0, "c1").is_of("")
