from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel, Field

from embedding_adaptation.options import Options
from embedding_adaptation.parameters import OPTION_TYPES, read_options
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

# Options that have one value in conf/base and another by default, each with the reason.
EXCEPTIONS = {
    "embedder.strategies.*": "each is a strategy of its own, and says in what it differs",
    "strategy_selection.grid*": "it names templates of the file",
    "strategy_selection.families*": "they name templates of the file",
    "strategy_selection.family_references": "it names templates of the file",
    "data_augmentation.generators.rewrite": "it needs styles, which are text for a model and stand in the file only",
    "data_augmentation.generators.rewrite.weight": "code that names rewriting wants it; the file only shows how it is set",
    "data_augmentation.generators.rewrite.use": "it names styles of the file",
    "data_augmentation.generators.rewrite.styles.*": "text for a model",
    "data_augmentation.generators.neighbours": "it names a strategy of the file",
    "model_export.strategy": "it names a strategy of the file",
    "attention_analysis.examples": "a sentence to be shown",
    "text_clustering.naming.examples": "text for a model",
}


def differences(name: str, options: BaseModel, defaults: BaseModel | None = None) -> dict[str, tuple[Any, Any]]:
    """Options that were given another value than their default, by name: the value and the default.

    Args:
        name: Where the options stand.
        options: Options as they were given.
        defaults: What they are where nothing is given; without, what each is where the others are given.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for field_name in options.model_fields_set:
        field = type(options).model_fields[field_name]
        path = f"{name}.{field.alias or field_name}"
        value = getattr(options, field_name)
        has_default = defaults is not None or not field.is_required()
        default = getattr(defaults, field_name) if defaults is not None else field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            same_kind = type(value) is type(default)
            found |= differences(path, value, default if same_kind else None)
            if same_kind:
                continue  # option by option is enough
        elif isinstance(value, dict):
            for key, entry in value.items():
                found |= differences(f"{path}.{key}", entry) if isinstance(entry, BaseModel) else {}
        if has_default and value != default:
            found[path] = (value, default)
    return found


@pytest.fixture(scope="module")
def in_base(project) -> dict[str, tuple[Any, Any]]:
    parameters = OmegaConfigLoader(str(project / "conf"), env="base", **CONFIG_LOADER_ARGS)["parameters"]
    assert set(parameters) == set(OPTION_TYPES)
    found: dict[str, tuple[Any, Any]] = {}
    for group, given in parameters.items():
        found |= differences(group, read_options(group, given))
    return found


def test_an_option_is_by_default_what_conf_base_says(in_base):
    unexpected = {name: pair for name, pair in in_base.items() if not any(fnmatchcase(name, pattern) for pattern in EXCEPTIONS)}
    assert not unexpected, "a benchmark or notebook and 'kedro run' would do different things"


def test_every_exception_is_needed(in_base):
    assert [pattern for pattern in EXCEPTIONS if not any(fnmatchcase(name, pattern) for name in in_base)] == []


class Below(Options):
    number: int = 1
    other: int = 2


class Above(Options):
    below: Below = Below(number=5)
    maybe: Below | None = None
    named: dict[str, Below] = Field(default_factory=dict)
    required: int


def test_differences_are_found_at_every_depth():
    assert differences("x", Above(required=1)) == {}
    assert differences("x", Above(required=1, below=Below(number=5, other=2))) == {}
    assert differences("x", Above(required=1, below=Below(number=1))) == {"x.below.number": (1, 5)}
    assert set(differences("x", Above(required=1, maybe=Below(number=3)))) == {"x.maybe", "x.maybe.number"}
    assert set(differences("x", Above(required=1, named={"a": Below(other=3)}))) == {"x.named", "x.named.a.other"}
