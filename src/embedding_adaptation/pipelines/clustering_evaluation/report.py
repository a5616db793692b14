"""What was scored, on what and how: whether scores of two runs can be compared follows from this."""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from embedding_adaptation.options import RANDOM_STRATEGY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.clustering_evaluation.options import EvaluationOptions

PROTOCOL = "mteb fast clustering"


def evaluation_report(
    scores: pd.DataFrame,
    metrics: Sequence[str],
    weights: Mapping[str, str],
    labelled_texts: pd.DataFrame,
    options: EvaluationOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    """The report; see :func:`~embedding_adaptation.pipelines.clustering_evaluation.nodes.describe_evaluation`."""
    every = embedder_options.every_strategy
    by_name = {str(name): _summary(group, metrics) for name, group in scores.groupby("strategy")}
    return {
        "weights": dict(weights),
        "data": {
            "name": str(labelled_texts.attrs.get("name", "")),
            "texts": len(labelled_texts),
            "labels": int(labelled_texts["label"].nunique()),
            "fingerprint": data_fingerprint(labelled_texts),
        },
        "protocol": {"name": PROTOCOL, "seeds": list(options.seeds), "max_documents": options.max_documents},
        "versions": {"mteb": metadata.version("mteb")},
        "strategies": {
            name: {"definition": embedder_options.definition(name), "scores": found} for name, found in by_name.items() if name in every
        },
        "random": by_name.get(RANDOM_STRATEGY),
    }


def data_fingerprint(labelled_texts: pd.DataFrame) -> str:
    """A hash of texts and labels in their order: the order decides what a seed draws."""
    digest = hashlib.sha256()
    for text, label in zip(labelled_texts["text"], labelled_texts["label"], strict=True):
        for part in (str(text), str(label)):
            encoded = part.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _summary(rows: pd.DataFrame, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        metric: {
            "mean": round(float(rows[metric].mean()), 6),
            "sd": round(float(rows[metric].std(ddof=1)), 6) if len(rows) > 1 else 0.0,
        }
        for metric in metrics
        if metric in rows
    }
