from __future__ import annotations

import logging

import pandas as pd
import pytest

from embedding_adaptation import paths
from embedding_adaptation.pipelines.data_augmentation.generators.given import check, generate
from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, GenerationError, text_key
from embedding_adaptation.pipelines.data_augmentation.options import GivenOptions

ROWS = [("the bus is late", "my bus has not come"), ("a light is out", "broken street lamp"), ("NA", "not applicable")]


def write(tmp_path, suffix, rows=ROWS, columns=("text", "positive")):
    path = tmp_path / f"pairs{suffix}"
    frame = pd.DataFrame(rows, columns=list(columns))
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    return str(path)


def context(seed=0):
    return Context(seed, None, None, None, progress=False)


def unread():
    raise AssertionError
    yield


def made(path, seed=0, **changes):
    return list(generate(unread(), GivenOptions(path=path, **changes), context(seed)))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_pairs_in_order_without_reading_the_corpus(tmp_path, suffix):
    path = write(tmp_path, suffix)
    check(GivenOptions(path=path), None)
    assert made(path) == [
        Candidate(text_key(first, second), f"given:{number}", first, second) for number, (first, second) in enumerate(ROWS, start=1)
    ]


def test_a_relative_path_starts_at_the_projects_root(tmp_path, monkeypatch):
    path = write(tmp_path, ".csv")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv(paths._ROOT, str(tmp_path))
    monkeypatch.chdir(tmp_path / "notebooks")
    assert made("pairs.csv") == made(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert made("~/pairs.csv") == made(path)


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path, ".csv", columns=("question", "answer"))
    (first, *_) = made(path, first_column="answer", second_column="question")
    assert (first.source_text, first.generated_text) == ROWS[0][::-1]


def test_encoding_and_separator_can_be_given(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes("text:positive\nžluť:kůň\n".encode("cp1250"))
    assert [(pair.source_text, pair.generated_text) for pair in made(str(path), encoding="cp1250", separator=":")] == [("žluť", "kůň")]


def test_rows_without_a_text_are_left_out_with_a_warning_and_keep_the_numbers(tmp_path, caplog):
    path = write(tmp_path, ".parquet", [("one", None), ROWS[0], ("  ", "two"), ROWS[1]])
    with caplog.at_level(logging.WARNING):
        assert [candidate.source_id for candidate in made(path)] == ["given:2", "given:4"]
    assert "leaving out 2 of 4 rows, which lack one of the two texts (row 1, 3)" in caplog.text


def test_equal_pairs_are_taken_once(tmp_path):
    assert [candidate.source_id for candidate in made(write(tmp_path, ".csv", [ROWS[0], ROWS[1], ROWS[0]]))] == ["given:1", "given:2"]


def test_a_weight_takes_a_share_of_pairs_wherever_they_stand(tmp_path):
    rows = [(f"text {number}", f"other {number}") for number in range(400)]
    path = write(tmp_path, ".csv", rows)
    half = {candidate.key for candidate in made(path, weight=0.5)}
    assert 150 < len(half) < 250
    assert half < {candidate.key for candidate in made(path, weight=0.8)}
    assert half != {candidate.key for candidate in made(path, seed=1, weight=0.5)}
    assert len(made(path, weight=3.0)) == 400
    assert half == {candidate.key for candidate in made(write(tmp_path, ".csv", rows[::-1]), weight=0.5)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "given pairs: .*none.csv does not exist; check the path"),
        ("p.txt", b"one", "has no column 'positive', only 'text'"),
        ("p.docx", b"one", r"ends in '.docx'; choose from .*\.xlsx$"),
        ("p.csv", b"", "has no rows; give a file with at least one pair"),
        ("p.csv", b"text,positive\n", "has no rows"),
        ("p.csv", b"text,other\na,b\n", r"has no column 'positive', only 'text', 'other'; rename one, or set .*given\.second_column"),
        ("p.csv", b"a,positive\na,b\n", r"has no column 'text', only 'a', 'positive'; rename one, or set .*given\.first_column"),
        ("p.csv", b"text,positive\na,\n,b\n", "has no row with a text in both 'text' and 'positive'"),
        ("p.csv", b"text,positive\na,\xff\n", "is not UTF-8: byte 0xff in line 2 .*specify its encoding"),
        ("p.csv", b"text,positive\na,b\nc,d,e\n", r"row 2 \(line 3\) has 3 fields, the header 2"),
        (
            "p.jsonl",
            b'{"text": "a", "positive": "b"}\n{"text": "a", "positive": ["b", "c"]}\n',
            r"row 2 \(line 2\): column 'positive' holds a list",
        ),
        ("p.jsonl", b"{\n", "line 1 is not JSON"),
        ("p.parquet", b"PAR", "is not a parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained_early(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for attempt in (lambda: check(GivenOptions(path=str(path)), None), lambda: made(str(path))):
        with pytest.raises(GenerationError, match=message):
            attempt()
