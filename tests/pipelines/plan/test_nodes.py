from __future__ import annotations

import pandas as pd
import pytest
from kedro.config import OmegaConfigLoader

from embedding_adaptation.pipelines.plan.errors import PlanError
from embedding_adaptation.pipelines.plan.nodes import measure_samples, plan_run
from embedding_adaptation.pipelines.plan.options import PlanOptions
from embedding_adaptation.pipelines.plan.sample_runs import sample_run
from embedding_adaptation.settings import CONFIG_LOADER_ARGS
from embedding_adaptation.texts.stream import TextStream

STEPS = 6


@pytest.fixture
def texts(project):
    return (project / "data" / "01_raw" / "corpus.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def quick(project):
    """All options as they are for tests, with a few more training steps."""
    values = OmegaConfigLoader(str(project / "conf"), env="test", **CONFIG_LOADER_ARGS)["parameters"]
    values["contrastive_finetuning"] |= {"steps": STEPS, "validate_every": 2}
    return values


def corpus(texts):
    return TextStream.of(pd.DataFrame({"id": [str(row) for row in range(len(texts))], "text": texts}, dtype=str))


def test_too_few_texts_are_refused_before_anything_is_run(texts, tiny_weights, parameters):
    with pytest.raises(PlanError, match="the corpus has 20 distinct texts, too few to plan from; give at least 32"):
        measure_samples(corpus(texts[:20]), tiny_weights, parameters, PlanOptions(seed=0))


@pytest.mark.slow
def test_a_run_takes_about_what_was_planned(texts, quick, tiny_weights):
    options = PlanOptions(seed=0, samples=(24, 72), cheap_samples=(48, 144), price_an_hour=1.0)
    measured = measure_samples(corpus(texts[:300]), tiny_weights, quick, options)
    assert [(run["model"], run["texts"]) for run in measured["runs"]] == [("base", 24), ("base", 72), ("tiny", 48), ("tiny", 144)]
    assert measured["texts"] == 300
    plan, table = plan_run(measured, quick, options)
    taken = sample_run(texts[:300], quick, base_model=str(tiny_weights.base), steps=STEPS)
    # Runs of seconds that are mostly start, on a machine that may be busy with other tests.
    assert taken.seconds / 2 < plan["seconds"]["1"] < taken.seconds * 2
    assert plan["memory_bytes"] == pytest.approx(taken.peak_bytes, rel=0.5)
    assert plan["disk_bytes"] == pytest.approx(sum(taken.disk_bytes.values()), rel=0.5)
    assert set(table["pipeline"]) == {
        "data_augmentation",
        "contrastive_finetuning",
        "adaptation_verdict",
        "model_export",
        "text_clustering",
        "adaptation_page",
        "start",
        "all",
    }
