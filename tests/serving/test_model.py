"""Models are found in folders and in the registry, and give sentence-transformers' vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mlflow import MlflowClient
from sentence_transformers import SentenceTransformer

from embedding_adaptation.embedder.packaged import load_packaged, write_packaged
from embedding_adaptation.embedder.template import PromptTemplate
from embedding_adaptation.model_registry import RegistryOptions, log_and_register
from embedding_adaptation.serving.failures import TextTooLongError
from embedding_adaptation.serving.model import Located, ModelNotFoundError, ServedModel, locate

TEXTS = ["where is my stopcock", "", "drain " * 300, "🎉 emoji"]


@pytest.mark.slow
def test_the_champion_of_the_registry_is_served(exported, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = tmp_path / "project"
    project.mkdir()
    with pytest.raises(ModelNotFoundError, match="there is no registry"):
        locate("models:/embedding-adaptation@champion", project)
    assert list(project.iterdir()) == []
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}", f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.create_experiment("serving", artifact_location=(project / "mlartifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    log_and_register(client, experiment, run, exported, "model", RegistryOptions(), {})
    for uri in ("models:/embedding-adaptation@champion", "models:/embedding-adaptation/1"):
        located = locate(uri, project)
        assert located.name == "embedding-adaptation"
        model = ServedModel.load(located, device="cpu")
        assert model.about.startswith("This model was adapted to mine.txt")
        np.testing.assert_allclose(model.encode(TEXTS), SentenceTransformer(str(exported), device="cpu").encode(TEXTS), atol=1e-5)
    for uri, message in (
        ("models:/other@champion", "models:/other@champion is not in the registry"),
        ("models:/embedding-adaptation@best", "make one with 'make run'"),
        ("models:/embedding-adaptation/7", "--model FOLDER"),
        ("models:/embedding-adaptation", "names no version; write models:/NAME@ALIAS"),
        ("models:/@champion", "names no version"),
    ):
        with pytest.raises(ModelNotFoundError, match=message):
            locate(uri, project)


def test_a_folder_of_the_package_flavour_is_served(tiny_embedder, tmp_path):
    templates = (PromptTemplate("one", 'One word for "{text}": "'), PromptTemplate("two", "{text}"))
    tiny_embedder.strategy = replace(tiny_embedder.strategy, name="both", template=templates)
    folder = tmp_path / "packaged"
    folder.mkdir()
    write_packaged(tiny_embedder, folder)
    model = ServedModel.load(locate(str(folder), tmp_path), device="cpu")
    assert model.name == "packaged"
    np.testing.assert_allclose(model.encode(TEXTS), load_packaged(folder).encode(TEXTS), atol=1e-5)
    assert model.dimensions == model.encode(TEXTS).shape[1]
    read = [len(prompt) for template in templates for prompt in template.tokenize(TEXTS, model.embedder.tokenizer, model.max_length)]
    assert model.count_tokens(TEXTS) == np.reshape(read, (2, -1)).sum(axis=0).tolist()


def test_a_text_that_does_not_fit_is_counted_as_far_as_it_is_read(served):
    fits, too_long = served.count_tokens(["a", "drain " * 300])
    assert fits < too_long == served.max_length
    with pytest.raises(TextTooLongError, match=f"text 1 has .* the model reads {served.room}"):
        served.count_tokens(["a", "drain " * 300], truncate=False)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelNotFoundError, match="there is no folder 'nowhere'"):
        locate("nowhere", tmp_path)
    assert locate(str(tmp_path), tmp_path) == Located(tmp_path.resolve(), tmp_path.name)
