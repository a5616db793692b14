"""The base model as a catalog dataset: resolved and converted on first load, then reused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io.core import DatasetError, VersionNotFoundError

from embedding_adaptation.checksums import DamagedError, check_intact, checksum_file
from embedding_adaptation.datasets.directory import DirectoryDataset
from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert, is_hub_setting
from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard
from embedding_adaptation.paths import project_path, project_root

if TYPE_CHECKING:
    from kedro.io import Version

    from embedding_adaptation.embedder.base_model import BaseModelSource

logger = logging.getLogger(__name__)

_LEFT_OUT = "the base model in %s is not used and will be converted again if needed: %s"


class BaseModelDataset(DirectoryDataset[None, DecoderWeights]):
    """A base model, named by one setting and kept as safetensors, tokenizer and card.

    The first load resolves the setting and writes a version; later loads return the newest version made from the same setting and an
    unchanged source, so every run of a project uses the same weights. It cannot be saved: a base model is an input.

    Args:
        source: The setting, see :mod:`embedding_adaptation.embedder.base_model`. Relative paths start at the project's root.
        filepath: Directory of the versions.
        version: Load and save version, from Kedro.
        metadata: Arbitrary values for other tools.

    Example:
        .. code-block:: yaml

            base_model:
              type: embedding_adaptation.datasets.base_model.BaseModelDataset
              source: Qwen/Qwen3-0.6B@main
              filepath: data/06_models/base_model
              versioned: true
    """

    def __init__(self, *, source: str, filepath: str, version: Version | None = None, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, version=version, metadata=metadata)
        self._source = source
        self._damaged = False

    def check_input(self) -> None:
        """Fail early: check that the setting can be resolved, without loading anything. A damaged conversion is repeated at once.

        Raises:
            DatasetError: If it cannot; the message says what is wrong and how to fix it.
        """
        resolved = self._resolve()
        if not isinstance(resolved, Path) and self._damaged:
            self.load()  # adapters look for it too, and a node that loads one may come first

    def load(self) -> DecoderWeights:
        """The weights on disk, resolved first if necessary."""
        if self._version and self._version.load:
            return self.read_directory(self.intact_path())
        resolved = self._resolve()
        if not isinstance(resolved, Path):
            target = Path(self._get_save_path())
            try:
                with self.replacing(folder=True) as directory:
                    convert(resolved, directory)
            except BaseModelError as error:
                raise DatasetError(str(error)) from error
            resolved = target
        if self._version:
            self._cached_load_version = resolved.parent.name  # reported as the loaded version
        return self.read_directory(resolved)

    def read_directory(self, directory: Path) -> DecoderWeights:
        """Describe the weights in a directory."""
        return DecoderWeights(directory, ModelCard.read(directory))

    def write_directory(self, data: None, directory: Path) -> None:  # noqa: ARG002
        """Refuse: a base model is an input."""
        msg = "base_model is an input and cannot be saved; set base_model in conf/base/globals.yml"
        raise DatasetError(msg)

    def _resolve(self) -> Path | BaseModelSource:
        """The existing version for this setting, or the checked source to convert."""
        root = project_root()
        conversions = [(folder, card) for folder, card in self._versions() if card.source == self._source]
        if conversions and is_hub_setting(self._source, relative_to=root):
            whole = next((folder for folder, _ in conversions if self._is_whole(folder)), None)
            if whole is not None:
                return whole  # pinned to the commit it was resolved to, and usable without a network
            conversions = []
        try:
            source = check_source(self._source, known_stamps={card.stamp for _, card in conversions}, relative_to=root)
            # Checking a conversion takes time: only those of the current source are checked.
            same = [folder for folder, card in conversions if card.stamp == source.stamp]
            whole = next((folder for folder in same if self._is_whole(folder)), None)
            return whole or (check_source(self._source, relative_to=root) if same else source)
        except BaseModelError as error:
            # A setting in the form of a Hub id may be meant as a path.
            elsewhere = (
                f" (there is no folder {project_path(self._source)} either)" if is_hub_setting(self._source, relative_to=root) else ""
            )
            raise DatasetError(f"{error}{elsewhere}") from error

    def _versions(self) -> list[tuple[Path, ModelCard]]:
        """Finished versions with their cards, newest first."""
        if not self._version:
            folders = [Path(self._filepath)]
        else:
            try:
                folders = [Path(path) for path in self._get_versions()]
            except VersionNotFoundError:
                folders = []
        versions = []
        for folder in folders:
            try:
                versions.append((folder, ModelCard.read(folder)))
            except (OSError, ValueError, KeyError, TypeError) as error:
                if not checksum_file(folder).is_file():
                    continue  # no converted model
                logger.warning(_LEFT_OUT, folder, f"{type(error).__name__} in its card")
                self._damaged = True
        return versions

    def _is_whole(self, folder: Path) -> bool:
        try:
            check_intact(folder)
        except DamagedError as error:
            logger.warning(_LEFT_OUT, folder, error)
            self._damaged = True
            return False
        return True

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "source": self._source}
