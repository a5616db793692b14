"""Parameters given for one run (``--params``, ``runtime_params``): read as they were typed, and refused where nothing takes their names.

Kedro reads each value as YAML, whatever the option is: a column called ``2023``, ``yes`` or ``007`` becomes another value, ``a #b.txt``
ends before its ``#``, and a name that nothing takes is added to the parameters, where nobody looks. Here the option decides. A value for
an option that takes text stays as it was typed, every other one is read as YAML; and names are looked up before any work starts.
"""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

import yaml
from kedro.validation import ParameterValidationError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, TypeAdapter, ValidationError

from embedding_adaptation.errors import alike, suggestion

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from embedding_adaptation.options import Options

# The type of each group of options, by name: looked up only where a name in the group is given.
OPTION_TYPES = {
    "embedder": "embedding_adaptation.options:EmbedderOptions",
    "data_augmentation": "embedding_adaptation.pipelines.data_augmentation.options:AugmentationOptions",
    "contrastive_finetuning": "embedding_adaptation.pipelines.contrastive_finetuning.options:FinetuningOptions",
    "embedding_extraction": "embedding_adaptation.pipelines.embedding_extraction.options:ExtractionOptions",
    "clustering_evaluation": "embedding_adaptation.pipelines.clustering_evaluation.options:EvaluationOptions",
    "attention_analysis": "embedding_adaptation.attention.options:AttentionOptions",
    "attention_over_training": "embedding_adaptation.pipelines.attention_over_training.options:OverTrainingOptions",
    "strategy_selection": "embedding_adaptation.pipelines.strategy_selection.options:SelectionOptions",
    "text_clustering": "embedding_adaptation.pipelines.text_clustering.options:TextClusteringOptions",
    "model_export": "embedding_adaptation.pipelines.model_export.options:ExportOptions",
}

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")
_CLOSING = {"[": "]", "{": "}"}
_SHOWN = 3


class ParameterError(ParameterValidationError):
    """A parameter given for one run that cannot be used; the message names it and says what to write."""


def split_parameters(text: str) -> dict[str, Any]:
    """Read what stands behind ``--params``.

    Items are separated by commas. A value in quotes may hold commas, and so may a list or a mapping: ``corpus='a, b.txt'``,
    ``clusters=[2, 3]``. Quotes belong to the value only where they begin it.

    Args:
        text: ``NAME=VALUE,GROUP.NAME=VALUE``.

    Returns:
        Values by name, those of groups nested. What stands outside a group is text as it was typed; in a group, the option decides.

    Raises:
        ParameterError: If the text cannot be read.
    """
    given: dict[str, Any] = {}
    for name, value in _items(text.strip()):
        *groups, last = name.split(".")
        place = given
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                msg = f"--params gives {group!r} a value and, in {name!r}, a group of options; give one of the two"
                raise ParameterError(msg)
        if last in place:
            msg = f"--params gives {name!r} twice; give it once"
            raise ParameterError(msg)
        place[last] = _option_value(name, value) if groups or last in OPTION_TYPES else _unquoted(value)
    return given


def read_value(text: str) -> Any:
    """What YAML makes of a value; what it takes for text, cuts at a ``#`` or cannot read stays as it was typed."""
    text = text.strip()
    try:
        read = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError):
        return text
    value = read["value"] if isinstance(read, dict) else text
    if isinstance(value, str):
        return value if _QUOTED.fullmatch(text) else text
    if isinstance(value, (dict, list)):
        return value if text[0] in _CLOSING else text
    return text if " #" in text else value


def as_text(name: str, value: Any) -> str:
    """A value of an option that takes text.

    Raises:
        ParameterError: If it is something else, of which the text cannot be told.
    """
    if value == "":
        msg = f"the parameter {name!r} has no value; give one (white space, such as a tab, goes in quotes), or leave the parameter out"
        raise ParameterError(msg)
    if isinstance(value, dict):
        msg = f"the parameter {name!r} takes one value and has no options below it, such as {name}.{next(iter(value), '')}"
        raise ParameterError(msg)
    if isinstance(value, (list, tuple)):
        msg = f"the parameter {name!r} takes one text and was given the list {value!r}; put a text that begins with a bracket in quotes"
        raise ParameterError(msg)
    if isinstance(value, (bool, float)) or value is None:
        msg = (
            f"the parameter {name!r} takes text and was given {value!r}, as YAML reads words such as yes or 1e5; put the text in quotes "
            f"({name}: 'yes' in a file, \"'yes'\" behind %reload_kedro --params)"
        )
        raise ParameterError(msg)
    return str(value)


def check_names(given: Mapping[str, Any], taken: Iterable[str]) -> None:
    """Check that something takes every name.

    Args:
        given: Parameters of this run; those of groups nested.
        taken: The names outside of groups that a dataset, a parameter or a global takes.

    Raises:
        ParameterError: If there is a name that nothing takes; the message has all of them, each with its nearest names.
    """
    taken = {*taken, *OPTION_TYPES}
    wrong = [f"{name!r}{_hint(_near(str(name), taken), sorted(taken))}" for name in given if name not in taken]
    for group in OPTION_TYPES:
        if group in given:
            wrong += _unknown_options(group, given[group])
    if wrong:
        what = "this name" if len(wrong) == 1 else "these names"
        msg = f"no dataset, parameter or global takes {what} given for this run: {'; '.join(wrong)}"
        if len(given) > 1:
            msg += " (a value that holds a comma goes in quotes)"
        raise ParameterError(msg)


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Names and values as they were typed, quotes included."""
    rest, before = text, 0  # where the last item began
    while rest.strip(" ,"):
        rest = rest.lstrip(" ,")
        name, equals, after = rest.partition("=")
        begin = len(text) - len(rest)
        if not equals or "," in name:
            item = rest.partition(",")[0]
            wrong = f"--params: {item.strip()!r} is no NAME=VALUE"
            if begin > before:
                quoted, _, value = text[before : begin + len(item)].strip().replace("'", "''").partition("=")
                wrong += f"; a comma ends a value, so write one that holds a comma in quotes: --params \"{quoted}='{value}'\""
            raise ParameterError(wrong)
        name = name.strip()
        if not name or not all(name.split(".")):
            msg = f"--params: {rest.partition(',')[0].strip()!r} has no name before its '='; write NAME=VALUE"
            raise ParameterError(msg)
        value, rest = _first_value(name, after)
        before = begin
        yield name, value


def _first_value(name: str, text: str) -> tuple[str, str]:
    """The value that a text begins with, and what comes behind it."""
    text = text.lstrip()
    quoted = _QUOTED.match(text)
    end = quoted.end() if quoted else _end_of_brackets(text) if text[:1] in _CLOSING else 0
    if end and not text[end:].partition(",")[0].strip():
        return text[:end], text[end:].partition(",")[2]
    value, _, rest = text.partition(",")
    if value[:1] in ("'", '"'):
        msg = f"--params: the value of {name!r} begins with a quote that no quote closes at its end: {text}; close it, or leave it out"
        raise ParameterError(msg)
    if not value.strip() and text:
        msg = f"--params: {name!r} has no value before the comma; leave {name!r} out, or put a value that is a comma in quotes: {name}=','"
        raise ParameterError(msg)
    return value.strip(), rest


def _end_of_brackets(text: str) -> int:
    """Where the list or mapping that a text begins with ends; 0 if it does not."""
    open_brackets: list[str] = []
    quote = ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return place + 1
    return 0


def _unquoted(value: str) -> str:
    return str(read_value(value)) if _QUOTED.fullmatch(value) else value


def _option_value(name: str, typed: str) -> Any:
    """A value as its option wants it: read as YAML, unless the option takes that only as text."""
    value = read_value(typed)
    if isinstance(value, (str, dict)):
        return value
    option = _option_type(name)
    if isinstance(value, list):
        as_typed = yaml.load(typed, yaml.BaseLoader)  # noqa: S506  makes text of everything
        wants_text = option is not None and not _accepts(TypeAdapter(option), value) and _accepts(TypeAdapter(option), as_typed)
        return as_typed if wants_text else value
    if option is None:
        return value
    members = list(_members([option]))
    if str in members and not any(_accepts(TypeAdapter(member), value) for member in members if member is not str):
        return typed  # also where the option would make text of a number: 007 is not 7
    kind: TypeAdapter[Any] = TypeAdapter(option)
    return value if _accepts(kind, value) or not _accepts(kind, typed) else typed


def _accepts(kind: TypeAdapter[Any], value: Any) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return False
    return True


def _option_type(name: str) -> Any:
    """The type of an option in a group, by its name with dots; ``None`` if there is no such option."""
    group, *names = name.split(".")
    kinds = [_group_type(group)] if group in OPTION_TYPES else []
    for part in names:
        kinds = _below(kinds, part)
    return Union[tuple(kinds)] if kinds else None  # noqa: UP007  the types are known only here


def read_options(group: str, values: Any) -> Options:
    """Values of one of the :data:`OPTION_TYPES`, given as a mapping or as options, as its options.

    Raises:
        pydantic.ValidationError: If a value cannot be used.
    """
    options: Options = TypeAdapter(_group_type(group)).validate_python(values)
    return options


def _group_type(group: str) -> Any:
    module, _, name = OPTION_TYPES[group].partition(":")
    return getattr(importlib.import_module(module), name)


def _members(kinds: Iterable[Any]) -> Iterator[Any]:
    """The types themselves, of unions their members."""
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Annotated:
            yield from _members(get_args(kind)[:1])
        elif origin in (Union, types.UnionType):
            yield from _members(get_args(kind))
        else:
            yield kind


def _names(kinds: Iterable[Any]) -> list[str]:
    """Names of the options below options of these types."""
    models = [kind for kind in _members(kinds) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _below(kinds: Iterable[Any], name: str) -> list[Any]:
    """The types of the option of that name below options of these types; empty where there is none."""
    found: list[Any] = []
    for kind in _members(kinds):
        origin = get_origin(kind)
        if kind is Any:
            found.append(Any)
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            found.append(get_args(kind)[1])
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            found += [_field_type(field) for key, field in kind.model_fields.items() if name == (field.alias or key)]
    return found


def _field_type(field: FieldInfo) -> Any:
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind


def _unknown_options(group: str, given: Any) -> Iterator[str]:
    """What is wrong with the names of a group's options that were given."""
    kinds = [_group_type(group)]
    if isinstance(given, Mapping):
        yield from _wrong_below(group, kinds, given)
    else:
        yield f"{group!r} with a value of its own (it is a group of options: {', '.join(f'{group}.{name}' for name in _names(kinds))})"


def _wrong_below(name: str, kinds: list[Any], given: Mapping[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        below, names = _below(kinds, str(key)), _names(kinds)
        if below and isinstance(value, Mapping):
            yield from _wrong_below(f"{name}.{key}", below, value)
        elif not below and names:
            near = [f"{name}.{other}" for other in _near(str(key), names)]
            yield f"'{name}.{key}'{_hint(near, [f'{name}.{other}' for other in names])}"
        elif not below:
            yield f"'{name}.{key}' ({name} takes one value, and has no options below it)"


def _near(name: str, names: Iterable[str]) -> list[str]:
    """Names that look alike, and options of that name in a group."""
    names = list(names)
    if name.partition(".")[0] in names:
        return [f"the group {name.partition('.')[0]} with {name.partition('.')[2]} nested in it"]
    return alike(name, names) or _in_groups(name, names)


def _in_groups(name: str, names: list[str]) -> list[str]:
    """Options of this name in the groups among the names."""
    return [f"{group}.{name}" for group in OPTION_TYPES if group in names and name in _names([_group_type(group)])][:_SHOWN]


def _hint(near: list[str], every: list[str]) -> str:
    return f" ({suggestion(near, every)})"
