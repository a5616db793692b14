"""Decode text files: compression, encoding and line ends are determined before any text is used."""

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
    "save it as UTF-8, or specify its encoding, such as encoding: cp1252 in the catalog (on the command line encoding=cp1252, or "
    "corpus_encoding=cp1252 for the corpus)"
)

_BLOCK = 1 << 20
_SAMPLE = 1 << 16
_CONTEXT = 1 << 13
# With fewer letters, the language cannot be told reliably.
_FEWEST_LETTERS = 20
_SURE = 0.9
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    # UTF-32's mark begins with UTF-16's, so it is tested first.
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
# In UTF-16, Western text has a NUL beside nearly every letter; a quarter allows for other characters.
_NUL_SHARE = 0.25
# The encodings that bytes above 0x7f may belong to. Any that would give another text must be ruled out.
_CANDIDATES = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp437", "cp850", "cp852", "cp866", "iso8859_2",
    "iso8859_15", "koi8_r", "mac_roman", "cp932", "gb18030", "big5", "cp949",
)  # fmt: skip
# The languages written in cp1252, each with those of its letters whose byte is another letter in cp1250. Any other such letter, as in a
# foreign name, leaves the encoding in doubt.
_LETTERS_OF = {
    "en": "àêïñ", "fr": "àèêïùûœæ", "de": "", "es": "ñ", "pt": "àãêòõ", "it": "àèìòù", "nl": "èêï", "af": "èêï", "sv": "àå", "da": "åæø",
    "no": "åæòø", "nb": "åæòø", "nn": "åæòø", "fi": "å", "is": "æðþ", "fo": "æðø", "ca": "àïòè", "gl": "ïñ", "eu": "ñ", "ga": "", "lb": "è",
}  # fmt: skip
# Languages in the Latin alphabet with a Windows code page of their own.
_HOMES = {
    "cp1250": frozenset(("pl", "cs", "sk", "hu", "sl", "hr", "bs", "ro", "sr")),
    "cp1254": frozenset(("tr", "az", "ku")),
    "cp1257": frozenset(("lt", "lv", "et")),
}
# What occurs in no language written in cp1252, but in other encodings misread as cp1252: a lower-case letter before an accented capital, a
# symbol inside or on the wrong side of a word, one of these letters alone, and characters that hardly anyone types.
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
        line_end: What ends a line: a carriage return if the file has no line feeds, as on old Macs.
        warning: What the user should know about how this was determined; empty if nothing.
    """

    encoding: str
    line_end: str
    warning: str = ""


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressed if its name ends in ``.gz`` or ``.zst``."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(path), compression=compression)
    return stream


def open_text(path: Path, characters: Characters) -> io.TextIOWrapper:
    """Open a file for reading characters; lines end only at :attr:`Characters.line_end`, and nothing is translated."""
    return io.TextIOWrapper(open_bytes(path), encoding=characters.encoding, newline=characters.line_end)


def survey(path: Path, encoding: str | None = None) -> Characters:
    """Read all bytes once and determine how they become characters.

    If no encoding is given, a byte-order mark decides. Without one, the file is UTF-8 if all of it is valid, UTF-16 if every second byte
    is NUL as in Western text, and cp1252 if charset-normalizer and the language of the text leave no alternative.

    Raises:
        TextFileError: If the bytes are invalid in the encoding, contain NUL characters, or fit several encodings.
    """
    with open_bytes(path) as file:
        start = file.read(_BLOCK)
    for mark, kind, ending in _OTHER_FILES:
        if start.startswith(mark):
            msg = f"is {kind} despite its name; rename it to end in {ending}"
            raise TextFileError(msg)
    if encoding is not None:
        return _as_specified(path, encoding, start)
    for mark, marked in _BYTE_ORDER_MARKS:
        if start.startswith(mark):
            return Characters(marked, _decode_all(path, marked).line_end)
    if b"\0" in start and (wide := _utf16_without_mark(start)):
        outcome = _decode_all(path, wide, f"has NUL bytes like UTF-16, but is not valid UTF-16 throughout; {NAME_IT}")
        return Characters(wide, outcome.line_end, f"is read as {_shown(wide)}, as its NUL bytes suggest")
    outcome = _decode(path, "utf-8")
    _refuse_nul(outcome)
    return Characters("utf-8", outcome.line_end) if outcome.bad is None else _guessed(path, outcome)


def _as_specified(path: Path, encoding: str, start: bytes) -> Characters:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)
    except LookupError:
        msg = f"cannot be read as {encoding!r}, an encoding unknown to Python; correct it, or leave it out"
        raise TextFileError(msg) from None
    if name == "utf-8":
        name = "utf-8-sig"
    outcome = _decode_all(path, name)
    warning = ""
    if not name.startswith("utf") and not start.isascii() and _decode(path, "utf-8").bad is None:
        warning = f"is read as {encoding} as specified, but is valid UTF-8; leave the encoding out unless letters are wrong without it"
    return Characters(name, outcome.line_end, warning)


@dataclass
class _Outcome:
    """The outcome of decoding a file."""

    line_end: str = "\n"
    bad: int | None = None  # the first byte that is invalid in the encoding
    line: int = 0  # its line, or that of the first NUL character
    has_nul: bool = False


def _decode_all(path: Path, encoding: str, message: str = "") -> _Outcome:
    outcome = _decode(path, encoding)
    if outcome.bad is not None:
        _fail(message or f"is not {_shown(encoding)}: byte 0x{outcome.bad:02x} in line {outcome.line}; {NAME_IT}")
    _refuse_nul(outcome)
    return outcome


def _refuse_nul(outcome: _Outcome) -> None:
    if outcome.has_nul:
        _fail(
            f"contains NUL characters, the first in line {outcome.line}: it is probably UTF-16 without a byte-order mark, or not a text; "
            "save it as UTF-8, or specify its encoding, such as encoding: utf-16-le in the catalog"
        )


def _decode(path: Path, encoding: str) -> _Outcome:
    """Decode a file up to the first invalid byte or NUL character."""
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
                    return _Outcome(line=lines + head[: head.index("\0")].count("\n"), has_nul=True, bad=error.object[error.start])
                return _Outcome(bad=error.object[error.start], line=lines + head.count("\n"))
            except UnicodeError:  # UTF-16 or UTF-32 without a byte-order mark
                return _Outcome(bad=(pending + block)[0], line=lines)
            if (nul := text.find("\0")) >= 0:
                return _Outcome(line=lines + text.count("\n", 0, nul), has_nul=True)
            lines += text.count("\n")
            feeds = feeds or "\n" in text
            returns = returns or "\r" in text
            if not block:
                return _Outcome("\r" if returns and not feeds else "\n")


def _utf16_without_mark(start: bytes) -> str | None:
    """UTF-16 with the right byte order if NUL occurs only at every second byte, and as often as in Western text."""
    even, odd = start[::2].count(0), start[1::2].count(0)
    if even and odd:
        return None
    return ("utf-16-be" if even else "utf-16-le") if max(even, odd) >= _NUL_SHARE * len(start) / 2 else None


def _guessed(path: Path, as_utf8: _Outcome) -> Characters:
    with open_bytes(path) as file:
        start = file.read(_CONTEXT)
    guess, sure = _guess(b"".join(_lines_beyond_ascii(path)), start)
    line_end = ""
    if sure:
        outcome = _decode(path, guess)
        sure, line_end = outcome.bad is None and not outcome.has_nul, outcome.line_end
    if not sure:
        likely = f" (perhaps {guess}, but that is not certain)" if guess else ""
        _fail(f"is not UTF-8: byte 0x{as_utf8.bad:02x} in line {as_utf8.line}{likely}; {NAME_IT}")
    return Characters(guess, line_end, f"is not UTF-8 and is read as {guess}, its likely encoding; if letters are wrong, specify another")


def _lines_beyond_ascii(path: Path) -> Iterator[bytes]:
    """Lines with non-ASCII bytes, up to the size of a sample."""
    size = 0
    with open_bytes(path) as file:
        while size < _SAMPLE and (line := file.readline(_SAMPLE)):
            if not line.isascii():
                size += len(line)
                yield line


def _guess(sample: bytes, start: bytes) -> tuple[str, bool]:
    """The most likely encoding of bytes that are not UTF-8, and whether it is cp1252 beyond doubt.

    charset-normalizer alone can hardly tell cp1252 from the code pages of eastern Europe, in which the same bytes are letters, too. The
    language can: even if decoded with the wrong one, a text is recognised by its other letters.

    Args:
        sample: The lines with non-ASCII bytes.
        start: The start of the file, for its language.
    """
    from charset_normalizer import from_bytes

    best = from_bytes(sample, cp_isolation=list(_CANDIDATES)).best()
    guess = best.encoding if best is not None else ""
    western = _decoded_or_none(sample, "cp1252")
    if best is not None and str(best) == western:
        guess = "cp1252"  # charset-normalizer names the first of the encodings that give the same text
    if western is not None and "¤" in western:  # the euro sign in ISO 8859-15
        return "iso8859_15", False
    if western is None or _MISPLACED.search(western):
        return guess, False
    for rival, home in _HOMES.items():
        other = _decoded_or_none(sample, rival)
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
        # These letters are at least as likely in the other code page.
        return "cp1252 or cp1250", False
    return guess, False


def _decoded_or_none(sample: bytes, encoding: str) -> str | None:
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


def _fail(message: str) -> NoReturn:
    raise TextFileError(message)
