"""Commands that go on from a run: what was said of files and folders on its command line has to be said again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# What says where things are, by command; other parameters shaped what is already there.
QUESTIONS = ("output",)
EXPORT = ("base_model", "corpus", "corpus_column", "output")
_HIDDEN = "YOUR_FILE"

_given: dict[str, Any] = {}


def remember(env: str | None, parameters: Mapping[str, Any] | None) -> None:
    """Note the environment and the parameters of the run that begins."""
    _given.clear()
    _given.update({name: value for name, value in (parameters or {}).items() if name in {*QUESTIONS, *EXPORT}})
    if env:
        _given["env"] = env


def going_on(command: str, names: Iterable[str], *, private: bool = False) -> str:
    """A command, with those of the run's parameters that it needs.

    Args:
        command: The command as it is for a run without parameters.
        names: The parameters that it needs, such as :data:`EXPORT`.
        private: Whether the names of files with texts are left out.
    """
    parts = [command]
    if env := _given.get("env"):
        parts.append(f"--env={shlex.quote(env)}")
    values = {name: _given[name] for name in names if _given.get(name) is not None}
    if private and "corpus" in values:
        values["corpus"] = _HIDDEN
    if values:
        parts.append("--params " + shlex.quote(",".join(f"{name}={_value(str(value))}" for name, value in values.items())))
    return " ".join(parts)


def _value(value: str) -> str:
    """A value as ``--params`` takes it: in quotes if it contains what separates values."""
    if not any(character in value for character in ",'\"# "):
        return value
    return "'" + value.replace("'", "''") + "'" if "'" not in value else f'"{value}"'
