"""How many texts are rewritten: as many as training has use for, those first that have the fewest pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from embedding_adaptation.identity import digest_of, texts_in_order
from embedding_adaptation.pipelines.data_augmentation.filters import ACCEPTED, Positives, judge
from embedding_adaptation.pipelines.data_augmentation.generators.request import digest_fraction
from embedding_adaptation.pipelines.data_augmentation.scoring import score

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from embedding_adaptation.pipelines.data_augmentation.generators.request import Request
    from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions, FiltersOptions
    from embedding_adaptation.texts.stream import TextStream

BUDGET = "budget"
_LOWEST_RATE = 0.05  # of rewrites that pass; a lower one, measured on a few, would ask for far too many more


@dataclass
class Given:
    """Pairs that cost no writing.

    Attributes:
        pairs: How many there are.
        of_text: In how many of them each text of the corpus is, by id.
    """

    pairs: int = 0
    of_text: Counter[str] = field(default_factory=Counter)

    def add(self, pairs: pd.DataFrame, *, from_corpus: bool) -> None:
        """Count pairs.

        Args:
            pairs: ``source_id`` and ``other_id`` (empty if the other side is no text of the corpus).
            from_corpus: Whether these are ids of the corpus.
        """
        self.pairs += len(pairs)
        if from_corpus:
            self.of_text.update(pairs["source_id"])
            self.of_text.update(pairs["other_id"][pairs["other_id"] != ""])


class Rounds:
    """Requests in the order of their use, round by round, until enough rewrites pass the filters.

    A text in fewer pairs comes first, and a first rewrite of a text before its second; among equals, a random order decides that depends
    only on the seed and the text. The first round asks for as many rewrites as are wanted, each further one for as many as are missing by
    the rate at which those so far have passed. The filter ``drift`` needs a model and is not applied here, so that it may reject some more.

    Args:
        planned: Begins the planned requests anew.
        wanted: How many rewrites are to pass.
        given: Pairs that are there already.
        filters: The filters.
        seed: Seed of the random order.
    """

    def __init__(self, planned: Callable[[], Iterable[Request]], wanted: int, given: Given, filters: FiltersOptions, seed: int) -> None:
        self._planned, self._wanted = planned, wanted
        self._filters = filters.model_copy(update={"drift": None})
        self._positives = Positives()
        ranks = [(given.of_text[one.source_id] + one.turn, digest_fraction(seed, BUDGET, one.key)) for one in planned()]
        columns = np.array(ranks, np.float64).reshape(-1, 2)
        self._order = np.lexsort((columns[:, 1], columns[:, 0]))
        self._passed = self._taken = 0
        self.keys: list[str] = []

    def __len__(self) -> int:
        """How many requests are planned."""
        return len(self._order)

    def __iter__(self) -> Iterator[list[Request]]:
        """The requests of each round; what came of them is to be added before the next."""
        while self._passed < self._wanted and self._taken < len(self._order):
            rate = self._passed / self._taken if self._taken else 1.0
            count = int(np.ceil((self._wanted - self._passed) / max(rate, _LOWEST_RATE)))
            chosen = self._order[self._taken : self._taken + count]
            places = {int(place): rank for rank, place in enumerate(chosen)}
            found = {places[place]: request for place, request in enumerate(self._planned()) if place in places}
            requests = [found[rank] for rank in range(len(found))]
            self._taken += len(requests)
            self.keys += [request.key for request in requests]
            yield requests

    def add(self, candidates: pd.DataFrame) -> None:
        """Count those of a round's candidates that pass the filters."""
        if candidates.empty:
            return
        scored = candidates.merge(score(candidates, None, None).drop_duplicates("key"), on="key", how="left")
        self._passed += int((judge(scored, self._filters, self._positives)["verdict"] == ACCEPTED).sum())


def wanted_pairs(options: AugmentationOptions, trained: int | None) -> int | None:
    """How many pairs there are to be.

    Args:
        options: Augmentation options.
        trained: Pairs that training reads, where that is known.

    Returns:
        Their number; ``None`` if all texts are to be rewritten that the weights ask for.
    """
    return trained if options.budget == "training" else options.budget


def marker_name(folder: str, corpus: TextStream, options: AugmentationOptions, folders: Iterable[str]) -> str:
    """The shard that says which requests the budget chose.

    Its name changes with texts, sources and the budget, but not with filters: a run that only judges anew judges what was chosen.

    Args:
        folder: Folder of the generator's shards.
        corpus: Clean texts.
        options: Augmentation options.
        folders: Folders of all generators' shards.
    """
    weights = {name: generator.weight for name, generator in options.generators.active.items()}
    parts = [options.budget, options.seed, weights, sorted(folders), texts_in_order(text for _, text in corpus.rows())]
    return f"{folder}/{BUDGET}-{digest_of(parts)[:12]}"


def marker(keys: list[str], planned: int, pairs: int) -> pd.DataFrame:
    """What was chosen, as a shard of one row.

    Args:
        keys: Keys of the requests that were chosen.
        planned: How many there were to choose from.
        pairs: How many pairs were wanted of all generators together.
    """
    return pd.DataFrame({"keys": [keys], "planned": [planned], "pairs": [pairs]})


def facts(chosen: pd.DataFrame) -> dict[str, Any]:
    """A marker's numbers for reports: ``rewritten``, ``planned`` and ``pairs``."""
    row = chosen.iloc[0]
    return {"rewritten": len(row["keys"]), "planned": int(row["planned"]), "pairs": int(row["pairs"])}
