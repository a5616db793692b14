"""The Hub path of base models, against a local server that speaks the Hub's protocol."""

from __future__ import annotations

import numpy as np
import pytest

from embedding_adaptation.embedder.export import export_sentence_transformer
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import json, sys, tempfile
from pathlib import Path
from embedding_adaptation.embedder.base_model import BaseModelError, check_source, convert
try:
    source = check_source(sys.argv[1])
    target = Path(tempfile.mkdtemp())
    card = convert(source, target)
    print(json.dumps({"revision": card.revision, "licence": card.licence, "parameters": card.parameters, "sha256": card.sha256}))
except BaseModelError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub(serve_hub, tiny_weights):
    """A Hub with one repository, the tiny model."""
    files = {path.name: path.read_bytes() for path in tiny_weights.base.iterdir() if path.name != "card.json"}
    return serve_hub("models", "team/tiny", files, COMMIT)


@pytest.fixture
def resolve(ask_hub):
    """Resolves a setting of the base model."""
    return lambda setting, endpoint, cache, **changes: ask_hub(SCRIPT, endpoint, cache, setting, **changes)


@pytest.mark.slow
def test_a_repository_is_pinned_to_its_commit_and_stays_usable_offline(resolve, hub, tmp_path, tiny_weights):
    card = resolve("team/tiny@main", hub, tmp_path)
    assert card["revision"] == COMMIT
    assert card["licence"] == "mit"
    assert card["parameters"] == tiny_weights.card.parameters
    offline = resolve("team/tiny@main", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline["sha256"] == card["sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("team/other", "neither a local path nor a Hub repository that you have access to"),
        ("team/tiny@nowhere", "no revision 'nowhere'"),
        ("gated/model", "accept its terms on the Hub and log in"),
    ],
)
def test_what_the_hub_refuses_is_explained(resolve, hub, tmp_path, setting, message):
    assert message in resolve(setting, hub, tmp_path)["error"]


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_explained(resolve, tmp_path):
    error = resolve("team/tiny", "http://127.0.0.1:9", tmp_path)["error"]
    assert "does not answer" in error
    assert "set base_model to a local folder or GGUF file" in error


LOAD = """
import json, sys
from embedding_adaptation.embedder.base_model import BaseModelError
from embedding_adaptation.embedder.embedder import Embedder
try:
    embedder = Embedder.load(sys.argv[1], device="cpu", dtype="float32")
    print(json.dumps({"strategy": embedder.strategy.name, "vectors": embedder.encode(["a text", ""], progress=False).tolist()}))
except BaseModelError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.mark.slow
def test_an_exported_model_on_the_hub_is_loaded_with_its_prompt_put_once(serve_hub, ask_hub, tiny_embedder, tmp_path):
    strategy = Strategy("mine", PromptTemplate("about", 'about "{text}": "'), "last")
    export_sentence_transformer(tiny_embedder, tmp_path / "model", strategy)
    files = {str(path.relative_to(tmp_path / "model")): path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    found = ask_hub(LOAD, serve_hub("models", "team/mine", files, COMMIT), tmp_path / "cache", "team/mine")
    assert found["strategy"] == "mine"
    np.testing.assert_allclose(found["vectors"], tiny_embedder.encode(["a text", ""], strategy, progress=False), atol=1e-5)
    del files["embedder.json"]
    found = ask_hub(LOAD, serve_hub("models", "team/mine", files, COMMIT), tmp_path / "cache2", "team/mine")
    assert "is a sentence-transformers model without embedder.json" in found["error"]
