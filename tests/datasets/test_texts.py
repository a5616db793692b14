from __future__ import annotations

import json
import logging

import pandas as pd
import pytest
from kedro.io.core import DatasetError

from embedding_adaptation.datasets import texts as texts_module
from embedding_adaptation.datasets.texts import TextsDataset, TextStreamDataset


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'text,label\n"one, two",a\nthree,b\n'),
        ("t.tsv", "text\tlabel\none, two\ta\nthree\tb\n"),
        ("t.jsonl", '{"text": "one, two", "label": "a"}\n\n{"text": "three", "label": "b"}\n'),
    ],
)
def test_text_formats_load_alike(tmp_path, name, content):
    frame = TextsDataset(filepath=write(tmp_path, name, content), label_column="label").load()
    assert frame.to_dict("list") == {"id": ["1", "2"], "text": ["one, two", "three"], "label": ["a", "b"]}


def test_texts_know_the_name_of_their_file_and_no_more_of_its_path(tmp_path):
    path = write(tmp_path, "mine.txt", "one\ntwo\n")
    assert TextsDataset(filepath=path).load().attrs == {"name": "mine.txt"}
    assert TextStreamDataset(filepath=path).load().name == "mine.txt"


@pytest.mark.parametrize("kind", [TextsDataset, TextStreamDataset])
def test_the_identity_of_texts_is_that_of_the_file_and_of_how_it_is_read(tmp_path, kind):
    content = "text,label,key\none,a,1\ntwo,b,2\n"
    (tmp_path / "moved").mkdir()
    path, moved = write(tmp_path, "t.csv", content), write(tmp_path / "moved", "t.csv", content)
    first = kind(filepath=path).content_identity()
    assert kind(filepath=moved).content_identity() == first
    others = [
        kind(filepath=write(tmp_path, "u.csv", content)),
        kind(filepath=write(tmp_path / "moved", "t.csv", content.replace("two", "too"))),
        kind(filepath=path, text_column="label"),
        kind(filepath=path, label_column="label"),
        kind(filepath=path, id_column="key"),
        kind(filepath=path, encoding="cp1252"),
        kind(filepath=path, separator="comma"),
    ]
    assert len({first, *(other.content_identity() for other in others)}) == len(others) + 1


def test_parquet_loads_with_other_columns_and_numbers_as_labels(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"key": [7, 8], "body": ["one", "two"], "topic": [0, 1]}).to_parquet(path)
    frame = TextsDataset(filepath=str(path), text_column="body", label_column="topic", id_column="key").load()
    assert frame.to_dict("list") == {"id": ["7", "8"], "text": ["one", "two"], "label": ["0", "1"]}


def test_a_line_is_a_text_whatever_characters_are_in_it(tmp_path):
    frame = TextsDataset(filepath=write(tmp_path, "t.txt", "\ufeffone\u2028still one\r\nNA\r\n")).load()
    assert frame["text"].tolist() == ["one\u2028still one", "NA"]


def test_rows_without_text_are_left_out_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        frame = TextsDataset(filepath=write(tmp_path, "t.txt", "one\n\n  \nfour\n")).load()
    assert frame["id"].tolist() == ["1", "4"]
    assert "2 of 4 rows have no text and are left out (row 2, 3)" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "text,label\n", "has no rows"),
        ("t.csv", "", "has no rows"),
        ("t.txt", "", "has no rows"),
        ("t.csv", "body,label\na,b\n", "no column 'text' for the texts, only 'body', 'label'; rename one, or set text_column"),
        ("t.csv", "text,topic\na,b\n", "no column 'label' for the labels"),
        ("t.csv", "text,label\n,a\n ,b\n", "column 'text' is empty in all 2 rows"),
        ("t.csv", "text,label\none,a\ntwo,\nthree,b\n", r"no label in 1 of 3 rows \(row 2\); label or remove these rows"),
        ("t.csv", "text,label\none,a\ntwo,a\n", "contains only one class, 'a'"),
        ("t.csv", "text,label\none,a\ntwo,b,c\n", r"row 2 \(line 3\) has 3 fields, the header 2; quote texts"),
        ("t.jsonl", '{"text": "one", "label": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("t.jsonl", '["one"]\n', r"row 1 \(line 1\) is a list, not an object"),
        ("t.csv", "text,label\none,a\nna\xefve,b\n".encode("latin-1"), "not UTF-8: byte 0xef in line 3 .*specify its encoding"),
        ("t.csv", "text,text,label\none,two,a\n", "has 2 columns named 'text'"),
        ("t.jsonl", '{"text": "one", "label": ["a"]}\n', r"row 1 \(line 1\): column 'label' holds a list"),
        ("t.csv", "text,label\none\0,a\n", "NUL characters, the first in line 2: it is probably UTF-16"),
        ("t.parquet", "no parquet", "is not a parquet file"),
        ("t.docx", "text", "ends in '.docx'; choose from .txt, .csv"),
    ],
)
def test_bad_input_names_the_file_the_place_and_the_remedy(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(DatasetError, match=message) as caught:
        TextsDataset(filepath=path, label_column=None if name.endswith("txt") else "label").check_input()
    assert name in str(caught.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(DatasetError, match="does not exist; check the path"):
        TextsDataset(filepath=str(tmp_path / "none.csv")).load()
    with pytest.raises(DatasetError, match="is a folder; give one of the files in it"):
        TextsDataset(filepath=str(tmp_path)).load()


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_ids_are_kept_as_written_and_must_be_there_and_unique(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(texts_module, "_READ_AT_ONCE", limit)
    monkeypatch.setattr(texts_module, "_ROWS", 2)

    def ids(*values):
        rows = [{"text": f"text {number}", "id": value} for number, value in enumerate(values)]
        path = write(
            tmp_path, "t.jsonl", "".join(json.dumps({key: row[key] for key in row if row[key] is not None}) + "\n" for row in rows)
        )
        return TextStreamDataset(filepath=path, id_column="id").load().table()["id"].tolist()

    assert ids(1344800117571260417, 1344800117571260418, "x", 7.5) == ["1344800117571260417", "1344800117571260418", "x", "7.5"]
    with pytest.raises(DatasetError, match=r"column 'id' has no id in 1 of [24] rows \(row 3\); fill the gaps"):
        ids(1, 2, None, 4)
    with pytest.raises(DatasetError, match="column 'id' contains '2' more than once; make the ids unique"):
        ids(1, 2, 3, 4, 5, 6, 2)


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_a_column_may_be_called_by_a_number(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(texts_module, "_READ_AT_ONCE", limit)
    path = write(tmp_path, "t.csv", "0,2023\none,a\ntwo,b\n")
    assert TextStreamDataset(filepath=path, text_column=0).load().table()["text"].tolist() == ["one", "two"]
    assert TextsDataset(filepath=path, text_column=0, label_column=2023).load()["label"].tolist() == ["a", "b"]
    assert TextsDataset(filepath=path, text_column="0", label_column=[2023]).load()["label"].tolist() == ["a", "b"]
    for wrong in ({"text_column": True}, {"label_column": False}, {"label_column": [True]}, {"id_column": 1.5}):
        with pytest.raises(DatasetError, match=rf"{next(iter(wrong))} is .*, which YAML reads as .*; put the name in quotes"):
            TextsDataset(filepath=path, **wrong)


def test_separator_and_encoding_are_found_or_given(tmp_path):
    path = write(tmp_path, "t.csv", "Text;Label\nun été; enfin;a\n".replace("; enfin", ", enfin").encode("utf-16"))
    assert TextsDataset(filepath=path).load()["text"].tolist() == ["un été, enfin"]
    path = write(tmp_path, "t.csv", "text:label\nžluť:a\n".encode("cp1250"))
    assert TextsDataset(filepath=path, encoding="cp1250", separator=":").load()["text"].tolist() == ["žluť"]


def test_ids_must_be_unique(tmp_path):
    path = write(tmp_path, "t.csv", "key,text\nx,one\nx,two\n")
    with pytest.raises(DatasetError, match="column 'key' contains 'x' more than once"):
        TextsDataset(filepath=path, id_column="key").load()


def test_other_encodings_are_read_when_named_and_refused_when_unknown(tmp_path):
    path = write(tmp_path, "t.txt", "na\xefve\n".encode("latin-1"))
    assert TextsDataset(filepath=path, encoding="latin-1").load()["text"].tolist() == ["na\xefve"]
    with pytest.raises(DatasetError, match="'klingon', an encoding unknown to Python"):
        TextsDataset(filepath=path, encoding="klingon").load()


def test_raw_texts_are_never_written(tmp_path):
    path = write(tmp_path, "t.txt", "one\n")
    with pytest.raises(DatasetError, match="never written"):
        TextsDataset(filepath=path).save(pd.DataFrame())
    assert TextsDataset(filepath=path).exists()
    assert "t.txt" in str(TextsDataset(filepath=path))


def as_stream(path, **options):
    return TextStreamDataset(filepath=str(path), **options)


STREAMED = {
    "t.txt": "one\n\ntwo words\r\nthree\n  \nfour",
    "t.csv": 'text,label\none,a\n"two, with comma",b\n,c\n"line\nbreak",d\n',
    "t.tsv": "text\tlabel\none\ta\n\tb\ntwo\tc\n",
    "t.jsonl": '{"text": "one"}\n\n{"text": null}\n{"text": "two"}\n',
}


@pytest.mark.parametrize("name", [*STREAMED, "t.parquet"])
def test_a_large_file_is_read_in_pieces_with_the_same_result(tmp_path, monkeypatch, name):
    path = tmp_path / name
    if name == "t.parquet":
        pd.DataFrame({"text": ["one", None, "two"], "other": [1, 2, 3]}).to_parquet(path)
    else:
        path.write_bytes(b"\xef\xbb\xbf" * (name == "t.txt") + STREAMED[name].encode())
    whole = as_stream(path).load().table()
    monkeypatch.setattr(texts_module, "_READ_AT_ONCE", 0)
    monkeypatch.setattr(texts_module, "_ROWS", 2)
    stream = as_stream(path).load()
    for _ in range(2):
        pd.testing.assert_frame_equal(stream.table(), whole, check_dtype=False)
    assert len(list(stream.pieces())) > 1 or len(whole) <= 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"title,label\none,a\n", "has no column 'text' for the texts, only 'title', 'label'"),
        ("t.txt", b"one\n\xe9t\xe9\n", "is not UTF-8: byte 0xe9 in line 2 .*specify its encoding"),
        ("t.csv", b"text,label\none,a\ntwo,b\nthree\n", r"row 3 \(line 4\) has 1 field, the header 2"),
        ("t.csv", b'text,label\none,a\ntwo,b\n"three,c\n', r"row 3 \(line 4\) opens a quote that is never closed"),
        ("t.csv", b"text\n", "has no rows"),
        ("t.jsonl", b'{"text": "one"}\n{"text": \n', "line 2 is not JSON"),
        ("t.jsonl", b'{"text": "one"}\n{"text": "two"}\n{"text": {"a": 1}}\n', r"row 3 \(line 3\): column 'text' holds an object"),
        ("t.txt", b"\n \n", "column 'text' is empty in all 2 rows"),
        ("t.docx", b"x", "ends in '.docx'"),
        ("t.parquet", b"no parquet", "is not a parquet file"),
    ],
)
def test_a_large_file_that_cannot_be_used_says_so(tmp_path, monkeypatch, name, content, message):
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(texts_module, "_READ_AT_ONCE", 0)
    with pytest.raises(DatasetError, match=message):
        as_stream(tmp_path / name).load().table()


def test_a_small_file_is_checked_in_full_at_once(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"one\n" * 100 + b"\xe9\n")
    with pytest.raises(DatasetError, match="byte 0xe9 in line 101"):
        as_stream(tmp_path / "t.txt").check_input()
    with pytest.raises(DatasetError, match="does not exist"):
        as_stream(tmp_path / "none.txt").check_input()


def test_several_label_columns_are_the_levels_of_a_hierarchy(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,area,product,part\none,home,oven,door\ntwo,home,oven,\nthree,work,,\nfour,work,desk,leg\n")
    frame = TextsDataset(filepath=str(path), label_column=["area", "product", "part"]).load()
    assert frame["label"].tolist() == ["home", "home", "work", "work"]
    assert frame["labels"].tolist() == [["home", "oven", "door"], ["home", "oven"], ["work"], ["work", "desk", "leg"]]
    assert frame.columns.tolist() == ["id", "text", "label", "labels"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["area", "none"], "has no column 'none' for the labels"),
        (["product", "area"], r"column 'product' has no label in 1 of 4 rows"),
        (["area", "part", "product"], r"column 'product' has a label where 'part', the level above, has none \(row 2\)"),
        (["area", "same"], "column 'same' contains only one class, 'x'"),
    ],
)
def test_a_hierarchy_with_gaps_is_refused(tmp_path, columns, message):
    path = tmp_path / "x.csv"
    path.write_text("text,area,product,part,same\none,home,oven,door,x\ntwo,home,oven,,x\nthree,work,,,x\nfour,work,desk,leg,x\n")
    with pytest.raises(DatasetError, match=message):
        TextsDataset(filepath=str(path), label_column=columns).load()
