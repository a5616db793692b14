"""Convert values of typed formats to text where there is one obvious way, and reject them where there is not."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from typing import TYPE_CHECKING, Any

from embedding_adaptation.texts.errors import TextFileError

if TYPE_CHECKING:
    import pyarrow as pa

SINGLE_SURROGATE = re.compile("[\ud800-\udfff]")

# Beyond this, floats cannot represent every whole number, so the digits may not be the original ones.
_EXACT_FLOATS = 2.0**53


class CellError(ValueError):
    """A value that is not text; the message continues "row 3: column 'text' "."""


def text_of(value: Any) -> str | None:
    """Convert a value from JSON, a spreadsheet or parquet to text; ``None`` for a missing value.

    Numbers keep all digits, and whole ones have no decimal point; booleans become ``true`` or ``false``; dates and times are written in
    ISO 8601; bytes must be UTF-8.

    Raises:
        CellError: If it is a list, an object or another value without one obvious text form.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | decimal.Decimal):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return _decoded(value)
    kind = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"
    msg = f"holds {kind}, not a text; write the text itself into the column"
    raise CellError(msg)


def _number(value: float) -> str | None:
    if value != value:  # noqa: PLR0124  tables mark missing values with NaN
        return None
    if not value.is_integer():
        return str(value)
    if abs(value) >= _EXACT_FLOATS:
        msg = f"holds {value!r}, a number that has lost its last digits; store numbers of more than 15 digits as text"
        raise CellError(msg)
    return str(int(value))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        msg = f"is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start + 1} of {value[:40]!r}; write texts as UTF-8"
        raise CellError(msg) from None


def column_texts(column: pa.Array, name: str, before: int) -> list[str | None]:
    """Convert a column of a parquet file to texts.

    Args:
        column: Its values.
        name: Its name, for the message.
        before: Number of preceding rows, for the message.

    Raises:
        TextFileError: If a value is not text; the message names its row.
    """
    import pyarrow as pa
    import pyarrow.types as kinds

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_string = any(check(column.type) for check in (kinds.is_string, kinds.is_large_string, kinds.is_string_view))
    if is_string:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            column = column.cast(pa.large_binary())  # decoded one by one below, to locate the wrong byte
    values = column.to_pylist()
    if is_string and not kinds.is_large_binary(column.type):
        return list(values)
    texts: list[str | None] = []
    for value in values:
        try:
            texts.append(text_of(value))
        except CellError as error:
            msg = f"row {before + len(texts) + 1}: column {name!r} {error}"
            raise TextFileError(msg) from None
    return texts
