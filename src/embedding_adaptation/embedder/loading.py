"""Loading complete weights: a checkpoint is compared with its model before it is read, and again afterwards."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.utils import logging

from embedding_adaptation.embedder.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BaseModelError,
    TensorInfo,
    check_adapter_files,
    describe_gaps,
    safetensors_header,
)
from embedding_adaptation.embedder.families import text_configuration
from embedding_adaptation.embedder.freed_memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedConfig, PreTrainedModel

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Written beside the weights by older versions of transformers, but now recomputed.
_LEFT_OVER = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(masked_)?bias|\.attention\.(masked_)?bias)$")
_PROBE_TOKENS = 8
# Adapter weights for the vocabulary head or the embedding, which may be the same tensor.
_TIED = re.compile(r"\.(lm_head|embed_out|output|embed_tokens|wte|embed_in|word_embeddings)\.lora_")
_TOLERANCE = 1e-3  # between a decoder's results inside its multimodal model and alone


@dataclass(frozen=True)
class Contents:
    """The contents of a folder, read without loading its weights.

    Attributes:
        config: Its configuration.
        text: Configuration of its text decoder: the same, or a part of it.
        headless: Whether the vocabulary head is missing, so that texts can be embedded but not generated.
        rows: Number of rows of the embedding.
    """

    config: PreTrainedConfig
    text: PreTrainedConfig
    headless: bool
    rows: int

    @property
    def nested(self) -> bool:
        """Whether the text decoder is part of a larger model."""
        return self.text is not self.config


def read_configuration(folder: Path) -> PreTrainedConfig:
    """Read the configuration of a folder with transformers.

    Raises:
        BaseModelError: If transformers cannot read it.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        msg = f"config.json cannot be used ({_first_line(error)}); fetch it again or correct it"
        raise BaseModelError(msg) from error


def check_contents(folder: Path, tensors: Mapping[str, TensorInfo]) -> Contents:
    """Compare a folder's tensors with those of its model, without reading them.

    Args:
        folder: A folder with a configuration.
        tensors: Names and shapes of its tensors, from the headers.

    Raises:
        BaseModelError: If a tensor is missing, of a different shape or unexpected.
    """
    config = read_configuration(folder)
    text = text_configuration(config)
    kind = _whole_class(config) if text is not config else _causal_class(config)
    # With empty tensors, the loader itself reports what it would make of them, including renamed and merged tensors.
    empty = {
        name: torch.empty(info.shape, dtype=getattr(torch, _DTYPES.get(info.dtype, "float32")), device="meta")
        for name, info in tensors.items()
    }
    shape, gaps = _load(kind, None, config=config, state_dict=empty, device_map={"": "meta"}, ignore_mismatched_sizes=True)
    inside = _decoder_name(shape)
    headless = text is config and bool(gaps.missing) and bool(inside) and all(not name.startswith(inside) for name in gaps.missing)
    if headless:
        gaps = _Gaps(frozenset(), gaps.unexpected, gaps.mismatched)
    gaps.check()
    return Contents(config, text, headless, int(shape.get_input_embeddings().weight.shape[0]))


def load_backbone(model: str | Path, **loading: Any) -> PreTrainedModel:
    """Load a complete decoder without vocabulary head.

    Args:
        model: A folder.
        **loading: Further arguments for transformers' ``from_pretrained``.

    Raises:
        BaseModelError: If a tensor is missing or of a different shape.
    """
    backbone, gaps = _load(AutoModel, str(model), **loading)
    # The vocabulary head is expected to be surplus here, but a layer beyond those in the configuration is not.
    prefix, parts = f"{backbone.base_model_prefix}.", {name for name, _ in backbone.named_children()}
    surplus = frozenset(name for name in gaps.unexpected if name.removeprefix(prefix).partition(".")[0] in parts)
    _Gaps(gaps.missing, surplus, gaps.mismatched).check()
    return backbone


def load_causal(model: str | Path, **loading: Any) -> PreTrainedModel:
    """Load a complete decoder with its vocabulary head.

    Raises:
        BaseModelError: If a tensor is missing, of a different shape or unexpected.
    """
    loaded, gaps = _load(AutoModelForCausalLM, str(model), **loading)
    gaps.check()
    return loaded


def load_contents(folder: Path, contents: Contents) -> PreTrainedModel:
    """Load contents checked by :func:`check_contents`: of a multimodal model, only the text decoder.

    Raises:
        BaseModelError: If a tensor is missing, of a different shape or unexpected; or the decoder gives different results alone and inside
            its model.
    """
    if contents.nested:
        return _load_text_decoder(folder, contents)
    if contents.headless:
        return load_backbone(folder, dtype="auto", trust_remote_code=False)
    return load_causal(folder, dtype="auto", trust_remote_code=False)


def without_adapter(folder: Path, scratch: Path) -> Path:
    """A folder of links to a folder's files except those of an adapter, which transformers would load automatically."""
    view = scratch / "base"
    view.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in {ADAPTER_CONFIG, ADAPTER_WEIGHTS}:
            (view / file.name).symlink_to(file.resolve())
    return view


def merge_adapter_folder(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """Merge a PEFT adapter into a model's weights in float32, so that small updates are not lost to rounding.

    Args:
        model: The base model, with or without head; it is modified.
        adapter: A folder with adapter_config.json and adapter_model.safetensors.

    Raises:
        BaseModelError: If the adapter was trained on another model.
    """
    from peft import PeftModel, get_peft_model_state_dict  # takes seconds to import and is needed only for adapters

    check_adapter_files(adapter)
    stored = safetensors_header(adapter / ADAPTER_WEIGHTS)
    model = model.to(torch.float32)
    if any(_TIED.search(name) for name in stored):
        _untie(model)
    paths = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in stored if ".lora_" in name}
    # An adapter may have been trained with or without the vocabulary head around the decoder.
    candidates = (model, inner_decoder(model))
    target = next((candidate for candidate in candidates if paths & {name for name, _ in candidate.named_modules()}), model)
    mismatch = f"the adapter in {adapter.name} was trained on another model than this base"
    try:
        adapted = PeftModel.from_pretrained(target, str(adapter))
        shapes = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(adapted).items()}
    except Exception as error:
        msg = f"{mismatch} ({_first_line(error)}); give the base it was trained on"
        raise BaseModelError(msg) from error
    wrong = sorted(shapes.keys() ^ stored.keys()) or [name for name, shape in shapes.items() if shape != stored[name].shape]
    if wrong:
        msg = f"{mismatch}: {wrong[0]} has no counterpart ({len(wrong)} such tensors); give the base it was trained on"
        raise BaseModelError(msg)
    merged = adapted.merge_and_unload(safe_merge=True)
    return merged if target is model else model


@dataclass(frozen=True)
class _Gaps:
    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[tuple[str, Any, Any]]

    def check(self) -> None:
        sentence = describe_gaps(self.missing, self.unexpected, self.mismatched)
        if sentence:
            raise BaseModelError(sentence)


def _load(kind: Any, name: str | None, **loading: Any) -> tuple[PreTrainedModel, _Gaps]:
    keep_freed_memory()
    try:
        with _quiet():
            model, info = kind.from_pretrained(name, output_loading_info=True, **loading)
    except BaseModelError:
        raise
    except Exception as error:
        msg = f"its weights cannot be loaded ({_first_line(error)}); fetch or save the checkpoint again"
        raise BaseModelError(msg) from error
    if info.get("error_msgs"):
        msg = f"its weights cannot be loaded ({str(info['error_msgs'][0]).splitlines()[0]}); fetch or save the checkpoint again"
        raise BaseModelError(msg)
    surplus = frozenset(key for key in info["unexpected_keys"] if not _LEFT_OVER.search(key))
    mismatched = frozenset((key, tuple(actual), tuple(expected)) for key, actual, expected in info["mismatched_keys"])
    return model, _Gaps(frozenset(info["missing_keys"]), surplus, mismatched)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing its table of missing tensors, which the caller refuses anyway, and a bar for every model loaded."""
    before, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if shows_bars:
            logging.enable_progress_bar()


def _causal_class(config: PreTrainedConfig) -> Any:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        msg = f"transformers has no language model for {config.model_type!r}; give a decoder-only language model"
        raise BaseModelError(msg)
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _whole_class(config: PreTrainedConfig) -> Any:
    """The class that a multimodal model was saved from."""
    for name in config.architectures or ():
        kind = getattr(transformers, name, None)
        if kind is not None and getattr(kind, "config_class", None) is type(config):
            return kind
    for mapping in (
        transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
        transformers.MODEL_MAPPING,
    ):
        if type(config) in mapping:
            return mapping[type(config)]
    msg = f"transformers has no model for {config.model_type!r}; give a decoder-only language model"
    raise BaseModelError(msg)


def _untie(model: PreTrainedModel) -> None:
    """Give the vocabulary head its own weights, so that an update of the head or of the embedding does not change both."""
    head, tokens = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is tokens.weight:
        head.weight = torch.nn.Parameter(tokens.weight.detach().clone())
        model.config.tie_word_embeddings = False


def inner_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """A language model's decoder without its vocabulary head; the model itself if it has none."""
    if model.base_model is not model:
        return model.base_model
    return getattr(model, "model", model)  # for classes that do not declare the name


def _decoder_name(model: PreTrainedModel) -> str:
    """The prefix, including the dot, of the names of a language model's tensors other than the head's; empty without a head."""
    decoder = inner_decoder(model)
    name = next((name for name, module in model.named_modules() if module is decoder), "")
    return f"{name}." if name else ""


def _load_text_decoder(folder: Path, contents: Contents) -> PreTrainedModel:
    whole, gaps = _load(_whole_class(contents.config), str(folder), dtype="auto", trust_remote_code=False)
    gaps.check()
    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    if decoder is None or decoder is whole:
        msg = f"{type(whole).__name__} does not expose its text decoder; give the language model it was made from"
        raise BaseModelError(msg)
    kind = _causal_class(contents.text)
    text = contents.text
    with torch.device("meta"):
        inside = _decoder_name(kind(text))
    state = {f"{inside}{name}": tensor for name, tensor in decoder.state_dict().items()}
    if head is not None:
        state["lm_head.weight"] = head.weight
        # Taken from the whole model, because the configuration of a part may not say.
        text.tie_word_embeddings = head.weight.data_ptr() == decoder.get_input_embeddings().weight.data_ptr()
    text.dtype = decoder.dtype
    alone, gaps = _load(kind, None, config=text, state_dict=state, dtype=decoder.dtype)
    gaps.check()
    alone.generation_config = whole.generation_config if whole.can_generate() else alone.generation_config
    ids = torch.arange(1, _PROBE_TOKENS + 1, device=decoder.device)[None] % int(text.vocab_size)  # [1, T]
    with torch.inference_mode():
        inside = decoder.eval()(input_ids=ids, use_cache=False).last_hidden_state.float()  # [1, T, D]
        outside = inner_decoder(alone).eval()(input_ids=ids, use_cache=False).last_hidden_state.float()  # [1, T, D]
    if not (inside - outside).norm() <= _TOLERANCE * inside.norm():
        msg = (
            f"the text decoder of {type(whole).__name__} gives different results when loaded as {type(alone).__name__}; "
            "give the language model it was made from"
        )
        raise BaseModelError(msg)
    return alone


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
