from __future__ import annotations

import pandas as pd
import pytest

from embedding_adaptation.pipelines.text_clustering.corpus import check_number, count_texts, possible_candidates, smallest_cluster, texts_at
from embedding_adaptation.pipelines.text_clustering.errors import ClusteringError
from embedding_adaptation.texts.stream import TextStream


def stream(texts, rows=3):
    return TextStream.of(pd.DataFrame({"id": [str(n) for n in range(len(texts))], "text": texts}, dtype=str), rows)


def test_a_census_counts_texts_and_distinct_texts_across_pieces():
    texts = ["a", "b", "a", "c", "b", "d", "a", "", "e"]
    census = count_texts(stream(texts))
    assert (census.texts, census.distinct) == (9, 6)
    assert census == count_texts(stream(texts, rows=100))
    assert census.digest != count_texts(stream([*texts[1:], "a"])).digest


def test_texts_are_fetched_by_row_from_any_piece():
    assert texts_at(stream(list("abcdefgh")), [7, 0, 3, 3]) == {0: "a", 3: "d", 7: "h"}


@pytest.mark.parametrize(
    ("distinct", "changes", "message"),
    [
        (1, {}, "there is only 1 distinct text, but clustering needs at least 2"),
        (9, {"clusters": 10}, r"text_clustering\.clusters is 10, but there are only 9 distinct texts; lower it to 9 or less"),
        (18, {}, r"18 distinct texts are too few .* 19 are needed .* set text_clustering\.clusters"),
        (9, {"method": "hdbscan"}, r"9 distinct texts are too few for two clusters of 5; lower text_clustering\.hdbscan\.min_cluster_size"),
    ],
)
def test_too_few_texts_are_said_with_option_and_way_out(make_options, distinct, changes, message):
    with pytest.raises(ClusteringError, match=message):
        check_number(distinct, make_options(stability={"candidates": [3, 2, 8]}, **changes))


@pytest.mark.parametrize(("distinct", "changes"), [(9, {"clusters": 9}), (19, {}), (10, {"method": "hdbscan"})])
def test_just_enough_texts_are_enough(make_options, distinct, changes):
    check_number(distinct, make_options(stability={"candidates": [3, 2, 8]}, **changes))


def test_equal_vectors_of_different_texts_name_the_strategy(make_options):
    with pytest.raises(ClusteringError, match=r"all vectors are equal.*text_clustering\.strategies"):
        check_number(1, make_options(), "vector")


def test_candidates_leave_enough_texts_a_cluster(make_options):
    options = make_options(stability={"candidates": [2, 4, 8, 400], "max_texts": 200})
    assert possible_candidates(30, options) == [2, 4]
    assert possible_candidates(100_000, options) == [2, 4, 8]


def test_the_smallest_cluster_follows_the_texts(make_options):
    options = make_options(method="hdbscan")
    assert [smallest_cluster(count, options) for count in (20, 3000, 10_000_000)] == [5, 30, 200]
    assert smallest_cluster(3000, make_options(method="hdbscan", hdbscan={"min_cluster_size": 7})) == 7
