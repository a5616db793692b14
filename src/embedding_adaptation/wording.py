"""Names, lists and times in messages."""

from __future__ import annotations

import difflib
import itertools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SHOWN = 5
_MOST_ALIKE, _LEAST_ALIKE = 3, 0.7


def nearest(name: str, names: Iterable[str]) -> str:
    """A suggestion to append to a message: the names similar to this one, or else all of them."""
    names = sorted(names)
    return suggestion([repr(other) for other in alike(name, names)], names)


def alike(name: str, names: Iterable[str]) -> list[str]:
    """Up to three names similar to this one, closest first, ignoring case and punctuation."""
    by_letters = {_letters(other): other for other in names}
    return [by_letters[other] for other in difflib.get_close_matches(_letters(name), by_letters, n=_MOST_ALIKE, cutoff=_LEAST_ALIKE)]


def suggestion(similar: Sequence[str], every: Iterable[str]) -> str:
    """Ask whether one of the similar names was meant, or list every name if none is similar."""
    return f"did you mean {' or '.join(similar)}?" if similar else f"choose from {', '.join(every)}"


def first_few(items: Iterable[Any]) -> str:
    """The first items of a possibly long list, such as rows with the same mistake."""
    shown = [str(item) for item in itertools.islice(items, _SHOWN + 1)]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def budget_sentences(budgets: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What a budget of pairs left out.

    Args:
        budgets: For each generator ``rewritten`` of ``planned`` texts, as ``pairs`` were wanted of all generators together.

    Returns:
        A sentence for each generator that did not take all texts.
    """
    return [
        f"{name}: {numbers['rewritten']:,} of {numbers['planned']:,} texts, for the {numbers['pairs']:,} pairs that are wanted in all"
        for name, numbers in budgets.items()
        if numbers["rewritten"] < numbers["planned"]
    ]


def duration(seconds: float) -> str:
    """A duration in words of one unit: ``8 s``, ``4 min``, ``2.5 h``."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"  # noqa: PLR2004


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
