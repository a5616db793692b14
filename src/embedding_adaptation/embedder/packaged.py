"""Any embedder as a sentence-transformers model, for those who have this package installed.

Plain sentence-transformers modules support one template and the last layer (:mod:`.export`). A module of this package supports every
strategy: several templates, any layers, attention's values, after-processing of several parts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import ExportError
from embedding_adaptation.embedder.storage import write_embedder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

_MODULES = "modules.json"


class PackagedEmbedder(InputModule):
    """An embedder with its strategy as the only module of a sentence-transformers model; for inference only.

    Args:
        embedder: The embedder, whose own strategy is carried out.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.backbone = embedder.backbone  # so that sentence-transformers finds the weights and their device

    @property
    def tokenizer(self) -> Any:
        """The model's own tokenizer, without a prompt."""
        return self.embedder.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Longest sequence in tokens, including the prompt."""
        return self.embedder.max_length

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        after = self.embedder.strategy.after
        return after.dimensions if after is not None else self.embedder.dimension(self.embedder.strategy)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Pass a batch of texts on (the interface of sentence-transformers).

        Raises:
            ValueError: If a sentence-transformers prompt is given, because the templates are the prompt.
        """
        if prompt:
            msg = f"prompt {prompt!r} was given, but strategy {self.embedder.strategy.name!r} has its own; omit it"
            raise ValueError(msg)
        return {"texts": [str(text) for text in inputs]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ARG002
        """Embed the texts; adds ``sentence_embedding`` ``[B, D]``."""
        vectors = self.embedder.encode(features["texts"], progress=False)
        return {**features, "sentence_embedding": torch.from_numpy(vectors).to(self.backbone.device)}

    def save(self, output_path: str | Path, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002  sentence-transformers' interface
        """Write the embedder into a folder."""
        write_embedder(self.embedder, Path(output_path))

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # noqa: ARG003  sentence-transformers' interface
        """Load from a folder that :func:`write_packaged` wrote; in float32, as all its vectors were computed."""
        return cls(Embedder.load(Path(model_name_or_path), dtype="float32"))


def write_packaged(embedder: Embedder, folder: Path) -> None:
    """Write an embedder with its strategy into an existing, empty folder.

    ``load_packaged``, ``Embedder.load`` and ``SentenceTransformer(folder, trust_remote_code=True)`` read it. The latter needs the flag for
    every class that is not its own; no code is in the folder.
    """
    write_embedder(embedder, folder)
    kind = f"{PackagedEmbedder.__module__}.{PackagedEmbedder.__name__}"
    module = {"idx": 0, "name": "0", "path": "", "type": kind}
    about = {
        "model_type": "SentenceTransformer",
        "default_prompt_name": None,
        "prompts": {"query": "", "document": ""},
        "similarity_fn_name": "cosine",
    }
    for name, content in ((_MODULES, [module]), ("config_sentence_transformers.json", about)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_packaged(folder: Path) -> bool:
    """Whether a folder is one that :func:`write_packaged` wrote."""
    file = folder / _MODULES
    return file.is_file() and any(module["type"].startswith(f"{__package__}.") for module in json.loads(file.read_text(encoding="utf-8")))


def load_packaged(folder: str | Path) -> SentenceTransformer:
    """A folder that :func:`write_packaged` wrote as a sentence-transformers model, without trusting any remote code.

    Raises:
        ExportError: If it is another kind of folder.
    """
    if not is_packaged(Path(folder)):
        msg = f"{folder} was not written for this package; load it with SentenceTransformer"
        raise ExportError(msg)
    module = PackagedEmbedder.load(str(folder))
    return SentenceTransformer(modules=[module], device=str(module.backbone.device))
