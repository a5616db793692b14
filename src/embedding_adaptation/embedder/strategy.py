"""A strategy: one way to turn a text into a vector with given weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from embedding_adaptation.embedder.pooling import ATTENTION_POOLINGS, PoolingName
from embedding_adaptation.identity import A_NAME

if TYPE_CHECKING:
    from embedding_adaptation.embedder.after_processing import AfterProcessing
    from embedding_adaptation.embedder.template import PromptTemplate


Combination = Literal["mean", "concatenate"]


class StrategyError(ValueError):
    """A strategy that does not fit the model; the message names it and says what to change."""


@dataclass(frozen=True)
class Strategy:
    """One way to turn a text into a vector with given weights.

    Attributes:
        name: Name in tables and files.
        template: The words around the text, or several templates whose unit vectors are combined (an ensemble).
        pooling: How token vectors are combined into one vector.
        layers: Hidden states to pool, averaged if there are several. 0 is the input embeddings, 1 the output of the first layer, and the
            last includes the model's final norm; negative numbers count from the end, -1 being the last. For ``value_weighted``, the
            layers whose attention outputs are averaged, counted from 1.
        normalise: Whether vectors are scaled to unit length.
        attention_layers: For ``attention_weighted``: layers whose attention is averaged, counted from 1; empty uses ``layers``.
        attention_heads: For ``attention_weighted``: heads, counted from 0; empty uses all.
        after: Fitted after-processing, or ``None``.
        combine: How the vectors of several templates are combined: ``mean`` averages them; ``concatenate`` puts them side by side, so that
            the cosine of two texts is the mean of their cosines under the templates (a consensus).

    Raises:
        StrategyError: If pooling, templates and layers are incompatible.
    """

    name: str = field(metadata=A_NAME)
    template: PromptTemplate | tuple[PromptTemplate, ...]
    pooling: PoolingName
    layers: tuple[int, ...] = (-1,)
    normalise: bool = True
    attention_layers: tuple[int, ...] = ()
    attention_heads: tuple[int, ...] = ()
    after: AfterProcessing | None = field(default=None, compare=False)
    combine: Combination = "mean"

    def __post_init__(self) -> None:
        if not self.templates:
            msg = f"strategy {self.name!r} has no template; name at least one"
            raise StrategyError(msg)
        if len(self.templates) == 1:  # an ensemble of one is that one
            object.__setattr__(self, "template", self.templates[0])
        if not self.layers:
            msg = f"strategy {self.name!r} has no layers; give at least one, such as -1 for the last"
            raise StrategyError(msg)
        poolings = get_args(PoolingName)
        if self.pooling not in poolings:
            msg = f"strategy {self.name!r} has unknown pooling {self.pooling!r}; choose from {', '.join(poolings)}"
            raise StrategyError(msg)
        without_end = [template.name for template in self.templates if not template.eos]
        if self.pooling == "eos" and without_end:
            msg = (
                f"strategy {self.name!r} pools the end token, but template {without_end[0]!r} has none; "
                "set eos: true on the template or choose pooling last"
            )
            raise StrategyError(msg)
        if self.combine not in get_args(Combination):
            msg = f"strategy {self.name!r} has unknown combine {self.combine!r}; choose from {', '.join(get_args(Combination))}"
            raise StrategyError(msg)
        if len(self.templates) == 1:  # one template is combined with nothing
            object.__setattr__(self, "combine", "mean")
        elif self.combine == "concatenate" and not self.normalise:
            msg = f"strategy {self.name!r} concatenates vectors, which must have unit length; set normalise: true, or combine: mean"
            raise StrategyError(msg)
        if (self.attention_layers or self.attention_heads) and self.pooling != "attention_weighted":
            msg = f"strategy {self.name!r} has attention layers or heads, which only pooling attention_weighted uses; remove them"
            raise StrategyError(msg)

    @property
    def templates(self) -> tuple[PromptTemplate, ...]:
        """The templates, at least one."""
        return self.template if isinstance(self.template, tuple) else (self.template,)

    @property
    def parts(self) -> int:
        """The number of vectors that stand side by side, one for each template if they are concatenated."""
        return len(self.templates) if self.combine == "concatenate" else 1

    @property
    def templates_per_part(self) -> int:
        """The number of templates whose vectors are averaged in each part."""
        return len(self.templates) // self.parts

    def columns(self, dimension: int) -> list[slice]:
        """For each template, the columns of vectors of this dimension that it contributes to."""
        if self.parts == 1:
            return [slice(None)] * len(self.templates)
        width = dimension // self.parts
        return [slice(start, start + width) for start in range(0, dimension, width)]

    def hidden_layers(self, count: int) -> tuple[int, ...]:
        """The strategy's layers as non-negative indices.

        Args:
            count: Number of layers of the model.

        Raises:
            StrategyError: If the model has no such layer.
        """
        return self._resolve(self.layers, count, lowest=1 if self.pooling == "value_weighted" else 0)

    def weighting_layers(self, count: int) -> tuple[int, ...]:
        """The layers whose attention weights the text's tokens; empty for poolings other than ``attention_weighted``."""
        if self.pooling != "attention_weighted":
            return ()
        return self._resolve(self.attention_layers or self.layers, count, lowest=1)

    def highest_layer(self, count: int) -> int:
        """The highest layer that must be computed."""
        return max(*self.hidden_layers(count), *self.weighting_layers(count), 0)

    def check(self, layers: int, heads: int) -> None:
        """Check the strategy against a model.

        Raises:
            StrategyError: If the model has no such layer or head.
        """
        self.highest_layer(layers)
        wrong = [head for head in self.attention_heads if not 0 <= head < heads]
        if wrong:
            msg = f"strategy {self.name!r} asks for attention head {wrong[0]}; this model has heads 0 to {heads - 1}"
            raise StrategyError(msg)

    @property
    def is_attention_pooling(self) -> bool:
        """Whether the pooling needs more than the token vectors."""
        return self.pooling in ATTENTION_POOLINGS

    def _resolve(self, layers: tuple[int, ...], count: int, lowest: int) -> tuple[int, ...]:
        resolved = tuple(layer if layer >= 0 else count + 1 + layer for layer in layers)
        for requested, layer in zip(layers, resolved, strict=True):
            if not lowest <= layer <= count:
                msg = (
                    f"strategy {self.name!r} asks for layer {requested} with pooling {self.pooling}; "
                    f"this model has layers {lowest} to {count}, or {lowest - count - 1} to -1 counted from the end"
                )
                raise StrategyError(msg)
        return resolved
