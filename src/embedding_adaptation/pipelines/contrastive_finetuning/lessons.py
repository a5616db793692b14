"""What the consensus loss learns from: texts, what the teacher says of them, and who belongs to whom."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from embedding_adaptation.atomic import replacing_file
from embedding_adaptation.checksums import is_intact
from embedding_adaptation.pipelines.contrastive_finetuning.consensus import consensus_loss, soft_targets, with_partners
from embedding_adaptation.pipelines.contrastive_finetuning.ranks import world_size
from embedding_adaptation.pipelines.contrastive_finetuning.text_batches import TextBatches
from embedding_adaptation.vectors.neighbours import nearest_neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

logger = logging.getLogger(__name__)

_NEIGHBOURS, _VECTORS = "neighbours", "vectors"
FEWEST = 8  # texts: half of them to train on, and half to be held out


class LessonsError(ValueError):
    """There are too few texts to learn from; the message says what to do."""


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of a run with the consensus loss.

    Attributes:
        texts: Distinct texts: those of the corpus, and both sides of all pairs that were made by more than nearness.
        partners: For each text that is part of such a pair, the texts it belongs to.
        held_out: Texts that are never trained on, in random order.
    """

    texts: list[str]
    partners: Mapping[int, Sequence[int]]
    held_out: list[int]

    @classmethod
    def gather(
        cls, corpus: pd.DataFrame | None, pairs: pd.DataFrame, validation_pairs: pd.DataFrame, options: FinetuningOptions
    ) -> TrainingTexts:
        """Gather texts from a corpus and pairs.

        Args:
            corpus: ``text``: unlabelled texts; ``None`` takes those of the pairs.
            pairs: Training pairs. Nearest neighbours add nothing to what the teacher says; the texts of all other pairs are partners.
            validation_pairs: Held-out pairs; their texts are held out first.
            options: How many texts at most, and the share that is held out.

        Raises:
            LessonsError: If there are too few.
        """
        made = pairs[pairs["generator"] != _NEIGHBOURS] if "generator" in pairs else pairs
        linked = list(zip(made["source_text"], made["generated_text"], strict=True))
        tested = [*validation_pairs["source_text"], *validation_pairs["generated_text"]]
        of_corpus = (
            corpus["text"].head(options.consensus.texts) if corpus is not None else [*pairs["source_text"], *pairs["generated_text"]]
        )
        places: dict[str, int] = {}
        texts: list[str] = []
        for text in [*of_corpus, *(text for pair in linked for text in pair), *tested]:
            if places.setdefault(_key(text), len(texts)) == len(texts):
                texts.append(str(text))
        if len(texts) < FEWEST:
            msg = f"there are {len(texts)} distinct texts to train on, and at least {FEWEST} are needed; give a larger corpus"
            raise LessonsError(msg)
        partners: dict[int, list[int]] = {}
        for one, other in dict.fromkeys((places[_key(one)], places[_key(other)]) for one, other in linked):
            if one != other:
                partners.setdefault(one, []).append(other)
                partners.setdefault(other, []).append(one)
        order = np.random.default_rng(options.seed).permutation(len(texts)).tolist()
        first = {places[_key(text)] for text in tested}
        wanted = min(max(round(options.validation_share * len(texts)), FEWEST // 2), options.stopping.texts)
        ranked = sorted(order, key=lambda text: (text not in first, text in partners))
        return cls(texts, {text: list(dict.fromkeys(others)) for text, others in partners.items()}, ranked[:wanted])


@dataclass(frozen=True)
class Lessons:
    """Texts, and what the teacher says of them.

    Attributes:
        given: The texts.
        teacher: Unit vectors ``[N, T]``.
        options: Fine-tuning options.
        perplexity: Effective number of neighbours of a text in a batch.
    """

    given: TrainingTexts
    teacher: np.ndarray
    options: FinetuningOptions
    perplexity: float

    @property
    def trained(self) -> list[int]:
        """The texts that may be trained on."""
        apart = set(self.given.held_out)
        return [text for text in range(len(self.given.texts)) if text not in apart]

    @property
    def batch_size(self) -> int:
        """Texts in a batch: the option's, or all that may be trained on if they are fewer; a multiple of the number of processes."""
        return min(self.options.batch_size, len(self.trained) // world_size() * world_size())

    def batches(self, *, steps: int, seed: int) -> TextBatches:
        """Batches of texts that are not held out."""
        near, _ = nearest_neighbours(self.teacher, min(self.options.consensus.near, len(self.teacher) - 1))  # [N, K]
        return TextBatches(self.trained, near, self.given.partners, batch_size=self.batch_size, steps=steps, seed=seed)

    def targets(self, batch: Sequence[int]) -> np.ndarray:
        """The teacher's shares for a batch, ``[B, B]``."""
        consensus = self.options.consensus
        soft = soft_targets(self.teacher[list(batch)], perplexity=self.perplexity)
        return with_partners(soft, batch, self.given.partners, consensus.pair_weight)

    def loss(self, columns: Sequence[torch.Tensor], batch: Sequence[int]) -> torch.Tensor:
        """The loss of a batch's vectors, which are its only column, ``[B, D]``."""
        dimensions = self.options.matryoshka_dimensions
        return consensus_loss(
            columns[0], torch.from_numpy(self.targets(batch)), temperature=self.options.temperature, dimensions=dimensions
        )

    @property
    def held_out_texts(self) -> list[str]:
        """The texts that are never trained on."""
        return [self.given.texts[place] for place in self.given.held_out]

    def held_out_loss(self, vectors: np.ndarray) -> float:
        """The mean loss of the held-out texts' vectors ``[M, D]``, in pieces of about the size of a batch."""
        places = np.arange(len(vectors))
        pieces = np.array_split(places, max(1, len(vectors) // max(self.batch_size, FEWEST // 2)))
        held_out = self.given.held_out
        return float(np.mean([self.loss([torch.from_numpy(vectors[piece])], [held_out[at] for at in piece]).item() for piece in pieces]))


def kept_vectors(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Vectors from a file, or made and kept there.

    Args:
        path: A safetensors file whose name identifies its contents.
        make: Makes the vectors.
    """
    if path.exists() and is_intact(path):
        return load_file(path)[_VECTORS]
    vectors = np.ascontiguousarray(make(), np.float32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path, checksum=True) as work:
            save_file({_VECTORS: vectors}, work)
    except OSError as error:  # a full disk costs time in the next run, and nothing in this one
        logger.warning("the teacher's vectors could not be kept in %s: %s", path, error)
    return vectors


def _key(text: object) -> str:
    return " ".join(str(text).casefold().split())
