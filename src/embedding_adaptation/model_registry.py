"""The exported model in MLflow: logged with signature, example and pinned requirements, registered, and given its aliases.

``candidate`` is the version registered last. ``champion`` moves to it only if it is better, see :func:`champion_verdict`. Everything that
this rule needs is in the tags of the versions, so that a later run on another machine can compare them.

Calls go to an explicit client. MLflow's fluent functions would use the store of the process and record it in the environment, so a second
run in a notebook would log to the store of the first.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from filecmp import cmp
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from pydantic import Field

from embedding_adaptation import served_texts
from embedding_adaptation.atomic import scratch_prefix
from embedding_adaptation.datasets.exported_embedder import FACTS_FILE
from embedding_adaptation.options import Options
from embedding_adaptation.tracking_tags import CHAMPION_VERDICT, DATA, PROTOCOL, VALUE_CHARACTERS, model_tags, score_tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

CANDIDATE, CHAMPION = "candidate", "champion"
# The packages needed to load and serve the folder; MLflow adds itself.
REQUIREMENTS = ("sentence-transformers", "transformers", "tokenizers", "torch", "safetensors", "numpy", "huggingface-hub")
# Not texts from the corpus, because the example is stored with the model.
INPUT_EXAMPLE = ("Where can I turn off the water?", "The last bus leaves at ten.")
_OWN_PACKAGE = f"embedding-adaptation=={metadata.version('embedding-adaptation')}"
_WORTH_SHARING = 1 << 20  # bytes


class RegistryOptions(Options):
    """Where and how exported models are registered: ``registry`` in ``conf/<env>/mlflow.yml``."""

    enabled: bool = Field(True, description="Whether exported models are logged and registered.")
    name: str = Field("embedding-adaptation", min_length=1, pattern=r"^[^/:]+$", description="Name of the registered model.")
    metric: str = Field("v_measure", description="The score that decides which version is the champion; higher is better.")
    min_gain: float = Field(0.0, ge=0.0, description="A new version must beat the champion by more than this.")


@dataclass(frozen=True)
class Verdict:
    """Whether the alias ``champion`` moves to the new version, and why, in words for the log and the version's tags."""

    moves: bool
    reason: str


def champion_verdict(candidate: Mapping[str, str], champion: Mapping[str, str] | None, options: RegistryOptions) -> Verdict:
    """Decide whether a new version becomes the champion.

    The first version does. A later one does if its mean score, on the same labelled texts and under the same protocol, exceeds the
    champion's by more than ``min_gain``. If the two cannot be compared, the champion stays.

    Args:
        candidate: Tags of the new version.
        champion: Tags of the current champion, if any.
        options: The metric and the minimum gain.
    """
    if champion is None:
        return Verdict(moves=True, reason="there was no champion")
    score = score_tag(options.metric)
    for version, tags in (("the new version", candidate), ("the champion", champion)):
        if score not in tags:
            return Verdict(moves=False, reason=f"{version} has no score {options.metric!r}, so the two cannot be compared")
    for tag, condition in ((DATA, "labelled texts"), (PROTOCOL, "evaluation protocols")):
        if candidate.get(tag) != champion.get(tag):
            return Verdict(moves=False, reason=f"the two were scored with different {condition}, so they cannot be compared")
    new, old = float(candidate[score]), float(champion[score])
    figures = f"{options.metric} {new:.4f} against the champion's {old:.4f}"
    if new - old > options.min_gain:
        return Verdict(moves=True, reason=figures)
    required = f"; a gain of more than {options.min_gain:g} is required" if options.min_gain else ""
    return Verdict(moves=False, reason=f"{figures}{required}")


def log_and_register(
    client: MlflowClient, experiment_id: str, run_id: str, folder: Path, name: str, options: RegistryOptions, tags: Mapping[str, str]
) -> str:
    """Log an exported folder as a model of a run, register it, and set its aliases.

    Args:
        client: The store.
        experiment_id: The run's experiment.
        run_id: The run that produced the model.
        folder: A folder saved by :class:`~embedding_adaptation.datasets.exported_embedder.ExportedEmbedderDataset`.
        name: Name of the logged model within the run.
        options: Name of the registered model, and the rule for the champion.
        tags: Further tags of the version, such as the Git commit.

    Returns:
        The number of the registered version.
    """
    from mlflow.entities import LoggedModelOutput

    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    is_packaged = facts.get("flavour") == "package"
    if is_packaged:  # another kind of model, with a champion of its own
        options = options.model_copy(update={"name": f"{options.name}-package"})
    version_tags = dict(model_tags(facts)) | {key: value[:VALUE_CHARACTERS] for key, value in tags.items()}
    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, tags=version_tags)
    try:
        with tempfile.TemporaryDirectory(prefix=scratch_prefix()) as scratch:
            target = Path(scratch) / "model"
            write_mlflow_model(folder, target, int(facts["dimensions"]), logged, is_packaged=is_packaged)
            client.log_model_artifacts(logged.model_id, str(target))
        store_once(folder, logged.artifact_location)
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    _ensure_registered_model(client, options.name)
    # The source is not models:/ID, which a database store would look up in the store of the process.
    created = client.create_model_version(
        options.name, logged.artifact_location, run_id, tags=version_tags, description=str(facts["summary"]), model_id=logged.model_id
    )
    version = str(created.version)
    client.set_registered_model_alias(options.name, CANDIDATE, version)
    _choose_champion(client, version, version_tags, options)
    return version


def store_once(folder: Path, artifacts: str) -> int:
    """Let MLflow's copies of large files be the same files on disk as the exported ones, where both lie on one file system.

    The weights then take their space once. Each side can be deleted without harm to the other: the disk frees the space when both are gone.

    Args:
        folder: The exported folder, whose files never change.
        artifacts: Where MLflow has put its copy.

    Returns:
        The number of bytes saved; 0 where MLflow's store is elsewhere or the file system has no hard links.
    """
    from mlflow.utils.file_utils import local_file_uri_to_path

    scheme = urlparse(artifacts).scheme
    if scheme not in {"", "file"}:
        return 0
    saved = 0
    originals = {(path.name, path.stat().st_size): path for path in folder.rglob("*") if path.is_file()}
    for copy in Path(local_file_uri_to_path(artifacts)).rglob("*"):
        original = originals.get((copy.name, copy.stat().st_size)) if copy.is_file() else None
        if original is None or copy.stat().st_size < _WORTH_SHARING or copy.samefile(original) or not cmp(copy, original, shallow=False):
            continue
        link = copy.with_name(f".{copy.name}.{os.getpid()}")
        try:
            link.unlink(missing_ok=True)
            link.hardlink_to(original)
            link.replace(copy)
        except OSError as error:
            logger.debug("%s keeps its own copy: %s", copy, error)
            return saved
        saved += original.stat().st_size
    return saved


def write_mlflow_model(folder: Path, target: Path, dimensions: int, logged: Any, *, is_packaged: bool = False) -> None:
    """Write an exported folder as an MLflow model with the sentence-transformers flavour.

    Args:
        folder: The exported folder.
        target: Where to write; must not exist. The files of ``folder`` are linked, not copied.
        dimensions: Width of the vectors.
        logged: MLflow's entry for the model.
        is_packaged: Whether loading it needs this package.
    """
    import numpy as np
    from mlflow import sentence_transformers
    from mlflow.models import Model

    entry = Model(artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=logged.source_run_id, model_id=logged.model_id)
    sentence_transformers.save_model(
        _Folder(folder.resolve()),
        str(target),
        mlflow_model=entry,
        signature=model_signature(dimensions),
        input_example=np.array(INPUT_EXAMPLE, dtype=object),
        pip_requirements=[*pinned_requirements(), *([_OWN_PACKAGE] if is_packaged else [])],
        code_paths=[served_texts.__file__],
    )
    # Serving uses MLflow's general interface; this loader makes it check its input.
    entry.flavors["python_function"]["loader_module"] = served_texts.__name__.rpartition(".")[2]
    entry.save(str(target / "MLmodel"))


def model_signature(dimensions: int) -> ModelSignature:
    """Texts in, float32 vectors of shape ``[N, dimensions]`` out.

    The texts are declared as objects: if they were declared as strings, MLflow's server would convert everything, even ``null`` and
    numbers, to strings before the model sees it.
    """
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    texts, vectors = TensorSpec(np.dtype(object), (-1,)), TensorSpec(np.dtype(np.float32), (-1, dimensions))
    return ModelSignature(Schema([texts]), Schema([vectors]))


def pinned_requirements() -> Iterator[str]:
    """Pin the installed versions of the model's packages, without local suffixes such as ``+cpu``, which no package index has."""
    for name in REQUIREMENTS:
        yield f"{name}=={metadata.version(name).partition('+')[0]}"


class _Folder:
    """The interface that MLflow's flavour expects of a model, backed by files.

    A loaded model would need its weights in memory, and saving it would change its files and drop ``max_seq_length``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, path: str, **kwargs: Any) -> None:  # noqa: ARG002  MLflow's interface
        shutil.copytree(self._folder, path, copy_function=os.symlink)

    def modules(self) -> tuple[()]:
        return ()


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Text embedding models, exported as plain sentence-transformers folders.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _choose_champion(client: MlflowClient, version: str, tags: Mapping[str, str], options: RegistryOptions) -> None:
    current = client.get_registered_model(options.name).aliases.get(CHAMPION)
    champion = client.get_model_version(options.name, str(current)) if current is not None else None
    verdict = champion_verdict(tags, champion.tags if champion else None, options)
    client.set_model_version_tag(options.name, version, CHAMPION_VERDICT, verdict.reason)
    if verdict.moves:
        client.set_registered_model_alias(options.name, CHAMPION, version)
        logger.info("%s version %s is the candidate and the new champion: %s", options.name, version, verdict.reason)
    else:
        logger.info("%s version %s is the candidate; version %s stays champion: %s", options.name, version, current, verdict.reason)
