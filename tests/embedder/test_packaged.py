from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from embedding_adaptation.embedder.after_processing import AfterSteps
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import ExportError
from embedding_adaptation.embedder.packaged import is_packaged, load_packaged, write_packaged
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

TEXTS = ["water", "the bus is late", "", "a much longer text about libraries and gardens " * 8, "water"]
FITTED_ON = [f"{word} number {row}" for row in range(8) for word in ("apple", "train", "cloud")]
ONE, TWO = PromptTemplate("one", 'This text: "{text}" means: "'), PromptTemplate("two", 'This text: "{text}" is about: "')


@pytest.fixture
def strategy(tiny_embedder):
    """What plain sentence-transformers cannot do: two templates, attention's values, after-processing of each part."""
    plain = Strategy("consensus", (ONE, TWO), "value_weighted", layers=(-1, -2), combine="concatenate")
    return replace(plain, after=tiny_embedder.fit(FITTED_ON, plain, AfterSteps(centre=0.7, dimensions=12)).after)


@pytest.fixture
def folder(tiny_adapted, strategy, tmp_path):
    embedder = Embedder.load(tiny_adapted, device="cpu", dtype="float32", max_length=64, strategy=strategy)
    (tmp_path / "packaged").mkdir()
    write_packaged(embedder, tmp_path / "packaged")
    return tmp_path / "packaged", embedder.encode(TEXTS, progress=False)


@pytest.mark.parametrize("load", [load_packaged, lambda path: SentenceTransformer(str(path), trust_remote_code=True, device="cpu")])
def test_sentence_transformers_gives_the_embedders_vectors(folder, load):
    path, expected = folder
    model = load(path)
    for batch in (1, 2, 32):
        np.testing.assert_allclose(model.encode(TEXTS, batch_size=batch), expected, atol=1e-5)
    assert model.get_embedding_dimension() == 12
    assert model.max_seq_length == 64
    np.testing.assert_allclose(model.similarity(expected, expected), expected @ expected.T, atol=1e-5)


def test_the_embedder_reads_the_folder_too(folder):
    path, expected = folder
    assert is_packaged(path)
    loaded = Embedder.load(path, device="cpu", dtype="float32")
    np.testing.assert_allclose(loaded.encode(TEXTS, progress=False), expected, atol=1e-5)


def test_it_can_be_saved_again(folder, tmp_path):
    path, expected = folder
    load_packaged(path).save(str(tmp_path / "again"))
    np.testing.assert_allclose(load_packaged(tmp_path / "again").encode(TEXTS), expected, atol=1e-5)


def test_no_code_is_trusted_unless_asked_for_and_no_second_prompt_is_taken(folder):
    path, _ = folder
    assert not [file for file in path.rglob("*") if file.suffix in {".py", ".pkl", ".bin", ".pt"}]
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        SentenceTransformer(str(path), device="cpu")
    with pytest.raises(ValueError, match="prompt 'Query: ' was given, but strategy 'consensus' has its own"):
        load_packaged(path).encode(TEXTS, prompt="Query: ")


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ExportError, match="was not written for this package; load it with SentenceTransformer"):
        load_packaged(tmp_path)
