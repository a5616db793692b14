"""The report on an adapter's data, options and training, for its model card."""

from __future__ import annotations

from typing import Any

import pandas as pd

from embedding_adaptation.datasets.adapter import adapter_corpus, read_adapter_card
from embedding_adaptation.embedder.weights import DecoderWeights
from embedding_adaptation.identity import CorpusIdentity
from embedding_adaptation.pipelines.contrastive_finetuning.options import FinetuningOptions

_COSTS = ("seconds", "pairs", "texts", "tokens", "operations", "joules")
_GENERATOR, _MODEL, _LANGUAGE, _CORPUS = "generator", "model", "source_language", "corpus"


def describe_training(
    adapter: DecoderWeights,
    train_pairs: pd.DataFrame,
    validation_pairs: pd.DataFrame,
    training_history: pd.DataFrame,
    corpus_report: dict[str, Any],
    options: FinetuningOptions,
) -> dict[str, Any]:
    """Report what the adapter was trained on and how: counts, names and options, but no texts.

    Args:
        adapter: The trained adapter.
        train_pairs: The pairs it learned from.
        validation_pairs: Held-out pairs.
        training_history: One row per step.
        corpus_report: The report on the corpus the pairs come from; empty where there is none.
        options: Fine-tuning options.

    Returns:
        The report, which names the adapter by its fingerprint.
    """
    card = read_adapter_card(adapter)
    return {
        "adapter": adapter.fingerprint(),
        "trained": {
            "step": int(card["steps"]),
            "last_step": int(training_history["step"].max()),
            "template": card["template"],
            "pooling": card["pooling"],
            "max_length": card["max_length"],
        },
        "corpus": _corpus(adapter, corpus_report),
        "data": {
            "training_pairs": len(train_pairs),
            "held_out_pairs": len(validation_pairs),
            "texts": int(train_pairs["source_id"].nunique()),
            "generators": _generators(train_pairs),
            "languages": _languages(train_pairs),
            "collision_rate": card.get("collision_rate"),
        },
        "options": options.model_dump(mode="json"),
        "history": _history(training_history, int(card["steps"])),
        "cost": {name: round(total, 1) for name, total in _costs(training_history).items()},
    }


def _costs(history: pd.DataFrame) -> dict[str, float]:
    """Running totals after the last step; those that were not measured are left out."""
    return {name: float(history[name].max()) for name in _COSTS if name in history and history[name].notna().any()}


def corpus_of(pairs: pd.DataFrame, report: dict[str, Any]) -> CorpusIdentity | None:
    """The corpus that pairs come from.

    Args:
        pairs: Pairs, with the identity of their corpus in the column ``corpus``.
        report: The report on a corpus; its name and counts are used if it is the same one.

    Returns:
        The corpus; ``None`` if the pairs do not say, or come from several.
    """
    named = set(pairs[_CORPUS].dropna()) - {""} if _CORPUS in pairs else set()
    if len(named) != 1:
        return None
    (clean,) = named
    identity = report.get("identity", {})
    if identity.get("clean") != clean:
        return CorpusIdentity("", 0, clean)
    return CorpusIdentity(str(report.get("corpus", "")), int(report["kept"]), clean, identity["raw"])


def _corpus(adapter: DecoderWeights, report: dict[str, Any]) -> dict[str, Any] | None:
    """Name, counts and identity of the corpus the adapter was trained on; pairs of the user's own come from elsewhere."""
    corpus = adapter_corpus(adapter)
    if corpus is None or not corpus.texts:
        return None
    is_reported = report.get("identity", {}).get("clean") == corpus.clean
    return {
        "name": corpus.name,
        "texts": int(report["texts"]) if is_reported else None,
        "kept": corpus.texts,
        "identity": {"clean": corpus.clean, "raw": corpus.raw},
    }


def _generators(pairs: pd.DataFrame) -> dict[str, Any]:
    if _GENERATOR not in pairs:
        return {}
    summary = {}
    for name, group in pairs.groupby(_GENERATOR):
        models = sorted({str(model) for model in group[_MODEL].dropna() if model}) if _MODEL in group else []
        summary[str(name)] = {"pairs": len(group), "models": models}
    return summary


def _languages(pairs: pd.DataFrame) -> dict[str, int]:
    """Pairs per language, the most frequent first, if the filters identified languages."""
    if _LANGUAGE not in pairs:
        return {}
    told = pairs[_LANGUAGE].dropna()
    return {str(language): int(count) for language, count in told[told != ""].value_counts().items()}


def _history(history: pd.DataFrame, step: int) -> dict[str, dict[str, float]]:
    """Each measure on held-out pairs, before the first step and at the step kept."""
    until = history[history["step"] <= step]
    measures = {}
    for column in until.select_dtypes("number").columns.drop(["step", "seconds"], errors="ignore"):
        values = until[column].dropna()
        if len(values) and column != "train_loss":
            measures[str(column)] = {"before": round(float(values.iloc[0]), 5), "after": round(float(values.iloc[-1]), 5)}
    return measures
