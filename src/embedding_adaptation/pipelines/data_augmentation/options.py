"""Typed options of data augmentation."""

from __future__ import annotations

from pydantic import Field, field_validator

from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.options import Options


class CleaningOptions(Options):
    """What happens to the corpus before anything is generated."""

    max_texts: int | None = Field(None, ge=2, description="Draw at most this many texts at random; null takes all.")
    min_words: int = Field(3, ge=1, description="Shorter texts are left out.")


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


class GenerationOptions(Options):
    """How the base model rewrites texts."""

    system_prompt: str = Field(description="What the model is told to be.")
    styles: dict[str, StyleOptions] = Field(min_length=1, description="Named ways to rewrite.")
    styles_per_text: int = Field(1, ge=1, description="Rewrites of each text, in as many different styles.")
    temperature: float = Field(0.6, gt=0.0, le=2.0, description="Sampling temperature.")
    top_p: float = Field(0.9, gt=0.0, le=1.0, description="Sampling keeps the likeliest words up to this share.")
    max_new_tokens: int = Field(40, ge=1, description="Longest answer in tokens.")
    batch_size: int = Field(48, ge=1, description="Texts generated at once.")
    shard_size: int = Field(48, ge=1, description="Texts written at once: what a crash can cost at most.")
    seed: int = Field(ge=0, description="Seed of the sampling.")


class FilterOptions(Options):
    """When a candidate is rejected."""

    max_copy_similarity: float = Field(
        0.9, ge=0.0, le=1.0, description="Share of characters in common runs above which a rewrite is a copy."
    )
    require_end: bool = Field(
        True, description="An answer that ran into max_new_tokens is cut back to its last full sentence, or rejected if it has none."
    )
    min_length_ratio: float = Field(0.1, ge=0.0, description="Fewest words of the rewrite for each word of the text.")
    max_length_ratio: float = Field(2.5, gt=0.0, description="Most words of the rewrite for each word of the text.")


class AugmentationOptions(Options):
    """All options of data augmentation."""

    cleaning: CleaningOptions
    generation: GenerationOptions
    filters: FilterOptions
