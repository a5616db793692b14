"""Embedding the slow, obvious way: one text at a time, everything kept.

The measure against which every shortcut is tested, and the way out for models whose layers mix tokens in another way than attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from embedding_adaptation.embedder.decoder_pass import PackedDecoder, RowGroup, Wanted, trying_out
from embedding_adaptation.embedder.pooling import POOLINGS, weighted_mean_of
from embedding_adaptation.embedder.probe import check_masks, limits_within
from embedding_adaptation.embedder.prompt_tree import PromptTree
from embedding_adaptation.embedder.template import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedding_adaptation.embedder.embedder import Embedder
    from embedding_adaptation.embedder.strategy import Strategy
    from embedding_adaptation.embedder.template import TokenizedPrompt

# Rows of a probe, the last ones, that are computed alone for comparison.
_COMPARED = 3
_TOLERANCE = {"float64": 1e-6, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}


def encode_one_by_one(
    embedder: Embedder, texts: Sequence[str], strategies: Sequence[Strategy], vectors: dict[str, np.ndarray], *, progress: bool = False
) -> None:
    """Embed texts one at a time, with all hidden states and all attention maps.

    Args:
        embedder: Base or adapted embedder.
        texts: Texts to embed.
        strategies: Ways to embed them.
        vectors: For each strategy's name zeros ``[N, D]``, to which its vectors are added; an ensemble's are not yet of unit length.
        progress: Whether to show a bar.
    """
    for strategy in strategies:
        for template in strategy.templates:
            prompts = template.tokenize(texts, embedder.tokenizer, embedder.max_length)
            for row, prompt in enumerate(tqdm(prompts, unit="text", desc=f"embed ({strategy.name})", disable=not progress)):
                vector = _pool(embedder, prompt, strategy).float()  # [D]
                if strategy.normalise:
                    vector = torch.nn.functional.normalize(vector, dim=0)
                vectors[strategy.name][row] += vector.cpu().numpy() / len(strategy.templates)


def _pool(embedder: Embedder, prompt: TokenizedPrompt, strategy: Strategy) -> torch.Tensor:
    count = embedder.layer_count
    inner = getattr(embedder.backbone, "get_base_model", None)
    decoder = inner() if inner else embedder.backbone
    device = decoder.device
    ids = torch.tensor([prompt.ids], device=device)  # [1, T]
    weighting = strategy.weighting_layers(count)
    attended: dict[int, torch.Tensor] = {}
    modules = PackedDecoder(embedder.backbone).attentions if strategy.pooling == "value_weighted" else []
    hooks = [
        module.register_forward_hook(
            lambda _m, _a, output, n=layer: attended.update({n: (output[0] if isinstance(output, tuple) else output)[0, -1]})
        )
        for layer, module in enumerate(modules, start=1)
    ]
    before = decoder.config._attn_implementation  # noqa: SLF001  there is no public getter
    if weighting:
        decoder.set_attn_implementation("eager")
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype=embedder.backbone.dtype, enabled=decoder.dtype != torch.float32):
            output = decoder(input_ids=ids, output_hidden_states=True, output_attentions=bool(weighting), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        if weighting:
            decoder.set_attn_implementation(before)
    layers = strategy.hidden_layers(count)
    if strategy.pooling == "value_weighted":
        return torch.stack([attended[layer].float() for layer in layers]).mean(dim=0)
    hidden = torch.stack([output.hidden_states[layer].float() for layer in layers]).mean(dim=0)  # [1, T, D]
    text = slice(prompt.text_start, prompt.text_end)
    if strategy.pooling == "attention_weighted":
        if text.start == text.stop:
            return hidden[0, -1]
        heads = list(strategy.attention_heads) or slice(None)
        weights = torch.stack([output.attentions[layer - 1][:, heads, -1, text].float().mean(dim=1) for layer in weighting]).mean(dim=0)
        return weighted_mean_of(hidden[:, text], weights)[0]
    real, text_mask = torch.ones_like(ids), torch.zeros_like(ids)  # [1, T]
    text_mask[:, text] = 1
    return POOLINGS[strategy.pooling](hidden, real, text_mask)[0]


def packing_is_exact(embedder: Embedder) -> bool:
    """Whether packed rows give the model's own hidden states: tried with a shared prefix, a few texts and two suffixes.

    The texts are short, but where the model's configuration names a length from which on it computes in another way, one reaches beyond it.

    Raises:
        UnsupportedDecoderError: If the model cannot be computed in packed rows at all.
    """
    with trying_out(type(embedder.backbone).__name__):
        return _packing_is_exact(embedder)


def _packing_is_exact(embedder: Embedder) -> bool:
    decoder = PackedDecoder(embedder.backbone)
    vocabulary = int(decoder.decoder.get_input_embeddings().weight.shape[0])
    check_masks(decoder, embedder.max_length, vocabulary=vocabulary)
    prefix, suffixes = [3, 5, 7], [[43, 47], [53]]
    texts = [[11 + 2 * place for place in range(length)] for length in _probe_lengths(embedder, len(prefix) + len(suffixes[0]))]
    prefix = [token % vocabulary for token in prefix]
    texts, suffixes = ([[token % vocabulary for token in ids] for ids in rows] for rows in (texts, suffixes))
    tree = PromptTree(tuple(Frame(tuple(prefix), tuple(suffix), 100) for suffix in suffixes))
    wanted = Wanted(frozenset({embedder.layer_count}))
    groups, start = [], 0
    for text in texts:
        groups.append(RowGroup(start, 1, tree.layout(len(text))))
        start += groups[-1].layout.width
    with decoder.packing():
        before = decoder.read_prefix(tree.shared, PromptTree((Frame((), tuple(prefix), 1),)).layout(0), wanted)
        packed = decoder.run([tree.row(text) for text in texts], groups, before, wanted).hidden[embedder.layer_count]
    tolerance = _TOLERANCE[str(embedder.backbone.dtype).removeprefix("torch.")]
    for text, group in list(zip(texts, groups, strict=True))[-_COMPARED:]:
        for suffix, last in zip(suffixes, group.layout.last, strict=True):
            ids = torch.tensor([[*prefix, *text, *suffix]], device=embedder.backbone.device)
            with torch.inference_mode(), torch.autocast(ids.device.type, dtype=embedder.backbone.dtype, enabled=decoder.mixed):
                alone = decoder.decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()  # [D]
            difference = (packed[group.start + last].float() - alone).norm()
            if not difference <= tolerance * alone.norm():  # not a number is not exact either
                return False
    return True


def _probe_lengths(embedder: Embedder, around: int) -> list[int]:
    """Lengths of texts to try, the longest first: together, and one of them alone where it may be, beyond what the model counts."""
    limits = limits_within(embedder.backbone.config, max(embedder.max_length, embedder.batch_tokens))
    if not limits:
        return [6, 3]
    target = limits[-1] + 2 * around
    longest = max(min(target, embedder.max_length) - around, 1)
    return [*[longest] * -(-target // longest), 6, 3]
