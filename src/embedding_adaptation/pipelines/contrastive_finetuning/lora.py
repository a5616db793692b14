"""The low-rank adapter: added to a decoder's linear layers, and loaded from a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from embedding_adaptation.embedder.decoder_pass import layers_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.pipelines.contrastive_finetuning.options import LoraOptions


class AdapterOptionsError(ValueError):
    """Adapter options that do not fit the model; the message names them."""


def add_adapter(embedder: Embedder, lora: LoraOptions) -> int:
    """Add a new LoRA adapter to linear layers of the embedder's decoder; only the adapter's weights train.

    Returns:
        The lowest adapted layer, from 0: those below it never change.

    Raises:
        AdapterOptionsError: If the options name a module that the model does not have.
        LayerError: If they name a layer that it does not have.

    References:
        https://arxiv.org/abs/2106.09685
    """
    layers = lora.layer_numbers(embedder.layer_count)
    modules = linear_modules(embedder.backbone, layers_name(embedder.backbone), layers)
    if lora.target_modules is not None:
        available = {name.rpartition(".")[2] for name in modules}
        for wanted in lora.target_modules:
            if wanted not in available:
                msg = f"unknown module {wanted!r} in contrastive_finetuning.lora.target_modules; choose from {', '.join(sorted(available))}"
                raise AdapterOptionsError(msg)
        modules = [name for name in modules if name.rpartition(".")[2] in lora.target_modules]
    config = LoraConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rank_stabilised,
        use_dora=lora.weight_decomposed,
        target_modules=modules,
    )
    # Adapter weights stay in float32 beside a bfloat16 base: steps of 1e-4 would vanish in bfloat16.
    adapted = cast("PeftModel", get_peft_model(embedder.backbone, config, autocast_adapter_dtype=True))
    embedder.backbone = adapted
    # PEFT may adapt the experts of every layer where those of one are asked for; an adapter that does not train stays without effect.
    lower = tuple(f"base_model.model.{layers_name(adapted.get_base_model())}.{number}." for number in range(layers[0]))
    for name, weight in adapted.named_parameters():
        if name.startswith(lower):
            weight.requires_grad_(False)
    return layers[0]


def linear_modules(decoder: torch.nn.Module, layers_path: str, layers: Sequence[int]) -> list[str]:
    """Names of all linear modules in the given layers, except routers of experts, which return more than a product."""
    starts = tuple(f"{layers_path}.{number}." for number in layers)
    return [
        name
        for name, module in decoder.named_modules()
        if name.startswith(starts) and isinstance(module, torch.nn.Linear | Conv1D) and not type(module).__name__.endswith("Router")
    ]


def load_adapter(adapted: PeftModel, folder: Path) -> None:
    """Load the adapter weights of a checkpoint into a model.

    Raises:
        RuntimeError: If they do not fit.
    """
    result = set_peft_model_state_dict(adapted, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        msg = f"the checkpoint {folder} does not fit this adapter: {', '.join(result.unexpected_keys[:3])}"
        raise RuntimeError(msg)
