"""Kedro's configuration loader, with run parameters of the right type and paths that mean what they say."""

from __future__ import annotations

import os
import re
from pathlib import PureWindowsPath
from typing import Any, cast

from kedro.config import OmegaConfigLoader
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from embedding_adaptation.parameters import ParameterError, as_text, check_names, read_value
from embedding_adaptation.paths import project_root

# The keys of a catalog entry that Kedro, too, treats as paths.
_PATHS = ("filepath", "path", "filename")
_REFERENCE = re.compile(r"\$\{\s*runtime_params\s*:\s*([^,}\s.]+)")
_MISSING = object()
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


class ProjectConfigLoader(OmegaConfigLoader):
    """Reads ``conf/`` as Kedro does, with four differences.

    - A run parameter also sets the global of the same name (``--params seed=1,output=results``).
    - In the catalog, ``${runtime_params:NAME,DEFAULT}`` takes the type of its default: text stays as typed, a number is parsed.
    - With the global ``private``, datasets whose metadata say ``texts: true`` have no preview in kedro-viz and are not copied to MLflow.
    - A catalog path may begin with ``~``, and a colon in it does not turn it into a remote address.
    """

    _refusal: ParameterError | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        configured = self["globals"]
        overrides = {name: self.runtime_params[name] for name in configured if self.runtime_params.get(name) is not None}
        if overrides:
            self["globals"] = {**configured, **{name: _as_global(name, value, configured[name]) for name, value in overrides.items()}}

    def check_names(self) -> None:
        """Check that every parameter of this run is known; without parameters, nothing is loaded.

        Raises:
            ParameterError: If a name is unknown; the message suggests similar ones.
        """
        if self.runtime_params:
            check_names(self.runtime_params, self.known_names())

    def known_names(self) -> set[str]:
        """The names outside groups that a dataset, a parameter or a global uses."""
        consumers = self.consumers()
        names = {*self["globals"], *self._configured("parameters"), *consumers}
        # An entry of conf/local may replace a dataset of that name with one that ignores the parameter while others still use it: the
        # run would do half of what was asked.
        datasets = {*self._configured("catalog")} - {*self["globals"]}
        return {name for name in names if name not in datasets or name in consumers.get(name, ())}

    def consumers(self) -> dict[str, set[str]]:
        """For each name, the datasets and parameters (``params:NAME``) that use it as ``${runtime_params:NAME}``."""
        consumers: dict[str, set[str]] = {}
        parameters = {f"params:{entry}": config for entry, config in self._configured("parameters").items()}
        for entry, config in (self._configured("catalog") | parameters).items():
            for name in {name for text in _texts(config) for name in _REFERENCE.findall(text)}:
                consumers.setdefault(name, set()).add(entry)
        return consumers

    def consumers_of_run_parameters(self) -> dict[str, set[str]]:
        """For each parameter of this run, the datasets that use it; globals, which anything may use, are left out."""
        if not self.runtime_params:
            return {}
        consumers, global_names = self.consumers(), self._configured("globals")
        return {name: consumers.get(name, {f"params:{name}"}) for name in self.runtime_params if name not in global_names}

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration of one kind; see :class:`kedro.config.OmegaConfigLoader`."""
        if key == "parameters" and key not in self:
            self._read_own_parameters()
        try:
            configuration = super().__getitem__(key)
        except InterpolationResolutionError:
            if self._refusal is not None:
                raise self._refusal from None  # OmegaConf wraps it in an error of its own
            raise
        if key != "catalog":
            return configuration
        return _with_paths(_without_texts(configuration) if self["globals"].get("private") else configuration)

    def _get_runtime_value(self, variable: str, default_value: Any = _MISSING) -> Any:
        """The value of ``${runtime_params:...}``."""
        value: Any = self.runtime_params
        for name in variable.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            return super()._get_runtime_value(variable) if default_value is _MISSING else default_value
        if default_value is None or isinstance(default_value, str):
            try:
                return as_text(variable, value)
            except ParameterError as error:
                self._refusal = error
                raise
        return read_value(value) if isinstance(value, str) else value

    def _read_own_parameters(self) -> None:
        """Parse parameters outside groups that a project has added and that are not text in ``conf/``."""
        typed = {name: value for name, value in self.runtime_params.items() if isinstance(value, str) and read_value(value) != value}
        if typed:
            configured = self._configured("parameters")
            self.runtime_params |= {name: _as_before(name, value, configured[name]) for name, value in typed.items() if name in configured}

    def _configured(self, key: str) -> dict[str, Any]:
        """The unresolved configuration of one kind, without run parameters; an environment's entries replace those of the base."""
        base, env, *_ = self._read_raw_config(key)
        entries: dict[str, Any] = {}
        for config in (*base.values(), *env.values()):
            entries |= cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
        return entries


def _as_before(name: str, value: Any, configured: Any) -> Any:
    """Give a value the type of the configured one: text, or parsed as YAML."""
    if isinstance(configured, str) and "${" not in configured:
        return as_text(name, value)
    return read_value(value) if isinstance(value, str) else value


def _as_global(name: str, value: Any, configured: Any) -> Any:
    """Give the value of a global the type of the configured one.

    Raises:
        ParameterError: If it has another type: nothing else would check it before work starts.
    """
    parsed = _as_before(name, value, configured)
    kind = next((kind for kind in _KINDS if isinstance(configured, kind)), None)  # bool first, because a bool is an int too
    if kind is not None and (isinstance(parsed, bool) is not (kind is bool) or not isinstance(parsed, (int, kind))):
        msg = f"parameter {name!r} takes {_KINDS[kind]} such as {configured!r}, not {value!r}"
        raise ParameterError(msg)
    return parsed


def _texts(value: Any) -> list[str]:
    """All texts in nested mappings and lists."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for nested in value.values() for text in _texts(nested)]
    return [text for nested in value for text in _texts(nested)] if isinstance(value, list) else []


def _with_paths(entries: dict[str, Any]) -> dict[str, Any]:
    """Catalog entries with the paths that Kedro would misunderstand."""
    return {
        key: _with_paths(value) if isinstance(value, dict) else _path(value) if key in _PATHS and isinstance(value, str) else value
        for key, value in entries.items()
    }


def _without_texts(entries: dict[str, Any]) -> dict[str, Any]:
    """Catalog entries of which those that hold texts are shown and copied nowhere; their numbers still are."""
    return {
        name: entry | {"metadata": _private(entry["metadata"])} if (entry.get("metadata") or {}).get("texts") else entry
        for name, entry in entries.items()
    }


def _private(metadata: dict[str, Any]) -> dict[str, Any]:
    tracked = {what: value for what, value in metadata.get("mlflow", {}).items() if what not in {"artifact", "html"}}
    shown = {key: value for key, value in metadata.get("kedro-viz", {}).items() if key != "preview_args"}
    kept = {key: value for key, value in metadata.items() if key != "mlflow"}
    return kept | {"kedro-viz": shown | {"preview": False}} | ({"mlflow": tracked} if tracked else {})


def _path(path: str) -> str:
    path = os.path.expanduser(path)  # noqa: PTH111  pathlib's fails for an unknown user
    if ":" not in path or "://" in path or (os.name == "nt" and PureWindowsPath(path).drive):
        return path  # Kedro resolves relative paths from the project's root
    return (project_root() / path).as_posix()
