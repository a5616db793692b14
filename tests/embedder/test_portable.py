from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from embedding_adaptation.embedder.embedder import Embedder
from embedding_adaptation.embedder.export import export_sentence_transformer
from embedding_adaptation.embedder.portable import with_older_names
from embedding_adaptation.embedder.strategy import Strategy
from embedding_adaptation.embedder.template import PromptTemplate

ONE_WORD = PromptTemplate("one_word", 'This sentence: "{text}" means in one word: "')
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def exported_as(tiny_embedder, folder, model_type, pooling="last", **config):
    from transformers import AutoConfig, AutoModel

    tokenizer = tiny_embedder.tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    chosen = AutoConfig.for_model(model_type, **(SIZES | ids | {"vocab_size": len(tokenizer)} | config))
    embedder = Embedder(AutoModel.from_config(chosen).float().eval(), tokenizer, max_length=48, strategy=Strategy("s", ONE_WORD, pooling))
    export_sentence_transformer(embedder, folder)
    return embedder, {file.name: json.loads(file.read_text()) for file in folder.glob("*.json")}


def rules_of_tei(folder):
    """text-embeddings-inference: ``PoolConfig``, ``STConfig`` and ``ModelConfig`` of router/src/lib.rs."""
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    for required in ("pooling_mode_cls_token", "pooling_mode_mean_tokens"):
        assert type(pooling[required]) is bool
    config = json.loads((folder / "config.json").read_text())
    assert isinstance(config["architectures"], list)
    assert isinstance(config["model_type"], str)
    for unsigned in (config["max_position_embeddings"], config["pad_token_id"]):
        assert type(unsigned) is int
        assert unsigned >= 0
    length = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    assert type(length) is int
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert all(isinstance(text, str) for text in prompts.values())
    order = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last-token"}
    return next((name for key, name in order.items() if pooling.get(key, False)), None), length


def rules_of_vllm(folder):
    """vLLM: ``get_pooling_config`` and ``get_sentence_transformer_tokenizer_config`` of vllm/transformers_utils/config.py."""
    modules = json.loads((folder / "modules.json").read_text())
    by_type = {module["type"]: module for module in modules}
    pooling = by_type["sentence_transformers.models.Pooling"]
    settings = json.loads((folder / pooling["path"] / "config.json").read_text())
    first = next(key for key, value in settings.items() if value is True)
    name = first.replace("pooling_mode_", "").split("_", 1)[0]
    encoder = json.loads((folder / "sentence_bert_config.json").read_text())
    kind = "LAST" if "lasttoken" in name else name.upper()
    return kind, "sentence_transformers.models.Normalize" in by_type, encoder["max_seq_length"], encoder["do_lower_case"]


@pytest.mark.parametrize(("pooling", "tei", "vllm"), [("last", "last-token", "LAST"), ("mean", "mean", "MEAN")])
def test_inference_servers_find_pooling_length_and_normalisation(tiny_embedder, tmp_path, pooling, tei, vllm):
    exported_as(tiny_embedder, tmp_path / "model", "llama", pooling)
    assert rules_of_tei(tmp_path / "model") == (tei, 48)
    assert rules_of_vllm(tmp_path / "model") == (vllm, True, 48, False)
    settings = json.loads((tmp_path / "model" / "1_Pooling" / "config.json").read_text())
    assert [value for value in settings.values() if value is True] == [True]
    assert settings["word_embedding_dimension"] == 32


@pytest.mark.parametrize("pooling", ["weighted_mean", "max", "last_mean"])
def test_a_pooling_that_inference_servers_do_not_have_is_none_that_they_know_alone(tiny_embedder, tmp_path, pooling):
    exported_as(tiny_embedder, tmp_path / "model", "llama", pooling)
    settings = json.loads((tmp_path / "model" / "1_Pooling" / "config.json").read_text())
    true = {key for key, value in settings.items() if value is True}
    assert true not in ({"pooling_mode_lasttoken"}, {"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"})


def test_poolings_side_by_side_keep_their_order(tiny_embedder, tmp_path):
    from sentence_transformers import SentenceTransformer

    embedder, _ = exported_as(tiny_embedder, tmp_path / "model", "llama", "last_mean")
    texts = ["the bus is late", "water " * 20]
    vectors = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, embedder.encode(texts, progress=False), atol=1e-5)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def test_rotary_settings_have_the_names_of_both_versions(tiny_embedder, tmp_path):
    _, files = exported_as(tiny_embedder, tmp_path / "model", "llama", rope_parameters={"rope_theta": 5e5, **LLAMA3})
    config = files["config.json"]
    assert (config["rope_theta"], config["rope_scaling"]) == (5e5, LLAMA3)
    assert config["rope_parameters"] == {"rope_theta": 5e5, **LLAMA3}
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert files["tokenizer_config.json"]["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_each_type_gets_its_own_older_names():
    neox = {"model_type": "gpt_neox", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}}
    assert with_older_names(neox).items() >= {"rotary_emb_base": 500.0, "rotary_pct": 0.5, "rope_scaling": None}.items()
    rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
    rope["full_attention"] = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}
    layers = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    gemma = with_older_names({"model_type": "gemma3_text", "layer_types": layers, "rope_parameters": rope})
    assert (gemma["rope_theta"], gemma["rope_local_base_freq"], gemma["sliding_window_pattern"]) == (5000.0, 300.0, 3)
    assert gemma["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert "rope_theta" not in with_older_names({"model_type": "gpt2"})


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "helium"},
        {"model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
        {
            "model_type": "phi3",
            "rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0, "short_factor": [1.0], "long_factor": [1.0]},
        },
    ],
)
def test_what_old_versions_cannot_be_told_has_no_older_names(config):
    assert with_older_names(config) is None


def test_a_type_that_was_not_compared_is_refused_by_old_versions_and_said(tiny_embedder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        embedder, files = exported_as(tiny_embedder, tmp_path / "model", "helium", head_dim=8)
    assert files["tokenizer_config.json"]["tokenizer_class"] == "TokenizersBackend"
    assert "rope_theta" not in files["config.json"]
    assert "(type 'helium') needs transformers 5" in caplog.text
    again = Embedder.load(tmp_path / "model", device="cpu", dtype="float32")
    np.testing.assert_allclose(again.encode(["a"], progress=False), embedder.encode(["a"], progress=False), atol=1e-6)


def test_padding_is_a_token_the_model_has_a_row_for(tiny_embedder, tmp_path):
    import copy

    from sentence_transformers import SentenceTransformer
    from transformers import LlamaConfig, LlamaModel

    tokenizer = copy.deepcopy(tiny_embedder.tokenizer)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    assert tokenizer.pad_token_id == rows
    model = LlamaModel(LlamaConfig(**SIZES, vocab_size=rows)).eval()
    embedder = Embedder(model, tokenizer, max_length=48, strategy=Strategy("s", ONE_WORD, "last"))
    export_sentence_transformer(embedder, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["pad_token_id"] < rows
    texts = ["short", "a much longer text than the other"]
    vectors = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, embedder.encode(texts, progress=False), atol=1e-5)
