"""The language of a text."""

from __future__ import annotations

from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

_LANGUAGE_LENGTH = 2000  # characters by which a text's language is told
_NO_LANGUAGE = "zxx"  # the model's class of symbols, code and the like


def identify_language(text: str) -> tuple[str, float]:
    """A text's language, by its first 2,000 characters, and the confidence in it.

    Returns:
        An ISO 639-1 code and a probability; an empty code where there are no letters, or none of a language.
    """
    return _of_start(text[:_LANGUAGE_LENGTH])


def language_of_all(text: str) -> tuple[str, float]:
    """The same by all of a text, which takes time with its length."""
    if not any(map(str.isalpha, text)):
        return "", 0.0
    language, confidence = _identifier().classify(text)
    return ("", 0.0) if language == _NO_LANGUAGE else (str(language), float(confidence))


def known_languages() -> list[str]:
    """The ISO 639-1 codes that can be told, in order."""
    return sorted({*_identifier().labels} - {_NO_LANGUAGE})


@lru_cache(1024)  # a text's candidates stand side by side
def _of_start(start: str) -> tuple[str, float]:
    return language_of_all(start)


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
