"""Short names for clusters: their distinctive words, or what a language model that can be relied on proposes from the nearest texts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedding_adaptation.chat_server import Conversation, answers
from embedding_adaptation.embedder.chat import end_ids, has_chat_template, has_vocabulary_head, load_chat_model
from embedding_adaptation.embedder.sampling import AnswerSampler
from embedding_adaptation.embedder.token_choice import Prompt, Sampling
from embedding_adaptation.pipelines.text_clustering.options import TEXTS_SLOT
from embedding_adaptation.pipelines.text_clustering.word_names import SEPARATOR, parts_of_name, share_a_word
from embedding_adaptation.texts.answers import is_preamble, is_refusal, tidy_answer
from embedding_adaptation.texts.language import languages_of
from embedding_adaptation.texts.word_forms import stemmer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions, ServerOptions
    from embedding_adaptation.pipelines.text_clustering.options import NamingOptions

logger = logging.getLogger(__name__)

_SERVER = "text_clustering.naming.server"
_TOKENS_PER_WORD = 5
_MOST_CHARACTERS = 60


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
    *,
    key: str | None = None,
) -> list[Name]:
    """Name clusters.

    A name consists of distinctive words, unless a server is configured or the base model is large enough, and its answer is a name with at
    least one of the cluster's distinctive words: models invent subjects, and a small one seldom finds the right one.

    Args:
        texts: For each cluster, the texts nearest to its centre.
        words: For each cluster, its distinctive words.
        weights: The base model.
        options: Who is asked, and the request.
        embedder_options: Device and number format.
        key: The server's key, if it needs one.

    Returns:
        One name per cluster.

    Raises:
        ChatServerError: If the server cannot be used; the message says why and what to do.
    """
    stems = [stemmer(language) for language in languages_of(texts)]
    reason = "" if options.server is not None else unfit(weights, options)
    if reason:
        logger.info("clusters are named by their distinctive words: %s", reason)
        return _distinct([""] * len(texts), words, stems)
    proposals = _proposals(texts, weights, options, embedder_options, key)
    backed = [
        proposal if any(share_a_word(proposal, word, stem) for word in own) else ""
        for proposal, own, stem in zip(proposals, words, stems, strict=True)
    ]
    logger.info(
        "the model's answers name %d of %d clusters; %d were no names, and %d had none of their cluster's distinctive words",
        sum(map(bool, backed)), len(texts), proposals.count(""), sum(map(bool, proposals)) - sum(map(bool, backed)),
    )  # fmt: skip
    return _distinct(backed, words, stems)


def _distinct(proposals: Sequence[str], words: Sequence[Sequence[str]], stems: Sequence[Callable[[str], str]]) -> list[Name]:
    """The proposals, or the words where there is none, each with a word of its own where two would be the same."""
    names: list[Name] = []
    used: set[str] = set()
    for number, (proposal, own, stem) in enumerate(zip(proposals, words, stems, strict=True)):
        name, source = (proposal, "model") if proposal else (SEPARATOR.join(parts_of_name(own, stem)) or f"cluster {number}", "words")
        others = {word.lower() for place, some in enumerate(words) if place != number for word in some}
        more = [word for word in own if not share_a_word(name, word, stem)]
        more.sort(key=lambda word: word.lower() in others)  # stable: first those that no other cluster has
        longer = (f"{name} ({word})" if proposal else f"{name}{SEPARATOR}{word}" for word in more)
        numbered = (f"{name} ({count})" for count in range(2, len(proposals) + 2))
        unique = next(variant for variant in (name, *longer, *numbered) if _plain(variant) not in used)
        used.add(_plain(unique))
        names.append(Name(unique, source))
    return names


def _plain(name: str) -> str:
    """What two names that a reader would take for the same have in common: case and the order of words do not matter."""
    return " ".join(sorted(name.lower().replace(SEPARATOR, " ").split()))


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


def _proposals(
    texts: Sequence[Sequence[str]],
    weights: DecoderWeights,
    options: NamingOptions,
    embedder_options: EmbedderOptions,
    key: str | None,
) -> list[str]:
    """What the server, or else the base model, proposes for each cluster; empty where nothing is usable."""
    if options.server is not None:
        return usable_names(server_answers(texts, options.server, options, key), texts, options)
    return usable_names(model_answers(texts, weights, options, embedder_options), texts, options)


def unfit(weights: DecoderWeights, options: NamingOptions) -> str:
    """Why the base model cannot be asked for names; empty if it can."""
    if not options.model:
        return "text_clustering.naming.model is false"
    if weights.card.parameters < options.min_parameters:
        return (
            f"base_model {weights.card.source!r} has {weights.card.parameters:,} parameters, and names by models of fewer than "
            f"{options.min_parameters:,} (text_clustering.naming.min_parameters) mislead more often than they help"
        )
    if not has_chat_template(weights.base):
        return f"base_model {weights.card.source!r} has no chat template"
    if not has_vocabulary_head(weights.base):
        return f"base_model {weights.card.source!r} has no vocabulary head, so it cannot write"
    return ""


def server_answers(
    texts: Sequence[Sequence[str]], server: ServerOptions, options: NamingOptions, key: str | None
) -> list[tuple[str, bool]]:
    """A server's answers to the request, and whether each is complete.

    Args:
        texts: The texts of each cluster.
        server: The server.
        options: The request.
        key: The server's key, if it needs one.

    Raises:
        ChatServerError: If the server cannot be used; the message says why and what to do.
    """
    found = [("", False)] * len(texts)
    conversations = (
        Conversation(cluster, f"cluster {cluster}", conversation(some, options), seed=0) for cluster, some in enumerate(texts) if some
    )
    for cluster, answer, finished in answers(conversations, server, _sampling(options), setting=_SERVER, key=key):
        found[cluster] = (answer, finished)
    return found


def _sampling(options: NamingOptions) -> Sampling:
    return Sampling(temperature=0.0, top_p=1.0, max_new_tokens=_TOKENS_PER_WORD * options.max_words)


def model_answers(
    texts: Sequence[Sequence[str]], weights: DecoderWeights, options: NamingOptions, embedder_options: EmbedderOptions
) -> list[tuple[str, bool]]:
    """The base model's answers to the request, and whether each is complete; empty where not even one text fits its window.

    Args:
        texts: The texts of each cluster; the last are left out where not all fit.
        weights: The base model, which must have a chat template.
        options: The request.
        embedder_options: Device and number format.
    """
    model, tokenizer = load_chat_model(weights, device=embedder_options.device, dtype=embedder_options.dtype)
    sampling = _sampling(options)
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
    found = [("", False)] * len(texts)
    for number, answer, finished in AnswerSampler(model, end_ids(model, tokenizer), sampling).answers(prompts):
        found[clusters[number]] = (tokenizer.decode(answer, skip_special_tokens=True), finished)
    return found
