"""Typed options of data augmentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from embedding_adaptation.embedder.pooling import PoolingName
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.options import EmbedderOptions, Layers, Names, Options, StrategyOptions

GeneratorName = Literal["rewrite", "back_translation", "span_pairs", "neighbours", "noise", "identity", "given"]
_WRITTEN: tuple[GeneratorName, ...] = ("rewrite", "back_translation")
_FROM_TEXTS: tuple[GeneratorName, ...] = ("rewrite", "back_translation", "neighbours", "given")

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        msg = f"{pattern!r} is no regular expression: {error}"
        raise ValueError(msg) from error
    return pattern


Pattern = Annotated[str, BeforeValidator(_checked_pattern)]


class CleaningOptions(Options):
    """What happens to the corpus before anything is generated."""

    max_texts: int | None = Field(2000, ge=2, description="Draw at most this many texts at random; null takes all.")
    min_words: int = Field(3, ge=1, description="Shorter texts are left out.")
    max_words: int | None = Field(None, ge=1, description="Longer texts are left out; null keeps them.")
    languages: tuple[str, ...] | None = Field(None, description="ISO 639-1 codes of the languages to keep; null keeps all.")
    language_confidence: Share = Field(0.9, description="Only texts that are of another language with this confidence are left out.")
    near_duplicates: Share = Field(
        0.8, description="Texts whose character 5-grams overlap more than this (Jaccard) with an earlier text are left out; 1 keeps them."
    )
    boilerplate: tuple[Pattern, ...] = Field((), description="Regular expressions of passages to cut out of texts.")
    max_repeats: int | None = Field(
        None, ge=1, description="Sentences or lines that stand in more texts than this are cut out as boilerplate; null keeps them."
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.max_words is not None and self.max_words < self.min_words:
            msg = f"max_words ({self.max_words}) is below min_words ({self.min_words}): no text can be left"
            raise ValueError(msg)
        return self


class StyleExample(Options):
    """One shown rewrite: small models follow an example far better than an instruction."""

    text: str = Field(min_length=1, description="A text, of another subject than the corpus.")
    rewrite: str = Field(min_length=1, description="The answer that is wanted.")


class StyleOptions(Options):
    """One way to rewrite."""

    instruction: str = Field(description="What the model is asked, with one {text} slot.")
    examples: tuple[StyleExample, ...] = Field((), description="Shown as earlier turns of the conversation.")

    @field_validator("instruction")
    @classmethod
    def _check_slot(cls, instruction: str) -> str:
        PromptTemplate("instruction", instruction)
        return instruction


class GeneratorOptions(Options):
    """What all generators have in common."""

    weight: float = Field(1.0, ge=0.0, description="Candidates for each text: 0.5 takes every other text, 2 makes two of each, 0 none.")

    # How many are made, how fast and how often it is tried: fields that change no candidate.
    speed: ClassVar[frozenset[str]] = frozenset({"weight"})

    @property
    def style_names(self) -> tuple[str, ...]:
        """The styles that a text's candidates go round; one without a name where there are none."""
        return ("",)


class ServerOptions(Options):
    """A server that speaks OpenAI's chat protocol (vLLM, Ollama, TGI, transformers serve); its key comes from Kedro's credentials."""

    url: str = Field(
        pattern=r"^https?://[^@]+$", description="Address up to and including /v1, such as http://localhost:8000/v1; no password."
    )
    model: str = Field(min_length=1, description="The model's name on the server.")
    concurrency: int = Field(8, ge=1, description="Requests under way at once.")
    timeout: float = Field(60.0, gt=0.0, description="Seconds after which a request counts as failed.")
    retries: int = Field(5, ge=0, description="How often a failed request is tried again, each time after a longer pause.")


class RewriteOptions(GeneratorOptions):
    """An instruct model rewrites texts."""

    system_prompt: str = Field(description="What the model is told to be.")
    styles: dict[str, StyleOptions] = Field(min_length=1, description="Named ways to rewrite; those in use, once they are checked.")
    use: tuple[str, ...] | None = Field(None, min_length=1, description="Names of the styles a text's rewrites go round; null takes all.")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="Sampling temperature; 0 takes the likeliest word.")
    top_p: float = Field(0.9, gt=0.0, le=1.0, description="Sampling keeps the likeliest words up to this share.")
    max_new_tokens: int = Field(40, ge=1, description="Longest answer in tokens.")
    memory_mb: int | None = Field(None, ge=64, description="Memory for texts under way; null takes what suits the device.")
    batch_size: int | None = Field(None, ge=1, description="Texts generated at once; null fills memory_mb.")
    server: ServerOptions | None = Field(None, description="A chat server that rewrites instead of the base model.")

    speed: ClassVar[frozenset[str]] = frozenset(
        {"weight", "memory_mb", "batch_size", "server.concurrency", "server.timeout", "server.retries"}
    )

    @property
    def style_names(self) -> tuple[str, ...]:
        """The styles that a text's rewrites go round."""
        return tuple(self.styles)

    @model_validator(mode="before")
    @classmethod
    def _keep_used(cls, values: Any) -> Any:
        """Drop styles that are not in use: what they say decides nothing, and candidates are not made anew for it."""
        if not isinstance(values, Mapping) or not values.get("use") or not isinstance(values.get("styles"), Mapping):
            return values
        styles = values["styles"]
        for name in values["use"]:
            if name not in styles:
                msg = f"rewrite.use names the style {name!r}; there are: {', '.join(styles)}"
                raise ValueError(msg)
        return {**values, "styles": {name: styles[name] for name in values["use"]}}


class BackTranslationOptions(GeneratorOptions):
    """Two translation models, there and back."""

    there: str = Field(min_length=1, description="Hub id or folder of a seq2seq model from the texts' language to another.")
    back: str = Field(min_length=1, description="Hub id or folder of the model that translates back.")
    there_prefix: str = Field("", description="Words the first model wants before a text, as T5 does.")
    back_prefix: str = Field("", description="Words the second model wants before a text.")
    beams: int = Field(1, ge=1, description="Beams of the search.")
    max_new_tokens: int = Field(128, ge=1, description="Longest translation in tokens.")
    batch_tokens: int = Field(2048, ge=16, description="Tokens translated at once.")

    speed: ClassVar[frozenset[str]] = frozenset({"weight", "batch_tokens"})


class SpanPairsOptions(GeneratorOptions):
    """Two parts of one text."""

    min_words: int = Field(3, ge=1, description="Fewest words of each part.")
    max_words: int | None = Field(64, ge=1, description="Most words of each part; null has no bound.")


class NeighboursOptions(GeneratorOptions):
    """Texts of the corpus that are each other's nearest neighbours."""

    templates: Names = Field(min_length=1, description="Templates of the embedder under which similarities are taken, and averaged.")
    pooling: PoolingName = Field("value_weighted", description="How token vectors of the base model become one vector.")
    layers: Layers = Field(tuple(range(-1, -9, -1)), min_length=1, description="Hidden state, or several that are averaged.")
    centre: bool = Field(True, description="Centre the vectors of each template on the corpus first.")
    neighbours: int = Field(3, ge=1, description="How many nearest neighbours are looked at.")
    min_similarity: float = Field(0.5, ge=-1.0, le=1.0, description="Pairs that are less similar are left out.")
    max_pairs_per_text: int = Field(3, ge=1, description="In how many pairs a text may stand.")
    near_duplicate: Share = Field(0.9, description="Texts whose characters agree more than this (edit similarity) are kept apart.")

    @property
    def strategies(self) -> dict[str, StrategyOptions]:
        """The strategy of each template."""
        return {
            template: StrategyOptions(weights="base", template=(template,), pooling=self.pooling, layers=self.layers)
            for template in self.templates
        }


class NoiseOptions(GeneratorOptions):
    """The same text with mistakes, on one side only."""

    delete_words: Share = Field(0.1, description="Share of words that are left out.")
    swap_words: Share = Field(0.05, description="Share of words that change places with the next one.")
    swap_characters: Share = Field(0.02, description="Share of characters that change places with the next one, within a word.")


class IdentityOptions(GeneratorOptions):
    """The same text on both sides: what differs is dropout, in training."""


class GivenOptions(GeneratorOptions):
    """The user's own pairs."""

    path: str = Field(min_length=1, description="A file: .csv, .tsv, .jsonl, .json, .parquet or .xlsx.")
    first_column: str = Field("text", coerce_numbers_to_str=True, description="Column of the first texts.")
    second_column: str = Field("positive", coerce_numbers_to_str=True, description="Column of the second texts.")
    encoding: str | None = Field(None, description="Encoding of text formats; null finds it out.")
    separator: str | None = Field(None, description="Separator of .csv and .tsv, such as ';' or 'tab'; null finds it out.")


class GeneratorsOptions(Options):
    """Which generators work, and how."""

    rewrite: RewriteOptions | None = Field(None, description="An instruct model rewrites texts.")
    back_translation: BackTranslationOptions | None = Field(None, description="Two translation models, there and back.")
    span_pairs: SpanPairsOptions | None = Field(None, description="Two parts of one text.")
    neighbours: NeighboursOptions | None = Field(None, description="Texts of the corpus that are each other's nearest neighbours.")
    noise: NoiseOptions | None = Field(None, description="The same text with mistakes.")
    identity: IdentityOptions | None = Field(None, description="The same text twice.")
    given: GivenOptions | None = Field(None, description="The user's own pairs.")

    @property
    def chosen(self) -> dict[GeneratorName, GeneratorOptions]:
        """The generators with a weight above 0, by name, in a fixed order."""
        named = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: options for name, options in named.items() if options is not None and options.weight > 0}  # type: ignore[misc]

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.chosen:
            msg = f"no generator has a weight above 0; set one of {', '.join(type(self).model_fields)}"
            raise ValueError(msg)
        return self


class FilterOptions(Options):
    """One filter: whose candidates it judges; null or an empty list switches it off."""

    generators: tuple[GeneratorName, ...] = Field(description="Generators whose candidates are judged.")


class CutOffFilter(FilterOptions):
    """An answer without an end is cut back to its last full sentence, and rejected if it has none."""

    generators: tuple[GeneratorName, ...] = _WRITTEN


class RefusalFilter(FilterOptions):
    """Refusals and talk about the answer instead of the answer."""

    generators: tuple[GeneratorName, ...] = _WRITTEN


class CopyFilter(FilterOptions):
    """A pair of almost the same characters."""

    generators: tuple[GeneratorName, ...] = _FROM_TEXTS
    max_similarity: Share = Field(0.9, description="Edit similarity above which a pair is a copy.")


class LengthFilter(FilterOptions):
    """Far shorter or longer than the text."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    min_ratio: float = Field(0.1, ge=0.0, description="Fewest words for each word of the text.")
    max_ratio: float = Field(2.5, gt=0.0, description="Most words for each word of the text.")


class LanguageFilter(FilterOptions):
    """Another language than the text's."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    confidence: Share = Field(0.9, description="How sure the language of both must be.")


class QuestionFilter(FilterOptions):
    """A question for a statement, or the other way round."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    styles: tuple[str, ...] = Field(("summary",), description="Styles whose answers may be questions or statements as they please.")


class RepetitionFilter(FilterOptions):
    """A model that repeats itself."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    max_share: Share = Field(0.3, description="Share of word 3-grams that have occurred before, above which an answer repeats itself.")


class NewWordsFilter(FilterOptions):
    """Words that the text has nothing like: a small model's inventions, and a large one's synonyms."""

    generators: tuple[GeneratorName, ...] = ("rewrite",)
    max_share: Share = Field(0.25, description="Share of the answer's words of four letters or more that may be new.")


class FactsFilter(FilterOptions):
    """Numbers and names that are lost or invented."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    max_lost: Share = Field(1.0, description="Largest share of the text's numbers and names that may be missing.")
    max_invented: int = Field(0, ge=0, description="How many numbers and names may be there that the text does not have.")


class DriftFilter(FilterOptions):
    """Not more alike than random pairs of texts, under the prompted base model."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    strategy: str = Field("prompted_values", description="Strategy whose similarity counts; base weights.")
    percentile: float = Field(99.9, ge=0.0, le=100.0, description="Pairs less similar than this percentile of random pairs are rejected.")
    reference_texts: int = Field(300, ge=10, description="Texts drawn from the corpus for the random pairs.")


class DuplicateFilter(FilterOptions):
    """The same positive for two texts."""

    generators: tuple[GeneratorName, ...] = (*_WRITTEN, "span_pairs")


class FiltersOptions(Options):
    """When a candidate is rejected; null switches a filter off."""

    cut_off: CutOffFilter | None = CutOffFilter()
    refusal: RefusalFilter | None = RefusalFilter()
    copy_: CopyFilter | None = Field(CopyFilter(), alias="copy")
    length: LengthFilter | None = LengthFilter()
    language: LanguageFilter | None = LanguageFilter()
    question: QuestionFilter | None = QuestionFilter()
    repetition: RepetitionFilter | None = RepetitionFilter()
    new_words: NewWordsFilter | None = NewWordsFilter()
    facts: FactsFilter | None = FactsFilter()
    drift: DriftFilter | None = DriftFilter()
    duplicate: DuplicateFilter | None = DuplicateFilter()


class AugmentationOptions(Options):
    """All options of data augmentation."""

    cleaning: CleaningOptions
    generators: GeneratorsOptions
    filters: FiltersOptions = Field(FiltersOptions(), description="When a candidate is rejected.")
    shard_size: int = Field(128, ge=1, description="Candidates written at once: what a crash can cost at most.")
    seed: int = Field(ge=0, description="Every random choice follows from it.")

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  the signature of all options
        """Check that templates and strategies exist; see :meth:`Options.check`."""
        neighbours, drift = self.generators.neighbours, self.filters.drift
        if neighbours:
            try:
                embedder.check_strategies(neighbours.strategies)
            except ValueError as error:
                msg = f"data_augmentation.generators.neighbours: {error}"
                raise ValueError(msg) from error
        usable = [name for name, strategy in embedder.every_strategy.items() if strategy.weights == "base" and not strategy.after.title]
        if drift and drift.strategy not in usable:
            msg = (
                f"data_augmentation.filters.drift.strategy names the strategy {drift.strategy!r}; it takes those of the base weights "
                f"without after-processing: {', '.join(usable)}"
            )
            raise ValueError(msg)
