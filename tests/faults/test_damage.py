"""Damaged files: in stores they are made again, in results they are refused with a sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from faults.chain import OUTPUT, WAYS, copied, damage, in_fork, kedro, names
from faults.results import differences, newest

pytestmark = pytest.mark.faults

STORES = {
    "candidates": ("data_augmentation", "03_primary/candidate_pairs/**/[!.]*.parquet"),
    "scores": ("data_augmentation", "03_primary/pair_scores/**/[!.]*.parquet"),
    "cells": ("clustering_evaluation", "07_model_output/evaluation_cells/**/[!.]*.parquet"),
}


@pytest.mark.parametrize("store", [pytest.param(name, marks=pytest.mark.full if name == "cells" else []) for name in STORES])
def test_damaged_shards_are_made_again(store, stages, tmp_path, record_property):
    """One shard is cut, one zeroed, in one a bit is flipped, and one is deleted."""
    pipeline, pattern = STORES[store]
    stage = stages(pipeline)
    project = copied(stage.after, tmp_path / "project")
    files = sorted((project / OUTPUT).glob(pattern))
    assert len(files) >= len(WAYS)
    step = len(files) // len(WAYS)
    for number, way in enumerate(WAYS):
        damage(files[number * step], way)
    record_property("faults", len(WAYS))
    again = kedro(project, *stage.arguments)
    assert again.code == 0, again.output[-3000:]
    assert again.output.count("is damaged or has no checksum") >= len(WAYS) - 1
    assert not differences(project, stage.after)
    assert names(project) == names(stage.after)
    assert "is damaged" not in kedro(project, *stage.arguments).output


@pytest.mark.full
@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_checkpoint_is_left_out(way, stages, tmp_path):
    """Of the last step the weights, of another the optimizer's state: training goes on from what is whole, and ends as it should."""
    stage = stages("contrastive_finetuning")
    project = copied(stage.after, tmp_path / "project")
    last = sorted((project / OUTPUT).glob("06_models/training_checkpoints/*/*/step-*"))[-1]
    damage(last / "adapter_model.safetensors", way)
    again = kedro(project, *stage.arguments)
    assert again.code == 0, again.output[-3000:]
    assert f"{last} is incomplete and is not used" in again.output
    assert not differences(project, stage.after)


@pytest.mark.parametrize("way", [*(pytest.param(way, marks=pytest.mark.full) for way in WAYS if way != "flipped"), "flipped"])
def test_damaged_vectors_of_a_corpus_are_made_again(way, stages, tmp_path):
    stage = stages("text_clustering")
    project = copied(stage.after, tmp_path / "project")
    damage(sorted((project / OUTPUT).glob("04_feature/corpus_vectors/shard-*.safetensors"))[0], way)
    refused = kedro(project, "--pipelines=text_clustering", "--from-nodes=cluster_texts_node")
    assert refused.code > 0
    assert "run embed_corpus_node again" in refused.output
    again = kedro(project, *stage.arguments)
    assert again.code == 0, again.output[-3000:]
    assert not differences(project, stage.after)


@pytest.mark.parametrize(
    ("file", "way"),
    [
        ("model.safetensors", "flipped"),
        *(
            pytest.param(file, way, marks=pytest.mark.full)
            for file in ("tokenizer.json", "config.json", "card.json", "model.safetensors")
            for way in WAYS
            if (file, way) != ("model.safetensors", "flipped")
        ),
    ],
)
def test_a_damaged_base_model_is_converted_again(file, way, stages, tmp_path):
    stage = stages("embedding_extraction")
    project = copied(stage.after, tmp_path / "project")
    (folder,) = (project / OUTPUT).glob("06_models/base_model/*/base_model")
    damage(folder / file, way)
    again = kedro(project, *stage.arguments)
    assert again.code == 0, again.output[-3000:]
    assert len(list((project / OUTPUT).glob("06_models/base_model/*/base_model"))) == 2
    found = [what for what in differences(project, stage.after) if "base_model" not in what]
    assert not found


def test_a_damaged_result_is_refused_wherever_it_is_read(stages, tmp_path, record_property):
    """Every version of every dataset, in every way."""
    stage = stages("text_clustering")
    project = copied(stage.after, tmp_path / "project")
    cases = []
    for name, place in newest(project).items():
        files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
        cases += [(name, str(file), way) for file in files for way in WAYS if file.stat().st_size and (place.is_dir() or way != "deleted")]

    def load_all():
        os.chdir(project)
        os.environ["KEDRO_ENV"] = "test"
        from kedro.framework.project import pipelines
        from kedro.framework.session import KedroSession
        from kedro.framework.startup import bootstrap_project
        from kedro.io.core import DatasetError

        bootstrap_project(project)
        # Many are known to the catalog by the pattern of their names alone.
        used = {name for pipeline in pipelines.values() for name in pipeline.datasets() if not name.startswith("param")}
        with KedroSession.create(project_path=project, env="test") as session:
            catalog = session.load_context().catalog
        held = {}
        for name in sorted({*catalog, *used}):
            dataset = catalog.get(name)
            if getattr(dataset, "_version", None) and name != "base_model":
                held.setdefault(Path(str(dataset._filepath)).relative_to(project / OUTPUT).as_posix(), dataset)
        wrong = []
        for name, file, way in cases:
            if name not in held:
                continue
            dataset, keep = held[name], Path(file).read_bytes()
            damage(Path(file), way)
            dataset.release()
            try:
                dataset.load()
                wrong.append(f"{name}: {file} {way} was loaded")
            except DatasetError as error:
                if "damaged" not in str(error) or "again" not in str(error):
                    wrong.append(f"{name}: {error}")
            Path(file).write_bytes(keep)
        return [wrong, sorted(held)]

    wrong, held = in_fork(load_all)
    tried = [case for case in cases if case[0] in held]
    record_property("faults", len(tried))
    assert not wrong
    without = {name for name, _, _ in cases} - set(held) - {"06_models/base_model"}
    assert not without, "datasets that no entry of the catalog loads"
    assert len(tried) > 100
    shutil.rmtree(project)


@pytest.mark.parametrize("way", WAYS)
def test_damaged_vectors_of_the_embedding_store_are_made_again(way, tmp_path):
    import numpy as np

    from embedding_adaptation.datasets.embedding_store import EmbeddingStore

    texts = [f"text {number}" for number in range(8)]
    vectors = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    for part in (slice(0, 4), slice(4, 8)):
        EmbeddingStore(tmp_path).add("key", texts[part], vectors[part])
    victim = sorted(tmp_path.glob("*/key/[!.]*.safetensors"))[0]
    damage(victim, way)
    store = EmbeddingStore(tmp_path)
    missing = store.missing("key", texts)
    assert missing in (texts[:4], texts[4:])
    store.add("key", missing, vectors[[texts.index(text) for text in missing]])
    np.testing.assert_array_equal(EmbeddingStore(tmp_path).vectors("key", texts), vectors)
