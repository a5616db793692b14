"""The project's context: the version of a run sorts after all existing ones, whatever the clock says."""

from __future__ import annotations

import logging
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.context import KedroContext
from kedro.io import DataCatalog
from kedro.io.core import VERSION_FORMAT, generate_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kedro.io import CatalogProtocol

logger = logging.getLogger(__name__)

_PLACEHOLDER = re.compile(r"\{[^}]*\}")
# With a fixed number of digits, names sort in numerical order.
_COUNTED, _MOST = re.compile(r"(.+)\.(\d{6})"), 999_999


class ProjectContext(KedroContext):
    """Make sure that the version of a run is the newest.

    Kedro names versions after the clock and takes the one whose name sorts last as the newest. If the clock has been set back, a run's
    version would sort before existing ones, and later nodes would load old results; such a run gets a name after the last one instead.
    """

    def _get_catalog(
        self, catalog_class: type = DataCatalog, save_version: str | None = None, load_versions: dict[str, str] | None = None
    ) -> CatalogProtocol[Any, Any]:
        catalog = self.config_loader["catalog"]
        timestamp = save_version or generate_timestamp()
        version = later_version(timestamp, versions_of(catalog, self.project_path))
        if version != timestamp:
            logger.warning(
                "the version of this run would be %s, but a later one exists and the last name counts as the newest: using %s instead",
                timestamp, version,
            )  # fmt: skip
        self.config_loader["catalog"] = catalog  # so that it is not resolved a second time
        try:
            return super()._get_catalog(catalog_class=catalog_class, save_version=version, load_versions=load_versions)
        finally:
            del self.config_loader["catalog"]


def versions_of(catalog: Mapping[str, Any], project: Path) -> set[str]:
    """Names of all versions of all datasets on the local disk.

    Args:
        catalog: The catalog's configuration.
        project: The folder that relative paths start from.
    """
    versions: set[str] = set()
    for entry in catalog.values():
        if not isinstance(entry, dict) or not entry.get("versioned") or "://" in str(entry.get("filepath")):
            continue
        path = project / str(entry["filepath"])
        # A name with placeholders stands for several datasets.
        name = re.compile(".+".join(map(re.escape, _PLACEHOLDER.split(path.name))))
        folders = [folder for folder in _folders(path.parent) if name.fullmatch(folder.name)] if "{" in path.name else [path]
        versions.update(version.name for folder in folders for version in _folders(folder) if (version / folder.name).exists())
    return versions


def later_version(name: str, others: Iterable[str]) -> str:
    """The name itself if it sorts after all others, otherwise the next name after the last of them."""
    last = max(others, default="")
    if last < name:
        return name
    try:
        moment = datetime.strptime(last, VERSION_FORMAT)
    except ValueError:  # not a timestamp: a name chosen by the user
        stem, number = (counted[1], int(counted[2])) if (counted := _COUNTED.fullmatch(last)) else (last, 0)
        return f"{stem}.{number + 1:06d}" if number < _MOST else f"{last}.{1:06d}"
    text = (moment + timedelta(milliseconds=1)).strftime(VERSION_FORMAT)
    return text[:-4] + text[-1:]


def _folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
