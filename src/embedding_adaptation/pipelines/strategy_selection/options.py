"""Typed options of strategy selection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from embedding_adaptation.embedder.pooling import PoolingName
from embedding_adaptation.options import AfterOptions, EmbedderOptions, GridOptions, Layers, Names, Options, StrategyOptions

_FEWEST_REFERENCES = 2


class FamilyOptions(Options):
    """A family of templates whose vectors stand side by side; every combination of layers and after-processing is a candidate."""

    templates: Names = Field(min_length=1, description="Names of templates; those that begin alike take one reading.")
    layers: tuple[Layers, ...] = Field(
        (tuple(range(-1, -9, -1)),), min_length=1, description="Layers: each a number, or a list to average."
    )
    after: tuple[AfterOptions, ...] = Field(
        (AfterOptions(centre=0.7),), min_length=1, description="After-processing of each template's vectors."
    )

    @field_validator("after")
    @classmethod
    def _check_after(cls, after: tuple[AfterOptions, ...]) -> tuple[AfterOptions, ...]:
        if any(steps.distil for steps in after):
            msg = "a family cannot be distilled: its teacher knows the words that judge families; leave distil out"
            raise ValueError(msg)
        return after

    def candidates(self, family: str, pooling: PoolingName) -> dict[str, StrategyOptions]:
        """The family's strategies by name, ``family.layers`` and what comes after."""
        named = {}
        for layers in self.layers:
            for after in self.after:
                name = ".".join(part for part in (family, "+".join(map(str, layers)), after.title) if part)
                named[name] = StrategyOptions(
                    weights="base", template=self.templates, combine="concatenate", pooling=pooling, layers=layers, after=after
                )
        return named


class SelectionOptions(Options):
    """All options of strategy selection."""

    grid: GridOptions | None = Field(None, description="Strategies to rank in addition to those of the embedder.")
    strategies: Names | None = Field(None, description="Names of strategies, or patterns with *; null ranks all.")
    max_texts: int = Field(1000, ge=20, description="Number of texts drawn from the corpus.")
    clusters: tuple[int, ...] = Field((10, 20, 50), min_length=1, description="Numbers of clusters for the criteria that cluster.")
    criteria: Names = Field(min_length=1, description="The criteria whose ranks are averaged into the combined rank.")
    families: dict[str, FamilyOptions] | None = Field(None, description="Families of templates to rank, by name; null ranks none.")
    family_judge: Literal["words", "templates"] = Field("words", description="What judges families: shared words, or family_references.")
    family_references: Names = Field((), description="Templates that judge families; none may belong to a family; () leaves them out.")
    family_pooling: PoolingName = Field("value_weighted", description="How token vectors become one vector, in families and references.")
    seed: int = Field(ge=0, description="Seed of the draw and of the clusterings.")

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        if not self.families:
            return self
        if self.family_judge == "templates" and len(set(self.family_references)) < _FEWEST_REFERENCES:
            msg = (
                f"families need at least {_FEWEST_REFERENCES} templates to judge them, not {list(self.family_references)}; name more in "
                "family_references, or set family_judge to words"
            )
            raise ValueError(msg)
        for family, members in self.families.items():
            own = [template for template in self.family_references if template in members.templates]
            if own:
                msg = (
                    f"template {own[0]!r} in family_references belongs to the family {family!r}, which would praise itself; remove it from "
                    "one of them"
                )
                raise ValueError(msg)
        return self

    @property
    def candidates(self) -> dict[str, dict[str, StrategyOptions]]:
        """The strategies of each family, by name."""
        return {family: members.candidates(family, self.family_pooling) for family, members in (self.families or {}).items()}

    @property
    def references(self) -> dict[str, StrategyOptions]:
        """Every reference template alone, with each combination of layers and after-processing that a candidate has."""
        named: dict[str, StrategyOptions] = {}
        if not self.family_references:
            return named
        for strategies in self.candidates.values():
            for chosen in strategies.values():
                alone = GridOptions(
                    templates=self.family_references, poolings=(self.family_pooling,), layers=(chosen.layers,), after=(chosen.after,)
                )
                named |= alone.strategies
        return named

    def check(self, embedder: EmbedderOptions, is_there: Callable[[str], bool]) -> None:  # noqa: ARG002  interface of all options
        """Check that families and references name existing templates; see :meth:`Options.check`."""
        try:
            for strategies in (*self.candidates.values(), self.references):
                embedder.check_strategies(strategies)
        except ValueError as error:
            msg = f"strategy_selection.families: {error}"
            raise ValueError(msg) from error
