"""The served model: found in a folder or in the registry, loaded through the project's own embedder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.template import encode_texts
from embedding_adaptation.model_registry import CHAMPION
from embedding_adaptation.served_texts import adapted_to
from embedding_adaptation.serving.failures import TextTooLongError
from embedding_adaptation.tracking import tracking_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from embedding_adaptation.embedder.device import DeviceName, DtypeName
    from embedding_adaptation.embedder.template import Frame

logger = logging.getLogger(__name__)

DEFAULT_MODEL = f"models:/embedding-adaptation@{CHAMPION}"
_SCHEME = "models:/"


class ModelNotFoundError(FileNotFoundError):
    """There is no such model; the message says where it was looked for and how to make one."""


@dataclass(frozen=True)
class Located:
    """A folder with a model, and the name that clients call it by."""

    folder: Path
    name: str


def locate(model: str, project: Path) -> Located:
    """Find a model.

    Args:
        model: A folder, or ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION`` in MLflow's registry.
        project: The folder whose ``mlflow.db`` is the registry unless ``MLFLOW_TRACKING_URI`` names another.

    Raises:
        ModelNotFoundError: If it does not exist.
    """
    if not model.startswith(_SCHEME):
        folder = Path(model).resolve()
        if not folder.is_dir():
            msg = f"there is no folder {model!r}; give one that model_export or Embedder.save wrote, or a registered model: {DEFAULT_MODEL}"
            raise ModelNotFoundError(msg)
        return Located(folder, folder.name or "model")
    uri = tracking_uri(project, None)
    advice = "make one with 'make run' or 'make adapt', set MLFLOW_TRACKING_URI to another registry, or give a folder: --model FOLDER"
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.is_file():  # MLflow would create an empty one
        msg = f"{model} cannot be looked up, because there is no registry {database}; {advice}"
        raise ModelNotFoundError(msg)
    name, at, alias = model.removeprefix(_SCHEME).partition("@")
    version = ""
    if not at:
        name, _, version = name.partition("/")
    if not (name and (alias or version)):
        msg = f"{model!r} names no version; write {_SCHEME}NAME@ALIAS or {_SCHEME}NAME/VERSION"
        raise ModelNotFoundError(msg)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        version = version or str(client.get_model_version_by_alias(name, alias).version)
        source = client.get_model_version_download_uri(name, version)
    except MlflowException as error:
        msg = f"{model} is not in the registry {uri}; {advice}"
        raise ModelNotFoundError(msg) from error
    downloaded = Path(download_artifacts(artifact_uri=source, tracking_uri=uri))
    flavours = yaml.safe_load((downloaded / "MLmodel").read_text(encoding="utf-8"))["flavors"]
    if "sentence_transformers" not in flavours:
        msg = f"{model} is not a model of sentence-transformers, but of {', '.join(flavours)}; {advice}"
        raise ModelNotFoundError(msg)
    logger.info("%s is version %s", model, version)
    return Located(downloaded / flavours["python_function"]["data"], name)


class ServedModel:
    """An embedder with its own strategy, and what clients are told about it.

    Args:
        embedder: The embedder.
        name: The name that clients call it by.
        about: A sentence about the texts that it was adapted to.
    """

    def __init__(self, embedder: Embedder, name: str, about: str = "") -> None:
        self.embedder, self.name, self.about = embedder, name, about

    @classmethod
    def load(cls, located: Located, *, device: DeviceName = "auto", dtype: DtypeName = "float32") -> ServedModel:
        """Load a folder that the export or ``Embedder.save`` wrote, of either flavour, and embed a text so that the first request is fast.

        Args:
            located: The folder and its name.
            device: The device to run on.
            dtype: The number format; float32 gives sentence-transformers' own vectors.

        Raises:
            BaseModelError: If the folder holds no model that can be used.
        """
        model = cls(Embedder.load(located.folder, device=device, dtype=dtype), located.name, adapted_to(located.folder))
        model.encode(["a text"])
        return model

    @cached_property
    def dimensions(self) -> int:
        """Width of the vectors."""
        after = self.embedder.strategy.after
        return int(after.dimensions if after is not None else self.embedder.dimension(self.embedder.strategy))

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, including the template."""
        return self.embedder.max_length

    @property
    def room(self) -> int:
        """Number of tokens that a text may have beside the template."""
        return min(frame.room for frame in self._frames)

    def count_tokens(self, texts: Sequence[str], *, truncate: bool = True) -> list[int]:
        """Number of tokens that the model reads for each text: its own, as far as they fit, and the template's.

        Args:
            texts: Texts.
            truncate: Whether the end of a text that does not fit is left out.

        Raises:
            TextTooLongError: If a text does not fit and must not be truncated.
        """
        lengths = [len(ids) for ids in encode_texts(texts, self.embedder.tokenizer)]
        for index, length in enumerate(lengths):
            if length > self.room and not truncate:
                msg = f"text {index} has {length} tokens, and the model reads {self.room}; shorten it, or set truncate to true"
                raise TextTooLongError(msg)
        return [sum(_tokens_read(frame, length) for frame in self._frames) for length in lengths]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, ``[N, D]`` float32."""
        return self.embedder.encode(texts, progress=False)

    @cached_property
    def _frames(self) -> list[Frame]:
        embedder = self.embedder
        return [template.frame(embedder.tokenizer, embedder.max_length) for template in embedder.strategy.templates]


def _tokens_read(frame: Frame, length: int) -> int:
    own = len(frame.prefix) + len(frame.suffix)
    return max(own + min(length, frame.room), 1)  # an empty text without a template is read as one token
