"""Have an instruct model rewrite texts in different styles through its chat template."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from embedding_adaptation.chat_server import ChatServerError, Conversation, answers
from embedding_adaptation.cluster.pieces import work_through
from embedding_adaptation.embedder.chat import end_ids, has_chat_template, has_vocabulary_head, load_chat_model
from embedding_adaptation.embedder.device import DeviceName, DtypeName, choose_device, choose_dtype
from embedding_adaptation.embedder.sampling import AnswerSampler
from embedding_adaptation.embedder.template import SLOT
from embedding_adaptation.embedder.token_choice import Prompt, Sampling
from embedding_adaptation.pipelines.data_augmentation.generators.request import Candidate, Context, GenerationError, Generator, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedTokenizerBase

    from embedding_adaptation.cluster.settings import ClusterSettings
    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import ServerOptions
    from embedding_adaptation.pipelines.data_augmentation.options import RewriteOptions
    from embedding_adaptation.texts.stream import TextStream

_SERVER = "data_augmentation.generators.rewrite.server"
# Requests sorted by length together; those of the same style share the beginning of their prompts.
_WINDOW = 4096
_FORMAT = 1  # incremented when the same requests and options give other answers
# On a cluster: how much longer an answer takes than a vector, and what share of a block of vectors a block of answers is at most.
_ANSWER_COST, _BLOCK_SHARE = 20, 4


def generate(requests: Iterable[Request], options: RewriteOptions, context: Context) -> Iterator[Candidate]:
    """Have the base model, or a server, rewrite texts.

    The same request gives the same answer whatever else is requested and however many texts are generated at once, except for rounding: in
    bfloat16, and rarely in float32, the choice between two almost equally likely tokens may depend on the batch. A server gives no such
    guarantee; it is sent a seed for each request.

    Args:
        requests: Texts and styles.
        options: Styles and sampling.
        context: The base model, device and seed.

    Yields:
        Candidates in the order in which they finish; those of a cluster in the order of the requests.

    Raises:
        GenerationError: If the model cannot rewrite texts; the message says why and what to do.
    """
    if options.server is not None:
        yield from _ask_server(requests, options.server, options, context)
        return
    stream = iter(requests)
    cluster = context.embedder_options.cluster
    if cluster is not None:
        head = list(itertools.islice(stream, _fewest(cluster.settings)))
        is_many = len(head) == _fewest(cluster.settings)
        stream = itertools.chain(head, stream)
        if is_many:
            yield from _on_cluster(stream, options, context, cluster.settings)
            return
    window = list(itertools.islice(stream, _WINDOW))
    if not window:
        return
    chosen = context.embedder_options
    rewriter = Rewriter(context.base_model, options, context.seed, device=chosen.device, dtype=chosen.dtype)
    while window:
        for _, candidate in rewriter.answer(window):
            yield candidate
        window = list(itertools.islice(stream, _WINDOW))


class Rewriter:
    """A model that rewrites texts.

    Args:
        weights: The model.
        options: Styles and sampling.
        seed: Seed of every answer.
        device: The device.
        dtype: The number format.

    Raises:
        GenerationError: If the model has no chat template.
    """

    def __init__(
        self, weights: DecoderWeights, options: RewriteOptions, seed: int, *, device: DeviceName = "auto", dtype: DtypeName = "auto"
    ) -> None:
        if not has_chat_template(weights.base):
            raise GenerationError(_no_chat_template(weights.card.source))
        model, self._tokenizer = load_chat_model(weights, device=device, dtype=dtype)
        self._options, self._seed = options, seed
        self._sampler = AnswerSampler(
            model,
            end_ids(model, self._tokenizer),
            Sampling(options.temperature, options.top_p, options.max_new_tokens),
            batch_size=options.batch_size,
            memory_mb=options.memory_mb,
        )

    def answer(self, requests: list[Request]) -> Iterator[tuple[int, Candidate]]:
        """Rewrite texts.

        Yields:
            The place of a request among those given, and its candidate, in the order in which they finish.
        """
        yield from _answer(self._sampler, self._tokenizer, requests, self._options, self._seed)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rewrite a table of requests, whose order the candidates have."""
        requests = [Request(**row) for row in table.to_pylist()]
        candidates = dict(self.answer(requests))
        return pa.Table.from_pylist([asdict(candidates[place]) for place in range(len(requests))])


def _fewest(settings: ClusterSettings) -> int:
    """Fewer requests are answered by this process: an answer takes far longer than a vector, for which ``min_texts`` is meant."""
    return max(1, settings.min_texts // _ANSWER_COST)


def _on_cluster(requests: Iterable[Request], options: RewriteOptions, context: Context, settings: ClusterSettings) -> Iterator[Candidate]:
    """Candidates by a cluster's workers, in the order of the requests."""
    chosen = context.embedder_options
    dtype = str(choose_dtype(chosen.dtype, choose_device(chosen.device))).removeprefix("torch.")
    weights = replace(context.base_model, base=context.base_model.base.absolute())
    arguments = {"weights": weights, "options": options, "seed": context.seed, "dtype": dtype}
    decisive = options.model_dump(mode="json", exclude={"weight", "batch_size", "memory_mb", "server"})
    identity = ["rewrite", _FORMAT, weights.card.sha256, decisive, context.seed, dtype]
    tables = (pa.Table.from_pylist([asdict(request) for request in block]) for block in _blocks(requests, settings))
    made = work_through(
        tables, Rewriter, arguments, settings, name="rewrite", identity=identity, device=chosen.device, sees=[weights.base], progress=False
    )
    for table in made:
        for row in table.to_pylist():
            yield Candidate(**row)


def _blocks(requests: Iterable[Request], settings: ClusterSettings) -> Iterator[list[Request]]:
    """Requests in blocks that end at the same requests whatever comes before, so that a run that goes on finds its finished blocks."""
    most = max(1, settings.block_texts // _BLOCK_SHARE)
    block: list[Request] = []
    for request in requests:
        block.append(request)
        if int(request.key, 16) % most == 0 or len(block) == most:
            yield block
            block = []
    if block:
        yield block


def check(options: RewriteOptions, context: Context) -> None:
    """Check, before anything is loaded, that the model can rewrite texts.

    Raises:
        GenerationError: If it has no chat template or no vocabulary head, and no server is used instead.
    """
    model = context.base_model
    if options.server is None and not has_chat_template(model.base):
        raise GenerationError(_no_chat_template(model.card.source))
    if options.server is None and not has_vocabulary_head(model.base):
        msg = (
            f"base_model {model.card.source!r} has no vocabulary head, so it cannot write; remove 'rewrite' from "
            "data_augmentation.generators, use a server (rewrite.server), or give a checkpoint with lm_head.weight"
        )
        raise GenerationError(msg)


def conversation(request: Request, options: RewriteOptions) -> list[dict[str, str]]:
    """The instructions and the request to the model, as messages with roles and contents."""
    style = options.styles[request.style]
    turns = [{"role": "system", "content": options.system_prompt}]
    for example in style.examples:
        turns.append({"role": "user", "content": style.instruction.replace(SLOT, example.text)})
        turns.append({"role": "assistant", "content": example.rewrite})
    return [*turns, {"role": "user", "content": style.instruction.replace(SLOT, request.source_text)}]


def _ask_server(requests: Iterable[Request], server: ServerOptions, options: RewriteOptions, context: Context) -> Iterator[Candidate]:
    conversations = (
        Conversation(
            request,
            f"text {request.source_id}",
            conversation(request, options),
            request.random(context.seed).getrandbits(31),
        )
        for request in requests
    )
    sampling = Sampling(options.temperature, options.top_p, options.max_new_tokens)
    key = context.server_key.value if context.server_key else None
    kept = 0
    try:
        for request, text, finished in answers(conversations, server, sampling, setting=_SERVER, key=key):
            kept += 1
            yield Candidate.answering(request, text, finished=finished)
    except ChatServerError as error:
        msg = f"{error}. {kept} answers of this run have been kept; run the same command again to continue from there"
        raise GenerationError(msg) from error


def _answer(
    sampler: AnswerSampler, tokenizer: PreTrainedTokenizerBase, requests: list[Request], options: RewriteOptions, seed: int
) -> Iterator[tuple[int, Candidate]]:
    room = int(sampler.model.config.get_text_config().max_position_embeddings) - options.max_new_tokens
    styles = list(options.styles)
    prompts, sources = [], []
    for request in requests:
        ids, source = _prompt_ids(tokenizer, request, options, room)
        draws = request.random(seed)
        prompts.append(Prompt(ids, [draws.random() for _ in range(options.max_new_tokens)]))
        sources.append(source)
    for number, answer, finished in sampler.answers(prompts, [styles.index(request.style) for request in requests]):
        text = tokenizer.decode(answer, skip_special_tokens=True).strip()
        yield number, Candidate.answering(requests[number], text, source_text=sources[number], finished=finished)


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, request: Request, options: RewriteOptions, room: int) -> tuple[list[int], str]:
    """The tokens of the prompt, and the text in it, cut to as many words as fit the model's window.

    Raises:
        GenerationError: If not even one word fits.
    """

    def ids_of(text: str) -> list[int]:
        messages = conversation(Request(request.key, request.source_id, text, request.turn, request.style), options)
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])

    text = request.source_text
    ids = ids_of(text)
    while len(ids) > room:
        words = text.split()
        count = min(len(words) - 1, len(words) * room // len(ids))
        if count < 1:
            msg = f"style {request.style!r} and its examples leave no room for a text in the model's window; shorten them"
            raise GenerationError(msg)
        text = " ".join(words[:count])
        ids = ids_of(text)
    return ids, text


def _no_chat_template(source: str) -> str:
    return (
        f"base_model {source!r} has no chat template, so it cannot rewrite texts; choose its instruction-tuned version, configure a server "
        f"in {_SERVER}, or use other generators"
    )


def _identity(options: RewriteOptions, corpus: TextStream, context: Context) -> list[Any]:  # noqa: ARG001  interface of all generators
    return [context.base_model.card.sha256] if options.server is None else []


def _provenance(options: RewriteOptions, context: Context) -> tuple[str, str]:
    if options.server is not None:
        return options.server.model, options.server.url
    return context.base_model.card.source, context.base_model.card.sha256


GENERATOR = Generator(generate, is_written=True, check=check, identity=_identity, provenance=_provenance)
