from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil
from pathlib import Path

import pandas as pd
import pytest
from kedro.framework.session.session import KedroSession
from kedro.io import AbstractDataset, DataCatalog
from kedro.io.core import DatasetError
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from kedro.validation.exceptions import ParameterValidationError
from kedro.validation.model_factory import instantiate_model
from pydantic import ValidationError

import embedding_adaptation
from embedding_adaptation import errors
from embedding_adaptation.errors import is_self_explanatory, sentence
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions


def raised(kind: type[BaseException], function, *arguments, **named) -> BaseException:
    """The error that a call raises, traceback and all."""
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    return caught.value


class FailingDataset(AbstractDataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def load(self):
        raise self.error

    def save(self, data) -> None:
        raise self.error

    def _describe(self):
        return {"filepath": "a.csv"}


@pytest.mark.slow
def test_every_error_class_of_the_project_is_self_explanatory():
    found = set()
    for module in pkgutil.walk_packages(embedding_adaptation.__path__, "embedding_adaptation."):
        source = Path(module.module_finder.path) / module.name.rpartition(".")[2]
        file = source.with_suffix(".py")
        is_optional = ".integrations." in module.name  # whose library need not be there; their errors are those of the package
        if file.exists() and "Error(" in file.read_text() and not is_optional:
            for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(kind, Exception) and kind.__module__.startswith("embedding_adaptation"):
                    found.add(kind)
    assert len(found) > 20
    for kind in found:
        # Some are built from more than a message.
        assert is_self_explanatory(kind.__new__(kind, "the file x has no label; add one")), kind


def test_every_library_error_named_is_there():
    for name in errors._ABOUT_SETTINGS:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), kind), Exception)


@pytest.mark.parametrize(
    "error",
    [
        raised(ValueError, int, "x"),
        raised(KeyError, {}.__getitem__, "x"),
        raised(AttributeError, getattr, object(), "x"),
        raised(KeyError, pd.DataFrame({"a": [1]}).__getitem__, "b"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_in_the_code_keeps_its_traceback_also_inside_of_a_dataset(error):
    assert not is_self_explanatory(error)
    assert not is_self_explanatory(raised(DatasetError, FailingDataset(error).load))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_full_or_read_only_is_no_fault_in_the_code(code):
    import os

    error = raised(DatasetError, FailingDataset(OSError(code, os.strerror(code), "/data/x.csv")).save, 1)
    assert is_self_explanatory(error)
    assert os.strerror(code) in sentence(error)
    assert "/data/x.csv" in sentence(error)
    assert "\n" not in sentence(error)


def test_a_sentence_of_ours_is_not_wrapped_in_another():
    from embedding_adaptation.vectors.store import VectorError

    error = raised(DatasetError, FailingDataset(VectorError("the file x is cut;\nmake it again")).load)
    assert is_self_explanatory(error)
    assert sentence(error) == "the file x is cut; make it again"


def test_refused_options_are_named_as_the_command_line_names_them():
    try:
        instantiate_model("contrastive_finetuning", {"stepz": 3, "lora": {"rankk": 4}, "steps": "x", "seed": 0}, FinetuningOptions)
    except ParameterValidationError as error:
        told = ParameterValidationError(f"Parameter validation failed:\n- Parameter 'contrastive_finetuning': {error}")
    assert is_self_explanatory(told)
    text = sentence(told)
    assert "unknown option 'contrastive_finetuning.stepz'; did you mean 'steps'?" in text
    assert "unknown option 'contrastive_finetuning.lora.rankk'; did you mean 'rank'" in text
    assert "contrastive_finetuning.steps: input should be a valid integer" in text
    assert "but is 'x'" in text
    assert "pydantic" not in text
    assert "\n" not in text


def test_several_refused_parameters_are_all_told():
    text = "Parameter validation failed:\n- Parameter 'a': value is None but type is not Optional\n- Parameter 'b': something odd"
    assert sentence(ParameterValidationError(text)) == (
        "parameter 'a': value is None but type is not Optional; parameter 'b': something odd"
    )


def test_what_a_validator_says_stands_alone():
    error = raised(ValidationError, EmbedderOptions.model_validate, {"device": "gpu9", "templates": {"t": "no slot"}})
    text = sentence(error)
    assert is_self_explanatory(error)
    assert "[type=" not in text
    assert "https://" not in text
    assert "device: " in text
    assert "'gpu9'" in text


def test_an_option_inside_of_a_mapping_gets_its_suggestion(embedder_options):
    error = raised(ValidationError, embedder_options, strategies={"a": {"weights": "base", "template": "bare", "poling": "mean"}})
    assert "unknown option 'strategies.a.poling'; did you mean 'pooling'?" in sentence(error)


def test_what_kedro_says_of_the_command_is_a_sentence_and_what_it_says_of_a_node_is_not():
    pipeline = Pipeline([Node(lambda x: x, "a", ["b", "c"], name="one")])
    asked = raised(ValueError, pipeline.filter, node_names=["two"])
    assert is_self_explanatory(asked)
    assert "'two'" in sentence(asked)
    runner = raised(ValueError, SequentialRunner().run, pipeline, DataCatalog())
    assert is_self_explanatory(runner)
    node = raised(ValueError, SequentialRunner().run, pipeline, DataCatalog.from_config({"a": {"type": "MemoryDataset", "data": 1}}))
    assert not is_self_explanatory(node)
    assert KedroSession.__module__.startswith(errors._COMMAND_MODULES)


def test_a_key_error_is_told_without_the_quotes_of_its_repr():
    assert sentence(KeyError("no section 'run'")) == "no section 'run'"
