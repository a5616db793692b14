from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from embedding_adaptation.pipelines.strategy_selection.families import COLUMNS, FamilyVectors, family_table, family_vectors
from embedding_adaptation.pipelines.strategy_selection.nodes import rank_families
from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions
from embedding_adaptation.texts.stream import TextStream
from embedding_adaptation.vectors.words import tfidf_vectors

RANDOM = np.random.default_rng(0)
WORDS = ["bus", "house", "water", "street", "garden", "school", "council", "letter", "library"]
TEXTS = [f"{a} the {b} of {c} will come over" for a in WORDS for b in WORDS[:3] for c in WORDS[3:5]]
TEMPLATES = {
    "bare": "{text}",
    "one_word": 'This sentence: "{text}" means in one word: "',
    "about": 'This sentence: "{text}" is about: "',
    "says": 'This sentence: "{text}" says: "',
    "topic": 'This sentence: "{text}" has the topic: "',
}
FAMILIES = {
    "one": {"templates": ["one_word", "about"], "layers": [-1], "after": [{}, {"centre": True}]},
    "two": {"templates": ["one_word", "says"], "layers": [[-1, -2]]},
}


def options(**changes):
    values = {"families": FAMILIES, "family_references": ["bare", "topic"], "max_texts": 40, "criteria": ["silhouette"], "seed": 0}
    return SelectionOptions.model_validate(values | changes)


def test_vectors_of_a_family_are_those_of_the_embedder(tiny_embedder, embedder_options):
    chosen, embedder = options(), embedder_options(templates=TEMPLATES)
    vectors = family_vectors(tiny_embedder, TEXTS, chosen, embedder)
    assert set(vectors.candidates) == {"one.-1", "one.-1.centre", "two.-1+-2.centre0.7"}
    assert len(vectors.references) == 2 * 3
    for strategies in chosen.candidates.values():
        for name, strategy in strategies.items():
            concatenated = embedder.strategy(name, strategy)
            if strategy.after.title:
                concatenated = tiny_embedder.fit(TEXTS, concatenated, strategy.after.steps, progress=False)
            alone = dataclasses.replace(concatenated, name="alone")
            np.testing.assert_allclose(vectors.candidates[name], tiny_embedder.encode(TEXTS, alone, progress=False), atol=1e-4)


def known(**changes):
    """Words that know the right neighbours, templates that know the wrong ones, and a family for each."""
    right, wrong = tfidf_vectors(TEXTS, 128, 0), RANDOM.normal(size=(len(TEXTS), 16)).astype(np.float32)
    noise = RANDOM.normal(size=right.shape).astype(np.float32)
    candidates = {"one.-1": right + 0.05 * noise, "one.-1.centre": noise, "two.-1+-2.centre0.7": wrong}
    return FamilyVectors(candidates, {"topic": wrong} | changes)


def test_the_family_that_outsiders_agree_with_is_first():
    by_words = family_table(known(), TEXTS, options())
    assert by_words.columns.tolist() == list(COLUMNS)
    assert by_words["strategy"].iloc[0] == "one.-1"
    assert by_words.loc[0, ["behind", "standard_error"]].tolist() == [0.0, 0.0]
    assert by_words["word_agreement"].is_monotonic_decreasing
    np.testing.assert_allclose(by_words["behind"], by_words["word_agreement"].iloc[0] - by_words["word_agreement"], atol=1e-12)
    by_templates = family_table(known(), TEXTS, options(family_judge="templates"))
    assert by_templates["strategy"].iloc[0] == "two.-1+-2.centre0.7"
    assert by_templates["template_agreement"].iloc[0] == 1.0


def test_without_references_only_words_judge():
    table = family_table(FamilyVectors(known().candidates, {}), TEXTS, options(family_references=[]))
    assert table["template_agreement"].isna().all()
    assert table["strategy"].iloc[0] == "one.-1"


def corpus():
    import pandas as pd

    return TextStream.of(pd.DataFrame({"id": [str(n) for n in range(len(TEXTS))], "text": TEXTS}))


def test_the_best_family_is_logged(tiny_weights, embedder_options, caplog):
    with caplog.at_level(logging.INFO):
        table = rank_families(tiny_weights, corpus(), options(), embedder_options(templates=TEMPLATES))
    assert sorted(table["family"]) == ["one", "one", "two"]
    best, other = table["family"].iloc[0], ({"one", "two"} - {table["family"].iloc[0]}).pop()
    assert f"best family of templates for these texts: {best} ({table['templates'].iloc[0]}; layers" in caplog.text
    assert f"the next best family is {other}, behind by " in caplog.text


def test_without_families_the_table_is_empty_and_no_model_is_loaded(embedder_options):
    table = rank_families(None, corpus(), options(families=None), embedder_options())
    assert table.empty
    assert table.columns.tolist() == list(COLUMNS)


def test_unknown_templates_are_refused_before_any_work(embedder_options):
    with pytest.raises(ValueError, match=r"strategy_selection\.families: unknown template 'about'"):
        rank_families(None, corpus(), options(), embedder_options())
