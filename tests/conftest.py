"""Fixtures: a tiny random model made on the spot, so that no test fetches anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from embedding_adaptation.datasets.embedding_store import EmbeddingStore
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.weights import DecoderWeights

pytest_plugins = ["attention_fixtures", "chat_fixtures", "clustering_fixtures", "hub_server"]
PROJECT = Path(__file__).parents[1]

# No test may reach for the Hub; those of the Hub's code start a server of their own and a process that is told of it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny models gain nothing from threads, which fight over the cores where something else is running.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no other process waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_project.py")


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root."""
    return PROJECT


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> DecoderWeights:
    """A tiny random Llama, resolved as any base model is."""
    from embedding_adaptation.embedder.base_model import check_source, convert
    from embedding_adaptation.embedder.weights import DecoderWeights

    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    return DecoderWeights(folder, convert(check_source("random:tiny-llama"), folder))


@pytest.fixture(scope="session")
def tiny_adapted(tiny_weights: DecoderWeights, tmp_path_factory: pytest.TempPathFactory) -> DecoderWeights:
    """The tiny model with an adapter that changes its vectors, as the catalog's dataset loads them."""
    import shutil

    import torch
    from kedro.io import Version
    from peft import LoraConfig, get_peft_model

    from embedding_adaptation.datasets.adapter import AdapterDataset, TrainedAdapter
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.identity import CorpusIdentity

    models = tmp_path_factory.mktemp("adapted")
    shutil.copytree(tiny_weights.base, models / "base_model" / "1" / "base_model")
    embedder = Embedder.load(tiny_weights, device="cpu", dtype="float32")
    state = torch.get_rng_state()
    torch.manual_seed(0)
    adapted = get_peft_model(embedder.backbone, LoraConfig(target_modules="all-linear", init_lora_weights=False)).eval()
    torch.set_rng_state(state)
    dataset = AdapterDataset(filepath=str(models / "adapter"), base_model="base_model", version=Version(None, "2026-01-01T00.00.00.000Z"))
    template = 'This sentence: "{text}" means in one word: "'
    corpus = CorpusIdentity("mine.txt", 9, clean="c" * 32, raw="a" * 32)
    dataset.save(TrainedAdapter(adapted, tiny_weights.card, template, "last", 64, 3, corpus))
    return dataset.load()


@pytest.fixture
def training_report(tiny_adapted: DecoderWeights) -> dict[str, Any]:
    """What contrastive fine-tuning reports of the adapter."""
    import pandas as pd

    from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions
    from embedding_adaptation.pipelines.contrastive_finetuning.report import describe_training

    pairs = pd.DataFrame(
        {
            "source_id": ["1", "1", "2"],
            "source_text": ["a secret text", "a secret text", "another secret"],
            "generated_text": ["a hidden text", "something hidden", "another hidden thing"],
            "generator": ["rewrite", "rewrite", "noise"],
            "model": ["/home/someone/models/secret-place/my-llama", "/home/someone/models/secret-place/my-llama", ""],
            "source_language": ["en", "en", ""],
        }
    )
    history = pd.DataFrame(
        {
            "step": [0, 1, 2, 3, 4],
            "train_loss": [None, 2.0, 1.5, 1.2, 1.1],
            "validation_loss": [2.5, None, None, 1.25, 1.5],
            "seconds": [None, 10.0, 20.0, 30.0, 90.0],
        }
    )
    identity = {"clean": "c" * 32, "raw": "a" * 32}
    corpus = {"corpus": "mine.txt", "texts": 12, "kept": 9, "identity": identity, "examples": {"too_short": [{"text": "a secret example"}]}}
    options = FinetuningOptions(steps=4, seed=0)
    return describe_training(tiny_adapted, pairs, pairs.tail(1), history, corpus, options)


@pytest.fixture
def evaluation_report(
    tiny_adapted: DecoderWeights, tiny_weights: DecoderWeights, embedder_options: Callable[..., object]
) -> dict[str, Any]:
    """What clustering evaluation reports of base and adapted vectors."""
    import numpy as np
    import pandas as pd

    from embedding_adaptation.datasets.embeddings import Embeddings
    from embedding_adaptation.pipelines.clustering_evaluation.labelled_vectors import LabelledVectors
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions, StatisticsOptions
    from embedding_adaptation.pipelines.clustering_evaluation.report import describe_evaluation

    means = {"random": 0.1, "bare_mean": 0.3, "prompted_last": 0.5, "prompted_last_adapted": 0.6}
    scores = pd.DataFrame(
        [
            {"task": "labelled_texts", "strategy": name, "seed": seed, "part": "all", "metric": metric, "value": value,
             "documents": 2, "clusters": 2, "revision": "", "content": "ab" * 32}
            for name, mean in means.items()
            for seed in (0, 1, 2)
            for metric, value in {"v_measure": mean + 0.01 * seed, "v_measure_unique": mean, "ami_unique": mean / 2}.items()
        ]
    )  # fmt: skip
    labelled = pd.DataFrame({"id": ["1", "2"], "text": ["a labelled secret", "another one"], "label": ["x", "y"]})
    labelled.attrs["name"] = "labels.csv"
    models = {"base": tiny_weights, "adapted": tiny_adapted}
    vectors = {name: Embeddings(("1", "2"), {"s": np.zeros((2, 3), np.float32)}, weights.fingerprint()) for name, weights in models.items()}
    aligned = LabelledVectors.align(labelled, vectors, models, {})
    options = EvaluationOptions(
        seeds=(0, 1, 2), map_strategies=("prompted_last", "prompted_last_adapted"), statistics=StatisticsOptions(seed=0)
    )
    compared = pd.DataFrame(
        [
            {"task": "labelled_texts", "strategy": name, "source": "measured", "low": mean - 0.05, "high": mean + 0.04}
            for name, mean in means.items()
        ]
    )
    return describe_evaluation(scores, compared, aligned, options, embedder_options())


@pytest.fixture
def model_facts(
    tiny_adapted: DecoderWeights,
    training_report: dict[str, Any],
    evaluation_report: dict[str, Any],
    embedder_options: Callable[..., object],
) -> dict[str, Any]:
    """The facts of the adapted tiny model, as the node gathers them, with the width of its vectors."""
    from embedding_adaptation.pipelines.model_export.facts import describe_model
    from embedding_adaptation.pipelines.model_export.options import ExportOptions

    facts = describe_model(tiny_adapted, training_report, evaluation_report, {}, ExportOptions(), embedder_options())
    return facts | {"dimensions": 32, "older_versions": True}


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    """An empty store of vectors."""
    from embedding_adaptation.datasets.embedding_store import EmbeddingStore

    return EmbeddingStore(tmp_path / "store")


@pytest.fixture
def exported(
    tiny_adapted: DecoderWeights,
    model_facts: dict[str, Any],
    embedder_options: Callable[..., object],
    store: EmbeddingStore,
    tmp_path: Path,
) -> Path:
    """The exported folder of the adapted tiny model, as the catalog saves it."""
    from kedro.io import Version

    from embedding_adaptation.datasets.embeddings import Embeddings
    from embedding_adaptation.datasets.exported_embedder import ExportedEmbedderDataset
    from embedding_adaptation.pipelines.model_export.nodes import export_embedder
    from embedding_adaptation.pipelines.model_export.options import ExportOptions
    from embedding_adaptation.texts.stream import TextStream

    corpus = TextStream.of(pd.DataFrame({"id": [], "text": []}))
    nothing = Embeddings((), {})
    value = export_embedder(tiny_adapted, model_facts, nothing, nothing, corpus, store, ExportOptions(), embedder_options())
    ExportedEmbedderDataset(filepath=str(tmp_path / "adapted_embedder"), version=Version(None, "2")).save(value)
    return tmp_path / "adapted_embedder" / "2" / "adapted_embedder"


@pytest.fixture
def tiny_embedder(tiny_weights: DecoderWeights) -> Embedder:
    """An embedder of the tiny model in float32 on the CPU."""
    from embedding_adaptation.embedder.embedder import Embedder

    return Embedder.load(tiny_weights, device="cpu", dtype="float32", max_length=64)


@pytest.fixture
def embedder_options() -> Callable[..., object]:
    """A maker of embedder options with the given fields changed."""
    from embedding_adaptation.options import EmbedderOptions

    def make(**changes: object) -> EmbedderOptions:
        values: dict[str, object] = {
            "device": "cpu",
            "dtype": "float32",
            "max_length": 64,
            "templates": {"bare": "{text}", "one_word": 'This sentence: "{text}" means in one word: "'},
            "strategies": {
                "bare_mean": {"weights": "base", "template": "bare", "pooling": "mean"},
                "prompted_last": {"weights": "base", "template": "one_word", "pooling": "last"},
                "prompted_last_adapted": {"weights": "adapted", "template": "one_word", "pooling": "last"},
            },
            "adapt": "prompted_last_adapted",
        }
        return EmbedderOptions.model_validate(values | changes)

    return make
