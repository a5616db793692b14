"""Rewriting by the base model itself, through its chat template."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import TYPE_CHECKING

from embedding_adaptation.embedder.device import choose_device, choose_dtype
from embedding_adaptation.embedder.template import SLOT, padding_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import pandas as pd
    from torch import Tensor
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from embedding_adaptation.embedder.weights import DecoderWeights
    from embedding_adaptation.options import EmbedderOptions
    from embedding_adaptation.pipelines.data_augmentation.options import GenerationOptions, StyleOptions

logger = logging.getLogger(__name__)

GENERATOR = "rewrite"


class GenerationError(RuntimeError):
    """Texts that cannot be rewritten with this model; the message says why and what to do."""


def generation_fingerprint(corpus: pd.DataFrame, model_sha256: str, options: GenerationOptions) -> str:
    """Name of one generation: changes with the texts, the model or any option, so that rewrites of two never mix."""
    digest = hashlib.sha256(json.dumps([model_sha256, options.model_dump()], sort_keys=True).encode())
    for row in zip(corpus["id"], corpus["text"], strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:12]


def plan_requests(corpus: pd.DataFrame, options: GenerationOptions) -> pd.DataFrame:
    """Which text is rewritten in which style.

    Styles go round: neighbouring texts get different ones, and a text's rewrites are all in different styles.

    Returns:
        ``source_id``, ``source_text``, ``style``: by style, because a batch of one style shares the beginning of its prompts, and the
        shortest texts first, so that a batch holds texts of like length.
    """
    import pandas as pd

    styles = list(options.styles)
    rows = [
        {"source_id": source_id, "source_text": text, "style": styles[(number + turn) % len(styles)]}
        for number, (source_id, text) in enumerate(zip(corpus["id"], corpus["text"], strict=True))
        for turn in range(min(options.styles_per_text, len(styles)))
    ]
    requests = pd.DataFrame(rows)
    requests["length"] = requests["source_text"].str.len()
    return requests.sort_values(["style", "length"], kind="stable", ignore_index=True).drop(columns="length")


def generate_shards(
    corpus: pd.DataFrame,
    weights: DecoderWeights,
    finished: Collection[str],
    options: GenerationOptions,
    embedder_options: EmbedderOptions,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Rewrite texts shard by shard, leaving out shards that are there already.

    The seed of a shard follows from the options' seed and the shard's number: a shard made after a crash is the one that would have been
    made without it.

    Args:
        corpus: Cleaned texts with ``id`` and ``text``.
        weights: The model that rewrites.
        finished: Names of the shards that are there.
        options: Generation options.
        embedder_options: Device and number format.

    Yields:
        One shard, ``{name: candidates}``: requests with ``generated_text``, whether the answer ``finished``, and provenance.
    """
    from tqdm.auto import tqdm

    fingerprint = generation_fingerprint(corpus, weights.card.sha256, options)
    requests = plan_requests(corpus, options)
    starts = range(0, len(requests), options.shard_size)
    missing = [(number, start) for number, start in enumerate(starts) if shard_name(fingerprint, number) not in finished]
    if len(missing) < len(starts):
        logger.info("%d of %d shards of rewrites are there already and are kept", len(starts) - len(missing), len(starts))
    if not missing:
        return
    model, tokenizer = _load_generator(weights, embedder_options)
    total = sum(len(requests.iloc[start : start + options.shard_size]) for _, start in missing)
    with tqdm(total=total, unit="text", desc="rewrite") as bar:
        for number, start in missing:
            shard = requests.iloc[start : start + options.shard_size].reset_index(drop=True)
            seed = _shard_seed(options.seed, number)
            answers: list[tuple[str, bool]] = []
            for first in range(0, len(shard), options.batch_size):
                batch = shard.iloc[first : first + options.batch_size]
                answers += _answer(model, tokenizer, batch, options, seed + first)
                bar.update(len(batch))
            texts, ended = zip(*answers, strict=True)
            shard = shard.assign(
                generated_text=texts,
                finished=ended,
                generator=GENERATOR,
                model=weights.card.source,
                model_sha256=weights.card.sha256,
                seed=seed,
                fingerprint=fingerprint,
            )
            yield {shard_name(fingerprint, number): shard}


def shard_name(fingerprint: str, number: int) -> str:
    """Name of a generation's shard."""
    return f"{fingerprint}/{number:05d}"


def _shard_seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _load_generator(weights: DecoderWeights, options: EmbedderOptions) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights.base)
    if tokenizer.chat_template is None:
        msg = (
            f"base_model {weights.card.source!r} has no chat template, so it cannot be asked to rewrite texts; "
            "choose its instruction-tuned version"
        )
        raise GenerationError(msg)
    device = choose_device(options.device)
    # Eager attention: with short prompts on a CPU it is faster than the fused kernel, and single decoding steps do not care.
    attention = "eager" if device == "cpu" else None
    dtype = choose_dtype(options.dtype, device)
    model = AutoModelForCausalLM.from_pretrained(weights.base, dtype=dtype, attn_implementation=attention)
    return model.to(device).eval(), tokenizer


def _answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: pd.DataFrame,
    options: GenerationOptions,
    seed: int,
) -> list[tuple[str, bool]]:
    """The model's answers to one batch of requests, each with whether it came to its own end."""
    import torch
    from transformers import GenerationConfig

    prompts = [
        tokenizer.apply_chat_template(_conversation(text, options.styles[style], options), tokenize=False, add_generation_prompt=True)
        for text, style in zip(batch["source_text"], batch["style"], strict=True)
    ]
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=True,
        temperature=options.temperature,
        top_p=options.top_p,
        pad_token_id=padding_id(tokenizer),
        eos_token_id=model.generation_config.eos_token_id,
    )
    torch.manual_seed(seed)
    answers = generate_with_shared_prefix(model, ids, config)  # [B, answer]
    ends = _end_ids(model)
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [(text.strip(), any(int(i) in ends for i in row)) for text, row in zip(texts, answers, strict=True)]


def _conversation(text: str, style: StyleOptions, options: GenerationOptions) -> list[dict[str, str]]:
    turns = [{"role": "system", "content": options.system_prompt}]
    for example in style.examples:
        turns.append({"role": "user", "content": style.instruction.replace(SLOT, example.text)})
        turns.append({"role": "assistant", "content": example.rewrite})
    return [*turns, {"role": "user", "content": style.instruction.replace(SLOT, text)}]


def generate_with_shared_prefix(model: PreTrainedModel, prompts: Sequence[Sequence[int]], config: GenerationConfig) -> Tensor:
    """Generate from prompts, reading what they all begin with once.

    Instruction and examples are most of a prompt and the same for a whole batch.

    Args:
        model: A causal language model.
        prompts: Token ids of each prompt.
        config: Generation settings; ``pad_token_id`` must be set.

    Returns:
        New tokens, ``[B, answer]``, padded on the right.
    """
    import torch
    from transformers import DynamicCache

    shared = _common_prefix(prompts)
    width = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), width), config.pad_token_id, dtype=torch.long)  # [B, T]
    attention_mask = torch.zeros_like(input_ids)  # [B, T]
    for row, prompt in enumerate(prompts):
        rest = len(prompt) - shared
        # The padding stands between the shared beginning and the rest; positions follow the mask, so it has no effect.
        input_ids[row, :shared] = torch.tensor(prompt[:shared])
        input_ids[row, width - rest :] = torch.tensor(prompt[shared:])
        attention_mask[row, :shared] = 1
        attention_mask[row, width - rest :] = 1
    input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        if shared:
            model(input_ids=input_ids[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(len(prompts))
        output = model.generate(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, generation_config=config)
    return output[:, width:]


def _common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with; at least one is left to each."""
    first, last = min(map(list, prompts)), max(map(list, prompts))  # in dictionary order: what these share, all share
    limit = min(map(len, prompts)) - 1
    for position in range(limit):
        if first[position] != last[position]:
            return position
    return max(limit, 0)


def _end_ids(model: PreTrainedModel) -> set[int]:
    ids = model.generation_config.eos_token_id
    return set(ids) if isinstance(ids, list) else {ids}
