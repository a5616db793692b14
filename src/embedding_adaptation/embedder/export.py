"""Export of an embedder as a plain sentence-transformers folder, which loads without this package and without remote code.

The template becomes part of the tokenizer: prefix and suffix are special tokens of its post-processor, with several ids each. Thus the
exported model assembles prompts from tokens as :class:`~embedding_adaptation.embedder.template.PromptTemplate` does (a chat template would
tokenise across the boundaries), and truncation, which makes room for special tokens, shortens only the text.
"""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_adaptation.atomic import replacing_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.template import Frame, PromptTemplate

logger = logging.getLogger(__name__)

# sentence-transformers' names of our poolings.
POOLING_MODES: dict[str, tuple[str, ...]] = {
    "last": ("lasttoken",),
    "eos": ("lasttoken",),
    "mean": ("mean",),
    "weighted_mean": ("weightedmean",),
    "max": ("max",),
    "last_mean": ("lasttoken", "mean"),
}


class ExportError(ValueError):
    """A strategy that plain sentence-transformers modules do not support; the message says what they support."""


def export_sentence_transformer(embedder: Embedder, folder: str | Path, strategy: Strategy | None = None) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads, giving the same token ids and vectors.

    The only exception is an empty text with a template that begins with it: the plain tokenizer then has no first token.

    Args:
        embedder: Base or adapted embedder; an adapter is merged.
        folder: The target folder, which must not exist.
        strategy: The strategy; ``None`` is the embedder's own.

    Raises:
        ExportError: If the strategy needs several templates, a layer other than the last, or a pooling that sentence-transformers lacks; or
            the tokenizer is not a fast one.
        FileExistsError: If the folder already exists.
    """
    strategy = strategy or embedder.strategy
    check_exportable(strategy, embedder.layer_count)
    target = Path(folder)
    if target.exists():
        msg = f"{target} already exists; choose another folder or remove it"
        raise FileExistsError(msg)
    with replacing_folder(target) as work:
        write_sentence_transformer(embedder, work, strategy)


def write_sentence_transformer(embedder: Embedder, folder: Path, strategy: Strategy) -> None:
    """Write the same into an existing, empty folder.

    Raises:
        ExportError: As for :func:`export_sentence_transformer`.
    """
    from transformers import AutoTokenizer

    from embedding_adaptation.embedder.portable import write_config, write_modules, write_tokenizer_config
    from embedding_adaptation.embedder.storage import write_after, write_settings

    check_exportable(strategy, embedder.layer_count)
    template = strategy.templates[0]
    frame = template.frame(embedder.tokenizer, embedder.max_length)
    rows = int(embedder.backbone.get_input_embeddings().num_embeddings)
    tokenizer = prompting_tokenizer(embedder.tokenizer, frame, embedder.max_length, vocabulary=rows)
    tokenizer.save_pretrained(folder)
    embedder.backbone.config.save_pretrained(folder)
    readable = write_config(folder, tokenizer.pad_token_id)
    if not readable:
        logger.warning(
            "The exported model (type %r) needs transformers 5 and sentence-transformers 5.4 or later: it is not known whether older "
            "versions interpret its configuration in the same way, so the folder is written in a form that they reject",
            embedder.backbone.config.model_type,
        )
    write_tokenizer_config(folder, readable=readable)
    # Load it as sentence-transformers will: for some model types, transformers rebuilds the tokenizer from its vocabulary. Do so before
    # merging the weights, which takes longest.
    _check_ids(AutoTokenizer.from_pretrained(folder, model_max_length=embedder.max_length), embedder, template)
    backbone = embedder.backbone
    if hasattr(backbone, "merge_and_unload"):
        backbone = copy.deepcopy(backbone).merge_and_unload()
    backbone.save_pretrained(folder, safe_serialization=True)
    write_config(folder, tokenizer.pad_token_id)  # again, because save_pretrained has overwritten it
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors restricts files to their owner, but the folder is meant to be shared
    write_modules(
        folder,
        POOLING_MODES[strategy.pooling],
        int(backbone.config.hidden_size),
        embedder.max_length,
        normalise=strategy.normalise,
        after=strategy.after,
    )
    # The exported tokenizer does not reveal where the added words end; with its own post-processor, Embedder.load can restore it.
    own = json.loads(embedder.tokenizer.backend_tokenizer.to_str())["post_processor"]
    write_after(folder, strategy)
    write_settings(folder, embedder, strategy, post_processor=own)


def merge_adapter(embedder: Embedder, dtype: str = "float32") -> None:
    """Merge an embedder's adapter into its base weights in place, without a second copy.

    Args:
        embedder: The embedder, preferably in float32: in 16-bit weights, part of an update is lost to rounding.
        dtype: Number format of the weights afterwards.
    """
    import torch

    if hasattr(embedder.backbone, "merge_and_unload"):
        embedder.backbone = embedder.backbone.merge_and_unload()
    embedder.backbone = embedder.backbone.to(getattr(torch, dtype))


def _check_ids(exported: PreTrainedTokenizerBase, embedder: Embedder, template: PromptTemplate) -> None:
    end = embedder.tokenizer.eos_token or ""
    probes = [" A text, no more. ", f"Ünïcode 🎉 مرحبا\n{template.suffix} {end}!!", "long " * embedder.max_length]
    ours = [list(prompt.ids) for prompt in template.tokenize(probes, embedder.tokenizer, embedder.max_length)]
    theirs = exported(probes, truncation="longest_first", return_attention_mask=False)["input_ids"]
    for probe, our_ids, their_ids in zip(probes, ours, theirs, strict=True):
        if our_ids != their_ids:
            msg = (
                f"{type(exported).__name__}, which transformers loads for model type {embedder.backbone.config.model_type!r}, gives "
                f"different token ids from template {template.name!r} for {probe[:40]!r}, so it cannot be exported; use Embedder.save"
            )
            raise ExportError(msg)


def prompting_tokenizer(
    tokenizer: PreTrainedTokenizerBase, frame: Frame, max_length: int, vocabulary: int | None = None
) -> PreTrainedTokenizerBase:
    """A tokenizer that puts a template around every text.

    Args:
        tokenizer: The model's fast tokenizer, left as it is.
        frame: The template's ids.
        max_length: Maximum sequence length in tokens; only the text is ever truncated.
        vocabulary: Number of rows of the model's embedding; ``None`` means unlimited.

    Raises:
        ExportError: If the tokenizer is not a fast one or has no token to pad with.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        msg = f"{type(tokenizer).__name__} is not a fast tokenizer, so it cannot hold a template; save the model with a tokenizer.json"
        raise ExportError(msg)
    description = json.loads(backend.to_str())
    around = {"prefix": list(frame.prefix), "suffix": list(frame.suffix)}
    special = {name: {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)} for name, ids in around.items() if ids}

    def sequence(*texts: str) -> list[dict[str, Any]]:
        pieces: list[dict[str, Any]] = [{"Sequence": {"id": text, "type_id": 0}} for text in texts]
        before = [{"SpecialToken": {"id": "prefix", "type_id": 0}}] if "prefix" in special else []
        after = [{"SpecialToken": {"id": "suffix", "type_id": 0}}] if "suffix" in special else []
        return [*before, *pieces, *after]

    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": sequence("A"),
        "pair": sequence("A", "B"),
        "special_tokens": special,
    }
    description["truncation"] = description["padding"] = None
    # Padding is masked, so any special token with a row in the embedding will do; an ordinary token would become special, and texts that
    # contain it would get other ids.
    known = [tokenizer.pad_token, tokenizer.eos_token, *sorted(added := tokenizer.get_added_vocab(), key=added.__getitem__)]
    fitting = (token for token in known if token and (vocabulary is None or tokenizer.convert_tokens_to_ids(token) < vocabulary))
    padding = next(fitting, None)
    if padding is None:
        msg = (
            "the tokenizer has no special token to pad with that the model knows, and sentence-transformers pads its batches; "
            "give it a pad_token"
        )
        raise ExportError(msg)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        pad_token=padding,
        unk_token=tokenizer.unk_token,
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
        split_special_tokens=tokenizer.split_special_tokens,
        model_input_names=["input_ids", "attention_mask"],
    )


def check_exportable(strategy: Strategy, layer_count: int | None = None) -> None:
    """Check that plain sentence-transformers modules support a strategy.

    Args:
        strategy: The strategy.
        layer_count: Number of layers of the model; if ``None``, only -1 counts as the last layer.

    Raises:
        ExportError: If they do not; the message says why, and what can be exported.
    """
    wrong = []
    last_layer = strategy.layers == (-1,) if layer_count is None else strategy.hidden_layers(layer_count) == (layer_count,)
    if len(strategy.templates) > 1:
        wrong.append(f"{len(strategy.templates)} templates")
    if strategy.pooling not in POOLING_MODES:
        wrong.append(f"pooling {strategy.pooling}")
    elif not last_layer:
        wrong.append(f"layers {list(strategy.layers)}")
    if strategy.after is not None and strategy.after.parts > 1:
        wrong.append("after-processing of several parts")
    if wrong:
        msg = (
            f"strategy {strategy.name!r} cannot be exported because of {' and '.join(wrong)}; plain sentence-transformers supports one "
            f"template, the last layer, affine after-processing and the poolings {', '.join(POOLING_MODES)}; "
            "use another strategy, or Embedder.save, which keeps any"
        )
        raise ExportError(msg)
