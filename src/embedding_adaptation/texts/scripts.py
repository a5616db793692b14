"""Scripts without spaces between words, and what counts as a word in them.

The character classes go between the brackets of a regular expression, of ``re`` or ``regex``.
"""

from __future__ import annotations

import re

# One character is roughly a word: Chinese characters and Japanese kana.
WORD_CHARACTERS = (
    "\u3005-\u3007\u303b\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00016fe2-\U00016fff\U0001aff0-\U0001b16f\U00020000-\U0003fffd"
)
# Several letters form a word, whose end is not marked: Thai, Lao, Burmese and Khmer.
RUNNING_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
UNSPACED = WORD_CHARACTERS + RUNNING_LETTERS

# A word in a script without spaces: one character, or up to four running letters.
UNSPACED_WORD = rf"[{WORD_CHARACTERS}]|[{RUNNING_LETTERS}]{{1,4}}"

_FIRST_UNSPACED = min(UNSPACED)
_WORD = re.compile(rf"{UNSPACED_WORD}|[^\s{UNSPACED}]+")


def count_words(text: str) -> int:
    """Count words; in scripts without spaces, each Chinese character or kana, or every four letters, count as one.

    Example:
        >>> count_words("The bus is late."), count_words("機械学習")
        (4, 4)
    """
    if text.isascii() or max(text) < _FIRST_UNSPACED:
        return len(text.split())
    return len(_WORD.findall(text))
