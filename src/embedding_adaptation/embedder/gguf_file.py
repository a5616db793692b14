"""Reading the header of a GGUF file and checking that the file is complete, in a fraction of a second however large it is.

Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import functools
import math
import mmap
import re
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from embedding_adaptation.embedder.checkpoint import BaseModelError, check_no_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VERSIONS = (2, 3)
_BLOCK = re.compile(r"^blk\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Attributes:
        keys: Scalars and strings by name; for an array, its length.
        tensors: Shapes of the tensors by name.
        end: Bytes the file must have.
    """

    keys: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    end: int = 0

    @property
    def architecture(self) -> str:
        """Its architecture, or an empty string."""
        return str(self.keys.get("general.architecture", ""))


@contextmanager
def parsed_once() -> Iterator[None]:
    """Let transformers parse a GGUF file once until the block ends.

    For the configuration, the weights and the tokenizer it parses the file anew, each time with hundreds of thousands of small reads, and
    makes the same table of names for each module. It looks both functions up in the package ``gguf`` when it needs them.
    """
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = functools.lru_cache(1)(reader), functools.lru_cache(1)(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


class _Cursor:
    """Reads consecutive numbers and strings."""

    def __init__(self, content: mmap.mmap | bytes) -> None:
        self.content, self.at = content, 0

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.content, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def text(self) -> str:
        length = self.number("Q")
        if self.at + length > len(self.content):
            msg = "a string extends beyond the end of the file"
            raise struct.error(msg)
        value = self.content[self.at : self.at + length]
        self.at += length
        return value.decode("utf-8", "replace")

    def skip_texts(self, count: int) -> None:
        unpack, at = struct.Struct("<Q").unpack_from, self.at
        for _ in range(count):
            at += 8 + unpack(self.content, at)[0]
        self.at = at

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.number(_SCALARS[kind])
        inner, count = self.number("I"), self.number("Q")
        if inner == _STRING:
            self.skip_texts(count)
        elif inner == _ARRAY:
            for _ in range(count):
                self.value(_ARRAY)
        else:
            self.at += struct.calcsize("<" + _SCALARS[inner]) * count
        return count


def read_gguf_header(file: Path) -> GgufHeader:
    """Read a GGUF file's header.

    Raises:
        BaseModelError: If the file is truncated or not a GGUF file.
    """
    check_no_pointer(file)
    broken = f"{file.name} is not a readable GGUF file; fetch it again"
    if file.stat().st_size < 24:  # noqa: PLR2004  magic, version and two counts
        raise BaseModelError(broken)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"GGUF":
            raise BaseModelError(broken)
        cursor = _Cursor(content)
        cursor.at = 4
        version = cursor.number("I")
        if version not in _VERSIONS:
            msg = f"{file.name} is a GGUF file of version {version}, not 2 or 3; convert it again with a current tool"
            raise BaseModelError(msg)
        try:
            return _read(cursor)
        except (struct.error, KeyError, OverflowError, MemoryError, IndexError, ValueError) as error:
            raise BaseModelError(broken) from error


def _read(cursor: _Cursor) -> GgufHeader:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    keys = {}
    for _ in range(key_count):
        name = cursor.text()
        keys[name] = cursor.value(cursor.number("I"))
    tensors, ends = {}, [0]
    for _ in range(tensor_count):
        name = cursor.text()
        shape = tuple(cursor.number("Q") for _ in range(cursor.number("I")))
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(cursor.number("I"))]
        tensors[name] = shape
        ends.append(cursor.number("Q") + math.prod(shape) // block * size)
    alignment = int(keys.get("general.alignment", 32))
    start = -(-cursor.at // alignment) * alignment if tensors else cursor.at
    return GgufHeader(keys, tensors, start + max(ends))


def check_gguf_file(file: Path, header: GgufHeader) -> None:
    """Check that a GGUF file contains a complete model.

    Raises:
        BaseModelError: If it is one of several parts, is truncated, or lacks layers.
    """
    if not header.architecture:
        msg = f"{file.name} does not name its architecture; convert it again with a current tool"
        raise BaseModelError(msg)
    parts = int(header.keys.get("split.count", 1))
    if parts > 1:
        first = re.sub(r"-\d{5}-of-", "-00001-of-", file.name)
        number = int(header.keys.get("split.no", 0)) + 1
        msg = (
            f"{file.name} is part {number} of {parts} of a split model, but only whole files can be read; join "
            f"the parts with llama.cpp's 'llama-gguf-split --merge {first} whole.gguf' and give whole.gguf"
        )
        raise BaseModelError(msg)
    size = file.stat().st_size
    if size < header.end:
        msg = f"{file.name} is truncated: it has {size:,} of {header.end:,} bytes; fetch it again"
        raise BaseModelError(msg)
    if not header.tensors:
        msg = f"{file.name} contains no tensors, at most a vocabulary; give the file with the weights"
        raise BaseModelError(msg)
    _check_blocks(file, header)


def _check_blocks(file: Path, header: GgufHeader) -> None:
    blocks: dict[int, set[str]] = {}
    for name in header.tensors:
        if match := _BLOCK.match(name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    declared = header.keys.get(f"{header.architecture}.block_count")
    if declared is not None and "token_embd.weight" not in header.tensors:
        msg = f"{file.name} has no token_embd.weight, so it is not a complete language model; fetch it again"
        raise BaseModelError(msg)
    if declared is None:
        return
    missing = [number for number in range(int(declared)) if number not in blocks]
    if missing:
        msg = (
            f"{file.name} lacks {len(missing)} of the {declared} layers it declares, starting with layer {missing[0]}; "
            "it is truncated or one of several parts: fetch the whole file"
        )
        raise BaseModelError(msg)
