"""Words shaded by the attention they get, and a page of texts shaded in this way, base above adapted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from embedding_adaptation.attention.shares import PARTS
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR
from embedding_adaptation.pages.rendering import render

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_SIDES = {"base": BASE_COLOUR, "adapted": ADAPTED_COLOUR}
_DARKEST = 0.45  # opacity of the heaviest word, on which letters stay readable in light and dark
_SEPARATE = frozenset({"sink", "self"})  # tokens that would outshine all words
_LEGEND = (0.1, 0.4, 0.7, 1.0)


def shaded_words(words: pd.DataFrame, *, whole_prompt: bool = False) -> dict[str, list[dict[str, Any]]]:
    """The words of a text as a page shows them, for each of base and adapted.

    A shade is relative to the largest share of any word of the text under either model, so that both can be compared within a text, but not
    across texts. Words of the template with a larger share have the full shade; sink and last token have none.

    Args:
        words: Words of one text: ``part``, ``word``, ``start``, ``end``, ``base``, ``adapted``, and optionally ``kind``.
        whole_prompt: Whether to show words outside the text as well.

    Returns:
        By side, one mapping per word: ``word``, ``attached`` (whether no space precedes it), ``inside`` (whether it is of the text),
        ``background`` (a colour for CSS), ``title``.
    """
    inside = words[words["part"] == "text"]
    heaviest = float(inside[list(_SIDES)].to_numpy().max()) if len(inside) else 0.0
    rows = (words if whole_prompt else inside).to_dict("records")
    return {side: _line(rows, side, heaviest) for side in _SIDES}


def _line(rows: Sequence[dict[Any, Any]], side: str, heaviest: float) -> list[dict[str, Any]]:
    line, end, part = [], -1, ""
    for row in rows:
        is_text = row["part"] == "text"
        kinds = f" ({row['part']}{', ' + row['kind'] if is_text else ''})" if "kind" in row else ""
        share = 0.0 if row["part"] in _SEPARATE or not heaviest else min(1.0, row[side] / heaviest)
        line.append(
            {
                "word": row["word"],
                "attached": is_text and part == "text" and 0 <= row["start"] == end,
                "inside": is_text,
                "background": shade(side, share),
                "title": f"{row['word']}: {row[side]:.2%} of the attention{kinds}",
            }
        )
        end, part = row["end"], row["part"]
    return line


def shade(side: str, share: float) -> str:
    """The colour of base or adapted at a share (0 to 1) of its full strength, for CSS."""
    red, green, blue = (int(_SIDES[side][place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_DARKEST * share:.3f})"


def attention_page(words: pd.DataFrame, ids: Sequence[str], *, template: str, layers: str = "all layers") -> str:
    """A page of texts shaded by the last token's attention; see :func:`shaded_words`.

    Args:
        words: Words with the attention of both models, from :func:`~embedding_adaptation.attention.comparison.paired_words`.
        ids: The texts to show, in this order.
        template: The template's words, for the heading.
        layers: Which layers were averaged.

    Returns:
        A self-contained HTML document in which all texts are escaped.
    """
    texts = []
    for text_id in ids:
        rows = words[words["id"] == text_id]
        sums = rows.groupby("part")[list(_SIDES)].sum()
        parts = {side: ", ".join(f"{part} {sums[side][part]:.1%}" for part in PARTS if part in sums.index) for side in _SIDES}
        texts.append({"id": text_id, "cut": bool(rows["cut"].any()), "sides": shaded_words(rows, whole_prompt=True), "parts": parts})
    return render(
        "attention.html.j2",
        template=template,
        layers=layers,
        texts=texts,
        legend={side: [{"share": f"{share:.0%}", "background": shade(side, share)} for share in _LEGEND] for side in _SIDES},
        data={},
    )
