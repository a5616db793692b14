from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import logging
import tracemalloc

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_adaptation.texts import characters, reading, separated
from embedding_adaptation.texts.errors import MissingColumnError, TextFileError
from embedding_adaptation.texts.reading import TextFile, match_column

ROWS = [("one, two", "a"), ('say "three"', "b"), ("four\nfive", "a"), ("NA", "b")]


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def records(path, columns=("text", "label"), **options):
    frame = TextFile(path, **options).read(list(columns))
    return [tuple(None if pd.isna(value) else value for value in row) for row in frame.itertuples(index=False)]


def as_csv(frame, separator=","):
    return frame.to_csv(index=False, sep=separator).encode()


def as_xlsx(tmp_path, rows, *, sheets=1, hidden=False):
    """A workbook in its plainest form, with inline strings."""
    import zipfile
    from xml.sax.saxutils import escape

    def cell(value, place):
        if value is None:
            return ""
        if isinstance(value, dt.date):
            return f'<c r="{place}" s="1"><v>{(value - dt.date(1899, 12, 30)).days}</v></c>'
        if isinstance(value, int | float):
            return f'<c r="{place}"><v>{value}</v></c>'
        return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'

    body = "".join(
        f'<row r="{number}">' + "".join(cell(value, f"{chr(65 + column)}{number}") for column, value in enumerate(row)) + "</row>"
        for number, row in enumerate(rows, start=1)
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    names = range(1, sheets + 1)
    state = ' state="hidden"' if hidden else ""
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="application/xml"/>'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships">'
        f'<Relationship Id="r1" Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>'
        + "".join(f'<sheet name="Sheet{n}" sheetId="{n}"{state if n == 1 else ""} r:id="s{n}"/>' for n in names)
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        + "".join(f'<Relationship Id="s{n}" Type="{relations}/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in names)
        + f'<Relationship Id="st" Type="{relations}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs count="2"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/>'
        "</cellXfs></styleSheet>",
        **{f"xl/worksheets/sheet{n}.xml": f'<worksheet xmlns="{main}"><sheetData>{body}</sheetData></worksheet>' for n in names},
    }
    path = tmp_path / "t.xlsx"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in parts.items():
            file.writestr(name, '<?xml version="1.0" encoding="UTF-8"?>' + text)
    return path


FRAME = pd.DataFrame(ROWS, columns=["text", "label"])
FORMATS = {
    "t.csv": as_csv(FRAME),
    "T.CSV": as_csv(FRAME),
    "t.tsv": as_csv(FRAME, "\t"),
    "semicolons.csv": as_csv(FRAME, ";"),
    "t.jsonl": FRAME.to_json(orient="records", lines=True).encode(),
    "t.json": FRAME.to_json(orient="records", indent=2).encode(),
    "t.csv.gz": gzip.compress(as_csv(FRAME)),
    "t.jsonl.zst": bytes(pa.compress(FRAME.to_json(orient="records", lines=True).encode(), "zstd")),
    "t.json.gz": gzip.compress(FRAME.to_json(orient="records").encode("utf-16")),
}


@pytest.mark.parametrize("name", [*FORMATS, "t.parquet", "t.xlsx"])
@pytest.mark.parametrize("rows", [2, 20_000])
def test_every_format_gives_the_same_texts_in_pieces_of_any_size(tmp_path, name, rows):
    path = tmp_path / name
    if name == "t.parquet":
        FRAME.to_parquet(path)
    elif name == "t.xlsx":
        path = as_xlsx(tmp_path, [("text", "label"), *ROWS])
    else:
        path.write_bytes(FORMATS[name])
    file = TextFile(path, rows=rows)
    pieces = list(file.pieces(["label", "text"]))
    assert [tuple(row) for piece in pieces for row in piece[["text", "label"]].to_numpy().tolist()] == ROWS
    assert len(pieces) == (2 if rows == 2 else 1)
    assert file.read(["text"])["text"].tolist() == [text for text, _ in ROWS]


def test_a_piece_is_bounded_by_its_characters_too(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHARACTERS", 1000)
    monkeypatch.setattr(reading, "_ROWS_WEIGHED", 1)
    frame = pd.DataFrame({"text": ["x" * 400] * 10})
    frame.to_parquet(tmp_path / "t.parquet")
    for path in (write(tmp_path, as_csv(frame)), tmp_path / "t.parquet"):
        sizes = [len(piece) for piece in TextFile(path).pieces(["text"])]
        assert sum(sizes) == 10
        assert max(sizes) <= 3


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.txt", "t.csv.gz"])
def test_the_memory_of_a_stream_does_not_grow_with_the_file(tmp_path, name, monkeypatch):
    for module, setting in ((characters, "_BLOCK"), (separated, "_SAMPLE"), (reading, "_JSON_BLOCK")):
        monkeypatch.setattr(module, setting, 1 << 14)
    text = "words of a text " * 10
    line = {"t.jsonl": json.dumps({"text": text}) + "\n", "t.json": json.dumps({"text": text}) + ",\n"}.get(name, text + "\n")
    body = (
        {"t.json": "[", "t.csv": "text\n", "t.csv.gz": "text\n"}.get(name, "")
        + line * 8_000
        + ('{"text": "x"}]' if name == "t.json" else "")
    )
    path = write(tmp_path, gzip.compress(body.encode(), 1) if name.endswith("gz") else body, name)
    length = len(body)
    del body
    file = TextFile(path, rows=200)
    next(file.pieces(["text"]))  # imports
    tracemalloc.start()
    for _ in file.pieces(["text"]):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < length / 3, f"{peak:,} bytes for a file of {length:,}"


def test_columns_are_found_regardless_of_case_where_that_is_unambiguous():
    assert match_column(["Text", "text", "TEXT"], "text") == 1
    assert match_column(["id", " Label "], "label") == 1
    with pytest.raises(TextFileError, match=r"has no column 'text', but 'Text' and 'TEXT'; name one of them exactly"):
        match_column(["Text", "TEXT"], "text")
    with pytest.raises(TextFileError, match="has 2 columns named 'text'; give each column a name of its own"):
        match_column(["text", "Text", "text"], "text")
    with pytest.raises(MissingColumnError, match="has no column 'text', only 'a', 'b'") as caught:
        match_column(["a", "b"], "text")
    assert (caught.value.column, caught.value.available) == ("text", ["a", "b"])


def test_columns_of_one_name_are_told_and_those_nobody_asks_for_do_no_harm(tmp_path):
    table = pa.table([pa.array(["one"]), pa.array(["a"]), pa.array(["two"])], names=["text", "label", "text"])
    pq.write_table(table, tmp_path / "t.parquet")
    for path in (tmp_path / "t.parquet", write(tmp_path, "text,label,text\none,a,two\n")):
        with pytest.raises(TextFileError, match=rf"{path.name} has 2 columns named 'text'"):
            records(path)
        assert records(path, ["label"]) == [("a",)]
    with pytest.raises(TextFileError, match=r"line 1 has 2 values named 'text' in one object"):
        records(write(tmp_path, '{"text": "one", "text": "two"}\n', "t.jsonl"), ["text"])


def test_what_nobody_asks_for_may_be_of_any_kind(tmp_path):
    pd.DataFrame({"text": ["one"], "tags": [["a", "b"]], "raw": [b"\xff"]}).to_parquet(tmp_path / "t.parquet")
    assert records(tmp_path / "t.parquet", ["text"]) == [("one",)]
    assert records(write(tmp_path, '{"text": "one", "meta": {"a": [1]}}', "t.jsonl"), ["text"]) == [("one",)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"text": "one"}\n\n{"text": ["two"]}\n', r"t.jsonl row 2 \(line 3\): column 'text' holds a list"),
        ("t.jsonl", '{"text": {"en": "one"}}', "column 'text' holds an object, not a text"),
        ("t.jsonl", '{"text": "one"}\n"two"\n', r"row 2 \(line 2\) is a text or a number, not an object; write one object per line"),
        ("t.jsonl", '{"text": "one"}\n{"text": \n', "line 2 is not JSON .* write one object per line"),
        ("t.json", '[{"text": "one"}, {"text": ["two"]}]', "row 2: column 'text' holds a list"),
        ("t.json", '[{"text": "one"}, 7]', "row 2 is a text or a number, not an object; write an array of objects"),
        ("t.json", '{"text": "one"}\n{"text": "two"}\n', "begins with '{'; if it has one object per line, rename it to end in .jsonl"),
        ("t.json", '[{"text": "one"} {"text": "two"}]', "no comma after row 1"),
        ("t.json", '[{"text": "one"}, {"text": "tw', "row 2 is not JSON"),
        ("t.json", '[{"text": "one"}', "no comma after row 1"),
        ("t.json", '[{"text": "one"}] []', "continues after its array, at character 19"),
        ("t.json", '[{"text": "one", "text": "two"}]', "row 1 has 2 values named 'text'"),
        ("t.csv", "Text;TEXT\none;two\n", "has no column 'text', but 'Text' and 'TEXT'"),
        ("t.csv", 'text,label\n"one,a\n', r"t.csv row 1 \(line 2\) opens a quote that is never closed"),
        ("t.parquet", "PAR", "is not a parquet file"),
        ("t.xlsx", "PK", "is not an Excel workbook"),
        ("t.parquet.gz", "x", "is a compressed .parquet file; decompress it"),
        ("t.docx", "x", "ends in '.docx'; choose from .txt, .csv, .tsv, .jsonl, .json, .parquet, .xlsx"),
        ("t.gz", "x", "ends in '.gz'; choose from"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_place_and_remedy(tmp_path, name, content, message):
    path = write(tmp_path, content, name)
    for rows in (1, 100):
        with pytest.raises(TextFileError, match=message) as caught:
            records(path, ["text"], rows=rows)
        assert str(path) in str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    path = write(tmp_path, gzip.compress(as_csv(FRAME) * 50)[:-30], "t.csv.gz")
    with pytest.raises(TextFileError, match=r"t.csv.gz cannot be read: .*runcated.*; it may be damaged or incomplete"):
        records(path)
    buffer = io.BytesIO()
    pd.DataFrame({"text": [f"text {number}" for number in range(5000)]}).to_parquet(buffer)
    data = bytearray(buffer.getvalue())
    data[200:2000] = b"\xff" * 1800
    with pytest.raises(TextFileError, match=r"t.parquet (is|cannot be read).* write"):
        records(write(tmp_path, bytes(data), "t.parquet"), ["text"])


def test_numbers_keep_all_their_digits(tmp_path):
    content = '{"text": "one", "id": 1344800117571260417}\n{"text": "two"}\n{"text": "three", "id": 1.50}\n{"text": "four", "id": NaN}\n'
    expected = [("one", "1344800117571260417"), ("two", None), ("three", "1.50"), ("four", None)]
    assert records(write(tmp_path, content, "t.jsonl"), ["text", "id"]) == expected
    frame = pd.DataFrame({"text": ["one", "two"], "id": pd.array([1344800117571260417, None], dtype="Int64")})
    frame.to_parquet(tmp_path / "t.parquet")
    assert records(tmp_path / "t.parquet", ["text", "id"]) == [("one", "1344800117571260417"), ("two", None)]
    # What pandas makes of ids of which one is missing
    frame.astype({"id": float}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TextFileError, match=r"row 1: column 'id' holds 1.3.*e\+18, a number that has lost its last digits"):
        records(tmp_path / "t.parquet", ["text", "id"])


def test_categories_dates_and_bytes_of_parquet_are_texts(tmp_path):
    frame = pd.DataFrame(
        {
            "category": pd.Categorical(["a", None, "b"]),
            "date": [dt.date(2024, 2, 29), None, dt.date(2024, 3, 1)],
            "time": pd.to_datetime(["2024-02-29T10:00:00", None, "2024-03-01T00:00:00"]),
            "bytes": [b"na\xc3\xafve", None, b""],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    assert records(tmp_path / "t.parquet", frame.columns) == [
        ("a", "2024-02-29", "2024-02-29T10:00:00", "naïve"),
        (None, None, None, None),
        ("b", "2024-03-01", "2024-03-01T00:00:00", ""),
    ]


def test_single_surrogates_in_json_are_replaced_and_said(tmp_path, caplog):
    content = '{"text": "fine \\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n'
    for name, whole in (("t.jsonl", content), ("t.json", "[" + content.strip().replace("\n", ",") + "]")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert records(write(tmp_path, whole, name), ["text"]) == [("fine 😀",), ("cut \ufffd",)]
        assert "unpaired surrogates in 1 rows, each replaced by U+FFFD (row 2" in caplog.text


def test_spreadsheets_give_numbers_and_dates_as_they_are_shown(tmp_path, caplog):
    rows = [("id", "Text", "day"), (1234.0, "one\ntwo", dt.date(2024, 2, 29)), (0.5, None, None), (123456789012345, " x ", 7)]
    path = as_xlsx(tmp_path, rows, sheets=2)
    with caplog.at_level(logging.WARNING):
        found = records(path, ["id", "text", "day"])
    assert found == [("1234", "one\ntwo", "2024-02-29"), ("0.5", "", ""), ("123456789012345", " x ", "7")]
    assert "t.xlsx has 2 sheets; only the first, 'Sheet1', is read" in caplog.text
    caplog.clear()
    records(as_xlsx(tmp_path, rows, sheets=2, hidden=True), ["text"])
    assert caplog.text == ""
    with pytest.raises(TextFileError, match=r"row 2 of the sheet: column 'id' holds .* lost its last digits"):
        records(as_xlsx(tmp_path, [("id",), (1344800117571260417,)]), ["id"])
    with pytest.raises(TextFileError, match="has no visible worksheet"):
        records(as_xlsx(tmp_path, rows, hidden=True), ["text"])
    assert records(as_xlsx(tmp_path, []), ["text"]) == []
    above = as_xlsx(tmp_path, [(None, None), (None, None), ("id", "text"), (1, "one")])
    assert records(above, ["text", "id"]) == [("one", "1")]


def test_a_text_file_has_one_column_and_a_text_a_line(tmp_path):
    path = write(tmp_path, "\ufeffone\u2028still one\r\n\nNA\rNA\r\n\rlast", "t.txt")
    assert records(path, ["anything"]) == [("one\u2028still one",), ("",), ("NA\rNA",), ("\rlast",)]
    assert records(write(tmp_path, "one\rtwo\r", "t.txt"), ["text"]) == [("one",), ("two",)]
    with pytest.raises(MissingColumnError, match=r"t.txt has no column 'label', only 'text'"):
        records(path)


def test_what_was_found_out_is_said_once_and_found_again_when_the_file_changes(tmp_path, caplog):
    path = write(tmp_path, "text,label\nThe café is closed again this week.,a\nNobody answers the phone.,b\n".encode("cp1252"))
    file = TextFile(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert file.read(["text"])["text"][0] == "The café is closed again this week."
        assert caplog.text.count("is read as cp1252") == 1
        write(tmp_path, "text;label\nThe café is closed; again,a\n".replace("; again,", " again;"))
        assert file.read(["label"])["label"].tolist() == ["a"]
    assert records(path, encoding="utf-8", separator="semicolon")[0][1] == "a"


def test_empty_files_have_no_rows(tmp_path):
    for name, content in {"t.csv": "", "t.tsv": "text\tlabel\n", "t.jsonl": "\n\n", "t.json": "[ ]", "e.json": "", "t.txt": ""}.items():
        assert TextFile(write(tmp_path, content, name)).read(["text"]).empty


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(TextFileError, match=r"does not exist; check the path \(a relative one starts at the project's root\)"):
        records(tmp_path / "none.csv")
    with pytest.raises(TextFileError, match="is a folder; give one of the files in it"):
        records(tmp_path)


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_whole_numbers_and_truth_have_one_text_in_json(tmp_path, name):
    values = ["1", "1.0", "-0.0", "10.00", "1.50", "1e3", "100.0e1", "true", "false", "12345678901234567890.0"]
    rows = [f'{{"label": {value}}}' for value in values]
    content = "\n".join(rows) if name == "t.jsonl" else f"[{','.join(rows)}]"
    found = [label for (label,) in records(write(tmp_path, content, name), ["label"])]
    assert found == ["1", "1", "0", "10", "1.50", "1e3", "100.0e1", "true", "false", "12345678901234567890"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_json_that_names_a_column_in_two_ways_or_is_nested_without_end_is_refused(tmp_path, name):
    def content(*rows):
        return "\n".join(rows) if name == "t.jsonl" else f"[{','.join(rows)}]"

    two = content('{"text": "a"}', '{"text": null}', '{"id": 1}', '{"Text": "b"}')
    with pytest.raises(TextFileError, match=r"row 4.* has 'Text' where other rows have 'text'; give the column one name in all rows"):
        records(write(tmp_path, two, name), ["text"])
    with pytest.raises(TextFileError, match="is nested too deeply to be read"):
        records(write(tmp_path, content('{"text": ' + "[" * 200_000 + "]" * 200_000 + "}"), name), ["text"])


def test_rows_that_a_quoted_text_may_have_swallowed_between_commas_are_remarked(tmp_path, caplog):
    content = 'text,label\n"one,a\ntwo",b\n"verse\nwithout a comma",c\nthree,d\n'
    assert records(write(tmp_path, content, "t.csv"), ["text", "label"])[0] == ("one,a\ntwo", "b")
    assert "has quoted texts in which each line looks like a row of its own: row 1 (line 2); if" in caplog.text
