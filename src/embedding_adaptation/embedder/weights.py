"""Where a decoder's weights lie and where they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from embedding_adaptation.checksums import check_intact

if TYPE_CHECKING:
    from pathlib import Path

CARD_FILE = "card.json"
ADAPTER_CARD_FILE = "adapter_card.json"


@dataclass(frozen=True)
class ModelCard:
    """Provenance of a base model.

    Attributes:
        source: The setting it was resolved from.
        sha256: Hash of the source's weights (of the GGUF file, or of all weight files of a folder in name order).
        revision: Commit of a Hub repository, version of a package, or an empty string.
        architecture: transformers' model type, for example ``llama``.
        parameters: Number of parameters.
        licence: Licence as declared by the source, or ``unknown``.
        stamp: Names, sizes and modification times of the source files: a cheap sign that the source is unchanged.
    """

    source: str
    sha256: str
    revision: str
    architecture: str
    parameters: int
    licence: str
    stamp: str

    def write(self, folder: Path) -> None:
        """Write the card into a model folder."""
        (folder / CARD_FILE).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ModelCard:
        """Read a model folder's card.

        Raises:
            FileNotFoundError: If the folder holds no card.
        """
        values = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def find_converted(root: Path, sha256: str) -> Path | None:
    """The folder below ``root`` whose card has that hash, the newest version first; ``None`` where there is none that is not damaged."""
    for card_file in sorted(root.rglob(CARD_FILE), reverse=True):
        folder = card_file.parent
        try:
            if ModelCard.read(folder).sha256 == sha256:
                check_intact(folder)
                return folder
        except (ValueError, KeyError, TypeError):
            continue  # damaged: what converts models says so, and converts it again
    return None


@dataclass(frozen=True)
class DecoderWeights:
    """A decoder on disk: a folder of base weights and tokenizer, and a PEFT adapter on top of it or none."""

    base: Path
    card: ModelCard
    adapter: Path | None = None

    def fingerprint(self) -> str:
        """A hash of base and adapter weights: what was trained, scored and exported is the same if these are equal."""
        digest = hashlib.sha256(self.card.sha256.encode())
        for file in sorted(self.adapter.glob("*.safetensors")) if self.adapter else ():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()
