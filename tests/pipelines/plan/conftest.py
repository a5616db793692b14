from __future__ import annotations

import pytest
from kedro.config import OmegaConfigLoader

from embedding_adaptation.pipelines.plan.sample_runs import SampleRun
from embedding_adaptation.pipelines.plan.work import units
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

FIXED, EACH = 2.0, 0.1  # seconds of every node, and of each text


@pytest.fixture(scope="session")
def parameters(project):
    return OmegaConfigLoader(str(project / "conf"), env="base", **CONFIG_LOADER_ARGS)["parameters"]


@pytest.fixture
def made_run(parameters):
    """A run in which every node takes so much, and so much for each text."""

    def make(texts, model="base", fixed=FIXED, each=EACH, **changes):
        nodes = {"embed_corpus_node": fixed + each * texts, "clean_corpus_node": fixed / 10 + each * texts / 1000}
        nodes["train_adapter_node"] = fixed + 2 * 3.0 + 2 * 1.5 + each * texts
        facts = {
            "texts": texts,
            "model": model,
            "seconds": sum(nodes.values()) + 10.0,
            "nodes": nodes,
            "step_seconds": 3.0,
            "look_seconds": 1.5,
            "looks": 2,
            "steps": 2,
            "kept": 1.0,
            "counts": units(texts, 1.0, parameters),
            "peak_bytes": 10**9,
            "disk_bytes": {"04_feature/corpus_vectors": 1000 + 100 * texts, "06_models/adapter": 5000},
        }
        return SampleRun(**facts | changes)

    return make
