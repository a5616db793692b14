"""A decoder that generates text: the model with its vocabulary head, its chat template and its end tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from embedding_adaptation.embedder.device import choose_device, choose_dtype
from embedding_adaptation.embedder.loading import load_causal

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from embedding_adaptation.embedder.device import DeviceName, DtypeName
    from embedding_adaptation.embedder.weights import DecoderWeights


def has_chat_template(folder: Path) -> bool:
    """Whether a model folder's tokenizer has a chat template."""
    if (folder / "chat_template.jinja").exists():
        return True
    config = folder / "tokenizer_config.json"
    return config.exists() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))


def has_vocabulary_head(folder: Path) -> bool:
    """Whether a converted model was saved with the head that turns hidden states into tokens."""
    architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or ["ForCausalLM"]
    return "LMHead" in str(architectures[0]) or not str(architectures[0]).endswith("Model")


def load_chat_model(
    weights: DecoderWeights, *, device: DeviceName = "auto", dtype: DtypeName = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base model with its vocabulary head, in evaluation mode, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(weights.base)
    resolved = choose_device(device)
    model = load_causal(weights.base, dtype=choose_dtype(dtype, resolved))
    return model.to(resolved).eval(), tokenizer


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end an answer."""
    ids = model.generation_config.eos_token_id
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)
