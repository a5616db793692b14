"""Kedro's configuration loader, with parameters of one run as the options want them and paths that mean what they say."""

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

# The keys of a catalog entry in which Kedro, too, looks for paths.
_PATHS = ("filepath", "path", "filename")
_TAKEN = re.compile(r"\$\{\s*runtime_params\s*:\s*([^,}\s.]+)")
_MISSING = object()
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


class ProjectConfigLoader(OmegaConfigLoader):
    """Reads ``conf/`` as Kedro does, but for three things.

    - A parameter of this run also sets the global of its name (``--params seed=1,output=results``).
    - In the catalog, ``${runtime_params:NAME,DEFAULT}`` has the type of its default: text stays as it was typed, for a number it is read.
    - A path in the catalog may begin with ``~``, and a colon in it does not make it the address of another machine.
    """

    _refusal: ParameterError | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        configured = self["globals"]
        given = {name: self.runtime_params[name] for name in configured if self.runtime_params.get(name) is not None}
        if given:
            self["globals"] = {**configured, **{name: _as_global(name, value, configured[name]) for name, value in given.items()}}

    def check_names(self) -> None:
        """See whether something takes every parameter of this run; nothing is loaded where none was given.

        Raises:
            ParameterError: If not; the message has the names and those nearest to them.
        """
        if self.runtime_params:
            check_names(self.runtime_params, self.taken_names())

    def taken_names(self) -> set[str]:
        """The names outside of groups that a dataset, a parameter or a global takes."""
        entries = self.takers()
        names = {*self["globals"], *self._configured("parameters"), *entries}
        # An entry of conf/local may stand for one of that name and not take it, while others do: half of what is asked for would be done.
        fixed = {*self._configured("catalog")} - {*self["globals"]}
        return {name for name in names if name not in fixed or name in entries.get(name, ())}

    def takers(self) -> dict[str, set[str]]:
        """The datasets that take a name as ``${runtime_params:NAME}``, by name; parameters are ``params:NAME``."""
        found: dict[str, set[str]] = {}
        parameters = {f"params:{entry}": config for entry, config in self._configured("parameters").items()}
        for entry, config in (self._configured("catalog") | parameters).items():
            for name in {name for text in _texts(config) for name in _TAKEN.findall(text)}:
                found.setdefault(name, set()).add(entry)
        return found

    def takers_of_given(self) -> dict[str, set[str]]:
        """Of the parameters of this run, the datasets that take them, by name; globals are left out, which anything may take."""
        if not self.runtime_params:
            return {}
        takers, of_all = self.takers(), self._configured("globals")
        return {name: takers.get(name, {f"params:{name}"}) for name in self.runtime_params if name not in of_all}

    def __getitem__(self, key: str) -> dict[str, Any]:
        """A kind of configuration; see :class:`kedro.config.OmegaConfigLoader`."""
        if key == "parameters" and key not in self:
            self._read_own_parameters()
        try:
            found = super().__getitem__(key)
        except InterpolationResolutionError:
            if self._refusal is not None:
                raise self._refusal from None  # OmegaConf wraps it in one of its own
            raise
        return _with_paths(found) if key == "catalog" else found

    def _get_runtime_value(self, variable: str, default_value: Any = _MISSING) -> Any:
        """The value of ``${runtime_params:...}``."""
        given: Any = self.runtime_params
        for name in variable.split("."):
            given = given.get(name) if isinstance(given, dict) else None
        if given is None:
            return super()._get_runtime_value(variable) if default_value is _MISSING else default_value
        if default_value is None or isinstance(default_value, str):
            try:
                return as_text(variable, given)
            except ParameterError as error:
                self._refusal = error
                raise
        return read_value(given) if isinstance(given, str) else given

    def _read_own_parameters(self) -> None:
        """Read values of parameters outside of groups that are no text in ``conf/``: a project may have added such."""
        typed = {name: value for name, value in self.runtime_params.items() if isinstance(value, str) and read_value(value) != value}
        if typed:
            configured = self._configured("parameters")
            self.runtime_params |= {name: _as_before(name, value, configured[name]) for name, value in typed.items() if name in configured}

    def _configured(self, key: str) -> dict[str, Any]:
        """A kind of configuration without the parameters of this run, unresolved; an environment's entries replace those of the base."""
        base, env, *_ = self._read_raw_config(key)
        entries: dict[str, Any] = {}
        for config in (*base.values(), *env.values()):
            entries |= cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
        return entries


def _as_before(name: str, value: Any, configured: Any) -> Any:
    """A value of the type of the configured one: text, or what YAML makes of it."""
    if isinstance(configured, str) and "${" not in configured:
        return as_text(name, value)
    return read_value(value) if isinstance(value, str) else value


def _as_global(name: str, value: Any, configured: Any) -> Any:
    """A value of a global, of the kind of the configured one.

    Raises:
        ParameterError: If it is of another: nothing else would look at it before work starts.
    """
    read = _as_before(name, value, configured)
    kind = next((kind for kind in _KINDS if isinstance(configured, kind)), None)  # bool first, which is an int too
    if kind is not None and (isinstance(read, bool) is not (kind is bool) or not isinstance(read, (int, kind))):
        msg = f"the parameter {name!r} takes {_KINDS[kind]}, such as {configured!r}, and was given {value!r}"
        raise ParameterError(msg)
    return read


def _texts(value: Any) -> list[str]:
    """All texts in nested mappings and lists."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for below in value.values() for text in _texts(below)]
    return [text for below in value for text in _texts(below)] if isinstance(value, list) else []


def _with_paths(entries: dict[str, Any]) -> dict[str, Any]:
    """Catalog entries with the paths that Kedro would misunderstand."""
    return {
        key: _with_paths(value) if isinstance(value, dict) else _path(value) if key in _PATHS and isinstance(value, str) else value
        for key, value in entries.items()
    }


def _path(path: str) -> str:
    path = os.path.expanduser(path)  # noqa: PTH111  that of pathlib fails where there is no such user
    if ":" not in path or "://" in path or (os.name == "nt" and PureWindowsPath(path).drive):
        return path  # Kedro lets relative ones start at the project's root
    return (project_root() / path).as_posix()
