"""Data of mteb's own tasks, made on the spot in the layout they have on the Hub."""

from __future__ import annotations

import gzip
import hashlib
import json

import numpy as np
import pytest

TOPICS = ("garden", "library", "council", "water")
ARXIV, NEWS = "mteb/arxiv-clustering-p2p", "mteb/twentynewsgroups-clustering"


def _lines(rows):
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


def _clustering(sets, size, label):
    return [
        {"sentences": [f"text {s} {n} on {TOPICS[n % 4]}" for n in range(size)], "labels": [label(n) for n in range(size)]}
        for s in range(sets)
    ]


def _retrieval(*, reranking):
    corpus = [{"_id": f"d{n}", "title": "", "text": f"document {n} on {TOPICS[n % 4]}"} for n in range(12)]
    queries = [{"_id": f"q{n}", "text": f"question on {TOPICS[n]}"} for n in range(4)]
    qrels = [{"query-id": f"q{n}", "corpus-id": f"d{n}", "score": 1} for n in range(4)]
    files = {"corpus/test.jsonl.gz": _lines(corpus), "queries/test.jsonl.gz": _lines(queries), "default/test.jsonl.gz": _lines(qrels)}
    if reranking:
        ranked = [{"query-id": f"q{n}", "corpus-ids": [f"d{m}" for m in range(12)]} for n in range(4)]
        files["top_ranked/test.jsonl.gz"] = _lines(ranked)
    configs = [f"- config_name: {name.partition('/')[0]}\n  data_files:\n  - split: test\n    path: {name}\n" for name in files]
    files["README.md"] = ("---\nconfigs:\n" + "".join(configs) + "---\n").encode()
    return files


REPOSITORIES = {
    ARXIV: lambda: {"test.jsonl.gz": _lines(_clustering(4, 700, lambda n: f"{TOPICS[n % 4]}.{'ab'[n % 2]}"))},
    NEWS: lambda: {"test.jsonl.gz": _lines(_clustering(5, 300, lambda n: n % 4))},
    "mteb/emotion": lambda: {
        f"{split}.jsonl.gz": _lines([{"text": f"{split} {n} on {TOPICS[n % 4]}", "label": n % 4} for n in range(80)])
        for split in ("train", "test")
    },
    "mteb/stsbenchmark-sts": lambda: {
        "test.jsonl.gz": _lines(
            [
                {"sentence1": f"one {n} on {TOPICS[n % 4]}", "sentence2": f"two {n} on {TOPICS[n % 3]}", "score": float(n % 6)}
                for n in range(30)
            ]
        )
    },
    "mteb/twittersemeval2015-pairclassification": lambda: {
        "test.jsonl.gz": _lines(
            [{"sent1": f"one {n} on {TOPICS[n % 4]}", "sent2": f"two {n} on {TOPICS[n % 3]}", "labels": int(n % 12 < 3)} for n in range(30)]
        )
    },
    "mteb/scifact": lambda: _retrieval(reranking=False),
    "mteb/AskUbuntuDupQuestions": lambda: _retrieval(reranking=True),
}


@pytest.fixture
def repository():
    """Files of a repository by name."""
    return lambda name: REPOSITORIES[name]()


@pytest.fixture
def mirror(tmp_path):
    """A maker of mirror folders ORGANISATION/NAME/... with the given repositories."""

    def make(*names, folder="mirror"):
        root = tmp_path / folder
        for name in names:
            for file, data in REPOSITORIES[name]().items():
                path = root / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return root

    return make


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    """The data sets library keeps what it has read: here, in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def topical():
    """A source of vectors in which a text's last word says something, and chance the rest."""

    def vector(text):
        rng = np.random.default_rng(int(hashlib.md5(text.encode()).hexdigest()[:8], 16))
        return 0.8 * rng.normal(size=8) + np.eye(8)[TOPICS.index(text.split()[-1]) if text.split()[-1] in TOPICS else 7]

    return lambda texts: np.stack([vector(text) for text in texts]).astype(np.float32)


@pytest.fixture
def evaluation_options():
    """A maker of evaluation options with the given fields changed."""
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

    def make(**changes):
        values = {
            "seeds": [0, 1],
            "statistics": {"resamples": 100, "seed": 0},
            "cluster_count": {"candidates": 3, "max_documents": 50},
            "map_strategies": ["prompted_last", "prompted_last_adapted"],
        }
        return EvaluationOptions.model_validate(values | changes)

    return make
