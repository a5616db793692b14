"""Values of typed formats as text, where there is one obvious way, and refused where there is none."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from typing import TYPE_CHECKING, Any

from embedding_adaptation.texts.errors import TextFileError

if TYPE_CHECKING:
    import pyarrow as pa

SINGLE_SURROGATE = re.compile("[\ud800-\udfff]")

# From here on not every whole number is a float, so that the digits may be others than those that were meant.
_EXACT_FLOATS = 2.0**53


class CellError(ValueError):
    """A value that is no text; the message goes after "row 3: column 'text' "."""


def text_of(value: Any) -> str | None:
    """A value of JSON, of a spreadsheet or of parquet as text; ``None`` where there is none.

    Numbers keep all digits, whole ones have no decimal point; truth is ``true`` or ``false``;
    dates and times are written as ISO 8601 has it; bytes have to be UTF-8.

    Raises:
        CellError: If it is a list, an object or another value for which there is no one obvious text.
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
    msg = f"holds {kind}, where a text is needed; write the text itself into the column"
    raise CellError(msg)


def _number(value: float) -> str | None:
    if value != value:  # noqa: PLR0124  NaN is how tables say that there is none
        return None
    if not value.is_integer():
        return str(value)
    if abs(value) >= _EXACT_FLOATS:
        msg = f"holds {value!r}, a number whose last digits are lost; store numbers of more than 15 digits as text"
        raise CellError(msg)
    return str(int(value))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        msg = f"is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start + 1} of {value[:40]!r}; write texts as UTF-8"
        raise CellError(msg) from None


def column_texts(column: pa.Array, name: str, before: int) -> list[str | None]:
    """A column of a parquet file as texts.

    Args:
        column: Its values.
        name: Its name, for the message.
        before: Number of rows before, for the message.

    Raises:
        TextFileError: If a value is no text; the message names its row.
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
            column = column.cast(pa.large_binary())  # whose values say where the wrong byte is
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
