from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedding_adaptation.texts import separated
from embedding_adaptation.texts.errors import TextFileError
from embedding_adaptation.texts.separated import Dialect, Rows, find_dialect, separator_named


def lines(content):
    return iter(io.StringIO(content, newline="\n"))


def rows(content, usual=",", separator=None):
    """What the reader makes of a file: its rows, dialect and warning."""
    dialect, every, warning = find_dialect(lines(content), usual, separator)
    return list(Rows(every, dialect)), dialect, warning


def refused(content, message, usual=",", separator=None):
    with pytest.raises(TextFileError, match=message):
        rows(content, usual, separator)


def test_a_row_of_another_length_than_the_header_is_refused_with_its_place():
    refused("text\nwell, yes\n", r"row 1 \(line 2\) has 2 fields, the header 1; quote texts that contain a comma or a line break")
    refused("text,label\none,a\ntwo\n", r"row 2 \(line 3\) has 1 field, the header 2")
    refused('text,label\n"two\nlines",a\n\nthree,b,c\n', r"row 2 \(line 5\) has 3 fields, the header 2")


def test_an_empty_field_at_the_end_of_every_row_is_dropped_but_not_that_of_some():
    assert rows("text,label\none,a,\ntwo,b,\n")[0] == [["text", "label"], ["one", "a"], ["two", "b"]]
    refused("text,label\none,a,\ntwo,b\n", r"row 2 .* has 2 fields, but the rows before have 2 plus an empty one at the end")
    refused("text,label\none,a\ntwo,b,\n", r"row 2 .* has 3 fields, the header 2")
    refused("text,label\none,a,\ntwo,b,c\n", r"row 2 .* has 3 fields, but the rows before")
    # A single text may end in a comma.
    refused("text\none,\ntwo,\n", r"row 1 .* has 2 fields, the header 1")


def test_line_ends_inside_quotes_are_kept_as_they_are():
    assert rows('text,label\r\n"a\rb\nc\r\nd",x\r\n')[0][1] == ["a\rb\nc\r\nd", "x"]


def test_quotes_written_twice_and_quotes_inside_unquoted_text_are_characters():
    assert rows('text,label\n"say ""hi"", now",x\n5" pipe,y\n')[0][1:] == [['say "hi", now', "x"], ['5" pipe', "y"]]


def test_quotes_escaped_with_a_backslash_are_read_and_said():
    content = 'text,label\n"say \\"hi, you\\", C:\\\\x\\n",a\n"C:\\path",b\n'
    found, dialect, warning = rows(content)
    assert found[1:] == [['say "hi, you", C:\\x\\n', "a"], ["C:\\path", "b"]]
    assert dialect.quoting == "backslash"
    assert "backslash" in warning


def test_a_backslash_is_a_character_where_quotes_are_written_twice():
    found, dialect, warning = rows('path,label\n"C:\\temp\\",a\n"\\\\share, ""x""",b\n')
    assert found[1:] == [["C:\\temp\\", "a"], ['\\\\share, "x"', "b"]]
    assert (dialect.quoting, warning) == ("standard", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\none,a\n"two,b\nthree,c\n', r"row 2 \(line 3\) opens a quote that is never closed"),
        ('text,label\none,a\n"two" or so,b\n', r"row 2 \(line 3\) continues after a closing quote, in line 3; double a quote"),
        ('text,label\n"one,a\n"two",b\n', r"row 1 \(line 2\) continues after a closing quote, in line 3"),
        ("text,label\none\rand more,a\n", r"row 1 \(line 2\) has a carriage return outside quotes"),
        ('"text,label\none,a\n', r"the header \(line 1\) opens a quote that is never closed"),
    ],
)
def test_unbalanced_quotes_are_refused_with_their_row(content, message):
    refused(content, message)


def test_tabs_around_unpaired_quotes_leave_the_quotes_in_the_text():
    found, dialect, warning = rows('text\tlabel\n"one\ta\nsay "hi"\tb\n"two\ta\n', "\t")
    assert found[1:] == [['"one', "a"], ['say "hi"', "b"], ['"two', "a"]]
    assert dialect.quoting == "none"
    assert "quotes" in warning


def test_a_quoted_field_that_seems_to_have_swallowed_whole_rows_is_refused():
    # By chance the second stray quote closes the first, and all rows have two fields.
    message = r"row 1 \(line 2\) has a quoted text that extends to line 3, and each of these lines looks like a row of its own"
    refused('text\tlabel\n"one\ta\ntwo"\tb\nthree\tc\n', message, "\t")
    for separator in ";|":
        refused(f'text{separator}label\n"one{separator}a\ntwo"{separator}b\nthree{separator}c\n', message, separator)
    assert rows('text\tlabel\n"one\na\tb"\tc\n', "\t")[0][1] == ["one\na\tb", "c"]


def test_quotes_written_twice_beside_unpaired_ones_are_refused_even_between_tabs():
    refused('text\tlabel\n"say ""hi"""\ta\n"one\tb\n', r"row 2 \(line 3\) opens a quote that is never closed", "\t")
    refused('"text"\t"label"\n"say "hi" to me"\t"a"\n', r"row 1 \(line 2\) continues after a closing quote", "\t")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_in_any_file(separator):
    content = f'text{separator}label\n"one, two; three | four\tfive"{separator}a\nsix{separator}b\n'
    for usual in (",", "\t"):
        found, dialect, _ = rows(content, usual)
        assert dialect.separator == separator
        assert found[1] == ["one, two; three | four\tfive", "a"]


def test_text_with_commas_does_not_hide_another_separator():
    assert rows("text;label\nwell, yes;a\nno;b\n")[0] == [["text", "label"], ["well, yes", "a"], ["no", "b"]]
    refused("text;label\nwell, yes;a\nno;b;c\n", r"row 2 .* has 3 fields, the header 2; quote texts that contain a semicolon")


def test_a_separator_that_is_named_is_taken():
    assert rows("text;a,label\none;b,c\n", separator=";")[0] == [["text", "a,label"], ["one", "b,c"]]
    refused("text,label\na,b\nc;d,e\n", "row 2 .* has 2 fields, the header 1", separator=";")
    assert [separator_named(name) for name in ("tab", "\\t", "\t", "Semicolon", "pipe", ":")] == ["\t", "\t", "\t", ";", "|", ":"]
    for wrong in ("", "ab", '"', " ", "\n"):
        with pytest.raises(TextFileError, match="a separator is one character"):
            separator_named(wrong)


def test_a_fault_behind_the_sample_is_found_when_it_is_reached(monkeypatch):
    monkeypatch.setattr(separated, "_SAMPLE", 200)
    good = "text,label\n" + "some words of text,a\n" * 20
    assert len(rows(good)[0]) == 21
    refused(good + "one,a,b\n", r"row 21 \(line 22\) has 3 fields")
    refused(good + '"one \\"two\\", three",a\n', r"row 21 \(line 22\) continues after a closing quote")
    # A quoted field across the end of the sample says nothing against the dialect.
    long = "text;label\n" + '"' + "line, end\n" * 40 + '";a\n'
    assert rows(long)[0][1] == ["line, end\n" * 40, "a"]


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(monkeypatch):
    csv.field_size_limit(1 << 17)
    monkeypatch.setattr(separated, "LONGEST_FIELD", (1 << 17) + 100)
    content = 'text,label\n"one,a\n' + "two,b\n" * 40_000
    refused(content, r"row 1 \(line 2\) has a text of over 131,172 characters, probably because a quote is never closed")
    monkeypatch.undo()
    assert len(rows(content.replace('"one', "one"))[0]) == 40_002


def test_a_table_that_reads_in_two_ways_is_refused():
    refused('text\n"one \\"\ntwo"\n', "row 1 has a quote after a backslash and can be read in two ways")


texts = st.text(st.sampled_from("ab \t\n\r,;|\"'\\=\u2028\xa0é#"), max_size=8) | st.sampled_from(
    ["NA", "null", "=1+1", '"', "\\", "\r\n", '\\"', ""]
)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(texts, min_size=width, max_size=width).filter(any), min_size=1, max_size=6).map(
        lambda body: [[f"column{number}" for number in range(width)], *body]
    )
)


@settings(max_examples=60, deadline=None)
@given(
    table=tables,
    separator=st.sampled_from(",;\t|"),
    usual=st.sampled_from(",\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quote_all=st.booleans(),
)
@example(table=[["a", "b"], ["x\ty\n", "z\tw"]], separator="\t", usual="\t", end="\n", quote_all=False)
def test_what_the_csv_module_writes_reads_back_or_is_refused(table, separator, usual, end, quote_all):
    # Python puts carriage returns into quotes from 3.11.9 and 3.12.3 on; without them, one at a row's end is part of the line end.
    usual = separator if len(table[0]) == 1 else usual  # in a single column nothing tells the separator
    quote_all = quote_all or "\r" in "".join(map("".join, table))
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerows(table)
    try:
        found, dialect, _ = rows(file.getvalue(), usual)
    except TextFileError:
        found = None
        assert separator == "\t" or any("\\" in value for row in table for value in row)
    if found is not None:
        assert found == table
        assert dialect == Dialect(separator) or len(table[0]) == 1


@settings(max_examples=60, deadline=None)
@given(table=tables, separator=st.sampled_from(",;\t|"))
def test_backslash_escapes_read_back_or_are_refused(table, separator):
    def quoted(value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    content = "".join(separator.join(map(quoted, row)) + "\n" for row in table)
    try:
        found, dialect, _ = rows(content, separator)
    except TextFileError:
        return
    if dialect.quoting == "backslash":
        assert found == table
    else:
        # Without an escaped quote nothing tells that a backslash is one; fields are never shifted all the same.
        assert [len(row) for row in found] == [len(row) for row in table]
        assert [[value.replace("\\\\", "\\") for value in row] for row in found] == table


@settings(max_examples=60, deadline=None)
@given(content=st.text(st.sampled_from('ab,;\t\n\r"\\'), max_size=60))
def test_any_file_is_read_to_its_last_character_or_refused(content):
    try:
        found, dialect, _ = rows(content)
    except TextFileError:
        return
    widths = {len(row) for row in found}
    assert len(widths) <= 1
    kept = "".join("".join(row) for row in found)
    for letter in "ab":
        assert kept.count(letter) == content.count(letter)
    if dialect.quoting == "none":
        assert kept.count('"') == content.count('"')
