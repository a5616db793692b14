"""Typed options of data augmentation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.options import EmbedderOptions, Options, ServerOptions

GeneratorName = Literal["rewrite", "back_translation", "span_pairs", "neighbours", "noise", "identity", "given"]
_WRITTEN: tuple[GeneratorName, ...] = ("rewrite", "back_translation")
_FROM_TEXTS: tuple[GeneratorName, ...] = ("rewrite", "back_translation", "neighbours", "given")

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        msg = f"{pattern!r} is not a regular expression: {error}"
        raise ValueError(msg) from error
    return pattern


Pattern = Annotated[str, BeforeValidator(_checked_pattern)]


class CleaningOptions(Options):
    """How the corpus is cleaned before anything is generated."""

    max_texts: int | None = Field(2000, ge=2, description="Draw at most this many texts at random; null takes all.")
    min_words: int = Field(3, ge=1, description="Leave out shorter texts.")
    max_words: int | None = Field(None, ge=1, description="Leave out longer texts; null keeps them.")
    languages: tuple[str, ...] | None = Field(None, description="ISO 639-1 codes of the languages to keep; null keeps all.")
    language_confidence: Share = Field(0.9, description="Confidence in another language from which a text is left out.")
    near_duplicates: Share = Field(
        0.8, description="Leave out texts whose character 5-grams overlap with an earlier text by more than this (Jaccard); 1 keeps them."
    )
    boilerplate: tuple[Pattern, ...] = Field((), description="Regular expressions of passages to cut out of texts.")
    max_repeats: int | None = Field(
        None, ge=1, description="Cut out sentences or lines that occur in more texts than this as boilerplate; null keeps them."
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.max_words is not None and self.max_words < self.min_words:
            msg = f"max_words ({self.max_words}) is below min_words ({self.min_words}), which leaves no text; raise one or lower the other"
            raise ValueError(msg)
        return self


class StyleExample(Options):
    """One sample rewrite: small models follow an example far better than an instruction."""

    text: str = Field(min_length=1, description="A text, on a different subject from the corpus.")
    rewrite: str = Field(min_length=1, description="The desired answer.")


class StyleOptions(Options):
    """One way to rewrite texts."""

    instruction: str = Field(description="The request to the model, with one {text} slot.")
    examples: tuple[StyleExample, ...] = Field((), description="Shown as earlier turns of the conversation.")

    @field_validator("instruction")
    @classmethod
    def _check_slot(cls, instruction: str) -> str:
        PromptTemplate("instruction", instruction)
        return instruction


class GeneratorOptions(Options):
    """The options common to all generators."""

    weight: float = Field(1.0, ge=0.0, description="Candidates per text: 0.5 uses every other text, 2 makes two of each, 0 none.")

    # Fields that set how many candidates are generated, how fast and with how many retries, but do not change any candidate.
    irrelevant: ClassVar[frozenset[str]] = frozenset({"weight"})

    @property
    def style_names(self) -> tuple[str, ...]:
        """The styles that the candidates of a text cycle through; a single unnamed one if there are none."""
        return ("",)


class RewriteOptions(GeneratorOptions):
    """An instruct model rewrites texts."""

    system_prompt: str = Field(description="The role given to the model.")
    styles: dict[str, StyleOptions] = Field(min_length=1, description="Named ways to rewrite; reduced to those in use.")
    use: tuple[str, ...] | None = Field(None, min_length=1, description="Names of the styles to use; null uses all.")
    temperature: float = Field(0.0, ge=0.0, le=2.0, description="Sampling temperature; 0 always takes the most likely token.")
    top_p: float = Field(0.9, gt=0.0, le=1.0, description="Sample from the most likely tokens up to this total probability.")
    max_new_tokens: int = Field(40, ge=1, description="Longest answer in tokens.")
    memory_mb: int | None = Field(None, ge=64, description="Memory for the texts being generated; null uses what suits the device.")
    batch_size: int | None = Field(None, ge=1, description="Texts generated at once; null fills memory_mb.")
    server: ServerOptions | None = Field(None, description="A chat server that rewrites instead of the base model.")

    irrelevant: ClassVar[frozenset[str]] = frozenset(
        {"weight", "memory_mb", "batch_size", "server.concurrency", "server.timeout", "server.retries"}
    )

    @property
    def style_names(self) -> tuple[str, ...]:
        """The styles that the rewrites of a text cycle through."""
        return tuple(self.styles)

    @model_validator(mode="before")
    @classmethod
    def _keep_used(cls, values: Any) -> Any:
        """Drop unused styles, so that changing one does not regenerate candidates."""
        if not isinstance(values, Mapping) or not values.get("use") or not isinstance(values.get("styles"), Mapping):
            return values
        styles = values["styles"]
        for name in values["use"]:
            if name not in styles:
                msg = f"unknown style {name!r} in rewrite.use; choose from {', '.join(styles)}"
                raise ValueError(msg)
        return {**values, "styles": {name: styles[name] for name in values["use"]}}


class BackTranslationOptions(GeneratorOptions):
    """Two translation models, into another language and back."""

    there: str = Field(min_length=1, description="Hub id or folder of a seq2seq model from the texts' language into another.")
    back: str = Field(min_length=1, description="Hub id or folder of the model that translates back.")
    there_prefix: str = Field("", description="Prefix that the first model expects, as T5 does.")
    back_prefix: str = Field("", description="Prefix that the second model expects.")
    beams: int = Field(1, ge=1, description="Number of beams.")
    max_new_tokens: int = Field(128, ge=1, description="Longest translation in tokens.")
    batch_tokens: int = Field(2048, ge=16, description="Tokens translated at once.")

    irrelevant: ClassVar[frozenset[str]] = frozenset({"weight", "batch_tokens"})


class SpanPairsOptions(GeneratorOptions):
    """Two parts of one text."""

    min_words: int = Field(3, ge=1, description="Minimum number of words per part.")
    max_words: int | None = Field(64, ge=1, description="Maximum number of words per part; null sets no limit.")


class NeighboursOptions(GeneratorOptions):
    """Texts of the corpus that are each other's nearest neighbours."""

    strategy: str = Field("consensus", description="Strategy with base weights; its after-processing is fitted on the corpus.")
    neighbours: int = Field(3, ge=1, description="Number of nearest neighbours to consider.")
    min_similarity: float = Field(0.5, ge=-1.0, le=1.0, description="Leave out pairs that are less similar.")
    max_pairs_per_text: int = Field(3, ge=1, description="Maximum number of pairs with the same text.")
    near_duplicate: Share = Field(0.9, description="Never pair texts with a higher edit similarity than this.")
    search: Literal["auto", "exact", "approximate"] = Field(
        "auto", description="How neighbours are searched: exact compares all texts with each other; auto does so up to exact_up_to texts."
    )
    exact_up_to: int = Field(
        30_000,
        ge=1,
        description="Of more texts than this, auto finds most of the neighbours, in less time.",
    )

    # The definition of the strategy matters, not its name; of the search, only what it comes to for the corpus.
    irrelevant: ClassVar[frozenset[str]] = frozenset({"weight", "strategy", "search", "exact_up_to"})


class NoiseOptions(GeneratorOptions):
    """The same text twice, with mistakes on one side."""

    delete_words: Share = Field(0.1, description="Share of words to delete.")
    swap_words: Share = Field(0.05, description="Share of words to swap with the next one.")
    swap_characters: Share = Field(0.02, description="Share of characters to swap with the next one, within a word.")


class IdentityOptions(GeneratorOptions):
    """The same text on both sides: only dropout during training makes them differ."""


class GivenOptions(GeneratorOptions):
    """The user's own pairs."""

    path: str = Field(min_length=1, description="A file: .csv, .tsv, .jsonl, .json, .parquet or .xlsx.")
    first_column: str = Field("text", coerce_numbers_to_str=True, description="Column of the first texts.")
    second_column: str = Field("positive", coerce_numbers_to_str=True, description="Column of the second texts.")
    encoding: str | None = Field(None, description="Encoding of text formats; null detects it.")
    separator: str | None = Field(None, description="Separator of .csv and .tsv, such as ';' or 'tab'; null detects it.")


class GeneratorsOptions(Options):
    """The generators and their options."""

    rewrite: RewriteOptions | None = Field(None, description="An instruct model rewrites texts.")
    back_translation: BackTranslationOptions | None = Field(None, description="Two translation models, into another language and back.")
    span_pairs: SpanPairsOptions | None = Field(None, description="Two parts of one text.")
    neighbours: NeighboursOptions | None = Field(None, description="Texts of the corpus that are each other's nearest neighbours.")
    noise: NoiseOptions | None = Field(None, description="The same text twice, with mistakes on one side.")
    identity: IdentityOptions | None = Field(None, description="The same text twice.")
    given: GivenOptions | None = Field(None, description="The user's own pairs.")

    @property
    def active(self) -> dict[GeneratorName, GeneratorOptions]:
        """The generators with a weight above 0, by name, in a fixed order."""
        generators = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: options for name, options in generators.items() if options is not None and options.weight > 0}  # type: ignore[misc]

    @model_validator(mode="after")
    def _check_any(self) -> Self:
        if not self.active:
            msg = f"no generator has a weight above 0; choose from {', '.join(type(self).model_fields)}"
            raise ValueError(msg)
        return self


class FilterOptions(Options):
    """One filter and the generators whose candidates it judges; null or an empty list switches it off."""

    generators: tuple[GeneratorName, ...] = Field(description="Generators whose candidates are judged.")


class CutOffFilter(FilterOptions):
    """An unfinished answer is cut after its last complete sentence, and rejected if it has none."""

    generators: tuple[GeneratorName, ...] = _WRITTEN


class RefusalFilter(FilterOptions):
    """Refusals, and remarks about the answer instead of the answer itself."""

    generators: tuple[GeneratorName, ...] = _WRITTEN


class CopyFilter(FilterOptions):
    """A pair with almost identical characters."""

    generators: tuple[GeneratorName, ...] = _FROM_TEXTS
    max_similarity: Share = Field(0.9, description="Edit similarity above which a pair is a copy.")


class LengthFilter(FilterOptions):
    """An answer far shorter or longer than the text."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    min_ratio: float = Field(0.1, ge=0.0, description="Minimum number of words per word of the text.")
    max_ratio: float = Field(2.5, gt=0.0, description="Maximum number of words per word of the text.")


class LanguageFilter(FilterOptions):
    """An answer in a different language from the text."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    confidence: Share = Field(0.9, description="Confidence required in both languages.")


class QuestionFilter(FilterOptions):
    """A question where the text is a statement, or the other way round."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    styles: tuple[str, ...] = Field(("summary",), description="Styles whose answers may turn questions into statements and vice versa.")


class RepetitionFilter(FilterOptions):
    """A model that repeats itself."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    max_share: Share = Field(0.3, description="Largest permitted share of repeated word 3-grams in an answer.")


class NewWordsFilter(FilterOptions):
    """Words that resemble none in the text: a small model's inventions, or a large one's synonyms."""

    generators: tuple[GeneratorName, ...] = ("rewrite",)
    max_share: Share = Field(0.25, description="Largest permitted share of new words among those of four or more letters.")


class FactsFilter(FilterOptions):
    """Lost or invented numbers and names."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    max_lost: Share = Field(1.0, description="Largest permitted share of the text's numbers and names that are missing.")
    max_invented: int = Field(0, ge=0, description="Largest permitted number of numbers and names that the text does not contain.")


class DriftFilter(FilterOptions):
    """Pairs no more similar than random pairs of texts, according to the prompted base model."""

    generators: tuple[GeneratorName, ...] = _WRITTEN
    strategy: str = Field("prompted_values", description="Strategy that measures similarity; it must use base weights.")
    percentile: float = Field(99.9, ge=0.0, le=100.0, description="Reject pairs below this percentile of the similarities of random pairs.")
    reference_texts: int = Field(300, ge=10, description="Number of texts drawn from the corpus for random pairs.")


class DuplicateFilter(FilterOptions):
    """The same positive for several texts."""

    generators: tuple[GeneratorName, ...] = (*_WRITTEN, "span_pairs")


class FiltersOptions(Options):
    """When to reject a candidate; null switches a filter off."""

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
    filters: FiltersOptions = Field(FiltersOptions(), description="When to reject a candidate.")
    budget: Annotated[int, Field(ge=1)] | Literal["training"] | None = Field(
        "training",
        description="Texts are rewritten or translated only until all generators together have this many pairs, texts in the fewest pairs "
        "first; training: as many as it reads (steps x batch_size); null: all that the weights ask for.",
    )
    shard_size: int = Field(128, ge=1, description="Candidates written at once: the most that a crash can lose.")
    seed: int = Field(ge=0, description="Seed of every random choice.")

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  interface of all options
        """Check that strategies exist and have base weights; see :meth:`Options.check`."""
        neighbours, drift = self.generators.neighbours, self.filters.drift
        of_base = [name for name, strategy in embedder.every_strategy.items() if strategy.weights == "base"]
        if neighbours and neighbours.strategy not in of_base:
            msg = (
                f"unusable strategy {neighbours.strategy!r} in data_augmentation.generators.neighbours.strategy: it must have base "
                f"weights; choose from {', '.join(of_base) or 'none'}"
            )
            raise ValueError(msg)
        usable = [name for name in of_base if not embedder.every_strategy[name].after.title]
        if drift and drift.strategy not in usable:
            msg = (
                f"unusable strategy {drift.strategy!r} in data_augmentation.filters.drift.strategy: it must have base weights and no "
                f"after-processing; choose from {', '.join(usable)}"
            )
            raise ValueError(msg)
