"""An embedder as a plain sentence-transformers folder, which loads without this package and without remote code.

The template becomes part of the tokenizer: prefix and suffix are special tokens of its post-processor, several ids each. So the exported
model assembles prompts from tokens as :class:`~embedding_adaptation.embedder.template.PromptTemplate` does (a chat template would tokenise
across the seams), and its truncation, which makes room for special tokens, shortens the text alone.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedding_adaptation.atomic import replacing_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.template import Frame

# Our names of poolings, and sentence-transformers'.
POOLING_MODES: dict[str, str | tuple[str, ...]] = {
    "last": "lasttoken",
    "eos": "lasttoken",
    "mean": "mean",
    "weighted_mean": "weightedmean",
    "max": "max",
    "last_mean": ("lasttoken", "mean"),
}


class ExportError(ValueError):
    """A strategy that plain sentence-transformers modules cannot carry out; the message says which can."""


def export_sentence_transformer(embedder: Embedder, folder: str | Path, strategy: Strategy | None = None) -> None:
    """Write a folder that ``SentenceTransformer(folder)`` loads, with the same token ids and vectors.

    One text differs: an empty one under a template that begins with it, where the plain tokenizer has no token to begin with.

    Args:
        embedder: Base or adapted embedder; an adapter is merged.
        folder: Where to write; must not exist.
        strategy: The way to embed; ``None`` is the embedder's own.

    Raises:
        ExportError: If the strategy needs several templates, other layers than the last, after-processing, or a pooling that
            sentence-transformers does not have; or the tokenizer is not a fast one.
        FileExistsError: If there is something at that path.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    strategy = strategy or embedder.strategy
    _check(embedder, strategy)
    target = Path(folder)
    if target.exists():
        msg = f"{target} is already there; choose another folder or remove it"
        raise FileExistsError(msg)
    tokenizer = prompting_tokenizer(
        embedder.tokenizer, strategy.templates[0].frame(embedder.tokenizer, embedder.max_length), embedder.max_length
    )
    backbone = embedder.backbone
    if hasattr(backbone, "merge_and_unload"):
        backbone = copy.deepcopy(backbone).merge_and_unload()
    with tempfile.TemporaryDirectory(prefix="embedding-adaptation-") as plain:
        backbone.save_pretrained(plain, safe_serialization=True)
        tokenizer.save_pretrained(plain)
        transformer = Transformer(
            plain,
            model_kwargs={"dtype": backbone.dtype},
            modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            module_output_name="token_embeddings",
            max_seq_length=embedder.max_length,
        )
        modules: list[Any] = [transformer, Pooling(transformer.get_embedding_dimension(), POOLING_MODES[strategy.pooling])]
        if strategy.normalise:
            modules.append(Normalize())
        model = SentenceTransformer(modules=modules, device="cpu")
        with replacing_folder(target) as work:
            model.save_pretrained(str(work), create_model_card=False, safe_serialization=True)


def prompting_tokenizer(tokenizer: PreTrainedTokenizerBase, frame: Frame, max_length: int) -> PreTrainedTokenizerBase:
    """A tokenizer that puts a template around every text.

    Args:
        tokenizer: The model's fast tokenizer, left as it is.
        frame: The template's ids.
        max_length: Longest sequence in tokens; only the text is ever cut.

    Raises:
        ExportError: If the tokenizer is not a fast one.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        msg = f"{type(tokenizer).__name__} is no fast tokenizer, and only these can hold a template; save the model with a tokenizer.json"
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
    end = tokenizer.eos_token
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        bos_token=tokenizer.bos_token,
        eos_token=end,
        pad_token=tokenizer.pad_token or end or tokenizer.convert_ids_to_tokens(0),
        unk_token=tokenizer.unk_token,
        model_max_length=max_length,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


def _check(embedder: Embedder, strategy: Strategy) -> None:
    wrong = []
    if len(strategy.templates) > 1:
        wrong.append(f"{len(strategy.templates)} templates")
    if strategy.pooling not in POOLING_MODES:
        wrong.append(f"pooling {strategy.pooling}")
    elif strategy.hidden_layers(embedder.layer_count) != (embedder.layer_count,):
        wrong.append(f"layers {list(strategy.layers)}")
    if strategy.after is not None:
        wrong.append("after-processing")
    if wrong:
        msg = (
            f"strategy {strategy.name!r} cannot be exported because of {' and '.join(wrong)}; plain sentence-transformers takes one "
            f"template, the last layer, no after-processing and one of the poolings {', '.join(POOLING_MODES)}; "
            "Embedder.save keeps any strategy"
        )
        raise ExportError(msg)
