"""Short names for clusters, proposed by the base model from the texts nearest to the centre."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedding_adaptation.embedder.chat import end_ids, has_chat_template, load_chat_model
from embedding_adaptation.embedder.sampling import AnswerSampler
from embedding_adaptation.embedder.token_choice import Prompt, Sampling
from embedding_adaptation.pipelines.text_clustering.options import TEXTS_SLOT
from embedding_adaptation.texts.answers import is_preamble, is_refusal, tidy_answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.text_clustering.options import NamingOptions

logger = logging.getLogger(__name__)

_TOKENS_PER_WORD = 5
_MOST_CHARACTERS = 60
_WORDS_IN_NAME = 3


@dataclass(frozen=True)
class Name:
    """The name of a cluster.

    Attributes:
        name: The name, unique among the clusters.
        source: ``model``, or ``words`` if it consists of the distinctive words.
    """

    name: str
    source: str


def name_clusters(
    texts: Sequence[Sequence[str]],
    words: Sequence[Sequence[str]],
    weights: DecoderWeights,
    options: NamingOptions,
    embedder_options: EmbedderOptions,
) -> list[Name]:
    """Name clusters.

    The distinctive words replace the model's answer if it has no chat template, refuses, talks about its answer, says nothing, does not
    finish, or uses more than a few words.

    Args:
        texts: For each cluster, the texts nearest to its centre.
        words: For each cluster, its distinctive words.
        weights: The base model.
        options: The request to the model.
        embedder_options: Device and number format.

    Returns:
        One name per cluster.
    """
    answers = _answers(texts, weights, options, embedder_options) if options.model else [""] * len(texts)
    names: list[Name] = []
    used: set[str] = set()
    for number, answer in enumerate(answers):
        own = words[number]
        name = Name(answer, "model") if answer else Name(", ".join(own[:_WORDS_IN_NAME]) or f"cluster {number}", "words")
        variants = [name.name, *(f"{name.name} ({word})" for word in own), *(f"{name.name} {more}" for more in range(2, len(texts) + 2))]
        unique = next(variant for variant in variants if variant.lower() not in used)
        used.add(unique.lower())
        names.append(Name(unique, name.source))
    return names


def usable_names(answers: Sequence[tuple[str, bool]], texts: Sequence[Sequence[str]], options: NamingOptions) -> list[str]:
    """Turn answers into names; an unusable answer becomes an empty name.

    Args:
        answers: The model's answers, and whether each is complete.
        texts: The texts of each cluster that the model was shown.
        options: Limits for names.
    """
    example_names = {example.name.lower() for example in options.examples}
    names = []
    for (raw, finished), cluster_texts in zip(answers, texts, strict=True):
        answer = tidy_answer(next((line.strip() for line in raw.splitlines() if line.strip()), ""))
        source = " ".join(cluster_texts)
        name = " ".join(answer.split()).strip(" .,:;!-*#")
        is_short = 0 < len(name) <= _MOST_CHARACTERS and len(name.split()) <= options.max_words and any(map(str.isalpha, name))
        is_name = is_short and not is_refusal(source, answer) and not is_preamble(source, answer) and name.lower() not in example_names
        names.append(name if finished and is_name else "")
    return names


def conversation(texts: Sequence[str], options: NamingOptions) -> list[dict[str, str]]:
    """The instructions and the request to the model, as messages with roles and contents."""
    turns = [{"role": "system", "content": options.system_prompt}]
    for example in options.examples:
        turns += [{"role": "user", "content": _question(example.texts, options)}, {"role": "assistant", "content": example.name}]
    return [*turns, {"role": "user", "content": _question(texts, options)}]


def _question(texts: Sequence[str], options: NamingOptions) -> str:
    excerpts = (" ".join(text.split())[: options.text_characters] for text in texts)
    return options.instruction.replace(TEXTS_SLOT, "\n".join(f"- {excerpt}" for excerpt in excerpts))


def _answers(
    texts: Sequence[Sequence[str]], weights: DecoderWeights, options: NamingOptions, embedder_options: EmbedderOptions
) -> list[str]:
    if not has_chat_template(weights.base):
        logger.warning("base_model %r has no chat template: clusters are named by their distinctive words", weights.card.source)
        return [""] * len(texts)
    model, tokenizer = load_chat_model(weights, device=embedder_options.device, dtype=embedder_options.dtype)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=_TOKENS_PER_WORD * options.max_words)
    room = int(model.config.get_text_config().max_position_embeddings) - sampling.max_new_tokens
    prompts, clusters = [], []
    for cluster, cluster_texts in enumerate(texts):
        for count in range(len(cluster_texts), 0, -1):
            prompt = tokenizer.apply_chat_template(conversation(cluster_texts[:count], options), tokenize=False, add_generation_prompt=True)
            ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            if len(ids) <= room:
                prompts.append(Prompt(ids, [0.0] * sampling.max_new_tokens))
                clusters.append(cluster)
                break
    answers = [("", False)] * len(texts)
    for number, answer, finished in AnswerSampler(model, end_ids(model, tokenizer), sampling).answers(prompts):
        answers[clusters[number]] = (tokenizer.decode(answer, skip_special_tokens=True), finished)
    names = usable_names(answers, texts, options)
    named = sum(map(bool, names))
    logger.info("%s named %d of %d clusters; the others are named by their distinctive words", weights.card.source, named, len(names))
    return names
