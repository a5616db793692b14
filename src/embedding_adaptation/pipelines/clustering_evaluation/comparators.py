"""Comparators of the strategies: vectors without information, word counts, other models, published scores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub import snapshot_download

from embedding_adaptation.identity import digest_of, files_sha256, text_digest
from embedding_adaptation.paths import project_path
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.vectors.unit import unit_vectors
from embedding_adaptation.vectors.words import tfidf_vectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedding_adaptation.pipelines.clustering_evaluation.options import ModelOptions
    from embedding_adaptation.pipelines.clustering_evaluation.scoring import VectorSource

logger = logging.getLogger(__name__)

RANDOM_DIMENSION = 256
_UNUSED = ["*.bin", "*.h5", "*.ot", "onnx/*", "openvino/*"]
_WEIGHTS = (".safetensors", ".json", ".txt", ".model")


def random_source(seed: int) -> VectorSource:
    """Random unit vectors, which depend only on the seed and the text: the score of no information."""

    def vector(text: str) -> np.ndarray:
        return np.random.default_rng([seed, int.from_bytes(text_digest(text, 8), "little")]).standard_normal(RANDOM_DIMENSION)

    def source(texts: Sequence[str]) -> np.ndarray:
        unique = {text: vector(text) for text in dict.fromkeys(texts)}
        matrix = np.stack([unique[text] for text in texts]).astype(np.float32)  # [N, D]
        return unit_vectors(matrix, out=matrix)

    return source


def tfidf_source(dimensions: int, seed: int) -> VectorSource:
    """TF-IDF vectors for one task: fitted on the first texts requested, then looked up."""
    known: dict[str, np.ndarray] = {}

    def source(texts: Sequence[str]) -> np.ndarray:
        if any(text not in known for text in texts):
            unique = list(dict.fromkeys(texts))
            known.clear()
            known.update(zip(unique, tfidf_vectors(unique, dimensions, seed), strict=True))
        return np.stack([known[text] for text in texts])

    return source


class SentenceModel:
    """A sentence-transformers model by name or folder, downloaded and loaded on first use.

    Args:
        name: Its name in tables.
        options: Its location, and the prompt before each text.
        device: Where to run.

    Raises:
        EvaluationError: If it cannot be found.
    """

    def __init__(self, name: str, options: ModelOptions, device: str) -> None:
        self.name = name
        self._options = options
        self._device = device
        self.folder = _model_folder(name, options.model)
        self.identity = digest_of({"model": _contents(self.folder), "prompt": options.prompt})

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors ``[N, D]`` float32."""
        if not hasattr(self, "_model"):
            from sentence_transformers import SentenceTransformer

            self._model = SentenceTransformer(str(self.folder), device=self._device, trust_remote_code=False)
        prompt = self._options.prompt or None
        return self._model.encode(list(texts), prompt=prompt, convert_to_numpy=True, show_progress_bar=False).astype(np.float32)


def _model_folder(name: str, model: str) -> Path:
    folder = project_path(model)
    if folder.is_dir():
        if not (folder / "modules.json").is_file():
            msg = f"comparators.models.{name}: {folder} has no modules.json; give a folder written by sentence-transformers"
            raise EvaluationError(msg)
        return folder

    repository, _, revision = model.partition("@")
    if repository.count("/") != 1:
        msg = f"comparators.models.{name}: {model!r} is neither a folder nor a Hub id such as sentence-transformers/all-MiniLM-L6-v2"
        raise EvaluationError(msg)
    try:
        return Path(snapshot_download(repository, revision=revision or None, ignore_patterns=_UNUSED))
    except Exception as error:
        msg = (
            f"comparators.models.{name}: cannot download {model!r} ({type(error).__name__}), it is not in the local cache, and there "
            f"is no folder {folder}; connect to the network, correct the name, or give a folder"
        )
        raise EvaluationError(msg) from error


def _contents(folder: Path) -> dict[str, str]:
    """Hashes, by file name, of the files that determine a model's vectors."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _WEIGHTS)
    return {path.relative_to(folder).as_posix(): files_sha256([path]) for path in files}
