"""Names and lists as messages show them."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SHOWN = 5
_MOST_ALIKE, _LEAST_ALIKE = 3, 0.7


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion to append to a sentence: the names like this one, else all there are."""
    names = sorted(names)
    return suggestion([repr(other) for other in alike(name, names)], names)


def alike(name: str, names: Iterable[str]) -> list[str]:
    """The names that look like this one, up to three, the nearest first; letter case and what stands between letters do not count."""
    by_letters = {_letters(other): other for other in names}
    return [by_letters[other] for other in difflib.get_close_matches(_letters(name), by_letters, n=_MOST_ALIKE, cutoff=_LEAST_ALIKE)]


def suggestion(near: Sequence[str], every: Iterable[str]) -> str:
    """A question for the near names, or a list of all where there are none."""
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(every)}"


def first_few(items: Iterable[Any]) -> str:
    """The first items of a list that may be long, such as rows with the same mistake."""
    shown = [str(item) for item in itertools.islice(items, _SHOWN + 1)]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
