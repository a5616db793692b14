"""What is told of an error: a sentence where it is about input, settings or machine, a traceback where it is a fault in the code.

Nothing has to be registered. Every exception class that this package defines is raised on purpose, with a sentence for the person at the
terminal; plain ``ValueError``, ``KeyError`` and the like are not, and keep their traceback.
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

# By name, so that none of these libraries is imported to look at an error.
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
# Kedro says with a ValueError that a pipeline, node, tag, dataset or runner option of the command is not there. Its modules that run nodes
# and datasets are not among these.
_COMMAND_MODULES = ("kedro.framework.", "kedro.pipeline.pipeline", "kedro.config.", "kedro.io.data_catalog", "kedro.runner.")
_COMMAND_ERRORS = (ValueError, KeyError, TypeError)
# A machine that is in a state to be mended: the disk is full, a folder may not be written.
_MACHINE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
_WRAPPED = ("Failed while loading data from dataset", "Failed while saving data to dataset")

_PARAMETER = re.compile(r"^- Parameter '(?P<name>[^']*)': ?(?P<rest>.*)$")
_PROBLEM = re.compile(r"^  (?P<message>\S.*) \[type=(?P<type>\w+), input_value=(?P<value>.*), input_type=\w+\]$")
_MODEL = re.compile(r"validation errors? for (?P<model>\w+)$")
_LONGEST_VALUE = 60


def told_in_a_sentence(error: BaseException) -> bool:
    """Whether an error's own message says all that is needed: what is wrong, and the way out."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno in _MACHINE or _is_named(error, own=True)
    if str(error).startswith(_WRAPPED):
        # Kedro puts any error of a dataset into a DatasetError; what it was decides.
        return error.__cause__ is not None and told_in_a_sentence(error.__cause__)
    return _is_named(error, own=True) or _is_about_the_command(error)


def sentence(error: BaseException) -> str:
    """The message of an error as one line.

    Values that options refuse are named as ``--params`` names them, with the nearest option where there is none of that name.
    """
    if str(error).startswith(_WRAPPED) and error.__cause__ is not None and _is_named(error.__cause__, own=True):
        return sentence(error.__cause__)  # it names the file itself
    kinds = set(_names(type(error)))
    if "pydantic_core._pydantic_core.ValidationError" in kinds:
        return _one_line(_refused_values(str(error).splitlines()))
    if "kedro.validation.exceptions.ParameterValidationError" in kinds:
        return _one_line(_refused_parameters(str(error)))
    if isinstance(error, MemoryError):
        return f"the machine's memory does not suffice: {error}" if str(error) else "the machine's memory does not suffice"
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


def _refused_parameters(text: str) -> list[str]:
    """Kedro's list of refused parameters, which it gives as text only, with pydantic's reports in it."""
    parts: list[tuple[str, list[str]]] = []
    for line in text.splitlines()[1:]:
        if match := _PARAMETER.match(line):
            parts.append((match["name"], [match["rest"]]))
        elif parts:
            parts[-1][1].append(line)
    if not parts:
        return text.splitlines()
    return ["; ".join(_one_line(_refused_values(lines, name)) for name, lines in parts)]


def _refused_values(lines: Sequence[str], parameter: str = "") -> list[str]:
    """Pydantic's report without its addresses and types: ``NAME: MESSAGE`` for each refused value."""
    if not (lines and (found := _MODEL.search(lines[0]))):
        return [f"parameter {parameter!r}: {_one_line(lines)}"] if parameter else list(lines)
    told, place = [], ""
    for line in lines[1:]:
        if not line.startswith(" "):
            place = line
        elif match := _PROBLEM.match(line):
            name = ".".join(part for part in (parameter, place) if part) or found["model"]
            if match["type"] == "extra_forbidden":
                told.append(f"there is no option {name!r}{_suggestion(found['model'], place)}")
            elif match["type"] in {"value_error", "assertion_error"}:
                told.append(f"{name}: {match['message'].partition(', ')[2]}")
            else:
                value = match["value"]
                shown = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
                told.append(f"{name}: {match['message'][0].lower()}{match['message'][1:]}, and it is {shown}")
            place = ""
        elif place and not line.startswith("    For further information"):
            told.append(line)
    return ["; ".join(told)] if told else list(lines)


def _suggestion(model_name: str, place: str) -> str:
    """The options that there are beside a refused one, from the model that refused it."""
    from embedding_adaptation.options import Options

    model: Any = next((kind for kind in _descendants(Options) if kind.__name__ == model_name), None)
    *above, name = place.split(".")
    for part in above:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = _model_in(fields[part].annotation)
        # else: a key of a mapping or an index, whose values are of the model that has been reached
    fields = getattr(model, "model_fields", {})
    return f"; {nearest(name, fields)}" if fields else ""


def _descendants(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _model_in(annotation: Any) -> Any:
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
