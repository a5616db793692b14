"""What is known of an adapted model, gathered from the reports of the pipelines that made and scored it."""

from __future__ import annotations

import logging
import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_adaptation.embedder.base_model import is_hub_setting
from embedding_adaptation.paths import project_root

if TYPE_CHECKING:
    from embedding_adaptation.embedder.weights import DecoderWeights, ModelCard
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.model_export.options import ExportOptions

logger = logging.getLogger(__name__)

_PACKAGES = ("sentence-transformers", "transformers", "peft", "torch")
_LANGUAGE_SHARE = 0.05  # what is rarer is more often a wrong guess than a language


class ExportFactsError(ValueError):
    """Reports that do not belong to the model; the message says which, and what to do."""


def gather_facts(
    adapter: DecoderWeights,
    training: dict[str, Any],
    evaluation: dict[str, Any],
    options: ExportOptions,
    embedder_options: EmbedderOptions,
) -> dict[str, Any]:
    """Gather the facts; see :func:`~embedding_adaptation.pipelines.model_export.nodes.describe_model`.

    Only names, counts, options and scores go in, no text of a corpus: the facts travel with the model.
    """
    fingerprint = adapter.fingerprint()
    version = adapter.adapter.parent.name if adapter.adapter else ""
    if training["adapter"] != fingerprint:
        msg = (
            f"the training report is not that of the adapter of version {version!r}: name the version of both, "
            "--load-versions=adapter:VERSION,training_report:VERSION, or run contrastive_finetuning again"
        )
        raise ExportFactsError(msg)
    name = options.chosen(embedder_options)
    strategy = embedder_options.every_strategy[name]
    template = embedder_options.template(strategy.template[0])
    base = adapter.card
    licence = options.licence or base.licence
    trained, data = training["trained"], training["data"]
    generators = {maker: found | {"models": _public_names(found["models"])} for maker, found in data["generators"].items()}
    scores = _scores(fingerprint, evaluation, name, embedder_options)
    return {
        "title": options.title,
        "summary": f"{public_name(base.source)} adapted by contrastive fine-tuning on {data['training_pairs']:,} pairs of texts",
        "intended_use": options.intended_use,
        "languages": list(options.languages) if options.languages is not None else _languages(training),
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
        "adapter": {"version": version, "fingerprint": fingerprint, "step": trained["step"], "last_step": trained["last_step"]},
        "strategy": {
            "name": name,
            "template": template.pattern,
            "pooling": strategy.pooling,
            "normalise": strategy.normalise,
            "max_length": embedder_options.max_length,
            "dtype": options.dtype,
            "as_trained": (template.pattern, strategy.pooling) == (trained["template"], trained["pooling"]),
        },
        "training": {key: training[key] for key in ("corpus", "options", "history", "cost")} | {"data": data | {"generators": generators}},
        "evaluation": scores,
        "made_with": {package: metadata.version(package).partition("+")[0] for package in _PACKAGES},
    }


def public_name(source: str) -> str:
    """How a base model's setting is named to others: of a path only the last part, which says nothing about the machine."""
    if source.startswith(("package:", "random:")) or is_hub_setting(source, relative_to=project_root()):
        return source.partition("#sha256=")[0].partition("@")[0]
    return Path(source.partition("#sha256=")[0]).name


def _public_names(models: list[str]) -> list[str]:
    """Likewise for the models behind pairs; translation takes two, there and back."""
    return sorted({" + ".join(public_name(part) for part in model.split(" + ")) for model in models})


def hub_id(card: ModelCard) -> str | None:
    """The Hub repository a base model came from, if it came from one."""
    is_pinned = re.fullmatch(r"[0-9a-f]{40}", card.revision) is not None
    return card.source.partition("@")[0] if is_pinned and is_hub_setting(card.source, relative_to=project_root()) else None


def _scores(fingerprint: str, evaluation: dict[str, Any], name: str, embedder_options: EmbedderOptions) -> dict[str, Any] | None:
    """The scores of the exported strategy, its twin with base weights and random vectors; ``None`` where there are none of this model."""
    if not evaluation:
        logger.info("no evaluation_report yet: the model card says that the model has not been scored (clustering_evaluation scores it)")
        return None
    if evaluation["weights"]["adapted"] != fingerprint:
        logger.warning("the evaluation_report is of another adapter, so its scores are left out; run embedding_extraction and "
                       "clustering_evaluation for this one")  # fmt: skip
        return None
    found = evaluation["strategies"]
    wanted = embedder_options.definition(name)
    if name not in found or found[name]["definition"] != wanted:
        logger.warning("the evaluation_report does not hold strategy %r as it is now, so the model card has no scores", name)
        return None
    twin = next((other for other, entry in found.items() if entry["definition"] == wanted | {"weights": "base"}), None)
    return {
        "data": evaluation["data"],
        "protocol": evaluation["protocol"],
        "versions": evaluation["versions"],
        "adapted": found[name]["scores"],
        "base": found[twin]["scores"] if twin else None,
        "random": evaluation["random"],
    }


def _languages(training: dict[str, Any]) -> list[str]:
    counts = training["data"]["languages"]
    total = sum(counts.values())
    return [language for language, count in counts.items() if count >= _LANGUAGE_SHARE * total]
