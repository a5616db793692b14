from __future__ import annotations

import json

import pytest

from embedding_adaptation.pages.long_texts import common_limit, cut


def test_a_text_is_cut_visibly_or_not_at_all():
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert len(cut("x" * 5000)) == 1000


@pytest.mark.parametrize("budget", [1, 10, 99, 100, 1000])
@pytest.mark.parametrize("lengths", [[10], [1, 2, 300], [50] * 7, [0, 0, 5], [200, 10, 30, 1]])
def test_the_limit_is_the_largest_for_which_all_texts_fit(lengths, budget):
    texts = ["x" * length for length in lengths]
    limit = common_limit(texts, budget)

    def total(limit):
        return sum(min(length, limit) for length in lengths)

    if limit is None:
        assert sum(lengths) <= budget
    else:
        assert total(limit) <= budget or limit == 1
        assert total(limit + 1) > budget


def test_letters_that_a_script_spells_out_count_as_what_they_take():
    texts = ["日本語" * 1000] * 10
    limit = common_limit(texts, 60_000)
    assert limit == 1000
    assert sum(len(json.dumps(text[:limit])) - 2 for text in texts) == 60_000


def test_no_texts_need_no_limit():
    assert common_limit([], 10) is None
