from __future__ import annotations

import pytest

from embedding_adaptation.pipelines.plan.estimate import estimated
from embedding_adaptation.pipelines.plan.options import PlanOptions


@pytest.fixture
def measured(made_run):
    runs = [made_run(48), made_run(144), made_run(500, "tiny"), made_run(2000, "tiny")]
    return {
        "texts": 5000,
        "tokens_a_text": 10.0,
        "tokens_read_a_text": 50.0,
        "width": 1728,
        "pair_seconds": 50e-9,
        "available_bytes": 15 * 10**8,
        "runs": [run.facts for run in runs],
    }


def test_all_is_the_sum_of_the_pipelines_and_the_arithmetic_is_shown(measured, parameters):
    plan, table = estimated(measured, parameters, PlanOptions(seed=0))
    by_pipeline = table.set_index("pipeline")["seconds_1"]
    assert by_pipeline["all"] == pytest.approx(by_pipeline.drop("all").sum(), abs=0.5)
    assert plan["seconds"]["1"] == pytest.approx(sum(term["seconds"] for term in plan["terms"]), abs=0.5)
    (embedding,) = (term for term in plan["terms"] if term["node"] == "embed_corpus")
    assert embedding["seconds"] == pytest.approx(2.0 + 0.1 * 5000, abs=0.1)
    assert embedding["arithmetic"] == "2.00 s + 5,000 texts x 100 ms"
    (training,) = (term for term in plan["terms"] if term["node"] == "train_adapter")
    assert "24 steps x 3.00 s + 7 looks x" in training["arithmetic"]
    assert plan["tokens"] == 50_000


def test_export_reads_what_after_processing_is_fitted_on(measured, parameters):
    for run in measured["runs"]:
        run["nodes"] |= {"find_questions_node": 1.0 + 0.04 * run["texts"], "generate_candidates_node": 2.0 + 0.1 * run["texts"]}
        run["nodes"]["export_embedder_node"] = 5.0
    plan, _ = estimated(measured, parameters, PlanOptions(seed=0))
    (export,) = (term for term in plan["terms"] if term["node"] == "export_embedder")
    assert export["arithmetic"] == "5.00 s + 1,800 read_to_export x 20 ms + 1,200 teacher_read_to_export x 100 ms"
    assert (export["seconds"], export["shared"]) == pytest.approx((5.0 + 36 + 120, 36 + 120), abs=0.1)


def test_without_help_the_base_model_reads_the_rest(measured, parameters):
    for run in measured["runs"]:
        run["nodes"] |= {"find_questions_node": 1.0 + 0.04 * run["texts"], "generate_candidates_node": 2.0 + 0.05 * run["texts"]}
        run["nodes"]["export_embedder_node"] = 5.0
    plan, _ = estimated(measured, parameters, PlanOptions(seed=0))
    by_node = {term["node"]: term["seconds"] for term in plan["terms"]}
    # 3,000 texts that were not drawn at 50 ms each, and the model is only written.
    expected = plan["seconds"]["1"] - by_node["embed_corpus"] + 2.0 + 150 - by_node["export_embedder"] + 5.0
    assert plan["seconds_if_rejected"] == pytest.approx(expected, abs=0.2)


def test_workers_share_what_the_model_does_and_nothing_else(measured, parameters):
    plan, table = estimated(measured, parameters, PlanOptions(seed=0, workers=(1, 8), efficiency=0.5))
    shared = sum(term["shared"] for term in plan["terms"])
    alone = plan["seconds"]["1"] - shared
    assert shared > 0.9 * plan["seconds"]["1"]
    assert plan["seconds"]["8"] == pytest.approx(alone + shared / 4, abs=0.5)
    assert list(table.columns)[:4] == ["pipeline", "texts", "seconds_1", "seconds_8"]
    assert plan["cost"] == {"1": None, "8": None}


def test_every_worker_is_paid_to_the_end(measured, parameters):
    plan, table = estimated(measured, parameters, PlanOptions(seed=0, price_an_hour=3.6))
    for workers in (1, 8, 64):
        assert plan["cost"][str(workers)] == pytest.approx(plan["seconds"][str(workers)] * workers / 1000, abs=0.02)
    assert table["cost_64"].iloc[-1] == plan["cost"]["64"]


def test_more_texts_than_the_corpus_has_can_be_planned(measured, parameters):
    plan, _ = estimated(measured, parameters, PlanOptions(seed=0, texts=10**7))
    assert plan["texts"] == 10**7
    assert plan["seconds"]["1"] == pytest.approx(10**6, rel=0.05)  # a tenth of a second each
    assert plan["disk_bytes"] == pytest.approx(10**9, rel=0.05)  # 100 bytes each
    assert not plan["fits_into_memory"]  # 100 bytes each, beside what the largest run took
