from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest

from embedding_adaptation import identity as module
from embedding_adaptation.embedder.after_processing import AfterProcessing
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.identity import (
    CorpusIdentity,
    TextsIdentity,
    digest_of,
    is_of_older_format,
    labelled_identity,
    tell_of_other_formats,
    text_words,
    texts_in_order,
    training_identity,
    vectors_identity,
    weights_identity,
)

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
        (CorpusIdentity("", 0, "0123456789"), "an unnamed corpus (01234567)"),
    ],
)
def test_a_corpus_is_known_by_its_texts_before_and_after_cleaning(corpus, title):
    assert corpus.title == title
    assert CorpusIdentity.from_dict(corpus.to_dict()) == corpus
    assert corpus.is_of(corpus.clean)
    assert not corpus.is_of("other")


def test_an_unknown_raw_identity_is_that_of_no_texts():
    assert not CorpusIdentity("", 0, "c1").is_of("")


def strategy(**changes):
    template = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
    values = {"name": "a", "template": template, "pooling": "attention_weighted", "layers": (-1,), "attention_layers": (1,)} | changes
    return Strategy(**values)


def vectors(strategy, weights="w", max_length=64, dtype="float32"):
    return vectors_identity(weights, strategy, max_length=max_length, dtype=dtype)


def after(mean=0.5, matrix=None, dimensions=3):
    return AfterProcessing(np.full(3, mean, np.float32), matrix, dimensions)


def test_names_of_strategies_and_templates_decide_nothing():
    renamed = PromptTemplate("eol", strategy().template.pattern)
    assert vectors(strategy(name="b", template=renamed)) == vectors(strategy())
    assert vectors(strategy(template=(renamed,))) == vectors(strategy())
    assert vectors(strategy(after=after())) == vectors(strategy(name="b", after=after()))


@pytest.mark.parametrize(
    "change",
    [
        {"template": PromptTemplate("one_word", "{text}")},
        {"template": PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "', bos=True)},
        {"template": PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "', eos=True)},
        {"template": (PromptTemplate("a", "{text}"), PromptTemplate("b", "{text}!"))},
        {"pooling": "last", "attention_layers": ()},
        {"layers": (-2,)},
        {"layers": (-1, -2)},
        {"normalise": False},
        {"attention_layers": (2,)},
        {"attention_heads": (0,)},
        {"after": after()},
    ],
)
def test_everything_that_changes_a_vector_counts(change):
    assert vectors(strategy(**change)) != vectors(strategy())


def test_weights_length_and_number_format_count():
    assert len({vectors(strategy(), **change) for change in ({}, {"weights": "v"}, {"max_length": 32}, {"dtype": "bfloat16"})}) == 4


def test_after_processing_counts_as_fitted():
    fitted = [
        after(),
        after(mean=0.25),
        after(dimensions=2),
        after(matrix=np.eye(3, dtype=np.float32)),
        after(matrix=np.ones((3, 3), "f4")),
    ]
    assert len({vectors(strategy(after=one)) for one in fitted}) == len(fitted)


def test_values_that_differ_have_different_names_whatever_their_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert len({digest_of({"a": value}) for value in (1, "1", 2, None, [1])}) == 5
    arrays = (np.zeros(4), np.zeros(4, np.float32), np.zeros((2, 2)), np.ones(4))
    assert len({digest_of(array) for array in arrays}) == len(arrays)
    assert digest_of(np.arange(6).reshape(2, 3).T) == digest_of(np.arange(6).reshape(2, 3).T.copy())
    with pytest.raises(TypeError, match=r"cannot compute an identity of .*object"):
        digest_of({"a": object()})


def test_what_earlier_versions_have_named_keeps_its_name():
    # Rewritten candidates, the order of a corpus, and the data that a registered champion was scored on.
    assert digest_of(["rewrite", {"seed": 0, "styles": {"é": "x"}}, 0])[:12] == "aa3c122ac7d5"
    assert texts_in_order(["1", "one", "2", "two"]) == "ebd8132b94840f7f84b8eb22871059d1"
    assert labelled_identity(["one", "zwölf"], ["a", ["b", "c"]]) == "5b3b8afa46940833f01ac4c477b301dd"


def test_order_counts_for_rows():
    assert texts_in_order(TEXTS) != texts_in_order(TEXTS[::-1])
    assert texts_in_order(["ab", "c"]) != texts_in_order(["a", "bc"])


@pytest.mark.parametrize(
    ("identity_of_weights", "older"),
    [("ab" * 32, True), ("1-" + "ab" * 16, True), (weights_identity("ab"), False), ("99-ab", False), ("other", False)],
)
def test_weights_named_by_earlier_versions_are_recognised(identity_of_weights, older):
    assert is_of_older_format(identity_of_weights) is older


def test_a_store_of_another_format_is_told_of_until_todays_is_begun(caplog):
    tell_of_other_formats("store", [], 2)
    tell_of_other_formats("store", ["format-1/a", "format-2/a"], 2)
    assert caplog.messages == []
    tell_of_other_formats("store", ["a/b", "c"], 2)
    assert caplog.messages[0].startswith("store contains data in a format other than 2")


PAIRS = pd.DataFrame({"source_id": ["1", "2"], "other_id": ["", "3"], "source_text": ["a", "b"], "generated_text": ["c", "d"]})
TABLES = {"train": PAIRS, "validation": PAIRS.tail(1), "corpus": pd.DataFrame({"text": ["x"]})}


def training(**changes):
    values = {
        "options": {"steps": 3, "lora": {"alpha": 16}, "matryoshka_dimensions": (8, 4)},
        "weights": "w",
        "strategy": strategy(),
        "reference": strategy(pooling="value_weighted", attention_layers=()),
        "max_length": 64,
        "dtype": "float32",
        "tables": TABLES,
    }
    return training_identity(**(values | changes))


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"steps": 3, "lora": {"alpha": 8}, "matryoshka_dimensions": (8, 4)}},
        {"weights": "v"},
        {"strategy": strategy(normalise=False)},
        {"reference": None},
        {"reference": strategy(pooling="value_weighted", layers=(-2,), attention_layers=())},
        {"max_length": 32},
        {"dtype": "bfloat16"},
        *({"tables": TABLES | {"train": PAIRS.assign(**{column: ["1", "x"]})}} for column in PAIRS),
        {"tables": TABLES | {"train": PAIRS[::-1]}},
        {"tables": TABLES | {"validation": PAIRS.head(1)}},
        {"tables": TABLES | {"corpus": pd.DataFrame({"text": ["y"]})}},
        {"tables": {"train": PAIRS, "validation": PAIRS.tail(1)}},
    ],
)
def test_all_that_training_reads_counts(change):
    assert training(**change) != training()


def test_names_and_the_kind_of_table_do_not_count_for_training():
    renamed = strategy(name="b", pooling="value_weighted", attention_layers=())
    tables = {name: table.to_dict("list") for name, table in TABLES.items()}
    assert training(strategy=strategy(name="b"), reference=renamed, tables=tables) == training()


def test_each_column_is_hashed_once(monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "texts_in_order", lambda texts: hashed.append(list(texts)) or "")
    training(tables={"train": PAIRS, "corpus": pd.DataFrame({"text": ["x"]})})
    assert hashed == [*(PAIRS[column].tolist() for column in PAIRS), ["x"]]
