from __future__ import annotations

import datetime as dt
import decimal

import pyarrow as pa
import pytest

from embedding_adaptation.texts.cells import CellError, column_texts, text_of
from embedding_adaptation.texts.errors import TextFileError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("NA", "NA"),
        (1344800117571260417, "1344800117571260417"),
        (1234.0, "1234"),
        (-0.5, "-0.5"),
        (float("nan"), None),
        (True, "true"),
        (decimal.Decimal("12345678901234567890.10"), "12345678901234567890.10"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 13, 5), "2024-02-29T13:05:00"),
        (dt.time(13, 5), "13:05:00"),
        ("naïve".encode(), "naïve"),
    ],
)
def test_a_value_with_one_obvious_text_is_that_text(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["one"], "holds a list, not a text"),
        ({"a": 1}, "holds an object"),
        (dt.timedelta(1), "holds a value of type timedelta"),
        (b"na\xefve", "is not UTF-8: byte 0xef at position 3"),
        (2.0**53, "a number that has lost its last digits; store numbers of more than 15 digits as text"),
    ],
)
def test_a_value_without_an_obvious_text_is_refused(value, message):
    with pytest.raises(CellError, match=message):
        text_of(value)


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array(["one", None]), ["one", None]),
        (pa.array(["one", None], pa.large_string()), ["one", None]),
        (pa.array(["one", None], pa.string_view()), ["one", None]),
        (pa.array(["one", None, "one"]).dictionary_encode(), ["one", None, "one"]),
        (pa.array([2, None, 2]).dictionary_encode(), ["2", None, "2"]),
        (pa.array([1344800117571260417, None]), ["1344800117571260417", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([1.0, None, 0.5, float("nan")]), ["1", None, "0.5", None]),
        (pa.array([dt.date(2024, 2, 29), None]), ["2024-02-29", None]),
        (pa.array([dt.datetime(2024, 2, 29, 1)], pa.timestamp("us", "UTC")), ["2024-02-29T01:00:00+00:00"]),
        (pa.array([b"one", None]), ["one", None]),
        (pa.nulls(2), [None, None]),
    ],
)
def test_columns_of_parquet_are_read_as_texts(column, texts):
    assert column_texts(column, "c", 0) == texts


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([None, ["x"]]), "row 102: column 'c' holds a list"),
        (pa.array([{"a": 1}]), "row 101: column 'c' holds an object"),
        (pa.array([b"x", b"\xff"]), "row 102: column 'c' is not UTF-8"),
        (pa.array([1.0, 1.3448001175712604e18]), "row 102: column 'c' holds .* lost its last digits"),
        (pa.array(["fine", "rest"]).cast(pa.binary()).take([0]).cast(pa.string()), None),
    ],
)
def test_columns_that_are_no_texts_are_refused_with_the_row(column, message):
    if message is None:
        assert column_texts(column, "c", 100) == ["fine"]
        return
    with pytest.raises(TextFileError, match=message):
        column_texts(column, "c", 100)


def test_wrong_bytes_in_a_column_of_strings_are_refused_with_the_row():
    data = pa.array([b"one", b"two", b"f\xfcr"])
    column = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    with pytest.raises(TextFileError, match="row 13: column 'c' is not UTF-8: byte 0xfc at position 2"):
        column_texts(column, "c", 10)
    # Half of a character, as UTF-8 does not have it
    half = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xed\xa0\xbd"]).buffers())
    with pytest.raises(TextFileError, match="row 1: column 'c' is not UTF-8"):
        column_texts(half, "c", 0)
