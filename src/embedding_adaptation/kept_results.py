"""Hook that gives a node the results of an earlier run, if nothing that they depend on has changed.

A node takes part if its function is marked as repeatable (:mod:`embedding_adaptation.repeatable`). Its key is a digest of its inputs
(contents of files, values of options, files and folders that options name), of this package's files, of the versions of the packages that
compute, and of the machine. What a run has saved is noted by version and checksum, in one file for each node in ``kept_results`` of the
output folder. Under the same key, a later run saves copies of these versions as its own: versions, metrics in MLflow and pages are there as
if it had computed them. A dataset without versions that adds to what it holds stays as it is. Where anything is missing or damaged, the
node computes.

A note holds digests and names of versions, and nothing of the texts.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import threading
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from kedro.framework.hooks import hook_impl
from kedro.io.core import DatasetError
from kedro.io.data_catalog import SharedMemoryDataCatalog
from kedro.io.memory_dataset import MemoryDataset
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from embedding_adaptation.atomic import DiskFullError, clean_leftovers, replacing_file
from embedding_adaptation.checksums import content_lines
from embedding_adaptation.datasets.versioned import KeptVersion, VersionRules
from embedding_adaptation.identity import digest_of, files_sha256
from embedding_adaptation.paths import output_folder, project_path
from embedding_adaptation.repeatable import give_instead, is_repeatable, nothing_instead

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from embedding_adaptation.datasets.versioned import LocalVersions

logger = logging.getLogger(__name__)

FOLDER = "kept_results"
SETTING = "keep_results"
_FORMAT = 1
_LONGEST_PATH = 1024
_OWN_NAME = "embedding-adaptation"
# Extras of this package with tools, and those with libraries that vectors and pairs may come from.
_TOOLS, _COMPUTING = ("dev", "docs", "integrations", "cluster", "serve", "notebook"), ("quantised", "translation")


class KeptResults:
    """Save the results of an earlier run in place of computing the same again; the global ``keep_results`` turns it off."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._catalog: DataCatalog | None = None
        self._lock = threading.Lock()
        self._identities: dict[str, str | None] = {}
        self._computed: dict[str, tuple[Node, str]] = {}
        self._kept: set[str] = set()
        self._count = 0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read the setting."""
        is_on = context.config_loader["globals"].get(SETTING, True)
        self._folder = output_folder(context) / FOLDER if is_on else None
        if is_on:
            _own_files()  # what has been loaded now computes, even if files change later

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Forget the run before, and remove what killed ones left. In the processes of a parallel runner, everything is computed."""
        if self._folder is not None and self._folder.is_dir():
            clean_leftovers(self._folder)
        self._catalog = None if isinstance(catalog, SharedMemoryDataCatalog) else catalog
        self._count = len(pipeline.nodes)
        self._identities, self._computed, self._kept = {}, {}, set()

    @hook_impl
    def before_node_run(self, node: Node, inputs: dict[str, Any]) -> None:
        """If nothing has changed, let the node return what an earlier run has saved."""
        nothing_instead()
        if self._folder is None or self._catalog is None:
            return
        with self._lock:
            key = self._key(node, inputs)
            outputs = {name: self._catalog.get(name) for name in node.outputs}
            for name, dataset in outputs.items():
                self._identities.pop(name, None)
                if key is not None and (dataset is None or isinstance(dataset, MemoryDataset)):
                    # What lies in memory is the same if what it was made from is the same.
                    self._identities[name] = digest_of([key, name])
            if key is None or not all(map(_can_be_kept, outputs.values())):
                return
            kept = self._known(node, key)
            if kept is None:
                self._computed[node.name] = node, key
                return
            self._kept.add(node.name)
            if all(_has_versions(dataset) for dataset in outputs.values()):
                self._computed[node.name] = node, key  # the newest versions are those that are pruned last
        give_instead(node.func, kept[0] if isinstance(node._outputs, str) else kept)  # noqa: SLF001  the names do not say whether it is a list

    @hook_impl
    def after_dataset_saved(self, node: Node) -> None:
        """Once all versions of a node are saved, note which."""
        if self._catalog is None or node.name not in self._computed:
            return
        outputs = [self._catalog.get(name) for name in node.outputs]
        if all(_has_versions(dataset) and dataset.has_saved for dataset in outputs):
            self._note(*self._computed.pop(node.name))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Note what is saved piece by piece, which is complete only now, and say how much has not been computed."""
        while self._computed:
            _, (node, key) = self._computed.popitem()
            self._note(node, key)
        if self._kept:
            logger.info(
                "%d of %d nodes saved the results of an earlier run again: nothing they depend on has changed (%s=false computes them)",
                len(self._kept), self._count, SETTING,
            )  # fmt: skip

    def _key(self, node: Node, inputs: Mapping[str, Any]) -> str | None:
        """The identity of everything that a node's results depend on; ``None`` if part of it has none."""
        if not is_repeatable(node.func, [inputs[name] for name in node.inputs]):
            return None
        parts: dict[str, str] = {}
        try:
            for name in node.inputs:
                identity = self._identity(name, inputs[name])
                if identity is None:
                    logger.debug("%s is computed: it cannot be told whether %s has changed", node.name, name)
                    return None
                parts[name] = identity
        except (OSError, DatasetError) as error:  # the node itself says it better
            logger.debug("%s is computed: %s", node.name, error)
            return None
        function = f"{node.func.__module__}.{node.func.__qualname__}"
        return digest_of([_FORMAT, function, list(node.inputs), list(node.outputs), parts, _code(), _machine()])

    def _identity(self, name: str, value: Any) -> str | None:
        if name not in self._identities:
            self._identities[name] = self._content(name, value)
        return self._identities[name]

    def _content(self, name: str, value: Any) -> str | None:
        if name.startswith("params:") or name == "parameters":
            values = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            named = {path: project_path(path) for path in sorted(set(_paths_in(values)))}
            # The folder that runs write to, or one around it, is not meant: it has changed in any case.
            return digest_of([values, {name: _files_of(path) for name, path in named.items() if not self._is_around(path)}])
        assert self._catalog is not None  # noqa: S101  asked before
        identity = getattr(self._catalog.get(name), "content_identity", None)
        return None if identity is None else identity()

    def _is_around(self, path: Path) -> bool:
        """Whether a path is a folder that holds the notes."""
        assert self._folder is not None  # noqa: S101  asked before
        return self._folder.resolve().is_relative_to(path.resolve())

    def _known(self, node: Node, key: str) -> list[KeptVersion] | None:
        """What an earlier run has saved under the same key, in the order of the outputs; ``None`` if it is not all there."""
        assert self._folder is not None  # noqa: S101  asked before
        assert self._catalog is not None  # noqa: S101
        try:
            note = json.loads(self._path(node.name).read_text(encoding="utf-8"))
            if note["format"] != _FORMAT or note["key"] != key:
                return None
            kept = []
            for name in node.outputs:
                dataset: Any = self._catalog.get(name)
                noted = note["outputs"][name]
                version = dataset.kept_version(noted["version"]) if _has_versions(dataset) else KeptVersion(Path())
                if version is None or _content(dataset, version) != noted["content"]:
                    return None
                kept.append(version)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DatasetError) as error:
            logger.debug("no results of an earlier run are known for %s: %s", node.name, error)
            return None
        return kept

    def _note(self, node: Node, key: str) -> None:
        """Note what a node has saved, and under which key."""
        assert self._catalog is not None  # noqa: S101  asked before
        path = self._path(node.name)
        outputs: dict[str, Any] = {}
        try:
            for name in node.outputs:
                dataset: Any = self._catalog.get(name)
                version = str(dataset.resolve_save_version()) if _has_versions(dataset) else ""
                saved = dataset.kept_version(version) if version else KeptVersion(Path())
                if saved is None:
                    return
                outputs[name] = {"version": version, "content": _content(dataset, saved)}
            with replacing_file(path) as work:
                work.write_text(json.dumps({"format": _FORMAT, "key": key, "outputs": outputs}, indent=1) + "\n", encoding="utf-8")
        except (OSError, DiskFullError, DatasetError) as error:  # the next run then computes the node again
            logger.debug("%s could not be written: %s", path, error)

    def _path(self, name: str) -> Path:
        assert self._folder is not None  # noqa: S101  asked before
        return self._folder / f"{name}.json"


def _has_versions(dataset: Any) -> TypeGuard[LocalVersions[Any, Any]]:
    """Whether a dataset has versions on a local disk, of which one can be saved again."""
    return isinstance(dataset, VersionRules) and dataset.has_local_versions


def _can_be_kept(dataset: Any) -> bool:
    """Whether a dataset has versions, or holds what it was given until that is needed no more."""
    return _has_versions(dataset) or getattr(dataset, "keeps_itself", False)


def _content(dataset: Any, kept: KeptVersion) -> str:
    """Digest of a version, or of all that a dataset without versions holds."""
    return digest_of(content_lines(kept.path) if _has_versions(dataset) else dataset.content_identity())


@functools.lru_cache(maxsize=1)
def _own_files() -> str:
    """Digest of this package's files, as they were when it was first asked for."""
    package = Path(str(files(__package__)))
    paths = sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest_of([[path.relative_to(package).as_posix() for path in paths], files_sha256(paths)])


@functools.lru_cache(maxsize=1)
def _code() -> str:
    """Digest of what computes: this package, others, and Python."""
    return digest_of([_own_files(), _packages(), platform.python_version(), platform.machine()])


def _packages() -> list[tuple[str, str]]:
    """Names and versions of all installed packages but those that only tools need: documentation, tests, servers, other libraries."""
    installed = {str(canonicalize_name(found.name)): found for found in distributions() if found.name}

    @functools.cache
    def requirements(name: str) -> list[Requirement]:
        return [*map(Requirement, installed[name].requires or ())] if name in installed else []

    needed = _closure(requirements, {"", *_COMPUTING})
    tools = _closure(requirements, _TOOLS) - needed
    return sorted((name, found.version) for name, found in installed.items() if name not in tools)


def _closure(requirements: Callable[[str], list[Requirement]], extras: Collection[str]) -> set[str]:
    """The packages that this one needs with some of its extras, directly or through others.

    Args:
        requirements: What a package needs, if it is installed.
        extras: The extras; empty text for what is needed without any.
    """
    reached: set[tuple[str, str]] = set()
    todo = [(_OWN_NAME, extra) for extra in extras]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in reached:
            continue
        reached.add((name, extra))
        for requirement in requirements(name):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(str(canonicalize_name(requirement.name)), wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in reached}


@functools.lru_cache(maxsize=1)
def _machine() -> str:
    """Digest of processor and GPUs, by which ``auto`` chooses device and number format, and on which the last digits of results depend."""
    kinds = ("model name", "flags", "Features", "CPU part")
    try:
        lines = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith(kinds)]
    except OSError:  # not Linux
        lines = [platform.processor()]
    devices = sorted(path.name for kind in ("nvidia[0-9]*", "kfd") for path in Path("/dev").glob(kind))
    visible = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")]
    return digest_of([platform.system(), sorted(set(lines)), devices, visible])


def _paths_in(values: Any) -> Iterator[str]:
    """The texts in options that are paths of existing files or folders."""
    if isinstance(values, str):
        if 0 < len(values) <= _LONGEST_PATH and "\n" not in values and "\0" not in values and _exists(project_path(values)):
            yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _paths_in(value)
    elif isinstance(values, list):
        for value in values:
            yield from _paths_in(value)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _files_of(path: Path) -> list[list[Any]]:
    """Name, size and time of change of a file, or of all files in a folder."""
    paths = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [[file.relative_to(path).as_posix(), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in paths]
