"""Stems and stop words of languages, so that forms of a word count as one and words without a subject count as none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import snowballstemmer
import stop_words

from embedding_adaptation.texts.function_words import FUNCTION_WORDS

ENGLISH = "en"

# ISO 639-1 codes of Snowball's algorithms. Only those whose algorithm is meant for the whole language.
_ALGORITHMS = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "et": "estonian",
    "eu": "basque", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "nb": "norwegian", "ne": "nepali", "nl": "dutch", "nn": "norwegian", "no": "norwegian",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip
# What apostrophes leave behind where punctuation has been removed ("don t", "they ll").
_REMAINS = frozenset("don doesn didn isn aren wasn weren hasn haven hadn wouldn couldn shouldn mustn needn ll ve".split())  # noqa: SIM905
# Verbs, adverbs, courtesies, numbers and titles that any English text may contain whatever it is about.
_GENERAL = frozenset(
    """get gets got gotten getting go goes going went gone let lets make makes made making take takes took taken taking
    use uses used using want wants wanted wanting need needs needed needing like likes know knows knew known knowing say says said saying
    see sees saw seen seeing tell tells told telling try tries tried trying come comes came coming seem seems seemed seeming
    think thinks thought thinking look looks looked looking keep keeps kept keeping put puts
    help helps helped helping find finds found finding give gives gave given giving show shows showed shown showing
    happen happens happened happening
    please thanks thank hello hi hey ok okay yes really actually currently now today yesterday already yet soon later ago etc eg ie
    way ways thing things lot lots able unable possible impossible via whether maybe perhaps however therefore thus
    good better best bad worse worst well new old last first second next different various several
    two three four five six seven eight nine ten hundred thousand million billion mln bln percent pct vs versus
    inc corp ltd plc llc gmbh mr mrs ms dr""".split()  # noqa: SIM905
)


def stemmer(language: str) -> Callable[[str], str]:
    """A function that maps the forms of a word, in lower case, to one stem; in a language without an algorithm, each form to itself.

    Args:
        language: ISO 639-1 code; may be empty.

    References:
        https://snowballstem.org

    Example:
        >>> stem = stemmer("en")
        >>> [stem(word) for word in ("card", "cards", "topped", "topping")]
        ['card', 'card', 'top', 'top']
    """
    algorithm = _ALGORITHMS.get(language)
    if algorithm is None:
        return lambda word: word
    return cache(snowballstemmer.stemmer(algorithm).stemWord)


@cache
def stop_words_of(language: str) -> frozenset[str]:
    """Words of a language, in lower case, that say nothing about the subject of a text.

    Those of English are always among them, because texts in other languages quote it. English has a list of its own: the package's
    contains words that texts are about, such as computer, bill or fire.

    Args:
        language: ISO 639-1 code; may be empty.
    """
    if language == ENGLISH:
        return FUNCTION_WORDS | _REMAINS | _GENERAL
    code = "nb" if language in {"no", "nn"} else language
    if code not in stop_words.LANGUAGE_MAPPING:
        return FUNCTION_WORDS
    return FUNCTION_WORDS.union(word.lower() for word in stop_words.get_stop_words(code))
