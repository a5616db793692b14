"""The language of a text."""

from __future__ import annotations

from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

_LANGUAGE_LENGTH = 2000  # characters from which a text's language is identified
_NO_LANGUAGE = "zxx"  # the model's class for symbols, code and the like


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@lru_cache(1024)  # the candidates of a text follow each other
def identify_language(text: str) -> tuple[str, float]:
    """Identify the language of a text.

    Returns:
        An ISO 639-1 code and a probability; an empty code if there are no letters, or the text is in no language.
    """
    start = text[:_LANGUAGE_LENGTH]
    if not any(map(str.isalpha, start)):
        return "", 0.0
    language, confidence = _identifier().classify(start)
    return ("", 0.0) if language == _NO_LANGUAGE else (language, float(confidence))
