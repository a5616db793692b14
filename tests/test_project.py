"""The project as a user meets it: real commands in a copy of the project, on the tiny model."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.framework.project import configure_project, pipelines
from kedro.io import CatalogConfigResolver
from kedro.pipeline import Node
from safetensors import safe_open
from safetensors.numpy import load_file

from embedding_adaptation import Embedder
from embedding_adaptation.configuration import ProjectConfigLoader
from embedding_adaptation.headlines import METRICS
from embedding_adaptation.identity import adapter_settings
from embedding_adaptation.pipelines.end_to_end import create_pipeline
from embedding_adaptation.settings import CONFIG_LOADER_ARGS

pytestmark = pytest.mark.slow

PIPELINES = (
    "data_augmentation",
    "contrastive_finetuning",
    "embedding_extraction",
    "clustering_evaluation",
    "attention_analysis",
    "model_export",
)
LAYERS = {"raw", "intermediate", "primary", "feature", "model_input", "models", "model_output", "reporting", "product", "themes"}
CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


def command(project: Path, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the project's own environment in the copy."""
    scripts = Path(sys.executable).parent
    result = subprocess.run(
        [str(scripts / arguments[0]), *arguments[1:]],
        cwd=project,
        env={**os.environ, "KEDRO_ENV": "test", "COLUMNS": "120", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert not check or result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result


@pytest.fixture(scope="session")
def finished(project, tmp_path_factory):
    """A copy of the project in which the whole chain has run once, and the seconds of the processor that it took."""
    copy = tmp_path_factory.mktemp("project") / "embedding-adaptation"
    copy.mkdir()
    for name in ("conf", "notebooks", "pyproject.toml", ".telemetry"):
        source = project / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    shutil.copytree(project / "data" / "01_raw", copy / "data" / "01_raw")
    shutil.copytree(project / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = command(copy, "kedro", "run")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return copy, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, result


def kill_at_third(project: Path, arguments: list[str], folder: Path, pattern: str, seconds: int) -> None:
    """Run Kedro, and kill it with SIGKILL as soon as the folder holds three files of the pattern."""
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "kedro"), *arguments],
        cwd=project, env={**os.environ, "KEDRO_ENV": "test"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + seconds
    while len(list(folder.glob(pattern))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()


def pipelines_of(name: str) -> list[Node]:
    """The nodes of a registered pipeline."""
    configure_project("embedding_adaptation")
    pipelines.set_requested(None)
    return pipelines[name].nodes


def versions(project: Path, name: str) -> list[Path]:
    return sorted((project / "build" / "kedro-test").glob(f"*/{name}/*/{name}"))


def test_the_chain_ends_with_the_table_and_the_page_after_two_minutes_of_one_core(finished):
    _, seconds, result = finished
    assert seconds < 120  # of the processor: other work on the machine takes none of them
    assert "prompted_last_adapted" in result.stdout
    assert "report.md" in result.stdout
    page = re.search(r"^Page: +(\S+)$", result.stdout, re.MULTILINE)[1]
    assert Path(page).name == "report.html"
    written = Path(page).read_text()
    assert "Scores on your labels" in written
    assert "Judge for yourself" in written


def test_every_artefact_is_a_version_in_the_catalog(finished):
    project, _, _ = finished
    conf = ProjectConfigLoader(str(project / "conf"), env="test", **CONFIG_LOADER_ARGS)
    catalog = CatalogConfigResolver(conf["catalog"], conf["credentials"])
    given = {"answers"}  # by a person
    entries = [catalog.resolve_pattern(name) for name in create_pipeline().datasets() - given if not name.startswith("params:")]
    names = {entry["filepath"].rpartition("/")[2] for entry in entries if entry.get("versioned")}
    assert len(names) > 40
    missing = {name for name in names if not versions(project, name)}
    assert not missing
    assert not [path for path in (project / "build" / "kedro-test").rglob("*") if path.suffix in {".pkl", ".pickle", ".bin", ".pt"}]


def test_files_that_are_tracked_hold_no_text_unless_the_catalog_says_so(finished):
    """Which datasets say so is what ``private`` goes by."""
    project, _, _ = finished
    conf = ProjectConfigLoader(str(project / "conf"), env="test", **CONFIG_LOADER_ARGS)
    catalog = CatalogConfigResolver(conf["catalog"], conf["credentials"])
    texts = [line for line in (project / "data" / "01_raw" / "corpus.txt").read_text().splitlines() if len(line) > 40]
    texts += [text for text in pd.read_csv(project / "data" / "01_raw" / "labelled_texts.csv")["text"] if len(text) > 40]
    pieces = {text[:40].encode() for text in texts} | {json.dumps(text[:40])[1:-1].encode() for text in texts}
    holding = set()
    for name in create_pipeline().datasets():
        entry = {} if name.startswith("params:") else catalog.resolve_pattern(name)
        metadata = entry.get("metadata") or {}
        if "artifact" not in metadata.get("mlflow", {}) and "model" not in metadata.get("mlflow", {}):
            continue
        saved = versions(project, entry["filepath"].rpartition("/")[2])[-1:]
        files = [file for path in saved for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
        if any(piece in file.read_bytes() for file in files for piece in pieces):
            holding.add(name)
            assert metadata.get("texts"), name
    assert "augmentation_report" in holding


def test_the_chain_ends_with_a_model_that_others_can_load_and_whose_card_has_the_scores(finished, monkeypatch):
    import mlflow
    from sentence_transformers import SentenceTransformer

    project, _, result = finished
    folder = versions(project, "adapted_embedder")[-1]
    assert str(folder) in result.stdout.replace("\n", "")
    comparison = pd.read_csv(versions(project, "strategy_comparison.csv")[-1]).set_index("strategy")
    scores = [comparison.loc[name, "v_measure"] for name in ("random", "distilled_last", "distilled_last_adapted")]
    (line,) = re.findall(r"\| V-measure \| (.*) \|", (folder / "README.md").read_text())
    assert [float(cell.split(" ± ")[0]) for cell in line.split(" | ")] == pytest.approx(scores, abs=6e-4)  # rounded, in one or two steps
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    registered = mlflow.sentence_transformers.load_model("models:/embedding-adaptation-test@champion")
    texts = ["the bus is late", "water"]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(registered.encode(texts, device="cpu"), expected, atol=1e-5)


def test_without_labelled_texts_the_model_is_exported_and_says_that_it_was_not_scored(finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished[0], project, ignore=shutil.ignore_patterns("build", "mlartifacts", "mlflow.db"))
    (project / "data" / "01_raw" / "labelled_texts.csv").unlink()
    command(project, "kedro", "run", "--pipelines=data_augmentation,contrastive_finetuning,model_export")
    assert "has not been evaluated" in (versions(project, "adapted_embedder")[-1] / "README.md").read_text()


def test_a_few_answers_decide_what_is_exported(finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished[0], project, ignore=shutil.ignore_patterns("mlartifacts", "mlflow.db"))
    (verdict,) = versions(project, "verdict.json")
    assert json.loads(verdict.read_text())["verdict"] == "cannot_tell"
    saved = command(project, "kedro", "ask", "--save-questions", "questions.json", "--count", "7").stdout
    assert "questions in questions.json: add answers" in saved
    table = json.loads((project / "questions.json").read_text())
    assert 5 <= len(table["questions"]) <= 7
    for question in table["questions"]:
        question["answer"] = "first" if question["first_is"] == "base" else "second"
    (project / "answers.json").write_text(json.dumps(table))
    assert "the adapted model is worse than the base model" in command(project, "kedro", "ask", "--answers", "answers.json").stdout
    command(project, "kedro", "run", "--pipelines=model_export", "--params", "model_export.guard=true")
    card = (versions(project, "adapted_embedder")[-1] / "README.md").read_text()
    assert "fine-tuning them was tried and not found to help" in card
    assert "answers: 0 for the adapted model" in card
    wrong = command(project, "kedro", "ask", "--answers", "pyproject.toml", check=False)
    assert wrong.returncode == 1
    assert "pyproject.toml is not a file of questions" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    asked = subprocess.run(
        [str(Path(sys.executable).parent / "kedro"), "ask"],
        cwd=project, env={**os.environ, "KEDRO_ENV": "test"}, input="n\nb\nq\n", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "3. " in asked
    assert "4. " not in asked
    assert "1 for neither" in asked


def test_any_strategy_is_exported_and_registered_for_users_of_this_package(finished, tmp_path, monkeypatch):
    import mlflow

    project = tmp_path / "project"
    shutil.copytree(finished[0], project, ignore=shutil.ignore_patterns("mlartifacts", "mlflow.db"))
    flavour = "model_export.flavour=package,model_export.strategy=distilled_consensus_adapted"
    command(project, "kedro", "run", "--pipelines=model_export", "--params", flavour)
    folder = versions(project, "adapted_embedder")[-1]
    texts = ["the bus is late", "water"]
    expected = Embedder.load(folder, device="cpu", dtype="float32").encode(texts, progress=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    registered = mlflow.sentence_transformers.load_model("models:/embedding-adaptation-test-package@champion")
    np.testing.assert_allclose(registered.encode(texts, device="cpu"), expected, atol=1e-5)
    served = mlflow.pyfunc.load_model("models:/embedding-adaptation-test-package@champion")
    np.testing.assert_allclose(served.predict(np.array(texts, dtype=object)), expected, atol=1e-5)
    tags = mlflow.MlflowClient().get_model_version_by_alias("embedding-adaptation-test-package", "champion").tags
    assert tags["strategy"] == "distilled_consensus_adapted"
    assert float(tags["best.distance"]) <= 0 or tags["best.strategy"] == tags["strategy"]


def test_strategies_are_ranked_without_labels_by_name_of_the_pipeline(finished):
    project, _, _ = finished
    command(project, "kedro", "run", "--pipelines=strategy_selection")
    ranking = pd.read_csv(versions(project, "strategy_ranking.csv")[-1])
    assert {"bare.last.-1", "one_word.last.-1", "prompted_values"} <= set(ranking["strategy"])
    assert ranking["rank"].is_monotonic_increasing
    assert versions(project, "ranking_map.png")
    families = pd.read_csv(versions(project, "family_ranking.csv")[-1])
    assert set(families["family"]) == {"general", "intents", "keywords"}


def test_texts_are_clustered_without_labels_and_with_the_adapter_only_if_it_was_trained_on_them(finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished[0], project)
    texts = [f"{what} near the {place}" for what in ("bus stop", "cold water", "long letter") for place in ("street", "garden", "school")]
    (tmp_path / "mine.csv").write_text("text\n" + "".join(f"{text} {n}\n" for text in texts for n in range(5)))
    result = command(project, "kedro", "run", "--pipelines=text_clustering", "--params", f"corpus={tmp_path / 'mine.csv'}")
    assert "under consensus with base weights: the adapter was trained on corpus.txt" in result.stderr
    assert "not on mine.csv (45 texts)" in result.stderr
    assignments = pd.read_parquet(versions(project, "cluster_assignments.parquet")[-1])
    summary = pd.read_csv(versions(project, "cluster_summary.csv")[-1], keep_default_na=False)
    report = json.loads(versions(project, "clustering_report.json")[-1].read_text())
    assert len(assignments) == report["texts"] == 45
    assert assignments.groupby("cluster")["cluster_name"].nunique().eq(1).all()
    assert dict(zip(summary["cluster"], summary["size"], strict=True)) == assignments["cluster"].value_counts().to_dict()
    assert summary["name"].is_unique
    assert (summary["nearest_1"] != "").all()
    figure = json.loads(versions(project, "text_map.json")[-1].read_text())
    assert sum(len(trace["text"]) for trace in figure["data"]) == 45
    for name in ("cluster_stability.csv", "cluster_stability_figure.json", "cluster_tree.csv", "cluster_tree_figure.png"):
        assert versions(project, name)
    vectors = sorted((project / "build" / "kedro-test" / "04_feature" / "corpus_vectors").glob("shard-*"))
    before = [file.stat().st_mtime_ns for file in vectors]
    parameters = "text_clustering.clusters=9,text_clustering.naming.model=false"
    command(project, "kedro", "run", "--pipelines=text_clustering", "--params", f"corpus={tmp_path / 'mine.csv'},{parameters}")
    assert [file.stat().st_mtime_ns for file in vectors] == before
    report = json.loads(versions(project, "clustering_report.json")[-1].read_text())
    assert (report["clusters"], report["weights"]) == (9, "base")
    assert report["weights_reason"].endswith("not on mine.csv (45 texts)")
    result = command(project, "kedro", "run", "--pipelines=text_clustering", "--to-nodes=embed_corpus_node")
    assert "under consensus_adapted with adapted weights: the adapter was trained on these texts, corpus.txt" in result.stderr


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("text_clustering.clusters=1", "text_clustering"),
        ("text_clustering.strategies.base=none", "unusable strategy 'none' in text_clustering.strategies.base"),
    ],
)
def test_options_of_text_clustering_are_checked_before_any_work(finished, parameters, message):
    project, _, _ = finished
    result = command(project, "kedro", "run", "--pipelines=text_clustering", "--params", parameters, check=False)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not re.search(r"Running node|INFO +1/\d+ ", result.stderr)


def test_a_grid_is_extracted_and_scored_by_option(finished):
    project, _, _ = finished
    file = project / "conf" / "test" / "parameters.yml"
    before = file.read_text()
    options = yaml.safe_load(before)
    options["embedder"]["grid"] = {"templates": ["bare", "one_word"], "poolings": ["last", "text_mean"], "layers": [-1, 1]}
    file.write_text(yaml.safe_dump(options))
    try:
        command(
            project, "kedro", "run", "--pipelines=embedding_extraction,clustering_evaluation", "--params", "clustering_evaluation.seeds=[0]"
        )
    finally:
        file.write_text(before)
    table = pd.read_csv(versions(project, "strategy_comparison.csv")[-1])
    assert {"one_word.text_mean.1", "bare.last.-1", "prompted_last_adapted"} <= set(table["strategy"])
    wrong = command(project, "kedro", "run", "--params", "clustering_evaluation.strategies=[none]", check=False)
    assert wrong.returncode != 0
    assert "unknown strategy 'none' in clustering_evaluation.strategies; choose from " in wrong.stderr + wrong.stdout


def test_the_report_holds_every_strategy(finished):
    project, _, _ = finished
    report = versions(project, "report.md")[0].read_text()
    for strategy in ("random", "bare_mean", "bare_last", "prompted_last", "prompted_last_adapted"):
        assert f"| {strategy} |" in report


def test_the_run_is_tracked_with_models_metrics_and_versions(finished):
    from mlflow import MlflowClient

    project, _, _ = finished
    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("embedding-adaptation-test")
    run = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["contrastive_finetuning.steps"] == "2"
    assert run.data.params["embedder.templates.bare"] == "{text}"
    assert len(client.get_metric_history(run.info.run_id, "training_history.validation_loss")) == 3
    headlines = {name for name in run.data.metrics if not name.startswith("training_history.")}
    assert {"best_score", "gain", "gain_low", "exported_score", "number_of_texts"} <= headlines <= set(METRICS)
    assert run.data.tags["exported.strategy"] == json.loads(versions(project, "model_facts.json")[0].read_text())["strategy"]["name"]
    used = {(used.dataset.name, used.tags[0].value): used.dataset for used in run.inputs.dataset_inputs}
    assert set(used) == {("corpus.txt", "training"), ("labelled_texts.csv", "evaluation")}
    assert all(dataset.digest for dataset in used.values())
    assert run.data.tags["saved.adapter"] == run.data.tags["loaded.adapter"]
    assert {"loaded.base_model", "git.commit", "kedro.command"} <= set(run.data.tags)
    logged = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"adapter", "cluster_map", "attention_shift_figure", "report", "training_curve"} <= logged
    assert any("adapter_model.safetensors" in item.path for item in client.list_artifacts(run.info.run_id, "adapter"))


@pytest.mark.parametrize("name", ["texts-without-labels", "did-it-help"])
def test_the_first_command_of_a_how_to_works_as_pasted(finished, project, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy, ignore=shutil.ignore_patterns("mlartifacts", "mlflow.db"))
    pasted = re.search(r"```bash\n(.*?)\n```", (project / "docs" / "how-to" / f"{name}.md").read_text(), re.DOTALL)[1]
    before = set((copy / "build" / "kedro-test").rglob("verdict.json/*"))
    result = command(copy, *shlex.split(pasted, comments=True))
    assert "Pipeline execution completed successfully" in result.stderr
    assert set((copy / "build" / "kedro-test").rglob("verdict.json/*")) > before


def content(file: Path, version: str) -> object:
    """What a file says, apart from the version of the run that wrote it and the order of what has none."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="np") as tensors:
            header = {name: json.loads(value) if value[:1] in "[{" else value for name, value in (tensors.metadata() or {}).items()}
        return header, {name: (array.shape, array.tobytes()) for name, array in load_file(file).items()}
    if file.name == "adapter_config.json":
        return adapter_settings(json.loads(file.read_bytes()))  # PEFT writes names of modules in any order
    return file.read_bytes().replace(version.encode(), b"")


def test_a_run_with_nothing_changed_saves_what_it_would_compute(finished, tmp_path):
    project = tmp_path / "copy"
    shutil.copytree(finished[0], project)
    output = project / "build" / "kedro-test"
    command(project, "kedro", "run")  # in this folder, and with whatever other tests have changed
    kept = command(project, "kedro", "run").stderr
    said = re.search(r"(\d+) of (\d+) nodes saved the results of an earlier run again", kept)
    assert said is not None, kept[-2000:]
    assert int(said[1]) >= 35
    assert "Loaded random:tiny-llama" not in kept  # nobody needed the model
    computed = command(project, "kedro", "run", "--params", "keep_results=false").stderr
    assert "earlier run again" not in computed
    assert "Loaded random:tiny-llama" in computed
    *_, second, third = sorted({path.name for path in (output / "08_reporting" / "report.md").iterdir()})
    compared = 0
    for one in sorted(output.glob(f"0[2-8]_*/*/{second}/[!.]*")):
        other = Path(str(one).replace(second, third))
        files = [path for path in one.rglob("*") if path.is_file()] if one.is_dir() else [one]
        for file in files:
            # The facts of the exported model name the version of the adapter that was trained, and so does all that repeats them.
            if one.name in {"model_facts.json", "adapted_embedder", "report.html"} and file.suffix != ".safetensors":
                continue
            assert content(file, second) == content(Path(str(file).replace(str(one), str(other))), third), file
            compared += 1
    assert compared > 60


def test_old_versions_are_pruned_and_what_is_left_is_enough_to_go_on(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    command(copy, "kedro", "run", "--pipelines=adaptation_verdict")
    assert len(versions(copy, "verdict.json")) == 2
    said = command(copy, "kedro", "prune", "--keep=1", "--caches", "--dry-run").stdout
    assert "would remove 08_reporting/verdict.json" in said
    assert len(versions(copy, "verdict.json")) == 2
    said = command(copy, "kedro", "prune", "--keep=1", "--caches").stdout
    assert "removed 04_feature/embedding_store" in said
    assert len(versions(copy, "verdict.json")) == 1
    command(copy, "kedro", "run", "--pipelines=model_export")


@pytest.mark.parametrize("name", PIPELINES)
def test_each_pipeline_runs_alone_from_what_is_persisted(finished, name):
    project, _, _ = finished
    before = len(list((project / "build" / "kedro-test").rglob("*")))
    result = command(project, "kedro", "run", f"--pipelines={name}", "--params", "clustering_evaluation.seeds=[3],keep_results=false")
    assert "Pipeline execution completed successfully" in result.stderr
    assert len(list((project / "build" / "kedro-test").rglob("*"))) > before
    if name == "data_augmentation":
        assert re.search(r"rewrite: (\d+) of \1 candidates already exist", result.stderr)
        assert "neighbours: all candidates already exist" in result.stderr


def test_attention_is_followed_over_the_checkpoints_of_a_run(finished, tmp_path):
    project, _, _ = finished
    command(project, "kedro", "run", "--pipelines=attention_over_training")
    table = pd.read_csv(versions(project, "attention_by_step.csv")[-1])
    assert table["step"].unique().tolist() == [0, 1, 2]
    assert "text" in set(pd.read_csv(versions(project, "attention_and_quality.csv")[-1])["signal"])
    nowhere = f"checkpoints={tmp_path}"
    missing = command(project, "kedro", "run", "--pipelines=attention_over_training", "--params", nowhere, check=False)
    assert "contains no checkpoints" in missing.stderr


def test_the_page_of_coloured_texts_is_a_page(finished):
    project, _, _ = finished
    page = versions(project, "attention_page.html")[0].read_text()
    assert page.startswith("<!doctype html>")
    assert page.count('<section class="attention">') == 9


def test_candidates_survive_a_killed_process_and_none_is_made_twice(finished, tmp_path):
    """kill -9 in the middle of rewriting, then the same command: the same pairs as without, and every finished shard as it was."""
    texts = [f"{a} {b} in the {c} near the {d}" for a in ("bus", "water", "letter") for b in ("time", "help", "people", "work", "school")
             for c in ("street", "garden", "house", "library") for d in ("council", "school")]  # fmt: skip
    (tmp_path / "mine.txt").write_text("\n".join(texts))
    arguments = ["run", "--pipelines=data_augmentation", "--params", f"corpus={tmp_path / 'mine.txt'}"]
    projects = {}
    for name in ("killed", "undisturbed"):
        projects[name] = tmp_path / name
        shutil.copytree(finished[0], projects[name], ignore=shutil.ignore_patterns("build", "mlruns", "mlflow.db"))
        file = projects[name] / "conf" / "test" / "parameters.yml"
        options = yaml.safe_load(file.read_text())
        options["data_augmentation"] |= {"shard_size": 3, "cleaning": {"max_texts": 90, "near_duplicates": 1.0}}
        options["data_augmentation"]["generators"] |= {"rewrite": {"weight": 1, "max_new_tokens": 60, "batch_size": 2}}
        file.write_text(yaml.safe_dump(options))
    project = projects["killed"]
    folder = project / "build" / "kedro-test" / "03_primary" / "candidate_pairs"
    kill_at_third(project, arguments, folder, "rewrite-*/*.parquet", seconds=120)
    left = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.parquet")}
    assert 3 <= len(left) < 30
    held = pd.concat(pd.read_parquet(path) for path in left)
    result = command(project, "kedro", *arguments)
    assert f"rewrite: {len(held)} of 90 candidates already exist and are kept" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in left} == left
    command(projects["undisturbed"], "kedro", *arguments)
    outcomes = {}
    for name, place in projects.items():
        shards = sorted((place / "build" / "kedro-test" / "03_primary" / "candidate_pairs").rglob("[!.]*.parquet"))
        made = pd.concat(pd.read_parquet(path) for path in shards)
        assert made["key"][made["generator"] == "rewrite"].is_unique
        pairs = [pd.read_parquet(versions(place, f"{kind}_pairs.parquet")[-1]) for kind in ("positive", "rejected")]
        outcomes[name] = (made.sort_values(["generator", "key"], ignore_index=True), *pairs)
    for one, other in zip(outcomes["killed"], outcomes["undisturbed"], strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_training_goes_on_after_a_killed_process_and_ends_with_the_same_adapter(finished, tmp_path):
    """kill -9 in the middle of training, then the same command: the adapter of an undisturbed run."""
    from safetensors.numpy import load_file

    projects = {}
    for name in ("killed", "undisturbed"):
        projects[name] = tmp_path / name
        unwanted = shutil.ignore_patterns("mlruns", "mlflow.db", "adapter", "training_checkpoints")
        shutil.copytree(finished[0], projects[name], ignore=unwanted)
    changes = "contrastive_finetuning.steps=60,contrastive_finetuning.validate_every=3,contrastive_finetuning.stopping.criterion=null"
    arguments = ["run", "--pipelines=contrastive_finetuning", "--params", changes]
    project = projects["killed"]
    folder = project / "build" / "kedro-test" / "06_models" / "training_checkpoints"
    kill_at_third(project, arguments, folder, "*/*/step-*/manifest.json", seconds=120)
    assert len(list(folder.glob("*/*/step-*"))) < 20
    result = command(project, "kedro", *arguments)
    assert re.search(r"resuming training at step \d+ of 60", result.stderr)
    command(projects["undisturbed"], "kedro", *arguments)
    adapters = [load_file(versions(place, "adapter")[-1] / "adapter_model.safetensors") for place in projects.values()]
    assert adapters[0].keys() == adapters[1].keys()
    for name, weights in adapters[0].items():
        np.testing.assert_allclose(weights, adapters[1][name], atol=1e-6)


def test_the_users_own_texts_replace_the_sample(finished, tmp_path):
    project = tmp_path / "project"  # of its own: the other tests' newest vectors are of the sample
    shutil.copytree(finished[0], project)
    corpus, labelled = tmp_path / "mine.txt", tmp_path / "mine.tsv"
    things = ("house", "garden", "library", "street", "council")
    corpus.write_text("".join(f"my own {thing} needs {need}\n" for thing in things for need in ("water", "help", "more time", "a letter")))
    labelled.write_text("body\ttopic\n" + "".join(f"labelled text {n}\t{'ab'[n % 2]}\n" for n in range(20)))
    paths = f"corpus={corpus},labelled_texts={labelled},text_column=body,label_column=topic,clustering_evaluation.seeds=[0]"
    command(project, "kedro", "run", "--params", paths)
    pairs = pd.read_parquet(versions(project, "positive_pairs.parquet")[-1])
    assert pairs["source_text"].str.startswith("my own").all()
    scores = pd.read_parquet(versions(project, "clustering_scores.parquet")[-1])
    assert set(scores["documents"]) == {20}


def test_a_command_means_the_same_files_from_every_folder_of_the_project(finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished[0], project)
    shutil.copytree(versions(project, "base_model")[-1], project / "models" / "mine", ignore=shutil.ignore_patterns("card.json"))
    (tmp_path / "my texts, new #1.txt").write_text("".join(f"my own text {n} about {n % 3} things\n" for n in range(20)))
    given = "corpus='~/my texts, new #1.txt',base_model=models/mine,text_clustering.weights=base,text_clustering.clusters=2"
    command(project / "notebooks", "kedro", "run", "--pipelines=text_clustering", "--params", given, HOME=str(tmp_path))
    assert len(pd.read_parquet(versions(project, "cluster_assignments.parquet")[-1])) == 20
    card = json.loads((versions(project, "base_model")[-1] / "card.json").read_text())
    assert card["source"] == "models/mine"
    assert not (project / "notebooks" / "build").exists()


def test_scores_survive_a_killed_process_and_none_is_made_twice(finished, tmp_path):
    """kill -9 in the middle of scoring, then the same command: what was scored stays as it was, and only the rest is scored."""
    project = tmp_path / "project"
    shutil.copytree(finished[0], project, ignore=shutil.ignore_patterns("mlruns", "mlflow.db"))
    folder = project / "build" / "kedro-test" / "07_model_output" / "evaluation_cells"
    shutil.rmtree(folder)
    mine = tmp_path / "mine.csv"
    mine.write_text("text,label\n" + "".join(f"the {['garden', 'library', 'council'][n % 3]} number {n},{n % 3}\n" for n in range(40)))
    file = project / "conf" / "test" / "parameters.yml"
    options = yaml.safe_load(file.read_text())
    options["clustering_evaluation"] |= {"tasks": ["labelled_texts", "mine"], "labelled_files": {"mine": {"path": str(mine)}}}
    file.write_text(yaml.safe_dump(options))
    arguments = ["run", "--pipelines=clustering_evaluation"]
    kill_at_third(project, arguments, folder, "*/mine/*/[!.]*.parquet", seconds=180)
    left = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.parquet")}
    result = command(project, "kedro", *arguments)
    there, planned = map(int, re.search(r"(\d+) of (\d+) scores already exist", result.stderr).groups())
    assert there == len(left) < planned
    cells = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*.parquet")}
    assert len(cells) == planned
    by_task = [{path.relative_to(folder).parts[1] for path in paths} for paths in (left, cells)]
    assert by_task == [{"labelled_texts", "mine"}] * 2
    assert {path: cells[path] for path in left} == left
    again = command(project, "kedro", *arguments)
    assert "score: " not in again.stderr
    tables = [pd.read_csv(path) for path in versions(project, "strategy_comparison.csv")[-2:]]
    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0]["task"]) == {"labelled_texts", "mine", "all tasks"}
    assert "Clustering of all tasks" in again.stdout


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("clustering_evaluation.tasks=TwentyNewsgroupClustering.v2", "did you mean 'TwentyNewsgroupsClustering.v2'"),
        ("mirror=/nowhere", "the mirror /nowhere is not a folder"),
        ("corpus=/nowhere/mine.txt", "/nowhere/mine.txt does not exist"),
        ("label_column=topic", "has no column 'topic' for the labels, only 'text', 'label'"),
        ("base_model=no/such/thing/x", "not a GGUF file, a folder, a Hub id or a package"),
        ("contrastive_finetuning.stepz=3", "did you mean contrastive_finetuning.steps?"),
        (
            "labeled_texts=nope.csv,basemodel=foo/bar",
            "'labeled_texts' (did you mean labelled_texts?); 'basemodel' (did you mean base_model?)",
        ),
        ("corpus=my, own.txt", "corpus='my, own.txt'"),
        ("embedder.adapt=none", "unknown strategy 'none' in adapt; choose from "),
    ],
)
def test_bad_input_fails_before_any_work(finished, parameters, message):
    project, _, _ = finished
    result = command(project, "kedro", "run", "--params", parameters, check=False)
    assert result.returncode == (2 if ", " in parameters else 1)  # 2 where the command line itself cannot be read
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not re.search(r"Running node|INFO +1/\d+ ", result.stderr)


def test_verbose_shows_the_traceback(finished):
    project, _, _ = finished
    result = command(project, "kedro", "run", "--verbose", "--params", "corpus=/nowhere/mine.txt", check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "DatasetError: /nowhere/mine.txt does not exist" in result.stderr


def test_a_pipeline_that_is_not_there_is_told_with_the_nearest(finished):
    project, _, _ = finished
    result = command(project, "kedro", "run", "--pipelines=text_clusterin", check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "Error: unknown pipeline 'text_clusterin'; did you mean 'text_clustering'?"


def tracked(project: Path) -> list[tuple[str, dict[str, str], dict[str, float]]]:
    """Status, tags and metrics of the runs of text clustering, the newest first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("embedding-adaptation-test").experiment_id
    runs = client.search_runs([experiment], "tags.`kedro.pipelines` = 'text_clustering'", order_by=["start_time DESC"])
    return [(run.info.status, run.data.tags, run.data.metrics) for run in runs]


def clustering_of(folder: Path) -> list[str]:
    """The command that clusters a few texts."""
    texts = [f"Text {index} of {'ships in harbours' if index % 2 else 'soup and bread'}, number {index * 7}." for index in range(40)]
    (folder / "mine.txt").write_text("\n".join(texts))
    return ["run", "--pipelines=text_clustering", "--params", f"text_clustering.clusters=2,corpus={folder / 'mine.txt'}"]


@pytest.mark.parametrize("runner", ["ParallelRunner", "ThreadRunner"])
def test_any_runner_makes_one_tracked_run_with_the_same_metrics(finished, tmp_path, runner):
    project, _, _ = finished
    arguments = clustering_of(tmp_path)
    command(project, "kedro", *arguments)
    before = tracked(project)
    command(project, "kedro", *arguments, f"--runner={runner}")
    after = tracked(project)
    assert len(after) == len(before) + 1
    (status, tags, metrics), (_, its_tags, its_metrics) = after[0], before[0]
    assert status == "FINISHED"
    assert "RUNNING" not in {run[0] for run in after}
    assert metrics == pytest.approx(its_metrics)
    assert set(metrics) == {"mean_cohesion", "noise_share", "number_of_clusters"}
    assert {name for name in tags if name.startswith("saved.")} == {name for name in its_tags if name.startswith("saved.")}


@pytest.mark.parametrize(
    ("signum", "code", "options"),
    [(signal.SIGINT, 130, []), (signal.SIGTERM, 143, []), (signal.SIGTERM, 143, ["--runner=ParallelRunner"])],
)
def test_an_interrupted_run_ends_as_killed_with_all_its_processes(finished, tmp_path, signum, code, options):
    project, _, _ = finished
    log = tmp_path / "log"
    # A program that is started in the background may inherit that Ctrl-C is ignored.
    listening = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    kedro = str(Path(sys.executable).parent / "kedro")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", listening, kedro, *clustering_of(tmp_path), *options],
            cwd=project, env={**os.environ, "KEDRO_ENV": "test"}, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 300
    # In a process of its own, a node is announced by Kedro.
    while not re.search(r"\d+/\d+ cluster_texts|Running node: cluster_texts_node", log.read_text()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signum)
    assert process.wait(timeout=60) == code
    assert "Traceback" not in log.read_text()
    assert f"Interrupted ({signum.name})" in log.read_text()
    status, tags, _ = tracked(project)[0]
    assert (status, tags["error"]) == ("KILLED", f"interrupted by {signum.name}")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # none of its group is left


@pytest.fixture(scope="session")
def installed(project, tmp_path_factory):
    """The installed wheel, and a folder outside of any project with the packaged configuration."""
    folder = tmp_path_factory.mktemp("packaged")
    source, place, target = folder / "source", folder / "place", folder / "packages"
    place.mkdir()
    for name in ("src", "conf"):
        shutil.copytree(project / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project / name, source / name)
    # What 'kedro package' does, without fetching setuptools again.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(install, cwd=folder, check=True, capture_output=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})
    shutil.copytree(source / "conf", place / "conf")
    return target, place


def packaged(installed: tuple[Path, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    target, place = installed
    environment = {**os.environ, "PYTHONPATH": str(target), "KEDRO_ENV": "test"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_the_packaged_project_runs_in_a_folder_with_its_configuration(installed):
    target, place = installed
    clustering_of(place)
    found = packaged(installed, "-c", "import embedding_adaptation; print(embedding_adaptation.__file__)")
    assert found.stdout.startswith(str(target))
    parameters = "corpus=mine.txt,text_clustering.clusters=2"
    result = packaged(installed, "-m", "embedding_adaptation", "--pipelines=text_clustering", "--params", parameters)
    assert result.returncode == 0, result.stderr
    assert list((place / "build" / "kedro-test").glob("*/cluster_summary.csv/*/cluster_summary.csv"))
    assert (place / "mlflow.db").exists()


def test_the_packaged_project_tells_a_mistake_in_a_sentence(installed):
    result = packaged(installed, "-m", "embedding_adaptation", "--pipelines=text_clustering", "--params", "corpus=none.txt")
    assert result.returncode == 1
    assert "none.txt does not exist" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_tracking_server_that_is_down_does_not_cost_the_run(finished):
    project, _, _ = finished
    result = command(project, "kedro", "run", "--pipelines=attention_analysis", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "The run continues" in result.stderr
    (pending,) = (project / "mlflow_pending").glob("*.jsonl")
    assert len(pending.read_text().splitlines()) > 5


def executed(project: Path, name: str, **parameters: object) -> list[dict]:
    """Outputs of a notebook that was run in the copy; its cell of parameters is followed by one that sets others.

    Fails if a run's output or data/ is changed by it.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import DeadKernelError

    notebook = nbformat.read(project / "notebooks" / name, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")], "a notebook is committed without outputs"
    if parameters:
        (place,) = [number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
        unknown = [one for one in parameters if not re.search(rf"^{one} = ", notebook.cells[place].source, re.MULTILINE)]
        assert not unknown
        source = "\n".join(f"{one} = {value!r}" for one, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(source))
    before = made_by_runs(project)
    with pytest.MonkeyPatch.context() as patch:
        for one, value in {"KEDRO_ENV": "test", "TQDM_DISABLE": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{project}/notebooks.db"}.items():
            patch.setenv(one, value)
        resources = {"metadata": {"path": str(project / "notebooks")}}
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
        try:
            client.execute()
        except DeadKernelError:  # its ports are chosen before they are taken: another process may be first. A second death is a fault
            NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert made_by_runs(project) == before, "a notebook leaves what runs made as it is"
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return outputs


def made_by_runs(project: Path) -> dict[Path, int]:
    """The files of data/ and of the test environment's output, with the times they were written."""
    folders = (project / "data", project / "build" / "kedro-test")
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}


def shown(outputs: list[dict], kind: str) -> list[str]:
    """What the outputs hold in one form, such as text/html; printed text is text/plain."""
    printed = [output["text"] for output in outputs if output["output_type"] == "stream" and kind == "text/plain"]
    return [*printed, *(output["data"][kind] for output in outputs if kind in output.get("data", {}))]


def tables_of(outputs: list[dict]) -> list[pd.DataFrame]:
    """The tables that were shown, with numbers as numbers and the innermost index."""
    from bs4 import BeautifulSoup

    found = []
    for table in (table for html in shown(outputs, "text/html") for table in BeautifulSoup(html, "html.parser").select("table.dataframe")):
        rows = table.select("tbody tr")
        cells = [[cell.get_text() for cell in row.select("td")] for row in rows]
        header = [cell.get_text() for cell in table.select_one("thead tr").select("th")]
        frame = pd.DataFrame(cells, columns=header[-len(cells[0]) :], index=[row.select("th")[-1].get_text() for row in rows])
        for name in frame:
            numbers = pd.to_numeric(frame[name], errors="coerce")
            frame[name] = frame[name] if numbers.isna().any() else numbers
        found.append(frame)
    return found


def test_the_first_notebook_shows_what_a_run_left(finished):
    project, _, _ = finished
    outputs = executed(project, "01_first_look.ipynb")
    assert any("prompted_last_adapted" in table for table in shown(outputs, "text/html"))


def test_a_notebook_adapts_texts_shows_the_page_and_saves_the_model(finished, tmp_path):
    project, _, _ = finished
    outputs = executed(project, "02_adapt_my_texts.ipynb", count=40, folder=str(tmp_path / "made"), params={"text_clustering.clusters": 3})
    page = next(html for html in shown(outputs, "text/html") if "<iframe" in html)
    assert "&lt;/html&gt;" in page
    (cosine,) = re.findall(r"least cosine between the two libraries: ([\d.]+)", " ".join(shown(outputs, "text/plain")))
    assert float(cosine) > 0.99
    assert (tmp_path / "made" / "my_model" / "modules.json").is_file()
    assert not (project / "notebooks" / "adaptation").exists()


def test_a_notebook_compares_templates_without_labels_and_with(finished):
    project, _, _ = finished
    settings = {"count": 60, "templates": ["bare", "one_word", "mine"], "poolings": ["last"], "seeds": [0, 1]}
    outputs = executed(project, "03_compare_templates.ipynb", **settings)
    ranked, scored = tables_of(outputs)
    assert sorted(ranked["strategy"]) == sorted(scored["strategy"]) == ["bare.last.-1", "mine.last.-1", "one_word.last.-1"]
    assert scored["v_measure"].is_monotonic_decreasing
    assert scored["v_measure"].between(0.01, 0.99).all()
    assert any("Rank correlation" in str(figure) for figure in shown(outputs, "application/vnd.plotly.v1+json"))


def test_a_notebook_explores_clusters(finished):
    project, _, _ = finished
    command(project, "kedro", "run", "--pipelines=text_clustering")
    outputs = executed(project, "04_explore_clusters.ipynb", theme=1, count=3)
    themes, tree, members, neighbours, _ = tables_of(outputs)
    assert tree["distance"].is_monotonic_increasing
    assert themes["size"].sum() == len((project / "data" / "01_raw" / "corpus.txt").read_text().splitlines())
    assert len(members) == 6
    assert neighbours["cosine"].is_monotonic_decreasing
    assert len(shown(outputs, "application/vnd.plotly.v1+json")) == 2


def test_a_notebook_finds_topics_with_bertopic(finished):
    pytest.importorskip("bertopic", reason="BERTopic is not installed: pip install bertopic")
    project, _, _ = finished
    outputs = executed(project, "05_bertopic.ipynb", count=200, min_topic_size=5)
    topics, compared, _, found, placed = tables_of(outputs)
    assert topics["Count"].sum() == len(pd.read_csv(project / "data" / "01_raw" / "labelled_texts.csv"))
    assert list(compared.columns) == ["base", "adapted"]
    assert found["similarity"].is_monotonic_decreasing
    assert len(placed) == 5


def test_a_notebook_searches_a_grid_with_the_bundled_model(finished):
    project, _, _ = finished
    grid = {"embed__template": ["{text}", 'The topic of "{text}" is: "'], "embed__layers": [-1], "classify__C": [1.0, 10.0, 100.0]}
    outputs = executed(project, "06_scikit_learn.ipynb", count=120, grid=grid)
    scores, test, *_ = tables_of(outputs)
    assert scores.shape[0] >= 2
    assert test.loc["embedder", "accuracy"] > 0.25, "far beyond chance"


def test_a_notebook_searches_a_vector_store(finished, tmp_path):
    pytest.importorskip("qdrant_client", reason="Qdrant's client is not installed: pip install qdrant-client")
    project, _, _ = finished
    outputs = executed(project, "07_vector_store.ipynb", count=100, folder=str(tmp_path / "store"))
    found, within = tables_of(outputs)
    assert found["score"].is_monotonic_decreasing
    assert within["label"].nunique() == 1
    printed = " ".join(shown(outputs, "text/plain"))
    assert "same texts as an exact search: True" in printed
    labels = pd.read_csv(project / "data" / "01_raw" / "labelled_texts.csv")["label"]
    label = within["label"].iloc[0]
    assert f"{len(labels) + 100} texts, {(labels == label).sum()} with the label {label}" in printed


@pytest.mark.parametrize(
    ("name", "library", "package"),
    [("08_langchain", "langchain_core", "langchain-core"), ("09_llama_index", "llama_index.core", "llama-index-core")],
)
def test_a_notebook_searches_with_a_framework(finished, name, library, package):
    pytest.importorskip(library, reason=f"not installed: pip install {package}")
    project, _, _ = finished
    outputs = executed(project, f"{name}.ipynb", count=60)
    (found,) = tables_of(outputs)
    assert len(found) == 5
    assert found["score"].is_monotonic_decreasing
    assert "same texts as an exact search: True" in " ".join(shown(outputs, "text/plain"))


def test_every_notebook_is_executed_by_a_test_and_listed(project):
    source, page = Path(__file__).read_text(), (project / "docs" / "how-to" / "notebooks.md").read_text()
    names = [path.stem for path in (project / "notebooks").glob("*.ipynb")]
    assert len(names) >= 9
    assert [name for name in names if f'"{name}' not in source or f"`{name}`" not in page] == []


@pytest.fixture(scope="session")
def viz(finished):
    """kedro-viz, built as a folder of files."""
    project, _, _ = finished
    shutil.rmtree(project / "build" / "api", ignore_errors=True)
    command(project, "kedro", "viz", "build", "--include-previews")
    return project / "build"


def test_viz_shows_all_pipelines_layers_and_previews(viz):
    main = json.loads((viz / "api" / "main").read_text())
    assert {pipeline["id"] for pipeline in main["pipelines"]} >= {*PIPELINES, "end_to_end"}
    assert set(main["layers"]) == LAYERS
    tags = {tag["id"] for tag in main["tags"]}
    assert set(PIPELINES) <= tags
    nodes = {node["name"]: node["id"] for node in main["nodes"]}
    previewed = (
        "strategy_comparison", "strategy_pivot", "strategy_heatmap", "comparison_bars", "seed_spread", "clustering_scores",
        "training_curve", "cluster_map", "attention_shift_figure", "attention_examples", "attention_words", "base_word_attention",
        "positive_pairs",
    )  # fmt: skip
    for name in previewed:
        details = json.loads((viz / "api" / "nodes" / nodes[name]).read_text())
        assert details.get("preview"), name


def free_port() -> int:
    """A port below those that the system gives to connections, one of which could take it before the server does."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    pytest.fail("no free port")


@pytest.fixture(scope="session")
def viz_server(finished, tmp_path_factory):
    """kedro-viz's own server on the finished project, which has a page of each kind: its address."""
    project, _, _ = finished
    port = free_port()
    log = tmp_path_factory.mktemp("viz") / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(Path(sys.executable).parent / "kedro"), "viz", "run", "--no-browser", f"--port={port}"],
            cwd=project, env={**os.environ, "KEDRO_ENV": "test"}, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield address
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="module")  # no other module could use Playwright while it is open
def viz_page(viz_server):
    """A page of a browser that shows a pipeline, and what it complained of."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine; on Debian: apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    faults: list[str] = []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        # Without a network, kedro-viz cannot ask for its newest version.
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" and "ERR_" not in said.text else None)

        def show(pipeline, query=""):
            page.goto(f"{viz_server}/?pid={pipeline}{query}")
            page.wait_for_selector(".pipeline-node")
            with urllib.request.urlopen(f"{viz_server}/api/pipelines/{pipeline}", timeout=30) as answer:
                return page, json.load(answer)

        yield show, faults
        browser.close()


@pytest.mark.parametrize("pipeline", ["end_to_end", "adapt"])
def test_in_viz_every_pipeline_is_a_box_that_opens(viz_page, pipeline):
    show, faults = viz_page
    page, graph = show(pipeline)
    boxes = {name: box for name, box in graph["modular_pipelines"].items() if name != "__root__"}
    outer = {name for name in boxes if "." not in name}
    assert outer == {name for node in pipelines_of(pipeline) if (name := (node.namespace or "").partition(".")[0])}
    # The default pipeline may be drawn before the one that was asked for.
    page.wait_for_function(
        """names => {
            const boxes = [...document.querySelectorAll(".pipeline-node--modularPipeline")].map(box => box.dataset.id);
            return boxes.sort().join() === names.join();
        }""",
        arg=sorted(outer),
        timeout=90_000,  # beside other tests, two graphs may be drawn one after the other
    )
    assert page.locator(".pipeline-node--task").count() == (pipeline == "end_to_end")  # the report's
    for name in sorted(boxes):  # outer ones first
        page.locator(f'.pipeline-node[data-id="{name}"]').dispatch_event("click")
        page.wait_for_selector(f'.pipeline-node[data-id="{name}"]', state="detached")
        for child in boxes[name]["children"]:
            page.wait_for_selector(f'.pipeline-node[data-id="{child["id"]}"]', state="attached")
    assert page.locator(".pipeline-node--task").count() == len(pipelines_of(pipeline))
    layers = [name.strip() for name in page.locator(".pipeline-layer-name").all_inner_texts()]
    assert set(filter(None, layers)) <= LAYERS
    assert {"raw", "primary", "models", "reporting", "product"} <= set(layers)
    assert not faults


# What shows that a preview of each kind is there.
PREVIEWS = {
    "TablePreview": ".preview-table__row, .preview-table__header",
    "ImagePreview": "img.pipeline-metadata__plot-image",
    "PlotlyPreview": ".main-svg",
    "JSONPreview": ".pipeline-metadata__preview-json",
    "HTMLPreview": ".html-renderer",
}


def test_in_viz_every_preview_shows(finished, viz_page, viz_server):
    show, faults = viz_page
    conf = ProjectConfigLoader(str(finished[0] / "conf"), env="test", **CONFIG_LOADER_ARGS)
    catalog = CatalogConfigResolver(conf["catalog"], conf["credentials"])
    seen = {}
    # Pipeline by pipeline, because small charts are drawn faster.
    for pipeline in (*PIPELINES, "adaptation_verdict", "end_to_end", "text_clustering", "adaptation_page"):
        page, graph = show(pipeline, "&expandAllPipelines=true")
        for node in graph["nodes"]:
            if node["type"] != "data" or node["name"] in seen:
                continue
            with urllib.request.urlopen(f"{viz_server}/api/nodes/{node['id']}", timeout=30) as answer:
                details = json.load(answer)
            kind = seen[node["name"]] = details["preview_type"] if details.get("preview") else None
            if kind is None:
                continue
            page.locator(f'.pipeline-node[data-id="{node["id"]}"]').dispatch_event("click")
            panel = page.locator(".pipeline-metadata", has=page.locator(f'.pipeline-metadata__title:text-is("{node["name"]}")'))
            shown = panel.locator(PREVIEWS[kind])
            if kind in {"JSONPreview", "HTMLPreview"}:
                shown = shown.filter(has_text=re.compile(r"\w{3}"))
            shown.first.wait_for()
            if kind == "ImagePreview":
                assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100, node["name"]
            elif kind == "TablePreview":
                table = details["preview"]
                assert panel.locator("table tr").count() == len(table["data"]) + 1, node["name"]
                wanted = catalog.resolve_pattern(node["name"])["metadata"]["kedro-viz"].get("preview_args", {}).get("columns")
                assert table["columns"] == (wanted or table["columns"]), node["name"]
                assert len(table["columns"]) <= 10, node["name"]
    kinds = {kind: {name for name, other in seen.items() if other == kind} for kind in PREVIEWS}
    assert kinds["HTMLPreview"] == {"report", "adaptation_page", "clusters_page", "attention_page"}
    assert {"positive_pairs", "strategy_comparison", "cluster_summary"} <= kinds["TablePreview"]
    assert {"text_map", "training_curve"} <= kinds["PlotlyPreview"]
    assert all(len(names) > 2 for names in kinds.values()), kinds
    assert not faults
