"""Base class of typed options, and those that all pipelines share."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from embedding_adaptation.embedder.device import DeviceName, DtypeName
from embedding_adaptation.embedder.pooling import PoolingName
from embedding_adaptation.embedder.template import PromptTemplate

RANDOM_STRATEGY = "random"


class Options(BaseModel):
    """Options of a pipeline: read-only, and an unknown name is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StrategyOptions(Options):
    """One strategy: whose weights, which words around the text, how token vectors become one vector."""

    weights: Literal["base", "adapted"] = Field(description="Before or after fine-tuning.")
    template: str = Field(description="Name of a template.")
    pooling: PoolingName = Field(description="How token vectors become one vector.")
    normalise: bool = Field(True, description="Scale vectors to unit length.")


class EmbedderOptions(Options):
    """How texts become vectors, in every pipeline alike."""

    device: DeviceName = Field("auto", description="auto takes CUDA, else MPS, else the CPU.")
    dtype: DtypeName = Field("auto", description="auto takes bfloat16 wherever it is faster.")
    max_length: int = Field(256, ge=8, description="Longest sequence in tokens, prompt included; the text is cut, never the prompt.")
    batch_tokens: int | None = Field(None, ge=8, description="Tokens in a batch, padding included; null takes what suits the device.")
    templates: dict[str, str] = Field(min_length=1, description="Named templates, each with one {text} slot.")
    strategies: dict[str, StrategyOptions] = Field(min_length=1, description="Named strategies to extract and compare.")
    adapt: str = Field(description="The strategy that fine-tuning trains and attention analysis looks at: its template and pooling.")

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name, pattern in self.templates.items():
            PromptTemplate(name, pattern)
        for name, strategy in self.strategies.items():
            if strategy.template not in self.templates:
                msg = f"strategy {name!r} names the template {strategy.template!r}; there are: {', '.join(self.templates)}"
                raise ValueError(msg)
        if self.adapt not in self.strategies:
            msg = f"adapt names the strategy {self.adapt!r}; there are: {', '.join(self.strategies)}"
            raise ValueError(msg)
        if RANDOM_STRATEGY in self.strategies:
            msg = f"the strategy name {RANDOM_STRATEGY!r} is taken by the random vectors every comparison includes; choose another"
            raise ValueError(msg)
        return self
