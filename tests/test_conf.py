from __future__ import annotations

import pytest
from kedro.config import OmegaConfigLoader

from embedding_adaptation.attention.options import AttentionOptions
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.pipelines.model_export.options import ExportOptions
from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions
from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

KINDS = {
    "embedder": EmbedderOptions,
    "data_augmentation": AugmentationOptions,
    "contrastive_finetuning": FinetuningOptions,
    "clustering_evaluation": EvaluationOptions,
    "attention_analysis": AttentionOptions,
    "model_export": ExportOptions,
    "strategy_selection": SelectionOptions,
    "text_clustering": TextClusteringOptions,
}


def parameters(project, env):
    return OmegaConfigLoader(str(project / "conf"), env=env, **CONFIG_LOADER_ARGS)["parameters"]


@pytest.mark.parametrize("env", ["base", "test", "paper"])
def test_the_options_of_every_environment_are_valid(project, env):
    given = parameters(project, env)
    assert set(given) >= set(KINDS)
    for name, kind in KINDS.items():
        assert kind.model_validate(given[name]), name


def test_the_paper_environment_is_the_published_setting(project):
    given = parameters(project, "paper")
    tuning = FinetuningOptions.model_validate(given["contrastive_finetuning"])
    assert (tuning.steps, tuning.batch_size, tuning.learning_rate, tuning.temperature, tuning.symmetric) == (100, 120, 1e-5, 0.2, False)
    assert (tuning.lora.rank, tuning.lora.alpha, tuning.lora.layers, tuning.stopping.criterion) == (64, 16, "all", None)
    augmentation = AugmentationOptions.model_validate(given["data_augmentation"])
    assert list(augmentation.generators.active) == ["rewrite"]
    assert "cluster" in EmbedderOptions.model_validate(given["embedder"]).strategies["prompted_last_adapted"].template
