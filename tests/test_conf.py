from __future__ import annotations

from typing import Any

import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.project import configure_project, pipelines
from kedro.io import CatalogConfigResolver

from embedding_adaptation.attention.options import AttentionOptions
from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.options import ClusterOptions, EmbedderOptions
from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
from embedding_adaptation.pipelines.data_augmentation.options import AugmentationOptions
from embedding_adaptation.pipelines.model_export.options import ExportOptions
from embedding_adaptation.pipelines.strategy_selection.options import SelectionOptions
from embedding_adaptation.pipelines.text_clustering.options import TextClusteringOptions
from embedding_adaptation.settings import CONFIG_LOADER_ARGS
from embedding_adaptation.verdict.options import VerdictOptions

KINDS = {
    "embedder": EmbedderOptions,
    "data_augmentation": AugmentationOptions,
    "contrastive_finetuning": FinetuningOptions,
    "clustering_evaluation": EvaluationOptions,
    "attention_analysis": AttentionOptions,
    "model_export": ExportOptions,
    "adaptation_verdict": VerdictOptions,
    "strategy_selection": SelectionOptions,
    "text_clustering": TextClusteringOptions,
}


def parameters(project, env):
    return OmegaConfigLoader(str(project / "conf"), env=env, **CONFIG_LOADER_ARGS)["parameters"]


@pytest.mark.parametrize("env", ["base", "test", "paper", "cluster"])
def test_training_compares_neighbours_with_attention_values(project, env):
    given = parameters(project, env)
    tuning = FinetuningOptions.model_validate(given["contrastive_finetuning"])
    embedder = EmbedderOptions.model_validate(given["embedder"])
    tuning.check_reference(embedder)
    assert embedder.strategies[tuning.stopping.reference].pooling == "value_weighted"


@pytest.mark.parametrize("env", ["base", "test", "paper", "cluster"])
def test_the_options_of_every_environment_are_valid(project, env):
    given = parameters(project, env)
    assert set(given) >= set(KINDS)
    for name, kind in KINDS.items():
        assert kind.model_validate(given[name]), name


def test_the_cluster_environment_changes_only_where_the_work_is_done(project):
    base, given = parameters(project, "base"), parameters(project, "cluster")
    cluster = EmbedderOptions.model_validate(given["embedder"]).cluster
    assert cluster == ClusterOptions(folder=cluster.folder), "conf/cluster has other values than the code"
    assert given["contrastive_finetuning"]["devices"] is None
    alone = {"embedder": given["embedder"] | {"cluster": None}, "contrastive_finetuning": given["contrastive_finetuning"] | {"devices": 1}}
    assert given | alone == base


def test_the_paper_environment_is_the_published_setting(project):
    given = parameters(project, "paper")
    tuning = FinetuningOptions.model_validate(given["contrastive_finetuning"])
    assert (tuning.steps, tuning.batch_size, tuning.learning_rate, tuning.temperature, tuning.symmetric) == (100, 120, 1e-5, 0.2, False)
    assert (tuning.lora.rank, tuning.lora.alpha, tuning.lora.layers, tuning.stopping.criterion) == (64, 16, "all", None)
    augmentation = AugmentationOptions.model_validate(given["data_augmentation"])
    assert list(augmentation.generators.active) == ["rewrite"]
    assert "cluster" in EmbedderOptions.model_validate(given["embedder"]).strategies["prompted_last_adapted"].template


@pytest.fixture
def entries(project) -> dict[str, dict[str, Any]]:
    """What the catalog says of each dataset of a pipeline, by name; nothing where it says nothing."""
    conf = ProjectConfigLoader(str(project / "conf"), env="base", **CONFIG_LOADER_ARGS)
    catalog = CatalogConfigResolver(conf["catalog"], conf["credentials"])
    configure_project("embedding_adaptation")
    names = {name for pipeline in pipelines.values() for name in pipeline.datasets() if not name.startswith("params:")}
    return {name: entry for name in names if (entry := catalog.resolve_pattern(name))["type"] != "kedro.io.MemoryDataset"}


def test_what_comes_out_of_a_pipeline_is_kept(entries):
    assert {name for pipeline in pipelines.values() for name in pipeline.outputs()} - entries.keys() == set()


def test_figures_are_pictures_that_kedro_viz_and_mlflow_show(entries):
    figures = {name: entry for name, entry in entries.items() if "figures." in entry["type"]}
    assert len(figures) > 15
    for name, entry in figures.items():
        stem = entry["filepath"].rpartition("/")[2].partition(".")[0]
        assert stem in {name, name.removesuffix("_figure")}, name
        assert entry["versioned"], name
        assert entry["metadata"]["kedro-viz"]["layer"] in {"reporting", "themes"}, name
        assert name == "text_map" or entry["metadata"]["mlflow"]["artifact"] is True, name
    assert len({entry["filepath"] for entry in figures.values()}) == len(figures)
    assert {name for name in entries if name.endswith(("_figure", "_map"))} <= figures.keys()
