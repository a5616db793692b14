from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from embedding_adaptation.texts import near_duplicates
from embedding_adaptation.texts.near_duplicates import NearDuplicates, bands, minhash, shingle_hashes

THRESHOLD = 0.8


def words(count, seed):
    rng = random.Random(seed)
    return ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(count)]


def families(count, seed=0):
    """Texts, some with a few words changed from an earlier one."""
    rng = random.Random(seed)
    texts = []
    for number in range(count):
        text = words(30, f"{seed}/{number}")
        if texts and rng.random() < 0.6:
            text = rng.choice(texts).split()
            for _ in range(rng.choice((1, 1, 2, 3, 8))):
                text[rng.randrange(len(text))] = words(1, rng.random())[0]
        texts.append(" ".join(text))
    return texts


def shingles(text):
    return {text.lower()[start : start + 5] for start in range(max(1, len(text) - 4))}


def jaccard(one, two):
    return len(shingles(one) & shingles(two)) / len(shingles(one) | shingles(two))


def find(folder, texts, threshold=THRESHOLD, skip=()):
    search = NearDuplicates(folder, threshold)
    for text in texts:
        search.add(text)
    return search.find(np.isin(np.arange(len(texts)), list(skip))).tolist()


def greedy(texts, threshold):
    """The slow way: the same signatures, every text against every earlier kept one that shares a band."""
    count, rows = bands(threshold)
    values = minhash(texts)
    cut = values[:, : count * rows].reshape(len(texts), count, rows)
    kept, like = [], []
    for row in range(len(texts)):
        others = [other for other in kept if (cut[other] == cut[row]).all(axis=1).any()]
        agreement = [((values[other] & 255) == (values[row] & 255)).mean() for other in others]
        best = int(np.argmax(agreement)) if others else 0
        if others and (agreement[best] - 1 / 256) / (1 - 1 / 256) > threshold:
            like.append(others[best])
        else:
            kept.append(row)
            like.append(-1)
    return like


def test_signatures_are_those_of_datasketch():
    from datasketch import MinHash

    texts = ["the bus is late", "ab", "", "公交车今天又晚点了", *families(20)]
    hashes, counts = shingle_hashes(texts)
    split = np.split(hashes, np.cumsum(counts)[:-1])
    slow = MinHash.bulk([values.tolist() for values in split], num_perm=near_duplicates.PERMUTATIONS, hashfunc=int)
    np.testing.assert_array_equal(minhash(texts), [sketch.hashvalues for sketch in slow])


def test_shingles_are_the_character_5_grams_of_each_text_in_lower_case():
    alone = [set(shingle_hashes([text])[0].tolist()) for text in ("abcde", "bcdef", "cdefg")]
    hashes, counts = shingle_hashes(["ABCDEFG", "abcde", "ab"])
    assert counts.tolist() == [3, 1, 1]
    assert set(hashes[:3].tolist()) == set.union(*alone)
    assert {int(hashes[3])} == alone[0]


def test_signatures_estimate_the_overlap():
    texts = families(60)
    values = minhash(texts)
    pairs = [(one, two) for one, two in itertools.combinations(range(len(texts)), 2) if jaccard(texts[one], texts[two]) > 0.2]
    errors = [(values[one] == values[two]).mean() - jaccard(texts[one], texts[two]) for one, two in pairs]
    assert len(pairs) > 30
    assert abs(np.mean(errors)) < 0.03
    assert np.abs(errors).max() < 0.2


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8, 0.9, 0.99])
def test_bands_find_pairs_at_the_threshold_with_95_percent(threshold):
    count, rows = bands(threshold)
    assert count * rows <= near_duplicates.PERMUTATIONS
    assert threshold == 0 or 1 - (1 - threshold**rows) ** count >= 0.95


def test_pairs_well_above_the_threshold_are_found_and_pairs_well_below_are_not(tmp_path):
    texts = families(200)
    like = find(tmp_path, texts)
    kept = [row for row, other in enumerate(like) if other < 0]
    sets = [shingles(text) for text in texts]
    nearest = [
        max((len(sets[row] & sets[other]) / len(sets[row] | sets[other]) for other in kept if other < row), default=0.0)
        for row in range(len(texts))
    ]
    above = [row for row, similarity in enumerate(nearest) if similarity > 0.88]
    below = [row for row, similarity in enumerate(nearest) if similarity < 0.65]
    assert len(above) > 10
    assert len(below) > 50
    assert all(like[row] >= 0 for row in above)
    assert all(like[row] < 0 for row in below)


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("block", [7, 2**14])
def test_the_search_is_greedy_in_the_order_of_the_texts(tmp_path, monkeypatch, threshold, block):
    monkeypatch.setattr(near_duplicates, "_BLOCK", block)
    monkeypatch.setattr(near_duplicates, "_BATCH", 500)
    texts = families(150, seed=1)
    like = find(tmp_path, texts, threshold)
    assert like == greedy(texts, threshold)
    assert sum(other >= 0 for other in like) > 10


def test_the_ends_of_a_chain_stay(tmp_path):
    one, two = "".join(words(60, 0)), "".join(words(60, 1))
    chain = [two[:length] + one[length:200] for length in (0, 15, 30)]
    assert jaccard(chain[0], chain[1]) > THRESHOLD
    assert jaccard(chain[1], chain[2]) > THRESHOLD
    assert jaccard(chain[0], chain[2]) < THRESHOLD - 0.05
    assert find(tmp_path, chain) == [-1, 0, -1]


def test_texts_that_are_left_out_already_are_like_nothing(tmp_path):
    texts = ["the bus into town is late again", "the bus into town is late again!", "the bus into town is late again!!"]
    assert find(tmp_path, texts, 0.5, skip=[0]) == [-1, -1, 1]


def test_of_many_texts_that_are_alike_the_first_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_MOST_CANDIDATES", 2)
    text = " ".join(words(60, 0))
    assert find(tmp_path, [f"{text}{end}" for end in "abcdefghij"]) == [-1] + 9 * [0]


def test_no_texts_have_no_near_duplicates(tmp_path):
    assert find(tmp_path, []) == []
