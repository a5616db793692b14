"""The model card: a README with the Hub's front matter, written entirely from facts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Folder name in the card's example, under which the catalog saves the model.
FOLDER = "adapted_embedder"
EXAMPLE_TEXTS = ("Where can I turn off the water?", "The stopcock is under the sink.", "The last bus leaves at ten.")
# The Hub's identifiers of licences for software and data; others are given as "other" with their name.
# Reference: https://huggingface.co/docs/hub/repositories-licenses
_HUB_LICENCES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "cc", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "deepfloyd-if-license", "ecl-2.0", "epl-2.0", "gemma", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-3.0", "llama2", "llama3",
    "llama3.1", "llama3.2", "llama3.3", "llama4", "mit", "mpl-2.0", "openrail", "osl-3.0", "unknown", "unlicense", "zlib",
})  # fmt: skip
# Poolings that inference servers support, too.
_SERVED_POOLINGS = frozenset({"last", "eos", "mean"})
_METRIC = "v_measure"
_METRIC_TITLES = {"v_measure": "V-measure", "v_measure_unique": "V-measure (unique texts)", "ami_unique": "AMI (unique texts)"}


def model_card(facts: Mapping[str, Any]) -> str:
    """Write the card.

    Args:
        facts: What :func:`~embedding_adaptation.pipelines.model_export.facts.describe_model` returns, with ``dimensions`` and
            ``older_versions``.

    Returns:
        YAML front matter for the Hub, and Markdown, without any text from a corpus.
    """
    parts = (_introduction, _use, _model, _data, _training, _scores, _limits, _licence)
    lines = [line for part in parts for line in (*part(facts), "")]
    return f"---\n{front_matter(facts)}\n---\n\n" + "\n".join(lines).rstrip() + "\n"


def front_matter(facts: Mapping[str, Any]) -> str:
    """The YAML between the card's dashes."""
    evaluation = facts["evaluation"]
    results = [
        EvalResult(
            task_type="clustering",
            task_name="Clustering",
            dataset_type="labelled-texts",
            dataset_name=evaluation["data"]["name"] or "labelled texts",
            metric_type=metric,
            metric_name=f"{_title(metric)}, mean of {len(evaluation['protocol']['seeds'])} seeds",
            metric_value=score["mean"],
        )
        for metric, score in (evaluation["adapted"] if evaluation else {}).items()
    ]
    licence = hub_licence(facts["licence"])
    base = facts["base_model"]["hub_id"]
    data = ModelCardData(
        language=facts["languages"] or None,
        license=licence,
        license_name=_slug(facts["licence"]) if licence == "other" else None,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction", "clustering"],
        base_model=base,
        base_model_relation="finetune" if base else None,
        model_name=facts["title"] if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def hub_licence(licence: str) -> str:
    """The Hub's identifier of a licence, or ``other``."""
    known = licence.strip().lower().replace(" ", "-")
    return known if known in _HUB_LICENCES else "other"


def _introduction(facts: Mapping[str, Any]) -> Iterator[str]:
    base = facts["base_model"]
    yield f"# {facts['title']}"
    yield ""
    adapted = (
        "and adapted by contrastive fine-tuning with LoRA, following [arXiv 2507.22729](https://arxiv.org/abs/2507.22729). The adapter is "
        "merged into the weights."
        if _is_adapted(facts)
        else "with its own weights: fine-tuning them was tried and not found to help (see [Training](#training))."
    )
    yield (
        f"A text embedding model: {base['name']} ({_count(base['parameters'])} parameters), used with a prompt {adapted} A text becomes a "
        f"vector of {facts['dimensions']} dimensions" + (", of unit length." if facts["strategy"]["normalise"] else ".")
    )
    yield ""
    yield "## Intended use"
    yield ""
    yield facts["intended_use"] or (
        "Clustering, semantic similarity and search over texts like those it was adapted to (see [Data](#data)). Compare texts by cosine "
        "similarity."
    )
    languages = ", ".join(facts["languages"])
    yield ""
    yield f"Languages: {languages}." if languages else "Languages: those of the base model; those of the training pairs are not known."


def _use(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "## How to use it"
    yield ""
    if _is_packaged(facts):
        yield from _use_with_this_package(facts)
        return
    versions = "versions 4.1 to 6 give the same vectors" if facts["older_versions"] else "version 5.4 or later on transformers 5 is needed"
    yield f"With [sentence-transformers](https://www.sbert.net) alone ({versions}); no other package and no remote code are needed."
    yield ""
    yield "```python"
    yield "from sentence_transformers import SentenceTransformer"
    yield ""
    yield f'model = SentenceTransformer("{FOLDER}")  # this folder, wherever it is'
    yield f"texts = {json.dumps(EXAMPLE_TEXTS)}"
    yield f"vectors = model.encode(texts)  # [{len(EXAMPLE_TEXTS)}, {facts['dimensions']}]"
    yield f"similarities = model.similarity(vectors, vectors)  # [{len(EXAMPLE_TEXTS)}, {len(EXAMPLE_TEXTS)}]"
    yield "```"
    yield ""
    yield "Pass plain texts: the tokenizer puts the prompt around each of them, and if one is too long, cuts only the text." + (
        " Before version 5.4, sentence-transformers strips white space from both ends of a text first." if facts["older_versions"] else ""
    )
    yield ""
    if facts["strategy"].get("after"):
        yield (
            f"The vectors end with a linear map (a Dense module, {facts['strategy']['after']}). text-embeddings-inference "
            "applies such modules; check whether your version of another server does before you use it."
        )
    elif facts["strategy"]["pooling"] in _SERVED_POOLINGS:
        yield (
            "text-embeddings-inference and vLLM find pooling, normalisation and length in the folder; check whether they support its "
            f"architecture (`{facts['base_model']['architecture']}`)."
        )
    else:
        yield (
            f"text-embeddings-inference and vLLM do not support its pooling (`{facts['strategy']['pooling']}`): do not serve it with them."
        )


def _use_with_this_package(facts: Mapping[str, Any]) -> Iterator[str]:
    yield "With the package `embedding-adaptation` installed; no remote code is needed."
    yield ""
    yield "```python"
    yield "from embedding_adaptation import Embedder"
    yield ""
    yield f'embedder = Embedder.load("{FOLDER}", dtype="float32")  # this folder, wherever it is'
    yield f"vectors = embedder.encode({json.dumps(EXAMPLE_TEXTS)})  # [{len(EXAMPLE_TEXTS)}, {facts['dimensions']}]"
    yield "```"
    yield ""
    yield (
        "As a sentence-transformers model: `embedding_adaptation.embedder.packaged.load_packaged(folder)`, or "
        "`SentenceTransformer(folder, trust_remote_code=True)`, which asks for this flag for the classes of any other package."
    )


def _is_packaged(facts: Mapping[str, Any]) -> bool:
    return facts.get("flavour") == "package"


def _patterns(facts: Mapping[str, Any]) -> list[str]:
    template = facts["strategy"]["template"]
    return [template] if isinstance(template, str) else list(template)


def _model(facts: Mapping[str, Any]) -> Iterator[str]:
    base, strategy = facts["base_model"], facts["strategy"]
    yield "## Model"
    yield ""
    yield from _table(
        {
            "base model": _linked(base),
            "base model's revision": f"`{base['revision']}`" if base["revision"] else "not known",
            "base model's weights, sha256": f"`{base['sha256']}`",
            "architecture": base["architecture"],
            "prompt": ", ".join(f"`{pattern}`" for pattern in _patterns(facts)),
            "pooling": strategy["pooling"],
            "after-processing": strategy.get("after") or "none",
            "dimensions": facts["dimensions"],
            "longest sequence": f"{strategy['max_length']} tokens, prompt included",
            "number format": strategy["dtype"],
            "adapter": _adapter_line(facts) if _is_adapted(facts) else "none",
        }
    )


def _is_adapted(facts: Mapping[str, Any]) -> bool:
    return bool(facts["strategy"].get("weights", "adapted") == "adapted")


def _adapter_line(facts: Mapping[str, Any]) -> str:
    adapter = facts["adapter"]
    kept = f", {adapter['kept']:g} of it kept" if adapter.get("kept", 1.0) != 1 else ""
    return f"version {adapter['version'] or 'not known'}, step {adapter['step']}{kept}"


def _data(facts: Mapping[str, Any]) -> Iterator[str]:
    training = facts["training"]
    data, corpus = training["data"], training["corpus"]
    yield "## Data"
    yield ""
    if corpus:
        texts = (
            f"{corpus['texts']:,} texts, of which {corpus['kept']:,} were used" if corpus["texts"] else f"{corpus['kept']:,} clean texts"
        )
        yield f"Unlabelled corpus `{corpus['name'] or 'without a name'}`: {texts}."
    else:
        yield "The user's own pairs; their origin is not recorded."
    yield (
        f"{_lessons(training)}{data['training_pairs']:,} positive pairs from {data['texts']:,} texts; {data['held_out_pairs']:,} "
        "pairs from other texts were held out. No labels were used in training."
    )
    if data.get("collision_rate") is not None:
        yield f"Two texts drawn at random are of one kind with an estimated chance of {data['collision_rate']:.2f}."
    if data["generators"]:
        yield ""
        yield "| generator | pairs | model |"
        yield "|---|---|---|"
        for name, generator in data["generators"].items():
            yield f"| {name} | {generator['pairs']:,} | {', '.join(generator['models']) or 'none'} |"


def _training(facts: Mapping[str, Any]) -> Iterator[str]:
    training, adapter = facts["training"], facts["adapter"]
    yield "## Training"
    yield ""
    if facts.get("verdict"):
        yield facts["verdict"]["sentence"]
        yield ""
    if facts.get("chosen_by") == "labels":
        yield "Whether to use these weights or those of the base model was decided by the labelled texts (see [Scores](#scores))."
        yield ""
    if not _is_adapted(facts):
        yield "So these weights are not used here:"
        yield ""
    duration = f" in {seconds / 60:,.1f} minutes" if (seconds := training["cost"].get("seconds")) else ""
    yield (
        f"{_loss(training['options'])}, trained for {adapter['last_step']} steps{duration}; the weights are those of step "
        f"{adapter['step']}."
    )
    if training["history"]:
        yield ""
        yield f"| on held-out pairs | before | at step {adapter['step']} |"
        yield "|---|---|---|"
        for name, values in training["history"].items():
            yield f"| {name.replace('_', ' ')} | {values['before']:.4f} | {values['after']:.4f} |"
    yield ""
    yield "Options:"
    yield ""
    yield "```json"
    yield json.dumps(training["options"], indent=2)
    yield "```"
    yield ""
    yield "Made with " + ", ".join(f"{name} {version}" for name, version in facts["made_with"].items()) + "."


def _loss(options: Mapping[str, Any]) -> str:
    """The loss in words."""
    if options.get("loss") == "consensus":
        return "LoRA, trained to give texts the similarities on which several prompts of the base model and the texts' words agree"
    return "LoRA with in-batch negatives (InfoNCE)"


def _lessons(training: Mapping[str, Any]) -> str:
    """What it learned from besides pairs, up to their number."""
    options = training["options"]
    if options.get("loss") != "consensus":
        return "The model was trained on "
    return f"The model learned from at most {options['consensus']['texts']:,} of these texts as they are. Besides, there were "


def _scores(facts: Mapping[str, Any]) -> Iterator[str]:
    evaluation = facts["evaluation"]
    yield "## Scores"
    yield ""
    if not evaluation:
        yield "This version has not been evaluated on labelled texts."
        return
    data, protocol = evaluation["data"], evaluation["protocol"]
    drawn = f", {protocol['max_documents']:,} of them drawn per seed" if protocol["max_documents"] else ""
    yield (
        f"Clustering of {data['texts']:,} labelled texts in {data['labels']:,} classes (`{data['name'] or 'labelled texts'}`{drawn}), mean "
        f"± standard deviation over {len(protocol['seeds'])} clustering seeds, from a single training run. V-measure follows mteb's fast "
        "clustering protocol; *unique* counts each text once."
    )
    columns = {
        "random vectors": evaluation["random"],
        "before": evaluation["base"],
        "this model": evaluation["adapted"],
        "fine-tuned": evaluation.get("rejected"),
    }
    columns = {name: scores for name, scores in columns.items() if scores}
    yield ""
    yield "| | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for metric in evaluation["adapted"]:
        cells = (f"{scores[metric]['mean']:.3f} ± {scores[metric]['sd']:.3f}" if metric in scores else "" for scores in columns.values())
        yield f"| {_title(metric)} | " + " | ".join(cells) + " |"
    best = evaluation.get("best")
    if best and best["strategy"] != facts["strategy"]["name"]:
        yield ""
        yield f"Best of all strategies compared: {best['strategy']}, {_title(_METRIC)} {best['mean']:.3f}."
    if evaluation["base"]:
        yield ""
        yield "*Before* is the base model with the same prompt and pooling."


def _limits(facts: Mapping[str, Any]) -> Iterator[str]:
    strategy = facts["strategy"]
    yield "## Limits"
    yield ""
    yield "- It was adapted to one corpus: on other texts it may be worse than the base model. Evaluate it on your own texts before use."
    if not facts["evaluation"]:
        yield "- It has not been evaluated, so it is not known whether adaptation improved it."
    else:
        yield "- The spread above comes from clustering, not from training; differences of that size mean nothing."
    yield f"- Texts are cut after about {strategy['max_length']} tokens minus those of the prompt."
    yield "- It inherits what the base model learned, including biases. Vectors can reveal what texts are about: protect them as well."
    if not strategy["as_trained"]:
        yield "- The adapter was trained with a different prompt or pooling from the one used here."
    if any(pattern.startswith("{text}") for pattern in _patterns(facts)):
        yield "- The vector of an empty text has no meaning: leave empty texts out."
    if strategy["pooling"] == "last":
        yield "- The vector is that of the last token, so it depends on the prompt: do not change the tokenizer."


def _licence(facts: Mapping[str, Any]) -> Iterator[str]:
    base = facts["base_model"]
    yield "## Licence"
    yield ""
    licence = facts["licence"] if facts["licence"] != "unknown" else "Unknown; find out before you distribute the model"
    yield f"{licence}. The weights are derived from {base['name']}, whose licence is: {base['licence']}."
    writers = {model for generator in facts["training"]["data"]["generators"].values() for model in generator["models"]}
    others = sorted(writers - {base["name"]})
    if others:
        yield f"Training pairs were generated with {', '.join(others)}, whose terms may apply to models trained on the output."


def _linked(base: Mapping[str, Any]) -> str:
    return f"[{base['hub_id']}](https://huggingface.co/{base['hub_id']})" if base["hub_id"] else f"`{base['name']}`"


def _table(values: Mapping[str, Any]) -> Iterator[str]:
    yield "| | |"
    yield "|---|---|"
    for name, value in values.items():
        yield f"| {name} | {str(value).replace('|', chr(92) + '|')} |"


def _count(parameters: int) -> str:
    million = 1_000_000
    return f"{parameters / million:,.0f} million" if parameters >= million else f"{parameters:,}"


def _title(metric: str) -> str:
    return _METRIC_TITLES.get(metric, metric.replace("_", " "))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "unknown"
