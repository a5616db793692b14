"""One swap, one guard, one mask builder: each against the model's own attention or an obvious loop."""

from __future__ import annotations

import pytest
import torch
import transformers

from embedding_adaptation.embedder.attention_swap import (
    IMPLEMENTATION,
    AttentionCall,
    AttentionPass,
    UnsupportedDecoderError,
    additive,
    attention_weights,
    plain_attention,
    replaced_attention,
    trying_out,
    visible,
)
from embedding_adaptation.embedder.prompt_tree import causal_layout

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
IDS = torch.tensor([[3, 5, 7, 11, 13, 17, 19]])


class OneRow(AttentionPass):
    """Plain causal attention over the whole sequence."""

    layout = causal_layout(IDS.shape[1])

    def attend(self, call: AttentionCall) -> torch.Tensor:
        return self.attend_rows(call, self.layout, call.query, call.key, call.value).transpose(1, 2)


@pytest.fixture(params=["LlamaConfig", "MistralConfig", "Gemma2Config"])
def model(request):
    torch.manual_seed(0)
    windowed = {} if request.param == "LlamaConfig" else {"sliding_window": 3}
    return transformers.AutoModel.from_config(getattr(transformers, request.param)(**SHAPE | windowed)).eval()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(transformers.LlamaConfig(**SHAPE)).eval()


def compute(model, attention, layers=range(3), shape=(1, IDS.shape[1])):
    with torch.inference_mode(), replaced_attention(model), attention.running(model, layers, shape):
        return model(input_ids=IDS, use_cache=False).last_hidden_state


@pytest.mark.parametrize("long_row", [1, 1024], ids=["fused", "plain"])
def test_replaced_attention_gives_the_models_own_hidden_states(model, monkeypatch, long_row):
    import embedding_adaptation.embedder.attention_swap as module

    monkeypatch.setattr(module, "_LONG_ROW", long_row)
    with torch.inference_mode():
        own = model(input_ids=IDS, use_cache=False).last_hidden_state
    attention = OneRow()
    torch.testing.assert_close(compute(model, attention), own, atol=1e-5, rtol=1e-4)
    assert attention.calls == {0: 1, 1: 1, 2: 1}


def test_the_models_own_attention_comes_back_also_after_an_error(llama):
    before = llama.config._attn_implementation
    with pytest.raises(KeyError), replaced_attention(llama):
        raise KeyError
    assert llama.config._attn_implementation == before
    with replaced_attention(llama):
        with replaced_attention(llama):
            assert llama.config._attn_implementation == IMPLEMENTATION
        assert llama.config._attn_implementation == IMPLEMENTATION
    assert llama.config._attn_implementation == before


def test_a_pass_within_a_pass_answers_for_its_own_layers(llama):
    outer, inner = OneRow(), OneRow()
    with torch.inference_mode(), replaced_attention(llama), outer.running(llama, range(3), (1, IDS.shape[1])):
        compute(llama, inner)
        assert not outer.calls
        llama(input_ids=IDS, use_cache=False)
    assert outer.calls == inner.calls


def test_a_layer_that_does_not_ask_is_noticed(llama, monkeypatch):
    monkeypatch.setattr(llama.layers[1].self_attn, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedDecoderError, match="LlamaModel used the replaced attention exactly once in 2 of 3 layers"):
        compute(llama, OneRow())


def test_layers_that_ask_in_place_of_others_are_noticed(llama):
    """As many calls as layers do not suffice: here layer 1 asks twice and layer 0 never."""
    llama.layers[0].self_attn.layer_idx = 1
    with pytest.raises(UnsupportedDecoderError, match="once in 1 of 3 layers"):
        compute(llama, OneRow())


def test_other_tokens_than_those_of_the_pass_are_noticed(llama):
    with pytest.raises(UnsupportedDecoderError, match="LlamaAttention attends over 1 x 7 tokens in a pass of 1 x 5"):
        compute(llama, OneRow(), shape=(1, 5))


def test_learned_sinks_are_refused():
    config = transformers.GptOssConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, num_local_experts=2, num_experts_per_tok=1,
    )  # fmt: skip
    model = transformers.AutoModel.from_config(config).eval()
    with pytest.raises(UnsupportedDecoderError, match="GptOssAttention has learned attention sinks"):
        compute(model, OneRow(), range(2))


def test_replaced_attention_outside_of_any_pass_says_so(llama):
    with pytest.raises(UnsupportedDecoderError, match="LlamaAttention is replaced, but no pass is running"), replaced_attention(llama):
        llama(input_ids=IDS, use_cache=False)


def test_a_decoder_without_attention_does_not_pass():
    config = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    with pytest.raises(UnsupportedDecoderError):
        compute(transformers.AutoModel.from_config(config).eval(), OneRow(), range(2))


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError, IndexError, RuntimeError, AssertionError])
def test_errors_while_trying_out_say_that_the_model_cannot_be_packed(error):
    with pytest.raises(UnsupportedDecoderError, match=rf"LlamaModel cannot compute packed rows \({error.__name__}: no batch"):  # noqa: SIM117
        with trying_out("LlamaModel"):
            raise error("no batch")


def test_memory_that_runs_out_while_trying_out_is_no_property_of_the_model():
    with pytest.raises(torch.OutOfMemoryError), trying_out("LlamaModel"):
        raise torch.OutOfMemoryError


@pytest.mark.parametrize("window", [None, 1, 3, 50])
@pytest.mark.parametrize(("width", "shared"), [(5, 0), (4, 3), (1, 6)])
def test_a_token_sees_what_is_before_it_within_the_window(width, shared, window):
    layout = causal_layout(width, shared)
    seen = layout.allowed & visible(layout.positions[shared:], layout.positions, window)
    expected = [
        [key <= query and (window is None or query - key < window) for key in range(shared + width)]
        for query in range(shared, shared + width)
    ]
    assert seen.tolist() == expected
    mask = additive(seen, torch.empty(0, dtype=torch.bfloat16))
    assert mask.dtype == torch.bfloat16
    assert torch.equal(mask == 0, seen)
    assert torch.equal(mask == float("-inf"), ~seen)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_plain_attention_and_its_weights_are_the_formula(softcap):
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 6)  # n, H or KV, R or P + R, d
    layout = causal_layout(5, 2)
    mask = additive(layout.allowed, query)  # [R, P + R]
    expected_weights = torch.zeros(2, 4, 5, 7)
    for row in range(2):
        for head in range(4):
            scores = query[row, head] @ key[row, head // 2].T * 0.3
            scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
            expected_weights[row, head] = scores.masked_fill(~layout.allowed, float("-inf")).softmax(dim=-1)
    weights = attention_weights(query, key, mask, scale=0.3, softcap=softcap)
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=1e-5)
    attended = plain_attention(query, key, value, mask.repeat(2, 1), scale=0.3, softcap=softcap)
    torch.testing.assert_close(attended, expected_weights @ value.repeat_interleave(2, dim=1), atol=1e-6, rtol=1e-5)
