"""Typed options of the verdict on an adaptation."""

from __future__ import annotations

from pydantic import Field

from embedding_adaptation.options import Options


class QuestionsOptions(Options):
    """Questions to a person, of texts on which base and adapted model disagree."""

    texts: int = Field(500, ge=20, description="Texts of the corpus to look for disagreements in.")
    count: int = Field(30, ge=1, description="Maximum number of questions.")
    among: int = Field(10, ge=1, description="Each model proposes one of this many nearest neighbours: the one furthest off for the other.")
    share: float = Field(0.65, gt=0.5, lt=1.0, description="Share of answers for the better model that is to be told from its reverse.")
    error: float = Field(0.05, gt=0.0, lt=0.5, description="Highest probability of a wrong decision.")


class VerdictOptions(Options):
    """When an adaptation counts as better or worse."""

    margin: float = Field(
        0.02, ge=0.0, description="Change of agreement (adjusted mutual information) from which on it counts as better or worse."
    )
    unchanged: float = Field(
        0.15, ge=0.0, le=1.0, description="With a smaller change: share of changed neighbours up to which there is no difference."
    )
    min_texts: int = Field(100, ge=0, description="With agreement measured on fewer texts, it cannot be told.")
    questions: QuestionsOptions = QuestionsOptions()
    seed: int = Field(0, ge=0, description="Seed of the texts and their order in questions.")
