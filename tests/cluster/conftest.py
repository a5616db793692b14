from __future__ import annotations

import pytest

from embedding_adaptation.cluster.settings import ClusterSettings
from embedding_adaptation.cluster.worker import EncodingJob
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate
from pipelines.contrastive_finetuning.conftest import corpus, job_of, pairs

__all__ = ["corpus", "job_of", "pairs"]

BARE = Strategy("bare", PromptTemplate("bare", "{text}"), "mean")


@pytest.fixture
def settings(tmp_path):
    return ClusterSettings(tmp_path / "blocks", workers=2, min_texts=10, block_texts=8)


@pytest.fixture
def job(tiny_weights, tiny_embedder):
    """What workers are told to embed with the tiny model under one strategy."""
    return EncodingJob(tiny_weights, {"vector": BARE}, {"vector": tiny_embedder.vectors_identity(BARE)}, "cpu", "float32", 64, None, 1)
