"""From the bytes of a text file to its characters: compression, encoding and line ends, found out before any text is used."""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, NoReturn

from embedding_adaptation.texts.errors import TextFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
NAME_IT = (
    "save it as UTF-8, or name its encoding (encoding: cp1252 in the catalog, for example; on the command line encoding=cp1252, for the "
    "corpus corpus_encoding=cp1252)"
)

_BLOCK = 1 << 20
_SAMPLE = 1 << 16
_CONTEXT = 1 << 13
# The language of fewer letters is a matter of luck.
_FEWEST_LETTERS = 20
_SURE = 0.9
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32's mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FILES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", ".xlsx"),
    (b"PAR1", "a parquet file", ".parquet"),
    (b"\x1f\x8b", "compressed with gzip", ".gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", ".zst"),
)
# Western text has a NUL beside nearly every letter in UTF-16; a quarter allows for other characters.
_NUL_SHARE = 0.25
# Which other encodings a byte above 0x7f may belong to. Each that is read as another text has to be ruled out.
_CANDIDATES = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp437", "cp850", "cp852", "cp866", "iso8859_2",
    "iso8859_15", "koi8_r", "mac_roman", "cp932", "gb18030", "big5", "cp949",
)  # fmt: skip
# The languages that are taken for written in cp1252, and those of their letters that have another letter's place in cp1250. Any other such
# letter, as in a foreign name, leaves a doubt.
_LETTERS_OF = {
    "en": "àêïñ", "fr": "àèêïùûœæ", "de": "", "es": "ñ", "pt": "àãêòõ", "it": "àèìòù", "nl": "èêï", "af": "èêï", "sv": "àå", "da": "åæø",
    "no": "åæòø", "nb": "åæòø", "nn": "åæòø", "fi": "å", "is": "æðþ", "fo": "æðø", "ca": "àïòè", "gl": "ïñ", "eu": "ñ", "ga": "", "lb": "è",
}  # fmt: skip
# Languages with the Latin alphabet for which Windows has another code page.
_HOMES = {
    "cp1250": frozenset(("pl", "cs", "sk", "hu", "sl", "hr", "bs", "ro", "sr")),
    "cp1254": frozenset(("tr", "az", "ku")),
    "cp1257": frozenset(("lt", "lv", "et")),
}
# What no language that is written in cp1252 has, but another encoding read as cp1252: a small letter before a large one with an accent, a
# sign in the middle or at the wrong side of a word, a letter that stands alone, and characters that hardly anybody types.
_MISPLACED = re.compile(
    "[a-zß-öø-ÿ][À-ÖØ-ÞŠŽŒŸ]"
    r"|[^\W\d_][“”„€§«‹›©±†‡¦¬¨÷×µ¶][^\W\d_]"
    r"|[^\W\d_][¹³¿¡£¥¢¼½¾¯ª]|[¹³£¥¢¼½¾¯ªº][^\W\d_]"
    r"|(?<!\w)[ÐÕÒÔÑÞðþõ](?!\w)"
    r"|[^\x00-\x7f\w’‘“”„–—…•€£§°«»‹›¿¡©®™´·½¼¾²³×ºª¢¥¨¶±µ†‡‰¦¬¯÷\xa0\xad]|ƒ"
)


@dataclass(frozen=True)
class Characters:
    """How the bytes of a file become characters.

    Attributes:
        encoding: A name that Python knows.
        line_end: What ends a line: a carriage return where the file has no line feed, as files of old Macs.
        warning: What a user should know of how this was found; empty where it needs no word.
    """

    encoding: str
    line_end: str
    warning: str = ""


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, decompressed where its name ends in ``.gz`` or ``.zst``."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(path), compression=compression)
    return stream


def open_text(path: Path, characters: Characters) -> io.TextIOWrapper:
    """The characters of a file; lines end at :attr:`Characters.line_end` alone, and nothing is translated."""
    return io.TextIOWrapper(open_bytes(path), encoding=characters.encoding, newline=characters.line_end)


def survey(path: Path, encoding: str | None = None) -> Characters:
    """Read all bytes once, and find how they become characters.

    Without a name, a byte-order mark decides; else the file is UTF-8 if all of it is, UTF-16 if every second byte is NUL as Western text
    has it, and cp1252 if charset-normalizer and the language of the text leave nothing else.

    Raises:
        TextFileError: If the bytes are not of that encoding, hold NUL characters, or could be of several encodings.
    """
    with open_bytes(path) as file:
        start = file.read(_BLOCK)
    for mark, kind, ending in _OTHER_FILES:
        if start.startswith(mark):
            msg = f"is {kind} in spite of its name; let its name end in {ending}"
            raise TextFileError(msg)
    if encoding is not None:
        return _named(path, encoding, start)
    for mark, marked in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return Characters(marked, _decode_all(path, marked).line_end)
    if b"\0" in start and (wide := _utf16_without_mark(start)):
        found = _decode_all(path, wide, f"has NUL bytes as UTF-16 has them, but is not all UTF-16; {NAME_IT}")
        return Characters(wide, found.line_end, f"is read as {_shown(wide)}, as its NUL bytes suggest")
    found = _decode(path, "utf-8")
    _refuse_nul(found)
    return Characters("utf-8", found.line_end) if found.bad is None else _guessed(path, found)


def _named(path: Path, encoding: str, start: bytes) -> Characters:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)
    except LookupError:
        msg = f"cannot be read as {encoding!r}, which is no encoding Python knows; correct it, or leave it out"
        raise TextFileError(msg) from None
    if name == "utf-8":
        name = "utf-8-sig"
    found = _decode_all(path, name)
    warning = ""
    if not name.startswith("utf") and not start.isascii() and _decode(path, "utf-8").bad is None:
        warning = (
            f"is read as {encoding} as asked, but all of it is valid UTF-8; leave the encoding out unless letters are wrong without it"
        )
    return Characters(name, found.line_end, warning)


@dataclass
class _Decoded:
    """What decoding a whole file showed."""

    line_end: str = "\n"
    bad: int | None = None  # a byte that is not of the encoding
    line: int = 0  # its line, or that of the first NUL character
    has_nul: bool = False


def _decode_all(path: Path, encoding: str, otherwise: str = "") -> _Decoded:
    found = _decode(path, encoding)
    if found.bad is not None:
        _fail(otherwise or f"is not {_shown(encoding)}: byte 0x{found.bad:02x} in line {found.line}; {NAME_IT}")
    _refuse_nul(found)
    return found


def _refuse_nul(found: _Decoded) -> None:
    if found.has_nul:
        _fail(
            f"holds NUL characters, the first in line {found.line}: it is probably UTF-16 without a byte-order mark, or no text; "
            "save it as UTF-8, or name its encoding (encoding: utf-16-le in the catalog, for example)"
        )


def _decode(path: Path, encoding: str) -> _Decoded:
    """Decode all of a file, up to the first byte that is not of the encoding, or the first NUL character."""
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, feeds, returns = 1, False, False
    with open_bytes(path) as file:
        while True:
            block = file.read(_BLOCK)
            pending = decoder.getstate()[0]
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                head = before.decode(encoding, "ignore")
                if "\0" in head:
                    return _Decoded(line=lines + head[: head.index("\0")].count("\n"), has_nul=True, bad=error.object[error.start])
                return _Decoded(bad=error.object[error.start], line=lines + head.count("\n"))
            except UnicodeError:  # UTF-16 and UTF-32 without their mark
                return _Decoded(bad=(pending + block)[0], line=lines)
            if (nul := text.find("\0")) >= 0:
                return _Decoded(line=lines + text.count("\n", 0, nul), has_nul=True)
            lines += text.count("\n")
            feeds = feeds or "\n" in text
            returns = returns or "\r" in text
            if not block:
                return _Decoded("\r" if returns and not feeds else "\n")


def _utf16_without_mark(start: bytes) -> str | None:
    """UTF-16 where NUL is every second byte of Western text, and no byte at the other places."""
    even, odd = start[::2].count(0), start[1::2].count(0)
    if even and odd:
        return None
    return ("utf-16-be" if even else "utf-16-le") if max(even, odd) >= _NUL_SHARE * len(start) / 2 else None


def _guessed(path: Path, found: _Decoded) -> Characters:
    with open_bytes(path) as file:
        start = file.read(_CONTEXT)
    guess, sure = _guess(b"".join(_lines_beyond_ascii(path)), start)
    line_end = ""
    if sure:
        decoded = _decode(path, guess)
        sure, line_end = decoded.bad is None and not decoded.has_nul, decoded.line_end
    if not sure:
        likely = f", and it may be {guess}" if guess else ""
        _fail(f"is not UTF-8: byte 0x{found.bad:02x} in line {found.line}{likely}, which its bytes alone do not tell for sure; {NAME_IT}")
    return Characters(
        guess, line_end, f"is not UTF-8 and is read as {guess}, which it probably is; if letters are wrong, name its encoding"
    )


def _lines_beyond_ascii(path: Path) -> Iterator[bytes]:
    """Lines with bytes that ASCII does not have, up to a sample's length."""
    taken = 0
    with open_bytes(path) as file:
        while taken < _SAMPLE and (line := file.readline(_SAMPLE)):
            if not line.isascii():
                taken += len(line)
                yield line


def _guess(sample: bytes, start: bytes) -> tuple[str, bool]:
    """The likeliest encoding of bytes that are not UTF-8, and whether there is no doubt that it is cp1252.

    charset-normalizer alone hardly tells cp1252 from the code pages of eastern Europe, in which the same bytes are letters too. The
    language does: a text that is read with the wrong one is still recognised by its other letters.

    Args:
        sample: The lines with bytes that ASCII does not have.
        start: The start of the file, for its language.
    """
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(_CANDIDATES)).best()
    guess = best.encoding if best is not None else ""
    western = _read(sample, "cp1252")
    if best is not None and str(best) == western:
        guess = "cp1252"  # it names the first of those that give the same text
    if western is not None and "¤" in western:  # where ISO 8859-15 has the euro sign
        return "iso8859_15", False
    if western is None or _MISPLACED.search(western):
        return guess, False
    for rival, home in _HOMES.items():
        other = _read(sample, rival)
        if other is None or other == western:
            continue
        if _language(other, start.decode(rival, "replace"))[0] in home:
            return (rival if best is None or _is_latin(str(best)) else guess), False
    known = western + start.decode("cp1252", "replace")
    language, probability = _language(known)
    if language in _LETTERS_OF and probability >= _SURE and sum(map(str.isalpha, known)) >= _FEWEST_LETTERS:
        doubtful = {letter for letter in western if letter.isalpha() and letter.encode("cp1252").decode("cp1250", "replace") != letter}
        if all(letter.lower() in _LETTERS_OF[language] for letter in doubtful):
            return "cp1252", True
        # These letters would be as likely, or more, in the other code page.
        return "cp1252 or cp1250", False
    return guess, False


def _read(sample: bytes, encoding: str) -> str | None:
    try:
        return sample.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_latin(text: str) -> bool:
    return all(character < "\u0250" or not character.isalpha() for character in text)


def _language(*texts: str) -> tuple[str, float]:
    from embedding_adaptation.texts.language import language_of_all

    return language_of_all("\n".join(texts))


def _shown(encoding: str) -> str:
    return encoding.removesuffix("-sig").upper() if encoding.startswith("utf") else encoding


def _fail(what: str) -> NoReturn:
    raise TextFileError(what)
