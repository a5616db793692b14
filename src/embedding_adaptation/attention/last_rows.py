"""The last token's attention in every layer and head, from packed rows or padded batches.

The pass over packed rows returns it directly (:mod:`~embedding_adaptation.embedder.decoder_pass`). A model that cannot be packed is
computed in padded batches with its own attention, and the last token's row is computed separately.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from embedding_adaptation.attention.rows import AttentionError
from embedding_adaptation.embedder.attention_swap import (
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    additive,
    attention_weights,
    replaced_attention,
)
from embedding_adaptation.embedder.batching import token_budget_batches
from embedding_adaptation.embedder.decoder_pass import PackedDecoder, Wanted, decoder_of, row_groups
from embedding_adaptation.embedder.pooling import last_index
from embedding_adaptation.embedder.prompt_tree import PromptTree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.template import PromptTemplate


def packed_last_rows(
    embedder: Embedder, template: PromptTemplate, layers: Sequence[int], text_ids: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    """Compute the attention of the last tokens of prompted texts in packed rows.

    Args:
        embedder: Base or adapted embedder that can pack.
        template: The template the texts are put into.
        layers: Layers, counted from 1.
        text_ids: Each text's ids.

    Yields:
        Indices of equally long texts in ``text_ids``, and their attention ``[n, L, H, T]`` float32 to the tokens of the prompt.
    """
    tree = PromptTree((template.frame(embedder.tokenizer, embedder.max_length),))
    wanted = Wanted(hidden=frozenset(), last_rows=frozenset(layers), only_last=True)
    decoder = PackedDecoder(embedder.backbone)
    rows = [tree.row(ids) for ids in text_ids]
    with decoder.packing():
        prefix = decoder.read_prefix(tree.shared, wanted)
        for batch in token_budget_batches([len(row) for row in rows], embedder.batch_tokens):
            groups = row_groups([len(rows[index]) for index in batch], tree.layout_of_row)
            result = decoder.run([rows[index] for index in batch], groups, prefix, wanted)
            for number, group in enumerate(groups):
                last_rows = torch.stack([result.last_rows[layer][number][:, :, 0] for layer in layers], dim=1)  # [n, L, H, T]
                yield batch[group.members], last_rows


def padded_last_rows(
    embedder: Embedder, template: PromptTemplate, layers: Sequence[int], text_ids: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
    """The same as :func:`packed_last_rows`, in padded batches, for models that cannot be packed."""
    decoder, backbone = embedder.decoder(template), decoder_of(embedder.backbone)
    frame = template.frame(embedder.tokenizer, embedder.max_length)
    prompts = [frame.around(ids) for ids in text_ids]
    for batch in token_budget_batches([len(prompt) for prompt in prompts], embedder.batch_tokens):
        features = {key: value.to(backbone.device) for key, value in decoder.collate([prompts[index] for index in batch]).items()}
        with torch.inference_mode(), recorded_last_rows(backbone, features["attention_mask"], layers) as recorder:
            decoder(features)
        rows = recorder.stacked(layers)  # [B, L, H, T]
        for row, index in enumerate(batch):
            yield [index], rows[row : row + 1, :, :, : len(prompts[index])]


class LastRowRecorder(AttentionPass):
    """The model's own attention in one pass over a padded batch, with a record of the last tokens' rows.

    Args:
        implementation: The model's own attention implementation.
        attention_mask: ``[B, T]``, 1 for real tokens.
        layers: Layers to record, counted from 1.

    Attributes:
        rows: ``[B, H, T]`` float32 for each of these layers; zero at padding.
    """

    def __init__(self, implementation: str, attention_mask: torch.Tensor, layers: Sequence[int]) -> None:
        super().__init__()
        self.implementation, self.layers = implementation, frozenset(layers)
        self.last = last_index(attention_mask)  # [B]
        self.rows: dict[int, torch.Tensor] = {}

    def attend(self, call: AttentionCall) -> torch.Tensor:
        """The model's own attention, ``[B, T, H, d]``."""
        if call.layer + 1 in self.layers:
            with torch.autocast(call.query.device.type, enabled=False):  # the row is small: keep it in float32
                self.rows[call.layer + 1] = self._last_row(call)
        own = sys.modules[type(call.module).__module__].eager_attention_forward if self.implementation == "eager" else None
        own = own or ALL_ATTENTION_FUNCTIONS[self.implementation]
        output: torch.Tensor = own(call.module, call.query, call.key, call.value, call.mask, **call.options)[0]
        return output

    def model_mask(self, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        """The mask of the model's own attention."""
        mask: torch.Tensor | None = ALL_MASK_ATTENTION_FUNCTIONS[self.implementation](*args, **kwargs)
        return mask

    def stacked(self, layers: Sequence[int]) -> torch.Tensor:
        """Rows of these layers, ``[B, L, H, T]``."""
        return torch.stack([self.rows[layer] for layer in layers], dim=1)

    def _last_row(self, call: AttentionCall) -> torch.Tensor:
        """Attention weights of each sequence's last token, ``[B, H, T]``."""
        batch = torch.arange(len(self.last), device=self.last.device)  # [B]
        if call.mask is None:
            allowed = torch.arange(call.key.shape[2], device=self.last.device) <= self.last[:, None]  # [B, T]
        else:
            row = call.mask[batch if len(call.mask) > 1 else 0, 0, self.last]  # [B, T]
            allowed = row if row.dtype == torch.bool else row >= 0
        query = call.query[batch, :, self.last][:, :, None]  # [B, H, 1, d]
        mask = additive(allowed, query)[:, None, None]  # [B, 1, 1, T]
        return attention_weights(query, call.key, mask, scale=call.scale, softcap=call.softcap)[:, :, 0]


@contextmanager
def recorded_last_rows(backbone: PreTrainedModel, attention_mask: torch.Tensor, layers: Sequence[int]) -> Iterator[LastRowRecorder]:
    """Record one pass over a padded batch, with padding on either side, without changing its hidden states.

    Args:
        backbone: A decoder without vocabulary head (not a PEFT model around it).
        attention_mask: ``[B, T]``, 1 for real tokens; the pass must get the same one.
        layers: Layers to record, counted from 1.

    Raises:
        AttentionError: If the model does not allow its attention to be replaced, or that of one of these layers cannot be recorded.
    """
    own = backbone.config._attn_implementation  # noqa: SLF001  there is no public getter
    recorder = LastRowRecorder(own, attention_mask, layers)
    batch, tokens = attention_mask.shape
    try:
        with replaced_attention(backbone), recorder.running(backbone, [layer - 1 for layer in layers], (batch, tokens)):
            yield recorder
    except UnsupportedDecoderError as error:
        msg = f"the attention of {type(backbone).__name__} cannot be recorded ({error}); choose a model with plain softmax attention"
        raise AttentionError(msg) from error


def check_softmax_attention(backbone: PreTrainedModel, layers: Sequence[int]) -> None:
    """Check with two tokens that layers have softmax attention.

    Args:
        backbone: A decoder without vocabulary head, or a PEFT model around one.
        layers: The layers, counted from 1.

    Raises:
        AttentionError: If one does not.
    """
    decoder = decoder_of(backbone)
    ids = torch.zeros(1, 2, dtype=torch.long, device=decoder.device)  # [1, T]
    with torch.inference_mode(), recorded_last_rows(decoder, torch.ones_like(ids), ()) as recorder:
        decoder(input_ids=ids, use_cache=False)
    usable = sorted(layer + 1 for layer in recorder.calls)
    missing = [layer for layer in layers if layer not in usable]
    if missing:
        advice = f"choose from layers {', '.join(map(str, usable))}" if usable else "choose another model"
        msg = f"{type(decoder).__name__} has no softmax attention in layer {missing[0]}, so there is nothing to record; {advice}"
        raise AttentionError(msg)
