"""The project's context: the versions of a run come after all that are there, whatever the clock says."""

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
# Counted with so many digits, names sort as numbers do.
_COUNTED, _MOST = re.compile(r"(.+)\.(\d{6})"), 999_999


class ProjectContext(KedroContext):
    """Kedro takes the version with the last name for the newest, and names a run's versions after its clock.

    Where that clock has been set back, the next run's versions would come before those that are there, and every later node would load old
    results. So the name is moved behind the last one.
    """

    def _get_catalog(
        self, catalog_class: type = DataCatalog, save_version: str | None = None, load_versions: dict[str, str] | None = None
    ) -> CatalogProtocol[Any, Any]:
        catalog = self.config_loader["catalog"]
        named = save_version or generate_timestamp()
        version = later_version(named, versions_of(catalog, self.project_path))
        if version != named:
            logger.warning(
                "versions of this run would be called %s, but a name after that is there already, and the last name counts as the newest: "
                "they are called %s", named, version,
            )  # fmt: skip
        self.config_loader["catalog"] = catalog  # read and resolved once, not twice
        try:
            return super()._get_catalog(catalog_class=catalog_class, save_version=version, load_versions=load_versions)
        finally:
            del self.config_loader["catalog"]


def versions_of(catalog: Mapping[str, Any], project: Path) -> set[str]:
    """Names of all versions on the local disk, of datasets with any name.

    Args:
        catalog: The catalog's configuration.
        project: What relative paths are relative to.
    """
    found: set[str] = set()
    for entry in catalog.values():
        if not isinstance(entry, dict) or not entry.get("versioned") or "://" in str(entry.get("filepath")):
            continue
        path = project / str(entry["filepath"])
        # A name with placeholders stands for several datasets.
        name = re.compile(".+".join(map(re.escape, _PLACEHOLDER.split(path.name))))
        folders = [folder for folder in _folders(path.parent) if name.fullmatch(folder.name)] if "{" in path.name else [path]
        found.update(version.name for folder in folders for version in _folders(folder) if (version / folder.name).exists())
    return found


def later_version(name: str, others: Iterable[str]) -> str:
    """A version's name, or the next one behind the others where these come later."""
    last = max(others, default="")
    if last < name:
        return name
    try:
        moment = datetime.strptime(last, VERSION_FORMAT)
    except ValueError:  # somebody's own name
        stem, number = (found[1], int(found[2])) if (found := _COUNTED.fullmatch(last)) else (last, 0)
        return f"{stem}.{number + 1:06d}" if number < _MOST else f"{last}.{1:06d}"
    text = (moment + timedelta(milliseconds=1)).strftime(VERSION_FORMAT)
    return text[:-4] + text[-1:]


def _folders(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
