"""The language of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

_LANGUAGE_LENGTH = 2000  # characters from which a text's language is identified
_ENOUGH, _SURE = 300, 0.9  # characters and probability from which a group of texts has a language of its own
_NO_LANGUAGE = "zxx"  # the model's class for symbols, code and the like


def identify_language(text: str) -> tuple[str, float]:
    """Identify the language of a text by its first 2,000 characters.

    Returns:
        An ISO 639-1 code and a probability; an empty code if there are no letters, or the text is in no language.
    """
    return _of_start(text[:_LANGUAGE_LENGTH])


def language_of_all(text: str) -> tuple[str, float]:
    """Identify the language by the whole text, which takes longer for longer texts."""
    if not any(map(str.isalpha, text)):
        return "", 0.0
    language, confidence = _identifier().classify(text)
    return ("", 0.0) if language == _NO_LANGUAGE else (str(language), float(confidence))


def languages_of(groups: Sequence[Sequence[str]]) -> list[str]:
    """The language of each of several groups of texts from one source.

    A group whose texts are too few or too short to tell has the language of all groups together.

    Args:
        groups: Texts.

    Returns:
        ISO 639-1 codes, empty where there is nothing to tell a language by.
    """
    joined = ["\n".join(texts) for texts in groups]
    overall, _ = language_of_all("\n".join(joined))
    found = []
    for text in joined:
        language, confidence = language_of_all(text) if len(text) >= _ENOUGH else ("", 0.0)
        found.append(language if language and confidence >= _SURE else overall)
    return found


def known_languages() -> list[str]:
    """The ISO 639-1 codes of all known languages, sorted."""
    return sorted({*_identifier().labels} - {_NO_LANGUAGE})


@lru_cache(1024)  # the candidates of a text follow each other
def _of_start(start: str) -> tuple[str, float]:
    return language_of_all(start)


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
