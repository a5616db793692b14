"""A training run as one object: data, model and options."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch

from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.embedder.checkpoint import ADAPTER_CONFIG
from embedding_adaptation.embedder.weights import ADAPTER_CARD_FILE, DecoderWeights, ModelCard, read_adapter_base
from embedding_adaptation.identity import training_identity, weights_identity
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.contrastive_finetuning.batches import PairBatches
from embedding_adaptation.pipelines.contrastive_finetuning.lessons import TrainingTexts
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.contrastive_finetuning.pair_groups import pair_groups

_JOB, _GROUPS = "job.json", "groups.npy"
_TABLES = ("train_pairs", "validation_pairs", "corpus")
# What batching, mining and judging read of each table.
_DECIDING = {
    "train_pairs": ("source_text", "generated_text", "source_id", "other_id", "generator"),
    "validation_pairs": ("source_text", "generated_text"),
    "corpus": ("id", "text"),
}


class TrainingError(RuntimeError):
    """Training is impossible; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """The data, model and options of a training run.

    Attributes:
        weights: The base model.
        train_pairs: ``source_text`` and ``generated_text``; ``source_id``, ``other_id`` and ``generator`` where known.
        validation_pairs: Held-out pairs, likewise.
        options: Fine-tuning options.
        embedder_options: Template, pooling, device and number format.
        corpus: ``id`` and ``text``: unlabelled texts, for evaluation and mining; ``None`` uses those of the held-out pairs.
        checkpoints: Directory of checkpoints; ``None`` keeps them only during the run.
        memory: Vectors of texts; ``None`` reads all texts that the teacher is asked about.
    """

    weights: DecoderWeights
    train_pairs: pd.DataFrame
    validation_pairs: pd.DataFrame
    options: FinetuningOptions
    embedder_options: EmbedderOptions
    corpus: pd.DataFrame | None = None
    checkpoints: Path | None = None
    memory: EmbeddingStore | None = None

    @cached_property
    def groups(self) -> np.ndarray:
        """The groups of both sides of each training pair, ``[N, 2]``; computed once."""
        return self.groups_of(self.train_pairs)

    @cached_property
    def texts(self) -> TrainingTexts:
        """The texts that the consensus loss learns from; gathered once."""
        return TrainingTexts.gather(self.corpus, self.train_pairs, self.validation_pairs, self.options)

    @property
    def perplexity(self) -> float:
        """Effective number of a text's neighbours in a batch."""
        return self.options.consensus.perplexity or self.embedder_options.teacher.perplexity

    def groups_of(self, pairs: pd.DataFrame) -> np.ndarray:
        """The groups of both sides of pairs under this job's options, ``[N, 2]``."""
        apart = self.options.false_negatives
        return pair_groups(pairs, same_source=apart.same_source, near_duplicate=apart.near_duplicate)

    def check(self) -> None:
        """Check everything that can be checked before anything is loaded.

        Raises:
            TrainingError: If there are too few pairs, or something that the options need is missing.
            BatchError: If too few pairs fit into one batch.
            LessonsError: If there are too few texts for the consensus loss.
        """
        options = self.options
        try:
            options.check_reference(self.embedder_options)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        if options.start is not None:
            self._check_start(Path(options.start))
        if options.loss == "consensus":
            self._check_consensus()
        elif len(self.train_pairs) < options.batch_size:
            msg = (
                f"there are {len(self.train_pairs)} training pairs, fewer than one batch of {options.batch_size}; lower "
                "contrastive_finetuning.batch_size, or augment more texts (data_augmentation.cleaning.max_texts, a generator's weight)"
            )
            raise TrainingError(msg)
        if self.corpus is None and (options.rounds is not None or options.hard_negatives is not None):
            msg = "contrastive_finetuning.rounds and hard_negatives need a corpus, and none was given"
            raise TrainingError(msg)
        if options.four_bit and (not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None):
            msg = (
                "contrastive_finetuning.four_bit needs a CUDA device and bitsandbytes; install the extra 'quantised' "
                "(pip install -e '.[quantised]') on a machine with one, or set it to false"
            )
            raise TrainingError(msg)
        if options.loss == "info_nce":
            PairBatches(self.groups, batch_size=options.batch_size, steps=options.steps, seed=options.seed)

    def _check_consensus(self) -> None:
        """Check what only the consensus loss needs, or does not have."""
        unused = [name for name in ("rounds", "hard_negatives") if getattr(self.options, name) is not None]
        if unused:
            msg = f"contrastive_finetuning.{unused[0]} belongs to loss info_nce; set it to null, or choose that loss"
            raise TrainingError(msg)
        _ = self.texts  # gathering them says if they are too few

    def _check_start(self, folder: Path) -> None:
        """Check that training can start from an adapter in this folder."""
        if not (folder / ADAPTER_CONFIG).is_file():
            msg = (
                f"contrastive_finetuning.start is {str(folder)!r}, which holds no adapter ({ADAPTER_CONFIG} is missing); name an adapter's "
                "folder, or set it to null"
            )
            raise TrainingError(msg)
        if (folder / ADAPTER_CARD_FILE).is_file() and read_adapter_base(folder).sha256 != self.weights.card.sha256:
            msg = (
                f"contrastive_finetuning.start: the adapter in {str(folder)!r} belongs to another base model than "
                f"{self.weights.card.source!r}; set it to null"
            )
            raise TrainingError(msg)

    @property
    def start(self) -> str | None:
        """The identity of the weights that training starts from."""
        return None if self.options.start is None else weights_identity("", Path(self.options.start))

    def fingerprint(self, *, max_length: int, dtype: str) -> str:
        """The identity of everything the result depends on.

        Args:
            max_length: Longest sequence in tokens that the loaded embedder takes.
            dtype: Number format it was loaded in.
        """
        embedder, reference = self.embedder_options, self.options.stopping.reference
        return training_identity(
            options=self.options.deciding | {"start": self.start, "perplexity": self.perplexity if self.options.asks_teacher else None},
            weights=self.weights.fingerprint(),
            strategy=embedder.definition(embedder.adapt),
            reference=[
                None if reference is None else embedder.definition(reference),
                embedder.teacher_definition if self.options.asks_teacher else None,
            ],
            max_length=max_length,
            dtype=dtype,
            tables={
                name: table[[column for column in columns if column in table]]
                for name, columns in _DECIDING.items()
                if (table := getattr(self, name)) is not None
            },
        )

    def write(self, folder: Path) -> None:
        """Write everything that a training process needs into a folder visible to all of them."""
        for name in _TABLES:
            if (table := getattr(self, name)) is not None:
                table.to_parquet(folder / f"{name}.parquet")
        np.save(folder / _GROUPS, self.groups)
        job = {
            "base": str(self.weights.base.resolve()),
            "card": asdict(self.weights.card),
            "options": self.options.model_dump(mode="json"),
            "embedder": self.embedder_options.model_dump(mode="json"),
            "checkpoints": None if self.checkpoints is None else str(self.checkpoints.resolve()),
            "memory": None if self.memory is None else str(self.memory.folder.parent.resolve()),
        }
        (folder / _JOB).write_text(json.dumps(job), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what :meth:`write` wrote."""
        job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
        tables = {name: pd.read_parquet(path) for name in _TABLES if (path := folder / f"{name}.parquet").exists()}
        read = cls(
            weights=DecoderWeights(Path(job["base"]), ModelCard(**job["card"])),
            options=FinetuningOptions.model_validate(job["options"]),
            embedder_options=EmbedderOptions.model_validate(job["embedder"]),
            checkpoints=None if job["checkpoints"] is None else Path(job["checkpoints"]),
            memory=None if job["memory"] is None else EmbeddingStore(Path(job["memory"])),
            **tables,
        )
        read.__dict__["groups"] = np.load(folder / _GROUPS)  # the cached property's place
        return read
