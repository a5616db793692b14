from __future__ import annotations

import codecs
import gzip

import pyarrow as pa
import pytest

from embedding_adaptation.texts import characters
from embedding_adaptation.texts.characters import Characters, open_text, survey
from embedding_adaptation.texts.errors import TextFileError

ENGLISH = "The customer’s parcel is late again – nobody at the café answers the phone.\n"
FRENCH = "Le colis est arrivé très tard, la boîte était cassée et j’ai été déçu.\n"
GERMAN = "Die Lieferung wurde verspätet geschickt, und die Größe paßt nicht für mich.\n"
SPANISH = "El envío llegó mañana y la niña no recibió nada el año pasado.\n"


def write(tmp_path, content, name="t.txt"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def read(path, encoding=None):
    with open_text(path, survey(path, encoding)) as file:
        return list(file)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf_8_and_files_with_a_byte_order_mark_need_no_word(tmp_path, encoding):
    path = write(tmp_path, FRENCH.encode(encoding))
    assert read(path) == [FRENCH]
    assert survey(path).warning == ""


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_found_by_its_nul_bytes_and_said(tmp_path, encoding):
    path = write(tmp_path, (ENGLISH * 3).encode(encoding))
    assert read(path) == [ENGLISH] * 3
    assert encoding.upper() in survey(path).warning
    with pytest.raises(TextFileError, match=r"has NUL bytes like UTF-16, but is not valid UTF-16"):
        survey(write(tmp_path, (ENGLISH * 3).encode(encoding) + b"\xd8\xd8"))


def test_nul_characters_are_refused_wherever_they_are(tmp_path, monkeypatch):
    with pytest.raises(TextFileError, match=r"NUL characters, the first in line 2: it is probably UTF-16 .*encoding: utf-16-le"):
        survey(write(tmp_path, b"one\ntw\0o\n"))
    monkeypatch.setattr(characters, "_BLOCK", 8)
    with pytest.raises(TextFileError, match="the first in line 101"):
        survey(write(tmp_path, b"one\n" * 100 + b"\0"))
    for encoding in ("utf-8", "cp1252"):
        with pytest.raises(TextFileError, match="NUL characters, the first in line 3"):
            survey(write(tmp_path, b"one\ntwo\nthr\0ee\n"), encoding)
    monkeypatch.undo()
    # NUL first, a wrong byte after it
    with pytest.raises(TextFileError, match="NUL characters, the first in line 1"):
        survey(write(tmp_path, b"o\0ne and some more words\n\xff\n"))


@pytest.mark.parametrize("text", [ENGLISH, ENGLISH.replace("é", "e"), FRENCH, GERMAN, SPANISH])
def test_cp1252_is_found_where_the_language_leaves_no_doubt_and_said(tmp_path, text):
    path = write(tmp_path, (text * 5).encode("cp1252"))
    assert read(path) == [text] * 5
    assert "is read as cp1252, its likely encoding; if letters are wrong" in survey(path).warning


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        ("Zamówienie jest spóźnione, proszę o zwrot pieniędzy za przesyłkę.\n", "cp1250", "cp1250"),
        ("Zásilka je zpožděná, příliš žluťoučký kůň úpěl ďábelské ódy.\n", "cp1250", "cp1250"),
        ("A csomag késik, kérem a pénzem vissza. Árvíztűrő tükörfúrógép.\n", "cp1250", "cp1250"),
        ("Kargo çok geç geldi, şikayet ediyorum, ığdır güzel İstanbul.\n", "cp1254", "cp1254"),
        ("Siunta vėluoja, prašau grąžinti pinigus už žąsį.\n", "cp1257", "cp1257"),
        ("Посылка опаздывает, верните деньги пожалуйста.\n", "cp1251", "cp1251"),
        ("荷物が遅れています。返金してください。\n", "shift_jis", "cp9"),
        ("Drei € für die Größe, das ist für mich zu viel.\n", "iso8859_15", "iso8859_15"),
        (FRENCH, "mac_roman", "mac_roman"),
        (GERMAN, "cp850", "cp"),
        ("x é y\n", "cp1252", ""),
        ("In the concert hall they played the music of Dvořák all night long.\n", "cp1250", "cp1250"),
    ],
)
def test_other_encodings_are_refused_with_a_guess_and_read_when_named(tmp_path, text, encoding, guess):
    path = write(tmp_path, (text * 3).encode(encoding))
    with pytest.raises(TextFileError, match=rf"is not UTF-8: byte 0x.. in line 1.*{guess}.*specify its encoding"):
        survey(path)
    assert read(path, encoding) == [text] * 3


def test_one_wrong_byte_far_into_the_file_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(characters, "_BLOCK", 16)
    content = b"The parcel that we ordered is late again.\n" * 50 + b"fa\xe7ade\n"
    with pytest.raises(TextFileError, match="byte 0xe7 in line 51"):
        survey(write(tmp_path, b"x\n" * 50 + b"fa\xe7\n"))
    assert read(write(tmp_path, content))[-1] == "façade\n"
    # A character across two blocks is no error.
    assert survey(write(tmp_path, b"x" * 15 + "é\n".encode())) == Characters("utf-8", "\n")


def test_an_encoding_that_is_named_has_to_fit(tmp_path):
    path = write(tmp_path, b"one\nna\xefve\n")
    with pytest.raises(TextFileError, match="is not UTF-8: byte 0xef in line 2; save it as UTF-8, or specify its encoding"):
        survey(path, "utf-8")
    for unknown in ("klingon", "rot13"):
        with pytest.raises(TextFileError, match=rf"'{unknown}', an encoding unknown to Python"):
            survey(path, unknown)
    assert read(path, "latin-1") == ["one\n", "naïve\n"]
    assert read(write(tmp_path, codecs.BOM_UTF8 + b"one\n"), "UTF8") == ["one\n"]
    with pytest.raises(TextFileError, match="is not UTF-16"):
        survey(write(tmp_path, b"odd"), "utf-16-le")


def test_an_encoding_that_garbles_utf_8_is_read_with_a_warning(tmp_path):
    path = write(tmp_path, FRENCH.encode())
    assert "but is valid UTF-8; leave the encoding out" in survey(path, "cp850").warning
    assert survey(write(tmp_path, b"plain"), "cp1252").warning == ""


def test_lines_end_at_carriage_returns_only_where_there_is_no_line_feed(tmp_path):
    assert read(write(tmp_path, b"one\rtwo\rthree")) == ["one\r", "two\r", "three"]
    assert read(write(tmp_path, b"one\rtwo\r\nthree\n")) == ["one\rtwo\r\n", "three\n"]
    assert read(write(tmp_path, "one\rtwo".encode("utf-16"))) == ["one\r", "two"]


@pytest.mark.parametrize(("name", "compress"), [("t.txt.gz", gzip.compress), ("t.txt.zst", lambda data: bytes(pa.compress(data, "zstd")))])
def test_compressed_files_read_alike_and_are_refused_when_cut(tmp_path, name, compress):
    data = (ENGLISH * 500).encode("utf-16-le")
    assert read(write(tmp_path, compress(data), name)) == [ENGLISH] * 500
    # Several members one after the other are one file.
    assert len(read(write(tmp_path, compress(data) + compress(data), name))) == 1000
    with pytest.raises(OSError, match="runcated"):
        survey(write(tmp_path, compress(data)[:-20], name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "Excel workbook despite its name; rename it to end in .xlsx"),
        (b"PAR1", "parquet"),
        (gzip.compress(b"x", mtime=0), ".gz"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, content, message):
    with pytest.raises(TextFileError, match=message):
        survey(write(tmp_path, content))
