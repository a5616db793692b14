"""The language of a text."""

from __future__ import annotations

from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

_LANGUAGE_LENGTH = 2000  # characters by which a text's language is told
_NO_LANGUAGE = "zxx"  # the model's class of symbols, code and the like


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(1024)  # a text's candidates stand side by side
def identify_language(text: str) -> tuple[str, float]:
    """A text's language and the confidence in it.

    Returns:
        An ISO 639-1 code and a probability; an empty code where there are no letters, or none of a language.
    """
    start = text[:_LANGUAGE_LENGTH]
    if not any(map(str.isalpha, start)):
        return "", 0.0
    language, confidence = _identifier().classify(start)
    return ("", 0.0) if language == _NO_LANGUAGE else (language, float(confidence))
