"""Where the last token looks: its attention row in every layer, without keeping a T x T map.

``output_attentions=True`` needs the eager implementation and keeps ``L * B * H * T * T`` floats. Here the fused attention runs as usual and
one more row, the last token's, is computed beside it: ``B * H * T`` floats a layer.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from embedding_adaptation.embedder.batching import token_budget_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate, TokenizedPrompt

SEGMENTS = ("sink", "prompt", "text")
_IMPLEMENTATION = "sdpa_with_last_row"


@dataclass
class _Recorder:
    last: torch.Tensor  # [B], position of each row's last token
    rows: dict[int, torch.Tensor] = field(default_factory=dict)  # layer -> [B, H, T]


_recorder: ContextVar[_Recorder | None] = ContextVar("last_row_recorder", default=None)


def attention_shares(embedder: Embedder, template: PromptTemplate, texts: Sequence[str], *, progress: bool = True) -> np.ndarray:
    """How the last token's attention divides between the sink, the prompt and the text.

    The *sink* is the sequence's first token, whatever it is (a BOS token, or the prompt's first word), on which decoders park attention
    they have no use for. The *prompt* is every other template token, the last token itself among them. Shares are means over heads and
    add up to one.

    Args:
        embedder: Base or adapted embedder.
        template: The template the texts are put into.
        texts: Texts to look at.
        progress: Whether to show a bar on stderr.

    Returns:
        Float32 array ``[N, L, 3]``: text, layer, segment in the order of :data:`SEGMENTS`.

    References:
        Attention sinks: https://arxiv.org/abs/2309.17453
    """
    import torch
    from tqdm.auto import tqdm

    decoder = embedder.decoder(template)
    prompts = decoder.tokenize_prompts(texts)
    backbone = _plain_decoder(embedder)
    shares = np.zeros((len(prompts), backbone.config.num_hidden_layers, len(SEGMENTS)), np.float32)  # [N, L, S]
    with (
        torch.inference_mode(),
        _recording_attention(backbone),
        tqdm(total=len(prompts), unit="text", desc=f"attention ({template.name})", disable=not progress) as bar,
    ):
        for batch in token_budget_batches([len(prompt) for prompt in prompts], embedder.batch_tokens):
            chosen = [prompts[i] for i in batch]
            features = {key: value.to(backbone.device) for key, value in decoder.collate(chosen).items()}
            recorder = _Recorder(last=features["attention_mask"].sum(dim=1) - 1)
            token = _recorder.set(recorder)
            try:
                decoder(features)
            finally:
                _recorder.reset(token)
            masks = _segment_masks(chosen, features["input_ids"].shape[1]).to(backbone.device)  # [S, B, T]
            for layer, rows in recorder.rows.items():
                row = rows.mean(dim=1)  # [B, T], mean over heads
                shares[batch, layer] = torch.einsum("bt,sbt->bs", row, masks).cpu().numpy()  # [B, S]
            bar.update(len(batch))
    return shares


def _segment_masks(prompts: Sequence[TokenizedPrompt], width: int) -> torch.Tensor:
    import torch

    masks = torch.zeros(len(SEGMENTS), len(prompts), width)  # [S, B, T]
    sink, prompt, text = masks
    for row, tokens in enumerate(prompts):
        prompt[row, : len(tokens)] = 1.0
        prompt[row, tokens.text_start : tokens.text_end] = 0.0
        text[row, tokens.text_start : tokens.text_end] = 1.0
    prompt[:, 0] = text[:, 0] = 0.0
    sink[:, 0] = 1.0
    return masks


def _plain_decoder(embedder: Embedder) -> PreTrainedModel:
    """The decoder inside a PEFT model, or the decoder itself."""
    inner = getattr(embedder.backbone, "get_base_model", None)
    return inner() if inner else embedder.backbone


@contextmanager
def _recording_attention(backbone: PreTrainedModel) -> Iterator[None]:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    # Both registries: without its mask function an implementation silently runs without a mask.
    AttentionInterface.register(_IMPLEMENTATION, _attention_with_last_row)
    AttentionMaskInterface.register(_IMPLEMENTATION, sdpa_mask)
    before = backbone.config._attn_implementation  # noqa: SLF001  there is no public getter
    backbone.set_attn_implementation(_IMPLEMENTATION)
    try:
        yield
    finally:
        backbone.set_attn_implementation(before)


def _attention_with_last_row(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The fused attention, and the last token's row for the recorder that is set."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    recorder = _recorder.get()
    if recorder is not None:
        with torch.autocast(query.device.type, enabled=False):  # the row is small: keep it in float32
            recorder.rows[module.layer_idx] = _last_row(query, key, attention_mask, recorder.last, scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)


def _last_row(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, last: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Attention weights of each row's last token, ``[B, H, T]``."""
    import torch

    batch = torch.arange(query.shape[0], device=query.device)  # [B]
    asked = query[batch, :, last].float()  # [B, H, d]
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1).float()  # [B, H, T, d]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = torch.einsum("bhd,bhtd->bht", asked, keys) * scale  # [B, H, T]
    if attention_mask is None:
        positions = torch.arange(key.shape[2], device=key.device)  # [T]
        allowed = positions[None, :] <= last[:, None]  # [B, T]
    else:
        row = attention_mask[batch, 0, last]  # [B, T]
        allowed = row if row.dtype == torch.bool else row >= 0
    return scores.masked_fill(~allowed[:, None, :], float("-inf")).softmax(dim=-1)
