"""Typed options of the plan."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from embedding_adaptation.options import Options


class PlanOptions(Options):
    """What a plan is made from, and for whom."""

    texts: int | None = Field(None, ge=2, description="Plan for this many texts like those of the corpus; null: for those it has.")
    samples: tuple[int, int] = Field((64, 256), description="Texts of two short runs of the base model, which show what a text takes.")
    cheap_samples: tuple[int, int] = Field(
        (2500, 10_000), description="Texts of two runs of a tiny model, which show what all the rest takes."
    )
    steps: int = Field(2, ge=1, description="Training steps in these runs.")
    workers: tuple[int, ...] = Field((1, 8, 64), min_length=1, description="Numbers of workers, each like this machine.")
    efficiency: float = Field(0.9, gt=0.0, le=1.0, description="Share of a worker's time left for work if there are several (assumed).")
    price_an_hour: float | None = Field(None, ge=0.0, description="Price of one worker for an hour; null leaves cost out.")
    currency: str = Field("USD", description="Currency of the price.")
    seed: int = Field(ge=0, description="Seed of the draw.")

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        for name in ("samples", "cheap_samples"):
            few, many = getattr(self, name)
            if not 2 <= few < many:  # noqa: PLR2004  a single text is no corpus
                msg = f"{name} is {few} and {many}; give two different numbers of at least 2, the smaller one first"
                raise ValueError(msg)
        if min(self.workers) < 1:
            msg = f"workers contains {min(self.workers)}; give numbers of at least 1"
            raise ValueError(msg)
        return self
