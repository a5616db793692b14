"""A page of texts coloured by attention, base above adapted."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from embedding_adaptation.attention.shares import PARTS
from embedding_adaptation.figures import ADAPTED_COLOUR, BASE_COLOUR

_STRONGEST = 0.75  # opacity of the word with the most attention, on which black letters stay readable
_STYLE = """
body { font: 16px/1.9 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #111; background: #fff; }
h1 { font-size: 1.4rem; line-height: 1.3; }
section { border-top: 1px solid #ccc; padding: .6rem 0; overflow-wrap: anywhere; }
h2 { font-size: .85rem; margin: 0; color: #555; font-weight: 600; }
p { margin: .1rem 0; }
.side { display: inline-block; min-width: 4.8rem; font-size: .8rem; font-weight: 600; }
.sums { font-size: .8rem; color: #555; }
.w { border-radius: 3px; padding: .1em .12em; }
.t { color: #333; font-size: .85em; }
.w:hover { outline: 2px solid #111; }
.legend .w { margin-right: .4rem; }
"""


def attention_page(words: pd.DataFrame, ids: Sequence[str], *, template: str, layers: str = "all layers") -> str:
    """Colour texts by the last token's attention; hovering over a word shows its share.

    A word's colour is its share relative to the largest share of any word of the text in either model, so that base and adapted can be
    compared within a text, but not across texts. Words of the template with a larger share have the full colour; sink and last token have
    none.

    Args:
        words: Words with the attention of both models, from :func:`paired_words`.
        ids: The texts to show, in this order.
        template: The template's words, for the heading.
        layers: Which layers were averaged.

    Returns:
        A self-contained HTML document in which all texts are escaped.
    """
    sections = [_section(text_id, words[words["id"] == text_id]) for text_id in ids]
    legend = " ".join(
        f'<span class="side">{side}</span>'
        + "".join(f'<span class="w" style="background:{_shade(colour, part)}">{part:.0%}</span>' for part in (0.1, 0.4, 0.7, 1.0))
        for side, colour in _SIDES
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Attention of the last token</title><style>{_STYLE}</style></head><body>\n"
        "<h1>Attention of the last token</h1>\n"
        f"<p>Template: <code>{escape(template)}</code>. Mean over heads and {escape(layers)}. Hover over a word to see its share "
        "of the attention. The colour is the share relative to the largest of any word of the text, base or adapted; words of the template "
        "(small) may have a larger share. The first token (sink) and the last token itself are not coloured.</p>\n"
        f'<p class="legend">{legend}</p>\n' + "\n".join(sections) + "\n</body></html>\n"
    )


_SIDES = (("base", BASE_COLOUR), ("adapted", ADAPTED_COLOUR))


def _section(text_id: str, words: pd.DataFrame) -> str:
    inside = words[words["part"] == "text"]
    heaviest = float(inside[[side for side, _ in _SIDES]].to_numpy().max()) if len(inside) else 0.0
    cut = " (truncated)" if bool(words["cut"].any()) else ""
    lines = [f"<section><h2>{escape(str(text_id))}{cut}</h2>"]
    for side, colour in _SIDES:
        sums = words.groupby("part")[side].sum()
        total = ", ".join(f"{part} {sums[part]:.1%}" for part in PARTS if part in sums)
        lines.append(
            f'<p><span class="side" style="color:{colour}">{side}</span>{_line(words, side, colour, heaviest)}</p>'
            f'<p class="sums">{total}</p>'
        )  # fmt: skip
    return "".join([*lines, "</section>"])


def _line(words: pd.DataFrame, side: str, colour: str, heaviest: float) -> str:
    pieces, end, part = [], -1, ""
    for word in words.to_dict("records"):
        attached = word["part"] == part == "text" and 0 <= word["start"] == end
        number = (
            f"{word['word']}: {word[side]:.2%} of the attention ({word['part']}{', ' + word['kind'] if word['part'] == 'text' else ''})"
        )
        share = 0.0 if word["part"] in {"sink", "self"} or not heaviest else min(1.0, word[side] / heaviest)
        small = "" if word["part"] == "text" else " t"
        pieces.append(
            f'{"" if attached else " "}<span class="w{small}" style="background:{_shade(colour, share)}" '
            f'title="{escape(number)}">{escape(word["word"])}</span>'
        )
        end, part = word["end"], word["part"]
    return "".join(pieces)


def _shade(colour: str, share: float) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_STRONGEST * share:.3f})"
