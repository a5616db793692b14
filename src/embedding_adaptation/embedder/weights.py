"""Where a decoder's weights are stored and where they came from."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from embedding_adaptation.checksums import check_intact
from embedding_adaptation.embedder.checkpoint import BaseModelError, decisive_files, read_json_object
from embedding_adaptation.identity import files_sha256, weights_identity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CARD_FILE = "card.json"
ADAPTER_CARD_FILE = "adapter_card.json"


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn errors while reading a file that this project writes into messages that name the file.

    Raises:
        BaseModelError: If values are missing or invalid.
    """
    way_out = "fetch the folder again, or rerun the pipeline that writes it"
    try:
        yield
    except BaseModelError as error:
        msg = f"{file.parent}: {error}"
        raise BaseModelError(msg) from error
    except KeyError as error:
        msg = f"{file} lacks {error}; {way_out}"
        raise BaseModelError(msg) from error
    except (AttributeError, TypeError, ValueError) as error:
        msg = f"{file} has unexpected contents ({error}); {way_out}"
        raise BaseModelError(msg) from error


@dataclass(frozen=True)
class ModelCard:
    """Provenance of a base model.

    Attributes:
        source: The setting it was resolved from.
        sha256: Hash of what determines the model's results: of the GGUF file, or of a folder's weights, configuration and tokenizer, and
            of the adapter merged into them.
        revision: Commit of a Hub repository, version of a package, or an empty string.
        architecture: transformers' model type, for example ``llama``.
        parameters: Number of parameters.
        licence: Licence declared by the source, or ``unknown``.
        stamp: Names, sizes and modification times of the source files: a cheap way to tell that the source is unchanged.
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
            FileNotFoundError: If the folder contains no card.
        """
        values = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def read_adapter_base(folder: Path) -> ModelCard:
    """The card of the base model recorded in an adapter's card.

    Raises:
        BaseModelError: If the adapter's card is damaged.
    """
    file = folder / ADAPTER_CARD_FILE
    with reading(file):
        base: dict[str, Any] = read_json_object(file)["base"]
        return ModelCard(**{field.name: base[field.name] for field in fields(ModelCard)})


def find_converted(root: Path, sha256: str) -> Path | None:
    """The newest intact folder below ``root`` whose card has that hash, or ``None``."""
    for card_file in sorted(root.rglob(CARD_FILE), reverse=True):
        folder = card_file.parent
        try:
            if ModelCard.read(folder).sha256 == sha256:
                check_intact(folder)
                return folder
        except (ValueError, KeyError, TypeError):
            continue  # damaged: the conversion reports it and runs again
    return None


def base_sha256(folder: Path) -> str:
    """Hash of the base weights in a folder: from its card, or of its files if it has none.

    Raises:
        BaseModelError: If the card is damaged.
    """
    with reading(folder / CARD_FILE):
        return ModelCard.read(folder).sha256 if (folder / CARD_FILE).is_file() else files_sha256(decisive_files(folder))


@dataclass(frozen=True)
class DecoderWeights:
    """A decoder on disk: a folder with base weights and tokenizer, and optionally a PEFT adapter."""

    base: Path
    card: ModelCard
    adapter: Path | None = None

    def fingerprint(self) -> str:
        """The identity of base and adapter; equal for the same model, whether trained, scored or exported."""
        return weights_identity(self.card.sha256, self.adapter)

    def shares_base(self, other: DecoderWeights) -> bool:
        """Whether the base weights are the same, whatever the adapters."""
        return self.card.sha256 == other.card.sha256
