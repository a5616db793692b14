"""Facts about an adapted model, gathered from the reports of the pipelines that trained and evaluated it."""

from __future__ import annotations

import logging
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from embedding_adaptation.embedder.base_model import is_hub_setting
from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard
from embedding_adaptation.identity import base_twin, is_of_older_format
from embedding_adaptation.options import EmbedderOptions
from embedding_adaptation.paths import project_root
from embedding_adaptation.pipelines.model_export.options import ExportOptions
from embedding_adaptation.repeatable import repeatable

logger = logging.getLogger(__name__)

_PACKAGES = ("sentence-transformers", "transformers", "peft", "torch")
_METRIC = "v_measure"
_LANGUAGE_SHARE = 0.05  # a rarer language is more likely a wrong guess


class ExportFactsError(ValueError):
    """Reports that do not belong to the model; the message says which, and what to do."""


@repeatable
def describe_model(
    adapter: DecoderWeights,
    training_report: dict[str, Any],
    evaluation_report: dict[str, Any],
    verdict: dict[str, Any],
    options: ExportOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    """Gather the facts about the exported model; scores of other weights or strategies are left out.

    Args:
        adapter: The adapted weights.
        training_report: How the adapter was trained, and on what.
        evaluation_report: Scores of base and adapted strategies; empty if nothing has been evaluated.
        verdict: Whether adaptation helped; empty if it was not judged. If it did not, the base weights are exported (``options.guard``).
        options: Export options.
        embedder_options: Templates and strategies.

    Returns:
        The facts for the model card and the model registry.

    Raises:
        ExportFactsError: If the training report belongs to another adapter.
    """
    fingerprint = adapter.fingerprint()
    version = adapter.adapter.parent.name if adapter.adapter else ""
    if is_of_older_format(training_report["adapter"]):
        msg = (
            "the training report was written by an earlier version, which named adapters differently; recreate it with "
            "'kedro run --nodes=describe_training_node'"
        )
        raise ExportFactsError(msg)
    if training_report["adapter"] != fingerprint:
        msg = (
            f"the training report does not belong to the adapter of version {version!r}; load matching versions with "
            "--load-versions=adapter:VERSION,training_report:VERSION, or run contrastive_finetuning again"
        )
        raise ExportFactsError(msg)
    wanted = options.strategy_name(embedder_options)
    known = verdict if verdict.get("adapter") == fingerprint else {}
    if verdict and not known:
        logger.warning("the verdict is about another adapter and does not count; run adaptation_verdict for this one")
    by_label = _scores(fingerprint, evaluation_report, wanted, wanted, embedder_options)
    name, chosen_by = exported_name(wanted, known, by_label, options, embedder_options)
    strategy = embedder_options.every_strategy[name]
    patterns = [embedder_options.template(template).pattern for template in strategy.template]
    base = adapter.card
    licence = options.licence or base.licence
    trained, data = training_report["trained"], training_report["data"]
    generators = {generator: counts | {"models": _public_names(counts["models"])} for generator, counts in data["generators"].items()}
    scores = (
        by_label if name == wanted or not evaluation_report else _scores(fingerprint, evaluation_report, name, wanted, embedder_options)
    )
    return {
        "title": options.title,
        "summary": _summary(public_name(base.source), training_report, is_base=strategy.weights == "base"),
        "flavour": options.flavour,
        "intended_use": options.intended_use,
        "languages": list(options.languages) if options.languages is not None else _languages(training_report),
        "licence": licence,
        "base_model": {
            "name": public_name(base.source),
            "hub_id": hub_id(base),
            "revision": base.revision,
            "licence": base.licence,
            "sha256": base.sha256,
            "architecture": base.architecture,
            "parameters": base.parameters,
        },
        "fingerprint": fingerprint if strategy.weights == "adapted" else DecoderWeights(adapter.base, adapter.card).fingerprint(),
        "adapter": {
            "version": version,
            "fingerprint": fingerprint,
            "kept": known.get("kept", 1.0),
            "step": trained["step"],
            "last_step": trained["last_step"],
        },
        "strategy": {
            "name": name,
            "weights": strategy.weights,
            "template": patterns[0] if len(patterns) == 1 else patterns,
            "pooling": strategy.pooling,
            "after": strategy.after.title,
            "normalise": strategy.normalise,
            "max_length": embedder_options.max_length,
            "dtype": options.dtype,
            "as_trained": ([trained["template"]], trained["pooling"]) == (patterns, strategy.pooling),
        },
        "training": {key: training_report[key] for key in ("corpus", "options", "history", "cost")}
        | {"data": data | {"generators": generators}},
        "verdict": known or None,
        "chosen_by": chosen_by,
        "evaluation": scores,
        "made_with": {package: metadata.version(package).partition("+")[0] for package in _PACKAGES},
    }


def exported_name(
    wanted: str, verdict: dict[str, Any], scores: dict[str, Any] | None, options: ExportOptions, embedder_options: EmbedderOptions
) -> tuple[str, str | None]:
    """The strategy to export: the one wanted, or its counterpart with base weights if adaptation was not found to help.

    A person's answers decide; without any, labelled texts on which both were scored; without these, what was measured without labels.

    Args:
        wanted: Name of the adapted strategy.
        verdict: The verdict on this adapter; empty if it was not judged.
        scores: Scores of the strategy and its counterpart on labelled texts, if there are any.
        options: Whether anything of this counts.
        embedder_options: The strategies.

    Returns:
        Its name, and what decided: ``answers``, ``labels`` or ``agreement``; ``None`` if nothing did.
    """
    if not options.guard:
        return wanted, None
    decided_by, helps = None, True
    after, before = (scores[side].get(_METRIC) if scores and scores[side] else None for side in ("adapted", "base"))
    if verdict.get("decided_by") == "answers":
        decided_by, helps = "answers", verdict["ship"] == "adapted"
    elif after is not None and before is not None:
        decided_by, helps = "labels", after["mean"] >= before["mean"]
    elif verdict:
        decided_by, helps = "agreement", verdict["ship"] == "adapted"
    if helps:
        return wanted, decided_by
    twin = embedder_options.base_twin(wanted, embedder_options.every_strategy)
    if twin is None:
        logger.warning(
            "adaptation was not found to help, and yet %r is exported: there is no such strategy of the base weights; add one to "
            "embedder.strategies, or set model_export.guard to false",
            wanted,
        )
        return wanted, None
    logger.warning("adaptation was not found to help (by %s), so %r of the base weights is exported (model_export.guard)", decided_by, twin)
    return twin, decided_by


def _summary(base: str, training: dict[str, Any], *, is_base: bool) -> str:
    """The model in one line."""
    if is_base:
        return f"{base} with a prompt; adaptation was tried and not found to help"
    if training["options"].get("loss") == "consensus":
        return f"{base} adapted to a corpus by distilling what several of its prompts and the texts' words agree on"
    return f"{base} adapted by contrastive fine-tuning on {training['data']['training_pairs']:,} pairs of texts"


def public_name(source: str) -> str:
    """The public name of a base model; for a path, only its last part, which reveals nothing about the machine."""
    if source.startswith(("package:", "random:")) or is_hub_setting(source, relative_to=project_root()):
        return source.partition("#sha256=")[0].partition("@")[0]
    return Path(source.partition("#sha256=")[0]).name


def _public_names(models: list[str]) -> list[str]:
    """The public names of the models that wrote pairs; back-translation uses two."""
    return sorted({" + ".join(public_name(part) for part in model.split(" + ")) for model in models})


def hub_id(card: ModelCard) -> str | None:
    """The Hub repository of a base model, if it comes from the Hub."""
    is_pinned = re.fullmatch(r"[0-9a-f]{40}", card.revision) is not None
    return card.source.partition("@")[0] if is_pinned and is_hub_setting(card.source, relative_to=project_root()) else None


def _scores(
    fingerprint: str, evaluation: dict[str, Any], name: str, wanted: str, embedder_options: EmbedderOptions
) -> dict[str, Any] | None:
    """The scores of the exported strategy, its counterpart and random vectors; ``None`` without scores of this model.

    The counterpart has the base weights or, where these are exported (``name`` is not ``wanted``), the adapted ones. The best of all
    strategies is named, too.
    """
    if not evaluation:
        logger.info("there is no evaluation_report, so the model card has no scores; run clustering_evaluation to get them")
        return None
    if is_of_older_format(evaluation["weights"]["adapted"]):
        logger.warning("the evaluation_report was written by an earlier version, which named adapters differently, so the model card has "
                       "no scores; run embedding_extraction and clustering_evaluation again")  # fmt: skip
        return None
    if evaluation["weights"]["adapted"] != fingerprint:
        logger.info("the evaluation_report belongs to another adapter, so the model card has no scores; run embedding_extraction and "
                       "clustering_evaluation for this one")  # fmt: skip
        return None
    strategies = evaluation["strategies"]
    definition = embedder_options.definition(name)
    if name not in strategies or strategies[name]["definition"] != definition:
        logger.warning("the evaluation_report does not include the current strategy %r, so the model card has no scores", name)
        return None
    twin = base_twin(name, {other: entry["definition"] for other, entry in strategies.items()})
    rejected = strategies[wanted]["scores"] if wanted != name and wanted in strategies else None
    best = max(strategies, key=lambda other: strategies[other]["scores"].get(_METRIC, {}).get("mean", -1.0))
    return {
        "rejected": rejected,
        "best": {"strategy": best, **strategies[best]["scores"].get(_METRIC, {}), "scores": strategies[best]["scores"]},
        "data": evaluation["data"],
        "protocol": evaluation["protocol"],
        "versions": evaluation["versions"],
        "adapted": strategies[name]["scores"],
        "base": strategies[twin]["scores"] if twin else None,
        "random": evaluation["random"],
    }


def _languages(training: dict[str, Any]) -> list[str]:
    counts = training["data"]["languages"]
    total = sum(counts.values())
    return [language for language, count in counts.items() if count >= _LANGUAGE_SHARE * total]
