"""Parameters of one run (``--params``, ``runtime_params``): read according to their options, and rejected if their names are unknown.

Kedro parses every value as YAML, whatever the option: a column called ``2023``, ``yes`` or ``007`` turns into another value, ``a #b.txt``
is cut off at its ``#``, and an unknown name is silently added to the parameters. Here the option decides: a value for a text option stays
exactly as typed, any other is parsed as YAML, and names are checked before any work starts.
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

from embedding_adaptation.wording import alike, suggestion

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from embedding_adaptation.options import Options

# The type of each group of options, imported only when one of its options is set.
OPTION_TYPES = {
    "embedder": "embedding_adaptation.options:EmbedderOptions",
    "data_augmentation": "embedding_adaptation.pipelines.data_augmentation.options:AugmentationOptions",
    "contrastive_finetuning": "embedding_adaptation.pipelines.contrastive_finetuning.options:FinetuningOptions",
    "embedding_extraction": "embedding_adaptation.pipelines.embedding_extraction.options:ExtractionOptions",
    "clustering_evaluation": "embedding_adaptation.pipelines.clustering_evaluation.options:EvaluationOptions",
    "attention_analysis": "embedding_adaptation.attention.options:AttentionOptions",
    "attention_over_training": "embedding_adaptation.pipelines.attention_over_training.options:OverTrainingOptions",
    "strategy_selection": "embedding_adaptation.pipelines.strategy_selection.options:SelectionOptions",
    "adaptation_page": "embedding_adaptation.pipelines.adaptation_page.options:PageOptions",
    "text_clustering": "embedding_adaptation.pipelines.text_clustering.options:TextClusteringOptions",
    "adaptation_verdict": "embedding_adaptation.verdict.options:VerdictOptions",
    "model_export": "embedding_adaptation.pipelines.model_export.options:ExportOptions",
    "plan": "embedding_adaptation.pipelines.plan.options:PlanOptions",
}

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""")
_CLOSING = {"[": "]", "{": "}"}
_SHOWN = 3


class ParameterError(ParameterValidationError):
    """An unusable parameter of a run; the message names it and says what to write instead."""


def split_parameters(text: str) -> dict[str, Any]:
    """Parse the argument of ``--params``.

    Items are separated by commas. A quoted value, a list or a mapping may contain commas: ``corpus='a, b.txt'``, ``clusters=[2, 3]``.
    Quotes count as such only at the start of a value.

    Args:
        text: ``NAME=VALUE,GROUP.NAME=VALUE``.

    Returns:
        Values by name, groups as nested mappings. Values outside groups stay text as typed; within a group, the option decides.

    Raises:
        ParameterError: If the text cannot be parsed.
    """
    parameters: dict[str, Any] = {}
    for name, value in _items(text.strip()):
        *groups, last = name.split(".")
        parent = parameters
        for group in groups:
            parent = parent.setdefault(group, {})
            if not isinstance(parent, dict):
                msg = f"--params sets {group!r} both to a value and, with {name!r}, as a group of options; give only one of the two"
                raise ParameterError(msg)
        if last in parent:
            msg = f"--params sets {name!r} twice; set it once"
            raise ParameterError(msg)
        parent[last] = _option_value(name, value) if groups or last in OPTION_TYPES else _unquoted(value)
    return parameters


def read_value(text: str) -> Any:
    """Parse a value as YAML; text, a value YAML would cut at a ``#``, and anything unparsable stay as typed."""
    text = text.strip()
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError):
        return text
    value = parsed["value"] if isinstance(parsed, dict) else text
    if isinstance(value, str):
        return value if _QUOTED.fullmatch(text) else text
    if isinstance(value, (dict, list)):
        return value if text[0] in _CLOSING else text
    return text if " #" in text else value


def as_text(name: str, value: Any) -> str:
    """Return the value of a text option as text.

    Raises:
        ParameterError: If it has another type, from which the original text cannot be recovered.
    """
    if value == "":
        msg = f"parameter {name!r} is empty; give it a value (quote white space, such as a tab) or leave it out"
        raise ParameterError(msg)
    if isinstance(value, dict):
        msg = f"parameter {name!r} takes a single value and has no options such as {name}.{next(iter(value), '')}"
        raise ParameterError(msg)
    if isinstance(value, (list, tuple)):
        msg = f"parameter {name!r} takes a single text, not the list {value!r}; quote a text that begins with a bracket"
        raise ParameterError(msg)
    if isinstance(value, (bool, float)) or value is None:
        msg = (
            f"parameter {name!r} takes text, not {value!r}: YAML converts words such as yes or 1e5; put the text in quotes "
            f"({name}: 'yes' in a file, \"'yes'\" after %reload_kedro --params)"
        )
        raise ParameterError(msg)
    return str(value)


def check_names(parameters: Mapping[str, Any], known: Iterable[str]) -> None:
    """Check that every parameter of a run is known.

    Args:
        parameters: Parameters of this run, groups as nested mappings.
        known: The names outside groups that a dataset, a parameter or a global uses.

    Raises:
        ParameterError: If a name is unknown; the message lists all unknown names, each with similar ones.
    """
    known = {*known, *OPTION_TYPES}
    unknown = [f"{name!r}{_hint(_similar(str(name), known), sorted(known))}" for name in parameters if name not in known]
    for group in OPTION_TYPES:
        if group in parameters:
            unknown += _unknown_options(group, parameters[group])
    if unknown:
        msg = f"unknown parameter{'s' if len(unknown) > 1 else ''}: {'; '.join(unknown)}"
        if len(parameters) > 1:
            msg += " (a value that contains a comma needs quotes)"
        raise ParameterError(msg)


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Split ``--params`` into names and values as typed, quotes included."""
    rest, before = text, 0  # where the previous item began
    while rest.strip(" ,"):
        rest = rest.lstrip(" ,")
        name, equals, after = rest.partition("=")
        begin = len(text) - len(rest)
        if not equals or "," in name:
            item = rest.partition(",")[0]
            msg = f"--params: {item.strip()!r} is not of the form NAME=VALUE"
            if begin > before:
                quoted, _, value = text[before : begin + len(item)].strip().replace("'", "''").partition("=")
                msg += f"; a comma ends a value, so quote a value that contains one: --params \"{quoted}='{value}'\""
            raise ParameterError(msg)
        name = name.strip()
        if not name or not all(name.split(".")):
            msg = f"--params: {rest.partition(',')[0].strip()!r} has no name before the '='; write NAME=VALUE"
            raise ParameterError(msg)
        value, rest = _first_value(name, after)
        before = begin
        yield name, value


def _first_value(name: str, text: str) -> tuple[str, str]:
    """Split a text into its first value and the rest."""
    text = text.lstrip()
    quoted = _QUOTED.match(text)
    end = quoted.end() if quoted else _end_of_brackets(text) if text[:1] in _CLOSING else 0
    if end and not text[end:].partition(",")[0].strip():
        return text[:end], text[end:].partition(",")[2]
    value, _, rest = text.partition(",")
    if value[:1] in ("'", '"'):
        msg = f"--params: the value of {name!r} begins with a quote that is not closed at its end: {text}; close it or leave it out"
        raise ParameterError(msg)
    if not value.strip() and text:
        msg = f"--params: {name!r} has no value before the comma; leave {name!r} out, or quote a comma that is the value: {name}=','"
        raise ParameterError(msg)
    return value.strip(), rest


def _end_of_brackets(text: str) -> int:
    """Where the list or mapping at the start of a text ends; 0 if it is never closed."""
    open_brackets: list[str] = []
    quote = ""
    for position, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _CLOSING:
            open_brackets.append(_CLOSING[character])
        elif open_brackets and character == open_brackets[-1]:
            open_brackets.pop()
            if not open_brackets:
                return position + 1
    return 0


def _unquoted(value: str) -> str:
    return str(read_value(value)) if _QUOTED.fullmatch(value) else value


def _option_value(name: str, typed: str) -> Any:
    """Parse a value as YAML, unless the option accepts it only as text."""
    value = read_value(typed)
    if isinstance(value, (str, dict)):
        return value
    option = _option_type(name)
    if isinstance(value, list):
        as_typed = yaml.load(typed, yaml.BaseLoader)  # noqa: S506  keeps every scalar as text
        wants_text = option is not None and not _accepts(TypeAdapter(option), value) and _accepts(TypeAdapter(option), as_typed)
        return as_typed if wants_text else value
    if option is None:
        return value
    members = list(_members([option]))
    if str in members and not any(_accepts(TypeAdapter(member), value) for member in members if member is not str):
        return typed  # even if the option would convert a number to text: 007 is not 7
    kind: TypeAdapter[Any] = TypeAdapter(option)
    return value if _accepts(kind, value) or not _accepts(kind, typed) else typed


def _accepts(kind: TypeAdapter[Any], value: Any) -> bool:
    try:
        kind.validate_python(value)
    except ValidationError:
        return False
    return True


def _option_type(name: str) -> Any:
    """The type of an option by its dotted name; ``None`` if there is no such option."""
    group, *names = name.split(".")
    kinds = [option_group(group)] if group in OPTION_TYPES else []
    for part in names:
        kinds = _option_types(kinds, part)
    return Union[tuple(kinds)] if kinds else None  # noqa: UP007  the types are known only here


def read_options(group: str, values: Any) -> Options:
    """Turn a mapping, or options, into the typed options of a group in :data:`OPTION_TYPES`.

    Raises:
        pydantic.ValidationError: If a value is invalid.
    """
    options: Options = TypeAdapter(option_group(group)).validate_python(values)
    return options


def option_group(group: str) -> Any:
    """The model of a group in :data:`OPTION_TYPES`."""
    module, _, name = OPTION_TYPES[group].partition(":")
    return getattr(importlib.import_module(module), name)


def _members(kinds: Iterable[Any]) -> Iterator[Any]:
    """The types, with unions replaced by their members."""
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Annotated:
            yield from _members(get_args(kind)[:1])
        elif origin in (Union, types.UnionType):
            yield from _members(get_args(kind))
        else:
            yield kind


def _option_names(kinds: Iterable[Any]) -> list[str]:
    """Names of the options that these types have."""
    models = [kind for kind in _members(kinds) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _option_types(kinds: Iterable[Any], name: str) -> list[Any]:
    """The types that the option of this name has within these types; empty if none of them has it."""
    option_types: list[Any] = []
    for kind in _members(kinds):
        origin = get_origin(kind)
        if kind is Any:
            option_types.append(Any)
        elif isinstance(origin, type) and issubclass(origin, Mapping):
            option_types.append(get_args(kind)[1])
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            option_types += [_field_type(field) for key, field in kind.model_fields.items() if name == (field.alias or key)]
    return option_types


def _field_type(field: FieldInfo) -> Any:
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return kind


def _unknown_options(group: str, values: Any) -> Iterator[str]:
    """The unknown options of a group, each with a hint."""
    kinds = [option_group(group)]
    if isinstance(values, Mapping):
        yield from _unknown_in(group, kinds, values)
    else:
        yield f"{group!r} (a group of options, not a value; set {', '.join(f'{group}.{name}' for name in _option_names(kinds))})"


def _unknown_in(parent: str, kinds: list[Any], values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        option_types, names = _option_types(kinds, str(key)), _option_names(kinds)
        if option_types and isinstance(value, Mapping):
            yield from _unknown_in(f"{parent}.{key}", option_types, value)
        elif not option_types and names:
            similar = [f"{parent}.{name}" for name in _similar(str(key), names)]
            yield f"'{parent}.{key}'{_hint(similar, [f'{parent}.{name}' for name in names])}"
        elif not option_types:
            yield f"'{parent}.{key}' ({parent} takes a single value and has no options)"


def _similar(name: str, names: Iterable[str]) -> list[str]:
    """Similar names, or else options of this name within groups."""
    names = list(names)
    group, _, option = name.partition(".")
    if group in names:
        return [f"the group {group} with {option} nested in it"]
    return alike(name, names) or _in_groups(name, names)


def _in_groups(name: str, names: list[str]) -> list[str]:
    """Options of this name in those of the names that are groups."""
    return [f"{group}.{name}" for group in OPTION_TYPES if group in names and name in _option_names([option_group(group)])][:_SHOWN]


def _hint(similar: list[str], every: list[str]) -> str:
    return f" ({suggestion(similar, every)})"
