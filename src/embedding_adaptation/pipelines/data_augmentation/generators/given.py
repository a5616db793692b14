"""The user's own pairs, from a file."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from embedding_adaptation.identity import files_sha256
from embedding_adaptation.paths import project_path
from embedding_adaptation.pipelines.data_augmentation.generators.request import (
    Candidate,
    Context,
    GenerationError,
    Generator,
    Request,
    digest_fraction,
    text_key,
)
from embedding_adaptation.texts.errors import MissingColumnError, TextFileError
from embedding_adaptation.texts.reading import TextFile
from embedding_adaptation.wording import first_few

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from embedding_adaptation.pipelines.data_augmentation.options import GivenOptions
    from embedding_adaptation.texts.stream import TextStream

logger = logging.getLogger(__name__)


def generate(requests: Iterable[Request], options: GivenOptions, context: Context) -> Iterator[Candidate]:  # noqa: ARG001  interface of all generators
    """Read pairs from a file.

    Args:
        requests: Unused, because the pairs do not depend on the corpus.
        options: File and columns. A ``weight`` below 1 takes that share of the pairs, the same ones whatever their order in the file.
        context: The seed.

    Yields:
        Distinct pairs in the order of the file, with the row number, counted from 1, in ``source_id``.

    Raises:
        GenerationError: If the file cannot be used; the message names the file, the row or column and the remedy.
    """
    seen: set[str] = set()
    for number, first, second in _pairs(options):
        key = text_key(first, second)
        if key in seen or (options.weight < 1.0 and digest_fraction(context.seed, key) >= options.weight):
            continue
        seen.add(key)
        yield Candidate(key, f"given:{number}", first, second)


def check(options: GivenOptions, context: Context) -> None:  # noqa: ARG001  interface of all generators
    """Check that the file can be used.

    Raises:
        GenerationError: If it cannot; the message names the file, the row or column and the remedy.
    """
    _read(options)


def _pairs(options: GivenOptions) -> Iterator[tuple[int, str, str]]:
    """Row number, first and second text of the rows that have both."""
    first, second = _read(options)
    empty = (first.str.strip() == "") | (second.str.strip() == "")
    if empty.any():
        numbers = [number for number, missing in enumerate(empty.tolist(), start=1) if missing]
        logger.warning(
            "%s: leaving out %d of %d rows, which lack one of the two texts (row %s)",
            options.path, len(numbers), len(first), first_few(numbers),
        )  # fmt: skip
    for number, (one, other, missing) in enumerate(zip(first, second, empty, strict=True), start=1):
        if not missing:
            yield number, one, other


def _read(options: GivenOptions) -> tuple[pd.Series, pd.Series]:
    """Both columns as texts; missing ones are empty.

    Raises:
        GenerationError: If the file cannot be used, or no row has both texts.
    """
    columns = [options.first_column, options.second_column]
    file = TextFile(project_path(options.path), encoding=options.encoding, separator=options.separator)
    try:
        raw = file.read(columns)
    except MissingColumnError as error:
        setting = "first_column" if error.column == options.first_column else "second_column"
        msg = f"given pairs: {error}; rename one, or set data_augmentation.generators.given.{setting}"
        raise GenerationError(msg) from error
    except TextFileError as error:
        msg = f"given pairs: {error}"
        raise GenerationError(msg) from error
    if raw.empty:
        msg = f"given pairs: {options.path} has no rows; give a file with at least one pair"
        raise GenerationError(msg)
    first, second = (raw[column].astype(object).where(raw[column].notna(), "") for column in columns)
    if ((first.str.strip() == "") | (second.str.strip() == "")).all():
        msg = f"given pairs: {options.path} has no row with a text in both {options.first_column!r} and {options.second_column!r}"
        raise GenerationError(f"{msg}; name the columns that hold them")
    return first, second


def _identity(options: GivenOptions, corpus: TextStream, context: Context) -> list[Any]:  # noqa: ARG001  interface of all generators
    path = project_path(options.path)
    return [files_sha256([path]) if path.is_file() else "", options.weight]


def _provenance(options: GivenOptions, context: Context) -> tuple[str, str]:  # noqa: ARG001  interface of all generators
    return options.path, ""


GENERATOR = Generator(generate, whole_corpus=True, from_corpus=False, check=check, identity=_identity, provenance=_provenance)
