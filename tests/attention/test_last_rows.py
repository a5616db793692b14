"""The last token's attention beside a model's own, in padded batches; and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_fixtures import eager_rows, family
from embedding_adaptation.attention.last_rows import check_softmax_attention, recorded_last_rows
from embedding_adaptation.attention.recording import AttentionRecording
from embedding_adaptation.attention.rows import AttentionError
from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.template import PromptTemplate, pad_prompts

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
TEXTS = ["the bus is late", "a house on the street and a garden behind it", "water", "who will come"]


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_neither_rows_nor_hidden_states(tiny_embedder, name, side):
    embedder = family(name, tiny_embedder.tokenizer)
    prompts = ONE_WORD.tokenize(TEXTS, embedder.tokenizer, embedder.max_length)
    batch = pad_prompts(prompts, 0)
    width = batch["input_ids"].shape[1]
    if side == "left":
        for row, prompt in enumerate(prompts):
            for values in batch.values():
                values[row] = values[row].roll(width - len(prompt))
    mask = batch["attention_mask"]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
    with torch.inference_mode():
        plain = embedder.backbone(**inputs).last_hidden_state
        with recorded_last_rows(embedder.backbone, mask, [1, 2, 3]) as recorder:
            recorded = embedder.backbone(**inputs).last_hidden_state
    assert torch.equal(recorded[mask.bool()], plain[mask.bool()])
    for row, prompt in enumerate(prompts):
        found = recorder.stacked([1, 2, 3])[row][:, :, mask[row].bool()]
        np.testing.assert_allclose(found, eager_rows(embedder, ONE_WORD, TEXTS[row]), atol=1e-6)
        assert len(prompt) == found.shape[-1]


def test_a_model_without_softmax_attention_is_refused_before_any_work(tiny_embedder):
    import transformers

    config = transformers.MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4)
    embedder = Embedder(transformers.AutoModel.from_config(config).eval(), tiny_embedder.tokenizer, max_length=64)
    with pytest.raises(AttentionError, match=r"MambaModel (has no softmax attention|does not allow its attention)"):
        AttentionRecording(embedder, ONE_WORD, TEXTS)


def test_layers_without_softmax_attention_are_told_from_those_that_have_it(tiny_embedder):
    import transformers

    config = transformers.Qwen3NextConfig(
        vocab_size=400, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, num_experts=0, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"],
    )  # fmt: skip
    decoder = transformers.AutoModel.from_config(config).eval()
    check_softmax_attention(decoder, [2, 4])
    with pytest.raises(AttentionError, match=r"Qwen3NextModel has no softmax attention in layer 1, .*choose from layers 2, 4"):
        check_softmax_attention(decoder, [1, 2])


def test_a_model_with_learned_sinks_is_refused(tiny_embedder):
    import transformers

    config = transformers.GptOssConfig(
        vocab_size=400, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=8, layer_types=["full_attention", "sliding_attention"],
    )  # fmt: skip
    embedder = Embedder(transformers.AutoModel.from_config(config).eval(), tiny_embedder.tokenizer, max_length=64)
    before = embedder.backbone.config._attn_implementation
    with pytest.raises(AttentionError, match="learned attention sinks"):
        AttentionRecording(embedder, ONE_WORD, TEXTS)
    assert embedder.backbone.config._attn_implementation == before
