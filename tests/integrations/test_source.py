from __future__ import annotations

import pytest

from embedding_adaptation.embedder.base_model import BaseModelError
from embedding_adaptation.embedder.strategy import Strategy, StrategyError
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.integrations.source import embedder_and_strategy

STRATEGY = Strategy("mine", PromptTemplate("mine", "{text} is"), "mean")


def test_an_embedder_in_memory_is_used_as_it_is(tiny_embedder):
    assert embedder_and_strategy(tiny_embedder, None) == (tiny_embedder, tiny_embedder.strategy)
    assert embedder_and_strategy(tiny_embedder, STRATEGY) == (tiny_embedder, STRATEGY)


def test_a_folder_is_loaded_with_its_own_strategy(tiny_embedder, tmp_path):
    tiny_embedder.save(tmp_path / "saved")
    for source in (tmp_path / "saved", str(tmp_path / "saved")):
        loaded, strategy = embedder_and_strategy(source, None)
        assert strategy == loaded.strategy == tiny_embedder.strategy


def test_what_does_not_exist_or_fit_is_refused(tiny_embedder, tmp_path):
    with pytest.raises(BaseModelError):
        embedder_and_strategy(tmp_path / "nothing", None)
    with pytest.raises(StrategyError):
        embedder_and_strategy(tiny_embedder, Strategy("deep", PromptTemplate("mine", "{text} is"), "mean", layers=(-9,)))
