"""The LoRA adapter as a catalog dataset: a PEFT folder that knows its base model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io.core import DatasetError

from embedding_adaptation.datasets.directory import DirectoryDataset
from embedding_adaptation.embedder.checkpoint import BaseModelError
from embedding_adaptation.embedder.weights import ADAPTER_CARD_FILE, DecoderWeights, ModelCard, find_converted, read_adapter_base
from embedding_adaptation.identity import CorpusIdentity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kedro.io import Version
    from peft import PeftModel


@dataclass(frozen=True)
class TrainedAdapter:
    """A newly trained adapter.

    Attributes:
        model: The PEFT model that holds it.
        base: Card of its base model.
        template: Pattern of the prompt template it was trained with.
        pooling: Pooling it was trained with.
        max_length: Longest sequence in tokens it was trained on.
        steps: Optimiser steps it was trained for.
        corpus: The corpus its pairs come from; ``None`` if unknown.
        strategy: The whole strategy it was trained with, as JSON; ``None`` if only template and pooling are known.
        scales: What was measured between base and trained weights, to choose how much of the adapter is kept; empty if nothing was.
        collision_rate: Estimated chance that two texts are of one kind; ``None`` if no teacher was asked.
    """

    model: PeftModel
    base: ModelCard
    template: str
    pooling: str
    max_length: int
    steps: int
    corpus: CorpusIdentity | None = None
    strategy: dict[str, Any] | None = None
    scales: Sequence[Mapping[str, float]] = ()
    collision_rate: float | None = None


def read_adapter_card(weights: DecoderWeights) -> dict[str, Any]:
    """Read an adapter's card: its ``base``, what it was trained with (``template``, ``pooling``, ``corpus`` and so on), and ``scales``.

    Raises:
        ValueError: If the weights have no adapter.
    """
    if weights.adapter is None:
        msg = f"{weights.card.source!r} has no adapter, and therefore no adapter card; use the dataset adapter instead of base_model"
        raise ValueError(msg)
    card: dict[str, Any] = json.loads((weights.adapter / ADAPTER_CARD_FILE).read_text(encoding="utf-8"))
    return card


def adapter_corpus(weights: DecoderWeights) -> CorpusIdentity | None:
    """The corpus an adapter was trained on; ``None`` if its card does not say.

    Raises:
        ValueError: If the weights have no adapter.
    """
    return CorpusIdentity.from_dict(read_adapter_card(weights).get("corpus"))


class AdapterDataset(DirectoryDataset[TrainedAdapter, DecoderWeights]):
    """A PEFT folder (safetensors and configuration) with a card that identifies the base model by its hash.

    Loading returns the base weights *with* the adapter. The base is looked up among the versions of the base model dataset, so the folder
    holds no path and can be moved with the project.

    Args:
        filepath: Directory of the adapter's versions.
        base_model: Directory of the base model's versions.
        version: Load and save version, from Kedro.
        metadata: Arbitrary values for other tools.
    """

    def __init__(
        self,
        *,
        filepath: str,
        base_model: str,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        self._base_model = base_model

    def read_directory(self, directory: Path) -> DecoderWeights:
        """Find the base model of the adapter in ``directory``.

        Raises:
            DatasetError: If that base model is missing, or the adapter's card is damaged.
        """
        try:
            wanted = read_adapter_base(directory)
        except BaseModelError as error:
            raise DatasetError(str(error)) from error
        root = Path(self._base_model)
        if not root.is_absolute():
            root = Path(self._filepath).parent / root
        base = find_converted(root, wanted.sha256)
        if base is not None:
            return DecoderWeights(base, wanted, adapter=directory)
        msg = (
            f"the adapter {directory} belongs to the base model {wanted.source!r} (sha256 {wanted.sha256[:12]}...), which is missing from "
            f"{root} or damaged; set base_model to it and run a pipeline that loads it (embedding_extraction), or train again"
        )
        raise DatasetError(msg)

    def write_directory(self, data: TrainedAdapter, directory: Path) -> None:
        """Write adapter weights, configuration and card."""
        for config in data.model.peft_config.values():
            # PEFT would write the path of the local copy.
            config.base_model_name_or_path = data.base.source
        data.model.save_pretrained(str(directory), safe_serialization=True, save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty model card, which names this machine's copy of the base model
        card = {
            "base": asdict(data.base),
            "template": data.template,
            "pooling": data.pooling,
            "max_length": data.max_length,
            "steps": data.steps,
            "corpus": None if data.corpus is None else data.corpus.to_dict(),
            "scales": [dict(row) for row in data.scales],
            "collision_rate": data.collision_rate,
        } | ({} if data.strategy is None else {"strategy": data.strategy})
        text = json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False)
        (directory / ADAPTER_CARD_FILE).write_text(text + "\n", encoding="utf-8")


class OptionalAdapterDataset(AdapterDataset):
    """The adapter, if there is one: loads ``None`` if none has been trained, so that a pipeline can run without it.

    A version requested by name must exist. Takes the arguments of :class:`AdapterDataset`.
    """

    optional = True  # a run may start without it

    def load(self) -> DecoderWeights | None:  # type: ignore[override]
        """The base weights with the adapter, or ``None``."""
        asked_for = self._version is not None and self._version.load
        return super().load() if asked_for or self.exists() else None

    def save(self, data: TrainedAdapter) -> None:  # noqa: ARG002  the interface of datasets
        """Refuse: the dataset ``adapter`` writes it.

        Raises:
            DatasetError: Always.
        """
        msg = f"{self._filepath} is written by the dataset adapter; this entry only reads it"
        raise DatasetError(msg)
