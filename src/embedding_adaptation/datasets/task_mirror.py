"""The data of mteb's tasks: a local copy, from a mirror folder or the Hub, whose revision and content are checked."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

MANIFEST = "mirror.json"
_CARD = "README.md"
# Files of Git and the Hub client, not data.
_IGNORED = (".*", "*/.*")


class MirrorError(ValueError):
    """Task data are missing or differ from those expected; the message says how to fix it."""


@dataclass(frozen=True)
class LocalCopy:
    """The data of one repository on this machine.

    Attributes:
        folder: The files, laid out as on the Hub.
        revision: Their commit.
        sha256: Hash of the names and contents of all files that belong to the task.
        origin: Whether they come from the mirror or from the Hub (or its local cache).
    """

    folder: Path
    revision: str
    sha256: str
    origin: Literal["mirror", "hub"]


class TaskMirror:
    """Finds the data of mteb's tasks.

    A mirror is a folder with the Hub's layout, in either form: ``ORGANISATION/NAME/...``, or that of the Hub's cache,
    ``datasets--ORGANISATION--NAME/snapshots/REVISION/...``. A file ``mirror.json`` in it, which :meth:`record` writes, holds the revision
    and the content hash of each repository; data that do not match are refused.

    Args:
        folder: The mirror, or ``None`` to use the Hub.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def fetch(self, repository: str, revision: str, configs: Sequence[str] = ()) -> LocalCopy:
        """Find or download a repository's data.

        Args:
            repository: ``ORGANISATION/NAME``.
            revision: The commit.
            configs: If not empty, only files of these configurations are downloaded and hashed, provided that the card lists them.

        Raises:
            MirrorError: If the data are missing, of another revision, or changed.
        """
        if self.folder is None:
            folder = _download(repository, revision, configs)
            return LocalCopy(folder, revision, content_hash(folder, configs), "hub")
        folder, is_stated = self._find(repository, revision)
        recorded = self._manifest().get(f"{repository}@{revision}")
        known = sorted(key.partition("@")[2] for key in self._manifest() if key.partition("@")[0] == repository)
        if recorded is None and not is_stated and known:
            msg = (
                f"the mirror {self.folder} has {repository} at revision {', '.join(known)}, but the task needs {revision}; "
                "fetch that revision, or install the version of mteb that the mirror was made for"
            )
            raise MirrorError(msg)
        sha256 = content_hash(folder, configs)
        expected = recorded.get("/".join(configs) or "all") if recorded else None
        if expected is not None and expected != sha256:
            msg = (
                f"the mirror's copy of {repository} in {folder} has the content hash {sha256[:16]}..., but {MANIFEST} says "
                f"{expected[:16]}...: files are damaged, missing or changed; copy them again, or recreate {MANIFEST} if this is intended"
            )
            raise MirrorError(msg)
        if expected is None and not is_stated:
            logger.warning("%s does not mention %s; assuming its files are of revision %s", self.folder / MANIFEST, repository, revision)
        return LocalCopy(folder, revision, sha256, "mirror")

    def record(self, repository: str, revision: str, configs: Sequence[str] = ()) -> None:
        """Record the revision and content hash of the data in ``mirror.json``.

        Raises:
            MirrorError: If there is no mirror, or it does not contain the repository.
        """
        if self.folder is None:
            msg = "no mirror folder was given to record; name one"
            raise MirrorError(msg)
        folder, _ = self._find(repository, revision)
        manifest = self._manifest()
        manifest.setdefault(f"{repository}@{revision}", {})["/".join(configs) or "all"] = content_hash(folder, configs)
        text = json.dumps(manifest, indent=2, sort_keys=True)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def download(self, repository: str, revision: str, configs: Sequence[str] = ()) -> None:
        """Download a repository from the Hub into the mirror and record it, on a machine with network access.

        Raises:
            MirrorError: If there is no mirror, or the data cannot be downloaded.
        """
        if self.folder is None:
            msg = "no mirror folder was given to download to; name one"
            raise MirrorError(msg)
        _download(repository, revision, configs, self.folder)
        self.record(repository, revision, configs)

    def _find(self, repository: str, revision: str) -> tuple[Path, bool]:
        """The repository's folder, and whether its name states the revision."""
        assert self.folder is not None  # noqa: S101  callers have looked
        versions = self.folder / f"datasets--{repository.replace('/', '--')}" / "snapshots"
        if (versions / revision).is_dir():
            return versions / revision, True
        plain = self.folder / repository
        if plain.is_dir():
            return plain, False
        others = f" (only revision {', '.join(sorted(path.name for path in versions.iterdir()))})" if versions.is_dir() else ""
        msg = f"the mirror {self.folder} does not contain {repository} at revision {revision}{others}; copy the Hub's folder to {plain}"
        raise MirrorError(msg)

    def _manifest(self) -> dict[str, dict[str, str]]:
        assert self.folder is not None  # noqa: S101  callers have looked
        file = self.folder / MANIFEST
        if not file.is_file():
            return {}
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            return {str(key): dict(value) for key, value in manifest.items()}
        except (ValueError, AttributeError, TypeError) as error:
            msg = f"{file} cannot be read ({error}); recreate it"
            raise MirrorError(msg) from error


class TaskMirrorDataset(AbstractDataset[None, TaskMirror]):
    """The source of the data of mteb's tasks: a mirror folder, or the Hub if none is given. It cannot be saved.

    Args:
        filepath: The mirror folder, or ``None`` for the Hub.
        metadata: Arbitrary values for other tools.

    Example:
        .. code-block:: yaml

            task_mirror:
              type: embedding_adaptation.datasets.task_mirror.TaskMirrorDataset
              filepath: /data/mteb-mirror
    """

    def __init__(self, *, filepath: str | None = None, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath).expanduser() if filepath else None
        self.metadata = metadata

    def check_input(self) -> None:
        """Fail early: check that the mirror folder, if given, exists.

        Raises:
            DatasetError: If it does not.
        """
        if self._folder is not None and not self._folder.is_dir():
            msg = f"the mirror {self._folder} is not a folder; correct the setting mirror, or omit it to use the Hub"
            raise DatasetError(msg)

    def load(self) -> TaskMirror:
        """The mirror, or the Hub."""
        self.check_input()
        return TaskMirror(self._folder)

    def save(self, data: None) -> None:  # noqa: ARG002
        """Refuse: a mirror is an input."""
        msg = "the mirror of mteb's tasks is an input and is never written to by a run"
        raise DatasetError(msg)

    def content_identity(self) -> str:
        """Empty, whatever it is: nodes that may read from it do not count as repeatable then."""
        return ""

    def _exists(self) -> bool:
        return self._folder is None or self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder) if self._folder else "the Hub"}


def content_hash(folder: Path, configs: Sequence[str] = ()) -> str:
    """SHA-256 of the names and contents of a repository's files, restricted to the given configurations if the card lists them."""
    wanted = _patterns(folder, configs)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if _matches(name, _IGNORED) or (wanted is not None and not _matches(name, wanted)):
            continue
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _patterns(folder: Path, configs: Sequence[str]) -> list[str] | None:
    """Patterns of the files that configurations (and ``CONFIG-corpus`` and the like) consist of; ``None`` is all files."""
    card = folder / _CARD
    if not configs or not card.is_file():
        return None
    from huggingface_hub import metadata_load

    patterns: list[str] = [_CARD]
    named = {str(entry.get("config_name")): entry.get("data_files") for entry in (metadata_load(card) or {}).get("configs") or []}
    for config in configs:
        belonging = [files for name, files in named.items() if name == config or name.startswith(f"{config}-")]
        if not belonging:
            return None
        for files in belonging:
            patterns += _paths(files)
    return patterns


def _paths(files: Any) -> list[str]:
    if isinstance(files, str):
        return [files]
    if isinstance(files, dict):
        return _paths(files.get("path") or list(files.values()))
    return [path for file in files or [] for path in _paths(file)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _download(repository: str, revision: str, configs: Sequence[str], cache: Path | None = None) -> Path:
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download, snapshot_download

    place: dict[str, Any] = {"repo_type": "dataset", "revision": revision, "cache_dir": cache}
    try:
        patterns = None
        if configs:
            try:
                patterns = _patterns(Path(hf_hub_download(repository, _CARD, **place)).parent, configs)
            except hub_errors.EntryNotFoundError:
                patterns = None
        return Path(snapshot_download(repository, allow_patterns=patterns, **place))
    except hub_errors.RevisionNotFoundError as error:
        msg = f"the Hub's data set {repository} has no revision {revision}; install the version of mteb that produced the task's results"
        raise MirrorError(msg) from error
    except hub_errors.GatedRepoError as error:
        msg = f"access to the data set {repository} is gated; accept its terms on the Hub and log in with 'hf auth login' or HF_TOKEN"
        raise MirrorError(msg) from error
    except hub_errors.RepositoryNotFoundError as error:
        msg = f"there is no data set {repository} on the Hub, or you may not see it; log in with 'hf auth login', or choose another task"
        raise MirrorError(msg) from error
    except Exception as error:
        msg = (
            f"cannot download the data set {repository} at revision {revision} ({type(error).__name__}), and it is not in the local "
            "cache; connect to the network, set HF_ENDPOINT, or give a folder with a copy: --params mirror=FOLDER"
        )
        raise MirrorError(msg) from error
