"""Typed options of clustering evaluation."""

from __future__ import annotations

from pydantic import Field, field_validator

from embedding_adaptation.options import Names, Options


class EvaluationOptions(Options):
    """All options of clustering evaluation."""

    seeds: tuple[int, ...] = Field(min_length=1, description="One scoring of every strategy a seed.")
    strategies: Names | None = Field(None, description="Names of extracted strategies, or patterns with *; null scores all.")
    max_documents: int | None = Field(None, ge=2, description="Score a random draw of this many documents; null scores all.")
    map_strategies: tuple[str, str] = Field(description="The two strategies the cluster map shows side by side.")

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            msg = f"seeds {list(seeds)} repeat themselves; the spread needs different ones"
            raise ValueError(msg)
        return seeds
