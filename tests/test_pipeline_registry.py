from __future__ import annotations

import subprocess
import sys

import pytest
from kedro.framework.project import configure_project, pipelines

HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "mteb",
    "mlflow",
    "peft",
    "datasets",
    "sklearn",
    "matplotlib",
    "plotly",
    "umap",
    "numba",
)
NAMES = (
    "data_augmentation",
    "contrastive_finetuning",
    "adaptation_verdict",
    "embedding_extraction",
    "strategy_selection",
    "clustering_evaluation",
    "attention_analysis",
    "attention_over_training",
    "model_export",
    "plan",
    "text_clustering",
    "adaptation_page",
    "adapt",
    "end_to_end",
)


def test_the_registry_imports_nothing_heavy(project):
    """In a process of its own, through the code Kedro itself runs: settings, hooks, registry, catalog classes."""
    script = f"""
import sys
from kedro.framework.startup import bootstrap_project
from kedro.framework.project import pipelines, settings
bootstrap_project({str(project)!r})
assert len(dict(pipelines)) == {len(NAMES) + 1}, dict(pipelines)
settings.HOOKS
import embedding_adaptation.datasets.adapter, embedding_adaptation.datasets.base_model, embedding_adaptation.datasets.texts
import embedding_adaptation.datasets.shards, embedding_adaptation.datasets.embeddings, embedding_adaptation.datasets.mteb_results
import embedding_adaptation.datasets.task_mirror, embedding_adaptation.datasets.embedding_store
import embedding_adaptation.datasets.vectors, embedding_adaptation.datasets.clusters
import embedding_adaptation.datasets.exported_embedder, embedding_adaptation.datasets.reports
import embedding_adaptation.datasets.attention, embedding_adaptation.datasets.checkpoints
print(",".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=project)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == ""


@pytest.fixture
def registry(project):
    configure_project("embedding_adaptation")
    yield pipelines
    pipelines.set_requested(None)


@pytest.mark.parametrize("name", NAMES)
def test_every_pipeline_loads_by_itself(registry, name):
    registry.set_requested([name])
    assert set(registry) - {"__default__"} == {name}
    assert registry[name].nodes


def test_the_default_is_the_whole_chain(registry):
    registry.set_requested(None)
    assert set(registry) == {*NAMES, "__default__"}
    assert {node.name for node in registry["__default__"].nodes} == {node.name for node in registry["end_to_end"].nodes}
    by_name_only = {"strategy_selection", "attention_over_training", "adapt", "plan"}
    parts = sum(len(registry[name].nodes) for name in NAMES if name not in {"end_to_end", *by_name_only})
    assert len(registry["end_to_end"].nodes) == parts + 1


def test_the_chain_needs_only_what_a_user_brings(registry):
    free = {name for name in registry["end_to_end"].inputs() if not name.startswith("params:")}
    brought = {"corpus", "labelled_texts", "attention_texts", "base_model", "chat_server", "task_mirror", "published_scores", "answers"}
    kept = {"finished_candidates", "finished_scores", "training_checkpoints", "finished_cells", "embedding_store", "corpus_shards"}
    assert free == brought | kept


def test_node_names_say_what_they_do(registry):
    names = [node.name.rpartition(".")[2] for node in registry["end_to_end"].nodes]
    assert all(name.endswith("_node") for name in names)
