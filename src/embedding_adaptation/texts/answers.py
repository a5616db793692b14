"""Answers of language models: refusals, remarks about the answer itself, and wrapping that carries no meaning."""

from __future__ import annotations

import re

# What instruct models say instead of answering; these patterns expect lower case with straight apostrophes.
_REFUSAL = re.compile(
    r"\b(?:as an? (?:ai\b|(?:large )?language model)|"
    r"i(?:'m| am)(?: very| so)? sorry,? (?:but )?i(?:'m| am| can| do| could)|"
    r"(?:sorry|i apologi[sz]e),? (?:but )?(?:for (?:the|any) (?:confusion|error|inconvenience)|i can)|"
    r"i do(?:n't| not) have (?:access|enough (?:information|context))|"
    r"i(?:'m| am) not sure (?:i understand|what you (?:mean|are)|how to (?:translate|rewrite|rephrase|answer|respond|help))|"
    r"i(?:'m| am) (?:not able|unable) to (?:help|assist|provide|answer|rewrite|complete|fulfil)|"
    r"i (?:can(?:no|')t|can not|won't) (?:help (?:you|with)|assist|fulfil|comply|rewrite|rephrase|answer (?:this|that|your)|"
    r"translate (?:this|that|the)|provide (?:you|any|a (?:rewrite|response|translation))|generate|engage in)|"
    r"i(?:'d| would) (?:be (?:happy|glad) to (?:help|assist)|need (?:more|additional|further) (?:information|context|details))|"
    r"how (?:can|may) i (?:help|assist) you|"
    r"please (?:provide|share|give|paste|clarify)\b[^.?!]{0,40}\b(?:text|message|sentence|context|information|details)\b|"
    r"(?:es tut mir leid|lo siento|je suis désolée?|mi dispiace|sinto muito),? (?:aber|pero|mais|ma|mas)\b)",
)
# What small instruct models say about their own answer.
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok)(?=[,!.:]| here| thing)|here(?:'s| is| are)\b|re:|note:)|"
    r"^(?:hier (?:ist|is)|voici|aquí (?:está|tienes)|aqui está|ecco)\b[^.!?]{0,80}:|"
    r"\b(?:re-?writt?en?|rewriting|paraphras\w*|rephras\w*|revised version|original (?:text|message|sentence)|"
    r"simpler (?:words|terms)|(?:perfect|possible|correct|suggested) (?:answer|alternative|rewrite)|"
    r"this (?:message|text|sentence)|the (?:message|text|sentence|phrase) (?:is|was|says|could|can|should))\b",
)
_LABEL = re.compile(r"^(?:message|text|sentence|answer|title|topic|subject|question|phrase|output)\s*:\s*", re.IGNORECASE)
_QUOTES = '"“”„«»「」'
_SINGLE_QUOTES = "'‘’‚`"
_INNER_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_CLOSING = "[\"'”’»)\\]」』）]*"
# A full stop after a single letter or digit, or after one of these abbreviations, does not end a sentence.
SENTENCE_END = re.compile(
    rf"(?:(?<!\b[^\WI])(?<!\b[DM]r|\bMs|\bSt|\bvs)(?<!\bMrs)\.|[!?…؟۔।]){_CLOSING}(?=\s|$)|[。！？]+{_CLOSING}",
)


def is_refusal(source: str, answer: str) -> bool:
    """Whether an answer is a refusal, in words that its source text does not use itself."""
    return _matches_only_answer(_REFUSAL, source, answer)


def is_preamble(source: str, answer: str) -> bool:
    """Whether an answer talks about itself, in words that its source text does not use itself."""
    return _matches_only_answer(_PREAMBLE, source, answer)


def tidy_answer(answer: str) -> str:
    """Strip wrapping that carries no meaning: a leading label, enclosing quotation marks, runs of white space."""
    text = _LABEL.sub("", _unquoted(" ".join(answer.split())))
    return _unquoted(text)


def cut_back(answer: str) -> str:
    """Cut an unfinished answer after its last complete sentence; empty if it has none."""
    ends = list(SENTENCE_END.finditer(answer))
    return answer[: ends[-1].end()].rstrip() if ends else ""


def has_end(answer: str) -> bool:
    """Whether an answer ends with a complete sentence."""
    return cut_back(answer) == answer


def plain(text: str) -> str:
    """Convert a text to lower case with straight apostrophes, as the patterns expect."""
    return text.lower().replace("’", "'")


def _unquoted(text: str) -> str:
    """Remove quotation marks around the whole text, or a leading one that is never closed."""
    for marks in (_QUOTES, _SINGLE_QUOTES):
        if len(text) > 1 and text[0] in marks and text[-1] in marks:
            inner = text[1:-1]
            if not any(mark in _INNER_APOSTROPHE.sub("", inner) for mark in marks):
                return inner.strip()
    if text[:1] and text[0] in _QUOTES and not any(mark in text[1:] for mark in _QUOTES):
        return text[1:].strip()
    return text


def _matches_only_answer(pattern: re.Pattern[str], source: str, answer: str) -> bool:
    return pattern.search(plain(answer)) is not None and pattern.search(plain(source)) is None
