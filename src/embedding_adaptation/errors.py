"""How errors are reported: one sentence if the cause is input, settings or the machine; a traceback if it is a bug.

Nothing has to be registered. Every exception class that this package defines is raised on purpose, with a message written for the user;
plain ``ValueError``, ``KeyError`` and the like are not, and keep their traceback.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any, get_args

from embedding_adaptation.wording import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import BaseModel

_PACKAGE = __name__.partition(".")[0]

# By name, so that looking at an error imports none of these libraries.
_ABOUT_SETTINGS = frozenset(
    {
        "kedro.config.abstract_config.BadConfigException",
        "kedro.config.abstract_config.MissingConfigException",
        "kedro.framework.session.abstract_session.KedroSessionError",
        "kedro.io.core.DatasetError",
        "kedro.validation.exceptions.ParameterValidationError",
        "omegaconf.errors.OmegaConfBaseException",
        "pydantic_core._pydantic_core.ValidationError",
        "yaml.error.YAMLError",
    }
)
# Kedro raises a plain ValueError when the command names an unknown pipeline, node, tag, dataset or runner option. The modules that run
# nodes and datasets are not listed: errors there may be bugs.
_COMMAND_MODULES = ("kedro.framework.", "kedro.pipeline.pipeline", "kedro.config.", "kedro.io.data_catalog", "kedro.runner.")
_COMMAND_ERRORS = (ValueError, KeyError, TypeError)
# Problems of the machine that the user can fix: a full disk, a folder without write permission.
_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
_WRAPPED = ("Failed while loading data from dataset", "Failed while saving data to dataset")

_PARAMETER = re.compile(r"^- Parameter '(?P<name>[^']*)': ?(?P<rest>.*)$")
_PROBLEM = re.compile(r"^  (?P<message>\S.*) \[type=(?P<type>\w+), input_value=(?P<value>.*), input_type=\w+\]$")
_MODEL = re.compile(r"validation errors? for (?P<model>\w+)$")
_LONGEST_VALUE = 60


def is_self_explanatory(error: BaseException) -> bool:
    """Whether an error's own message says all the user needs: what is wrong, and how to fix it."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in _MACHINE or _is_named(error, own=True)
    if str(error).startswith(_WRAPPED):
        # Kedro wraps every error of a dataset in a DatasetError; the original decides.
        return error.__cause__ is not None and is_self_explanatory(error.__cause__)
    return _is_named(error, own=True) or _is_about_the_command(error)


def sentence(error: BaseException) -> str:
    """The message of an error on one line.

    Invalid options are named the way ``--params`` names them, and misspelt ones come with the closest match.
    """
    if str(error).startswith(_WRAPPED) and error.__cause__ is not None and _is_named(error.__cause__, own=True):
        return sentence(error.__cause__)  # names the file itself
    kinds = set(_names(type(error)))
    if "pydantic_core._pydantic_core.ValidationError" in kinds:
        return _one_line(_validation_messages(str(error).splitlines()))
    if "kedro.validation.exceptions.ParameterValidationError" in kinds:
        return _one_line(_parameter_messages(str(error)))
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    if isinstance(error, KeyError) and len(error.args) == 1:
        return _one_line([str(error.args[0])])  # str() of a KeyError is the repr of its message
    return _one_line(str(error).splitlines()) or type(error).__name__


def _names(kind: type[BaseException]) -> Iterator[str]:
    return (f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)


def _is_named(error: BaseException, *, own: bool) -> bool:
    names = list(_names(type(error)))
    return any(name in _ABOUT_SETTINGS or (own and name.startswith(f"{_PACKAGE}.")) for name in names)


def _is_about_the_command(error: BaseException) -> bool:
    traceback = error.__traceback__
    if traceback is None or not isinstance(error, _COMMAND_ERRORS):
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(_COMMAND_MODULES)


def _one_line(lines: Sequence[str]) -> str:
    return " ".join(stripped for line in lines if (stripped := line.strip()))


def _parameter_messages(text: str) -> list[str]:
    """Rewrite Kedro's list of invalid parameters, which comes only as text with pydantic's reports inside."""
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines()[1:]:
        if match := _PARAMETER.match(line):
            parts.append((match["name"], [match["rest"]]))
        elif parts:
            parts[-1][1].append(line)
    if not parts:
        return text.splitlines()
    return ["; ".join(_one_line(_validation_messages(lines, name)) for name, lines in parts)]


def _validation_messages(lines: Sequence[str], parameter: str = "") -> list[str]:
    """Rewrite pydantic's report without its links and types: ``NAME: MESSAGE`` for each invalid value."""
    if not (lines and (model := _MODEL.search(lines[0]))):
        return [f"parameter {parameter!r}: {_one_line(lines)}"] if parameter else list(lines)
    messages, location = [], ""
    for line in lines[1:]:
        if not line.startswith(" "):
            location = line
        elif match := _PROBLEM.match(line):
            name = ".".join(part for part in (parameter, location) if part) or model["model"]
            if match["type"] == "extra_forbidden":
                messages.append(f"unknown option {name!r}{_option_suggestion(model['model'], location)}")
            elif match["type"] in {"value_error", "assertion_error"}:
                messages.append(f"{name}: {match['message'].partition(', ')[2]}")
            else:
                value = match["value"]
                shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
                messages.append(f"{name}: {match['message'][0].lower()}{match['message'][1:]}, but is {shown}")
            location = ""
        elif location and not line.startswith("    For further information"):
            messages.append(line)
    return ["; ".join(messages)] if messages else list(lines)


def _option_suggestion(model_name: str, location: str) -> str:
    """Suggest the options that the model which rejected one does have."""
    from embedding_adaptation.options import Options

    model: Any = next((kind for kind in _descendants(Options) if kind.__name__ == model_name), None)
    *parents, name = location.split(".")
    for part in parents:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = _model_in(fields[part].annotation)
        # else: a mapping key or an index, whose values belong to the model reached so far
    fields = getattr(model, "model_fields", {})
    return f"; {nearest(name, fields)}" if fields else ""


def _descendants(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _model_in(annotation: Any) -> Any:
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)
