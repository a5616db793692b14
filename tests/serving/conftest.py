"""A tiny exported model and applications that serve it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.testclient import TestClient

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.serving.model import ServedModel


@pytest.fixture(scope="session")
def served_folder(tiny_adapted: DecoderWeights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapted tiny model as a plain sentence-transformers folder."""
    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.export import write_sentence_transformer

    embedder = Embedder.load(tiny_adapted, device="cpu", dtype="float32")
    folder = tmp_path_factory.mktemp("served") / "tiny-model"
    folder.mkdir()
    write_sentence_transformer(embedder, folder, embedder.strategy)
    return folder


@pytest.fixture(scope="session")
def served(served_folder: Path) -> ServedModel:
    """That model, loaded once."""
    from embedding_adaptation.serving.model import Located, ServedModel

    return ServedModel.load(Located(served_folder, "tiny-model"), device="cpu")


@pytest.fixture
def client(served: ServedModel) -> Iterator[Callable[..., TestClient]]:
    """A maker of clients of applications with the given key and limits."""
    from starlette.testclient import TestClient

    from embedding_adaptation.serving.application import create_app
    from embedding_adaptation.serving.options import ServingOptions

    with contextlib.ExitStack() as stack:

        def make(key: str | None = None, model: object = served, **limits: object) -> TestClient:
            app = create_app(model, ServingOptions(**limits), key=key)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make
