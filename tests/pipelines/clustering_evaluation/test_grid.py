from __future__ import annotations

import dataclasses
import functools
import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from embedding_adaptation.datasets.embedding_store import EmbeddingStore
from embedding_adaptation.datasets.shards import ShardsDataset
from embedding_adaptation.datasets.task_mirror import TaskMirror
from embedding_adaptation.embedder.after_processing import AfterProcessing, AfterSteps
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.pipelines.clustering_evaluation import grid as module
from embedding_adaptation.pipelines.clustering_evaluation import processes
from embedding_adaptation.pipelines.clustering_evaluation.cells import gather
from embedding_adaptation.pipelines.clustering_evaluation.errors import EvaluationError
from embedding_adaptation.pipelines.clustering_evaluation.grid import check_data, plan, score_missing
from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
from embedding_adaptation.pipelines.clustering_evaluation.options import ComparatorOptions
from embedding_adaptation.pipelines.clustering_evaluation.tasks import labelled_task, resolve_tasks
from embedding_adaptation.pipelines.clustering_evaluation.vectors import Contenders

NEWS = "mteb/twentynewsgroups-clustering"
WORDS = ("garden", "library", "council")
FRAME = pd.DataFrame({"text": [f"the {WORDS[n % 3]} needs number {n}" for n in range(24)], "label": [WORDS[n % 3] for n in range(24)]})
TEMPLATES = {"bare": "{text}", "one_word": 'This sentence: "{text}" means in one word: "', "one_word_too": 'This sentence: "{text}" means'}


@pytest.fixture
def contenders(tmp_path, tiny_weights, embedder_options):
    """A maker of contenders; the adapted weights are the base's under another hash."""

    def make(store="store", weights=tiny_weights, comparators=None, **changes):
        strategies = {
            "bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"},
            "bare_last": {"weights": "base", "template": "bare", "pooling": "last"},
            "prompted_last": {"weights": "base", "template": "one_word", "pooling": "last"},
            "prompted_mean": {"weights": "base", "template": "one_word_too", "pooling": "mean"},
            "prompted_last_adapted": {"weights": "adapted", "template": "one_word", "pooling": "last"},
        }
        options = embedder_options(**({"templates": TEMPLATES, "strategies": strategies} | changes))
        rng = np.random.default_rng(0)
        names = list(options.every_strategy)
        vectors = {name: rng.normal(size=(len(FRAME), 6)).astype(np.float32) for name in names}
        adapted = dataclasses.replace(weights, card=dataclasses.replace(weights.card, sha256="adapted"))
        return Contenders(
            names=names,
            data=LabelledVectors(FRAME, vectors, {}, {"base": weights, "adapted": adapted}, {}),
            embedder_options=options,
            comparators=ComparatorOptions.model_validate({"random": False, "tfidf": False} if comparators is None else comparators),
            store=EmbeddingStore(tmp_path / store),
        )

    return make


@pytest.fixture
def quick(monkeypatch):
    """mteb's part, seconds of k-means, by a stand-in: it has tests of its own."""
    scored = []

    def fake(task, prepared, source, seed, options):
        scored.append(source(prepared.parts({})[0].texts))
        return pd.DataFrame({"main_score": ["v_measure"], "metrics": [json.dumps({"v_measure": len(scored) / 100})], "by_part": ["{}"]})

    monkeypatch.setattr(module, "score_cell", fake)
    return scored


def run(tasks, contenders, options, folder):
    """Plan, score what is missing, gather."""
    dataset = ShardsDataset(filepath=str(folder))
    planned = plan(tasks, contenders, options)
    for cell in score_missing(planned, tasks, contenders, dataset.load(), options):
        dataset.save(cell)
    return gather(planned, dataset.load())


def test_every_task_strategy_and_seed_has_a_cell(contenders, evaluation_options):
    tasks = [labelled_task("labelled_texts", FRAME, (0, 1)), labelled_task("mine", FRAME[::2], (0, 1))]
    planned = plan(tasks, contenders(comparators={}), evaluation_options())
    assert len(planned) == 2 * 7 * 2
    assert planned["cell"].is_unique
    assert planned["cell"].str.match(r"^format-2/(labelled_texts|mine)/file-[0-9a-f]{12}/[0-9a-f]{32}$").all()
    kinds = dict(zip(planned["strategy"], planned["kind"], strict=True))
    assert (kinds["random"], kinds["tfidf_svd"], kinds["bare_mean"], kinds["prompted_last_adapted"]) == ("comparator",) * 2 + (
        "base",
        "adapted",
    )


def test_a_rerun_scores_nothing_and_a_change_only_what_it_touches(contenders, evaluation_options, quick, tmp_path):
    tasks = [labelled_task("mine", FRAME, (0, 1))]
    first = run(tasks, contenders(), evaluation_options(), tmp_path / "cells")
    assert len(quick) == 10
    again = run(tasks, contenders(), evaluation_options(), tmp_path / "cells")
    assert len(quick) == 10
    pd.testing.assert_frame_equal(first, again)
    changed = TEMPLATES | {"one_word": 'This phrase: "{text}" means in one word: "'}
    after = run(tasks, contenders(templates=changed), evaluation_options(), tmp_path / "cells")
    assert len(quick) == 14  # prompted_last and prompted_last_adapted, two seeds each
    old, new = (dict(zip(table["strategy"], table["cell"], strict=True)) for table in (first, after))
    assert {name for name in old if old[name] != new[name]} == {"prompted_last", "prompted_last_adapted"}


def test_other_processes_give_the_same_scores(contenders, evaluation_options, monkeypatch):
    tasks, options, of_all = [labelled_task("labelled_texts", FRAME, (3,))], evaluation_options(), contenders(comparators={})
    planned = plan(tasks, of_all, options).head(4)
    here = list(score_missing(planned, tasks, of_all, {}, options))
    monkeypatch.setattr(processes, "cpu_count", lambda: 2)
    monkeypatch.setattr(module, "spread", functools.partial(processes.spread, worth=0.0))
    elsewhere = list(score_missing(planned, tasks, of_all, {}, options))
    assert [list(cell) for cell in elsewhere] == [list(cell) for cell in here] == [[name] for name in planned["cell"]]
    for one, other in zip(elsewhere, here, strict=True):
        pd.testing.assert_frame_equal(*one.values(), *other.values(), check_exact=True)


def test_names_decide_nothing(contenders, evaluation_options):
    task = [labelled_task("mine", FRAME, (0,))]
    strategies = {"other_name": {"weights": "base", "template": "other_title", "pooling": "mean"}, "prompted_last_adapted":
                  {"weights": "adapted", "template": "other_title", "pooling": "last"}}  # fmt: skip
    renamed = plan(task, contenders(strategies=strategies, templates={"other_title": "{text}"}), evaluation_options())
    original = plan(task, contenders(), evaluation_options())
    by_name = dict(zip(original["strategy"], original["cell"], strict=True))
    assert renamed[renamed["strategy"] == "other_name"]["cell"].iloc[0] == by_name["bare_mean"]


@pytest.fixture
def embedded(monkeypatch):
    """How many texts were really embedded, call by call."""
    calls = []
    encode = Embedder.encode_strategies

    def counted(self, texts, strategies, **kwargs):
        strategies = list(strategies)
        calls.append(len(texts) * len(strategies))
        return encode(self, texts, strategies, **kwargs)

    monkeypatch.setattr(Embedder, "encode_strategies", counted)
    return calls


def test_renamed_strategies_and_templates_embed_and_score_nothing_again(contenders, evaluation_options, quick, tmp_path, embedded):
    tasks = [labelled_task("mine", FRAME, (0, 1)), labelled_task("labelled_texts", FRAME, (0,))]
    before, cells = contenders(), tmp_path / "cells"
    first = run(tasks, before, evaluation_options(), cells)
    assert (sum(embedded), len(quick)) == (5 * len(FRAME), 15)
    titles = {name: f"title_{number}" for number, name in enumerate(TEMPLATES)}
    strategies = {
        f"renamed_{name}": strategy.model_dump() | {"template": titles[strategy.template[0]]}
        for name, strategy in before.embedder_options.strategies.items()
    }
    templates = {titles[name]: words for name, words in TEMPLATES.items()}
    renamed = contenders(templates=templates, strategies=strategies, adapt="renamed_prompted_last_adapted")
    vectors = {f"renamed_{name}": matrix for name, matrix in before.data.vectors.items()}
    renamed.data = dataclasses.replace(renamed.data, vectors=vectors)
    again = run(tasks, renamed, evaluation_options(), cells)
    assert (sum(embedded), len(quick)) == (5 * len(FRAME), 15)
    assert again["metrics"].tolist() == first["metrics"].tolist()
    renamed.source("renamed_bare_mean", 0, given=False)(FRAME["text"].tolist())
    assert sum(embedded) == 5 * len(FRAME)


def test_another_alpha_of_the_adapter_embeds_and_scores_its_strategy_again(
    contenders, evaluation_options, quick, tmp_path, embedded, tiny_weights, tiny_adapted
):
    def contending(adapter):
        compared = contenders()
        models = {"base": tiny_weights, "adapted": dataclasses.replace(tiny_adapted, adapter=adapter)}
        compared.data = dataclasses.replace(compared.data, models=models)
        return run([labelled_task("mine", FRAME, (0,))], compared, evaluation_options(), tmp_path / "cells")

    first = contending(tiny_adapted.adapter)
    contending(shutil.copytree(tiny_adapted.adapter, tmp_path / "adapter"))
    assert (sum(embedded), len(quick)) == (5 * len(FRAME), 5)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 4 * config["lora_alpha"]}))
    again = contending(tmp_path / "adapter")
    assert (sum(embedded), len(quick)) == (6 * len(FRAME), 6)
    assert again.loc[first["cell"] != again["cell"], "strategy"].tolist() == ["prompted_last_adapted"]


def test_scores_of_an_older_format_are_told_of_once_and_made_again(contenders, evaluation_options, quick, tmp_path, caplog):
    tasks = [labelled_task("mine", FRAME, (0,))]
    dataset = ShardsDataset(filepath=str(tmp_path / "cells"))
    dataset.save({"mine/file-0123456789ab/0123456789abcdef": pd.DataFrame({"metrics": ["{}"]})})
    run(tasks, contenders(), evaluation_options(), tmp_path / "cells")
    assert len(quick) == 5
    run(tasks, contenders(), evaluation_options(tasks=["mine"], cluster_count=None), tmp_path / "cells")
    told = [message for message in caplog.messages if "a format other" in message]
    assert len(told) == 1
    assert told[0].startswith("evaluation_cells contains data in a format other than 2")


def test_a_plan_of_an_earlier_version_is_made_again(contenders, evaluation_options):
    planned = plan([labelled_task("mine", FRAME, (0,))], contenders(), evaluation_options())
    with pytest.raises(EvaluationError, match=r"evaluation_plan is not in format 2.* run clustering_evaluation again"):
        gather(planned.drop(columns="vectors"), {})


@pytest.mark.parametrize(
    "change",
    [
        {"strategies": {"bare_mean": {"weights": "base", "template": "bare", "pooling": "max"}}},
        {"strategies": {"bare_mean": {"weights": "base", "template": "bare", "pooling": "mean", "layers": [-2]}}},
        {"strategies": {"bare_mean": {"weights": "base", "template": "bare", "pooling": "mean", "normalise": False}}},
        {"templates": {"bare": {"pattern": "{text}", "bos": False}}},
        {"templates": {"bare": "{text}."}},
        {"max_length": 32},
        {"dtype": "bfloat16"},
        "weights",
        "adapter",
        "after",
        "seed",
        "labels",
        "texts",
        "resamples",
        "cluster_count",
    ],
)
def test_whatever_decides_a_score_is_in_its_fingerprint(contenders, evaluation_options, tiny_weights, tmp_path, change):
    strategies = {"bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"}}
    adapted = {"prompted_last_adapted": {"weights": "adapted", "template": "bare", "pooling": "last"}}

    def cell(frame=FRAME, seeds=(0,), after=None, options=None, weights=tiny_weights, **changes):
        values = {"strategies": strategies, "templates": {"bare": "{text}"}} | changes
        values["strategies"] = values["strategies"] | adapted
        compared = contenders(weights=weights, **values)
        compared.data = dataclasses.replace(compared.data, after=after or {})
        planned = plan([labelled_task("mine", frame, seeds)], compared, options or evaluation_options())
        return planned[planned["strategy"] == "bare_mean"]["cell"].iloc[0]

    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    fitted = AfterProcessing.fit(np.random.default_rng(0).normal(size=(50, 32)), AfterSteps(centre=True))
    changed = {
        "weights": {"weights": dataclasses.replace(tiny_weights, card=dataclasses.replace(tiny_weights.card, sha256="other"))},
        "adapter": {"weights": dataclasses.replace(tiny_weights, adapter=tmp_path)},
        "after": {"after": {"bare_mean": fitted}},
        "seed": {"seeds": (1,)},
        "labels": {"frame": FRAME.assign(label=FRAME["label"].str.upper())},
        "texts": {"frame": FRAME.assign(text=FRAME["text"] + "!")},
        "resamples": {"options": evaluation_options(statistics={"resamples": 101, "seed": 0})},
        "cluster_count": {"options": evaluation_options(cluster_count=None)},
    }
    assert cell() == cell()
    assert cell(**(changed[change] if isinstance(change, str) else change)) != cell()


def test_extracted_vectors_stand_for_themselves(contenders, evaluation_options):
    task = [labelled_task("labelled_texts", FRAME, (0,))]
    before, other = contenders(), contenders()
    other.data.vectors["bare_mean"] = other.data.vectors["bare_mean"] + 1e-6
    cells = [dict(zip(p["strategy"], p["cell"], strict=True)) for p in (plan(task, c, evaluation_options()) for c in (before, other))]
    assert {name for name in cells[0] if cells[0][name] != cells[1][name]} == {"bare_mean"}


def test_a_text_is_embedded_once_for_all_strategies_tasks_and_seeds(contenders, evaluation_options, quick, tmp_path, monkeypatch):
    calls = []
    encode = Embedder.encode_strategies

    def counted(self, texts, strategies, **kwargs):
        calls.append((list(texts), [strategy.pooling for strategy in strategies]))
        return encode(self, texts, strategies, **kwargs)

    monkeypatch.setattr(Embedder, "encode_strategies", counted)
    tasks = [
        labelled_task("mine", FRAME, (0, 1)),
        labelled_task("more", pd.concat([FRAME, FRAME.assign(text=FRAME["text"] + " too")]), (0,)),
    ]
    run(tasks, contenders(), evaluation_options(), tmp_path / "cells")
    assert [len(texts) for texts, _ in calls] == [24, 24, 24, 24]  # base, adapted, and of the second task what is new
    assert sorted(calls[0][1]) == ["last", "last", "mean", "mean"]
    assert len(quick) == 15


def test_vectors_from_the_store_are_those_of_the_embedder(contenders, tiny_embedder):
    compared = contenders()
    texts = FRAME["text"].tolist()
    strategy = compared.embedder_options.strategy("x", compared.embedder_options.every_strategy["prompted_last"])
    expected = tiny_embedder.encode(texts[:5], strategy, progress=False)
    found = compared.source("prompted_last", 0, given=False, company=["bare_mean"])(texts)
    np.testing.assert_allclose(found[:5], expected, atol=1e-5)
    np.testing.assert_array_equal(compared.source("prompted_last", 0, given=True)(texts[3:5]), compared.data.vectors["prompted_last"][3:5])


def test_after_processing_is_applied_to_stored_vectors(contenders, tiny_embedder):
    strategies = {
        name: {"weights": weights, "template": "bare", "pooling": "mean", "after": {"centre": True}}
        for name, weights in (("bare_mean", "base"), ("prompted_last_adapted", "adapted"))
    }
    compared = contenders(strategies=strategies, adapt="prompted_last_adapted")
    texts = FRAME["text"].tolist()
    with pytest.raises(EvaluationError, match="'bare_mean' has after-processing that was not fitted; run embedding_extraction"):
        compared.identity("bare_mean", given=False)
    plain = compared.embedder_options.strategy("x", compared.embedder_options.every_strategy["bare_mean"])
    fitted = tiny_embedder.fit(texts, plain, AfterSteps(centre=True), progress=False)
    compared.data = dataclasses.replace(compared.data, after={"bare_mean": fitted.after})
    found = compared.source("bare_mean", 0, given=False)(texts)
    np.testing.assert_allclose(found, tiny_embedder.encode(texts, fitted, progress=False), atol=1e-5)


def test_vectors_that_are_not_finite_name_task_and_strategy(contenders, evaluation_options, tmp_path):
    compared = contenders()
    compared.data.vectors["bare_last"][3] = np.nan
    with pytest.raises(EvaluationError, match=r"labelled_texts, strategy 'bare_last': .*not finite"):
        run([labelled_task("labelled_texts", FRAME, (0,))], compared, evaluation_options(), tmp_path / "cells")


@pytest.mark.slow
def test_a_cell_holds_scores_and_resamples_and_leaves_the_random_state_alone(contenders, evaluation_options, tmp_path):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = random.Random(5).random(), np.random.RandomState(5).rand(), torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
    compared = contenders(comparators={}, strategies={
        "bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"},
        "prompted_last_adapted": {"weights": "adapted", "template": "bare", "pooling": "last"},
    })  # fmt: skip
    table = run([labelled_task("labelled_texts", FRAME, (0,))], compared, evaluation_options(), tmp_path / "cells")
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    assert table["strategy"].tolist() == ["random", "tfidf_svd", "bare_mean", "prompted_last_adapted"]
    scores = dict(zip(table["strategy"], table["metrics"], strict=True))
    assert scores["tfidf_svd"]["ami_unique"] > scores["random"]["ami_unique"] + 0.3
    assert set(scores["random"]) >= {"v_measure", "v_measure_std", "accuracy_unique", "ari_estimated", "clusters_estimated"}
    assert all(len(values) == 100 for values in table["resampled.v_measure_unique"])
    assert table[["documents", "unique_documents", "clusters", "singletons"]].iloc[0].tolist() == [24, 24, 3, 0]


def test_data_that_changed_under_the_same_revision_are_refused(mirror, evaluation_options, contenders):
    options = evaluation_options(tasks=["TwentyNewsgroupsClustering.v2"])
    root = mirror(NEWS)
    tasks = resolve_tasks(options, FRAME, TaskMirror(root))
    cells = dict.fromkeys(plan(tasks, contenders(), options)["cell"])
    check_data(tasks, cells)
    (root / NEWS / "test.jsonl.gz").write_bytes(b"other")
    changed = resolve_tasks(options, FRAME, TaskMirror(root))
    with pytest.raises(EvaluationError, match=r"TwentyNewsgroupsClustering.v2: its data at revision .* but scores were recorded with"):
        check_data(changed, cells)


def test_a_plan_that_was_not_scored_is_not_gathered(contenders, evaluation_options):
    planned = plan([labelled_task("mine", FRAME, (0,))], contenders(), evaluation_options())
    with pytest.raises(EvaluationError, match="mine, strategy 'bare_mean', seed 0 has not been scored"):
        gather(planned, {})
